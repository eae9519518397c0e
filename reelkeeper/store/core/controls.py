"""Store the state of rules and control loops: one row of `controls` for each, by name."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from reelkeeper.store.core.engine import Clock, changed, insert_into
from reelkeeper.store.tables import controls

# built once: building a statement costs more than sending it
_NAMED = controls.c.name == sa.bindparam("named")
_REMEMBERED = sa.select(controls.c.name, controls.c.state).where(
    controls.c.name.in_(sa.bindparam("names", expanding=True))
)
_KEPT = sa.select(controls.c.state, controls.c.updated_at).where(_NAMED)
_LATELY = controls.c.updated_at > Clock(sa.bindparam("seconds", type_=sa.Float))
_FRESH = sa.select(controls.c.state).where(_NAMED, _LATELY)
_BEGINNING = controls.c.name.startswith(sa.bindparam("prefix", type_=sa.String), autoescape=False)
_OF_EACH = sa.select(controls.c.name, controls.c.state).where(_BEGINNING).order_by(controls.c.name)
_NEW = {"state": sa.bindparam("new", type_=sa.JSON), "updated_at": Clock(sa.bindparam("seconds", type_=sa.Float))}
_WRITE = {
    dialect: insert(controls)
    .values(name=sa.bindparam("named"), **_NEW)
    .on_conflict_do_update(index_elements=["name"], set_=_NEW)
    for dialect, insert in (("sqlite", sqlite.insert), ("postgresql", postgresql.insert))
}
_WAKE = sa.func.set_config("idle_in_transaction_session_timeout", "20s", True)  # of this transaction
_LOCKED = {
    # guard claims.turns: two concurrent claims exceed the limit of jobs at once
    dialect: sa.select(controls.c.state, Clock(), *wake).where(_NAMED).with_for_update()
    for dialect, wake in (("sqlite", ()), ("postgresql", (_WAKE,)))
}


class Kept(NamedTuple):
    """A state as last written, and when."""

    state: dict[str, Any]
    updated_at: datetime


def remembered(session: Session, names: Sequence[str]) -> dict[str, Any]:
    """Read the states of `names`; a name without a state is left out."""
    return dict(session.execute(_REMEMBERED, {"names": names}).all())


def of_each(session: Session, prefix: str) -> dict[str, dict[str, Any]]:
    """Read the states of all names that begin with `prefix`, by the rest of the name, in its order."""
    return {row.name.removeprefix(prefix): row.state for row in session.execute(_OF_EACH, {"prefix": prefix})}


def kept(session: Session, name: str) -> Kept | None:
    """Read the state of `name`; None before the first time."""
    row = session.execute(_KEPT, {"named": name}).one_or_none()
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
    session.execute(_WRITE[session.get_bind().dialect.name], {"named": name, "new": dict(state), "seconds": seconds})


def fresh(session: Session, name: str, seconds: float) -> dict[str, Any] | None:
    """Read the state of `name` if it was written in the last `seconds`, else None."""
    return session.execute(_FRESH, {"named": name, "seconds": -seconds}).scalar_one_or_none()


def locked(session: Session, name: str) -> tuple[dict[str, Any], datetime]:
    """Read and lock the state of `name` until the transaction ends; return it and the time.

    PostgreSQL ends the transaction of a process that is suspended within it; on SQLite all writers wait until it
    resumes.
    """
    query = _LOCKED[session.get_bind().dialect.name]
    row = session.execute(query, {"named": name}).one_or_none()
    if row is None:
        new = insert_into(session, controls).values(name=name, state={}, updated_at=Clock())
        session.execute(new.on_conflict_do_nothing())
        row = session.execute(query, {"named": name}).one()
    return row[0], row[1]
