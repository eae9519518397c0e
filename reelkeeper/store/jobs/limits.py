"""How many jobs run at once, and what the rule that steers it remembers."""

from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.store.core.engine import Clock, changed, insert_into
from reelkeeper.store.jobs.controls import CONCURRENCY
from reelkeeper.store.tables import controls


class Kept(NamedTuple):
    """What was last written, and when; nothing and None before the first time."""

    state: dict[str, Any]
    updated_at: datetime | None


def kept(session: Session) -> Kept:
    """Give what the rule remembers."""
    row = session.execute(
        sa.select(controls.c.state, controls.c.updated_at).where(controls.c.name == CONCURRENCY)
    ).one_or_none()
    return Kept(row.state, row.updated_at) if row else Kept({}, None)


def jobs_at_once(session: Session) -> int | None:
    """Give the limit as it was steered last; None before the first time."""
    limit = kept(session).state.get("limit")
    return limit if isinstance(limit, int) else None


def keep(session: Session, state: dict[str, Any], before: Kept) -> bool:
    """Write what the rule remembers, unless somebody has written since `before` was read; says whether it did."""
    if before.updated_at is None:
        insert = insert_into(session, controls).values(name=CONCURRENCY, state=state, updated_at=Clock())
        return session.execute(insert.on_conflict_do_nothing().returning(controls.c.name)).scalar() is not None
    unchanged = sa.and_(controls.c.name == CONCURRENCY, controls.c.updated_at == before.updated_at)
    return changed(session, sa.update(controls).where(unchanged).values(state=state, updated_at=Clock())) == 1
