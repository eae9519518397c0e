"""How far the audit record was followed by somebody: rows of `controls`, by name."""

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.store.core.engine import Clock, insert_into
from reelkeeper.store.tables import controls


def find(session: Session, name: str) -> int | None:
    """Give the number of the last event that was dealt with; None before the first."""
    state = session.execute(sa.select(controls.c.state).where(controls.c.name == name)).scalar_one_or_none()
    return None if state is None else int(state["event"])


def move(session: Session, name: str, event: int) -> None:
    """Write that all events up to this one were dealt with."""
    new = {"state": {"event": event}, "updated_at": Clock()}
    insert = insert_into(session, controls).values(name=name, **new)
    session.execute(insert.on_conflict_do_update(index_elements=["name"], set_=new))
