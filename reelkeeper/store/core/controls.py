"""Store the state of rules and control loops: one row of `controls` for each, by name."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.store.core.engine import Clock, changed, insert_into
from reelkeeper.store.tables import controls

_REMEMBERED = sa.select(controls.c.name, controls.c.state).where(
    controls.c.name.in_(sa.bindparam("names", expanding=True))
)
_WAKE = sa.text("SET LOCAL idle_in_transaction_session_timeout = '20s'")


class Kept(NamedTuple):
    """A state as last written, and when."""

    state: dict[str, Any]
    updated_at: datetime


def remembered(session: Session, names: Sequence[str]) -> dict[str, Any]:
    """Read the states of `names`; a name without a state is left out."""
    return dict(session.execute(_REMEMBERED, {"names": names}).all())


def of_each(session: Session, prefix: str) -> dict[str, dict[str, Any]]:
    """Read the states of all names that begin with `prefix`, by the rest of the name, in its order."""
    chosen = sa.select(controls.c.name, controls.c.state).where(controls.c.name.startswith(prefix, autoescape=True))
    return {row.name.removeprefix(prefix): row.state for row in session.execute(chosen.order_by(controls.c.name))}


def kept(session: Session, name: str) -> Kept | None:
    """Read the state of `name`; None before the first time."""
    row = session.execute(
        sa.select(controls.c.state, controls.c.updated_at).where(controls.c.name == name)
    ).one_or_none()
    return Kept(row.state, row.updated_at) if row else None


def keep(session: Session, name: str, state: Mapping[str, Any], before: Kept | None) -> bool:
    """Write the state of `name`, unless it was written since `before` was read; return whether it did."""
    if before is None:
        insert = insert_into(session, controls).values(name=name, state=state, updated_at=Clock())
        return session.execute(insert.on_conflict_do_nothing().returning(controls.c.name)).scalar() is not None
    unchanged = sa.and_(controls.c.name == name, controls.c.updated_at == before.updated_at)
    return changed(session, sa.update(controls).where(unchanged).values(state=state, updated_at=Clock())) == 1


def write(session: Session, name: str, state: Mapping[str, Any], seconds: float = 0) -> None:
    """Write or replace the state of `name`, dated `seconds` from now."""
    new = {"state": dict(state), "updated_at": Clock(seconds)}
    insert = insert_into(session, controls).values(name=name, **new)
    session.execute(insert.on_conflict_do_update(index_elements=["name"], set_=new))


def fresh(session: Session, name: str, seconds: float) -> dict[str, Any] | None:
    """Read the state of `name` if it was written in the last `seconds`, else None."""
    lately = sa.and_(controls.c.name == name, controls.c.updated_at > Clock(-seconds))
    return session.execute(sa.select(controls.c.state).where(lately)).scalar_one_or_none()


def locked(session: Session, name: str) -> tuple[dict[str, Any], datetime]:
    """Read and lock the state of `name` until the transaction ends; return it and the time.

    PostgreSQL ends the transaction of a process that is suspended within it; on SQLite all writers wait until it
    resumes.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(_WAKE)
    # guard claims.turns: two concurrent claims exceed the limit of jobs at once
    query = sa.select(controls.c.state, Clock()).where(controls.c.name == name).with_for_update()
    row = session.execute(query).one_or_none()
    if row is None:
        new = insert_into(session, controls).values(name=name, state={}, updated_at=Clock())
        session.execute(new.on_conflict_do_nothing())
        row = session.execute(query).one()
    return row[0], row[1]
