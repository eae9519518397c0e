"""The deployment row: which store this is, since when, and whether changes are stopped.

Every change locks the row first. So what has been confirmed, as a freeze or a hold, is seen by every change that
commits after it; and the audit record, whose end stands on the same row, keeps that order.
"""

from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.store.core import policies
from reelkeeper.store.core.engine import changed, now
from reelkeeper.store.tables import blobs, deployment

_STATE = sa.select(deployment.c.frozen_at, deployment.c.frozen_by, deployment.c.frozen_reason, *policies.VERSION)
_LOCKED = _STATE.with_for_update()


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


def stopped(session: Session, *, locked: bool = False) -> Stopped | None:
    """Say since when, by whom and why changes are stopped; None while they are allowed. `locked`, it stays so.

    Which policies are in force is known to the transaction then.
    """
    row = session.execute(_LOCKED if locked else _STATE).one()
    policies.note(session, row.policy_version, row.policy_digest)
    return Stopped(*row[:3]) if row.frozen_at else None


def stop(session: Session, *, by: str, reason: str) -> bool:
    """Stop all changes; False, and the first reason stays, where they are stopped already."""
    allowed = sa.update(deployment).where(deployment.c.frozen_at.is_(None))
    return changed(session, allowed.values(frozen_at=now(session), frozen_by=by, frozen_reason=reason)) > 0


def let_go_on(session: Session) -> str | None:
    """Allow changes again; gives the reason that had stopped them, or None if nothing had."""
    stopping = sa.select(deployment.c.frozen_reason).where(deployment.c.frozen_at.is_not(None))
    reason: str | None = session.execute(stopping.with_for_update()).scalar()
    if reason is not None:
        session.execute(sa.update(deployment).values(frozen_at=None, frozen_by=None, frozen_reason=None))
    return reason
