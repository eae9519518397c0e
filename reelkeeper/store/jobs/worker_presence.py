"""Whether anybody is at work on the queue: a sign that each worker gives, and that ends soon after it does."""

from typing import Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.store.core.engine import Clock, insert_into
from reelkeeper.store.tables import controls

LASTS_SECONDS: Final = 45.0  # three heartbeats
_NAME: Final = "workers"


def give(session: Session) -> None:
    """Say that a worker is there, who takes what waits."""
    _note(session, Clock())


def end(session: Session) -> None:
    """Say that a worker has left. Another that is there says so itself, at its next heartbeat."""
    _note(session, Clock(-LASTS_SECONDS))


def is_there(session: Session) -> bool:
    """Whether a worker is there, as far as one can tell."""
    fresh = sa.and_(controls.c.name == _NAME, controls.c.updated_at > Clock(-LASTS_SECONDS))
    return bool(session.execute(sa.select(sa.exists().where(fresh))).scalar_one())


def _note(session: Session, at: Clock) -> None:
    insert = insert_into(session, controls).values(name=_NAME, state={}, updated_at=at)
    session.execute(insert.on_conflict_do_update(index_elements=["name"], set_={"updated_at": at}))
