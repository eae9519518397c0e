"""The deployment row: which store this is, since when, and whether changes are stopped.

Every change locks the row first. So what has been confirmed, as a freeze or a hold, is seen by every change that
commits after it; and the audit record, whose end stands on the same row, keeps that order.
"""

from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.store.tables import blobs, deployment


class Stopped(NamedTuple):
    """Since when, by whom and why all changes are stopped."""

    at: datetime
    by: str
    reason: str


def lock(session: Session) -> None:
    """Lock the row: changes that come later wait here until this transaction ends."""
    session.execute(sa.select(deployment.c.id).with_for_update())


def identity(session: Session) -> str:
    """Read the id that the bucket's identity object must hold."""
    deployment_id: str = session.execute(sa.select(deployment.c.id)).scalar_one()
    return deployment_id


def knows_objects(session: Session) -> bool:
    """Whether the catalogue has ever known an object: then its bucket has an identity object."""
    return session.execute(sa.select(blobs.c.id).limit(1)).scalar() is not None


def made_at(session: Session) -> datetime:
    """Say since when there is anything to wait for, or to count."""
    made: datetime = session.execute(sa.select(deployment.c.created_at)).scalar_one()
    return made


def stopped(session: Session) -> Stopped | None:
    """Say since when, by whom and why changes are stopped; None while they are allowed."""
    row = session.execute(sa.select(deployment.c.frozen_at, deployment.c.frozen_by, deployment.c.frozen_reason)).one()
    return Stopped(*row) if row.frozen_at else None
