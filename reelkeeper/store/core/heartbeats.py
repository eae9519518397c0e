"""When each flow last succeeded."""

from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlmodel import Session

from reelkeeper.store.core.engine import Clock, insert_into
from reelkeeper.store.tables import heartbeats


class Beat(NamedTuple):
    """A flow's last success, and what it promised then."""

    flow: str
    last_ok_at: datetime
    period_seconds: int
    grace_seconds: int
    run_id: str
    run_seconds: float | None


def record(
    session: Session, flow: str, run_id: str, period_seconds: int, grace_seconds: int, run_seconds: float | None = None
) -> None:
    """Note that `flow` has just succeeded, and how long it took."""
    insert = insert_into(session, heartbeats).values(
        flow=flow,
        last_ok_at=Clock(),
        period_seconds=period_seconds,
        grace_seconds=grace_seconds,
        run_id=run_id,
        run_seconds=run_seconds,
    )
    new = {name: insert.excluded[name] for name in Beat._fields if name != "flow"}
    session.execute(insert.on_conflict_do_update(index_elements=["flow"], set_=new))


def beats(session: Session) -> dict[str, Beat]:
    """Return each flow's last success, by flow."""
    rows = session.execute(sa.select(*(heartbeats.c[name] for name in Beat._fields)))
    return {row.flow: Beat(*row) for row in rows}
