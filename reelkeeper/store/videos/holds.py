"""Place and release holds, and list those in force."""

from dataclasses import dataclass, fields
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model import BlobState
from reelkeeper.store.core.engine import Clock, changed, insert_into, now
from reelkeeper.store.tables import blobs, holds, users, videos


class HoldTerms(NamedTuple):
    """Terms of a hold: on a "video" or "user", until `expires_at`, None: until released.

    A hold that `is_legal` also keeps the bytes of a video that is taken down.
    """

    scope: str
    subject: str
    reason: str
    author: str
    expires_at: datetime | None = None
    is_legal: bool = False


@dataclass(frozen=True, slots=True)
class Hold:
    """A hold that is in force."""

    id: str
    scope: str
    subject: str
    reason: str
    author: str
    created_at: datetime
    expires_at: datetime | None
    is_legal: bool


def is_known(session: Session, scope: str, subject: str) -> bool:
    """Check whether the catalogue knows the user or video to be held."""
    table = {"user": users, "video": videos}[scope]
    return bool(session.execute(sa.select(table.c.id).where(table.c.id == subject)).scalar())


def place(session: Session, hold_id: str, terms: HoldTerms) -> tuple[bool, int]:
    """Insert a hold, unless it exists; return whether it is new, and for how many present blobs it comes too late.

    Of a user, those that are being deleted count; of a video, also one that has been.
    """
    new = insert_into(session, holds).values(id=hold_id, created_at=now(session), **terms._asdict())
    is_new = session.execute(new.on_conflict_do_nothing().returning(holds.c.id)).scalar() is not None
    owner = videos.c.user_id if terms.scope == "user" else videos.c.id
    # guard holds.gone: a hold on a video that is deleted already is confirmed as one that keeps it
    ending = [BlobState.DELETING] if terms.scope == "user" else [BlobState.DELETING, BlobState.GONE]
    too_late = session.execute(
        sa.select(sa.func.count())
        .select_from(blobs.join(videos, videos.c.id == blobs.c.video_id))
        .where(owner == terms.subject, blobs.c.id == videos.c.blob_id, blobs.c.state.in_(ending))
    ).scalar_one()
    return is_new, int(too_late)


def release(session: Session, hold_id: str) -> bool:
    """End a hold; False when there is none in force with this id."""
    ended = changed(
        session,
        sa.update(holds).where(holds.c.id == hold_id, holds.c.released_at.is_(None)).values(released_at=now(session)),
    )
    return bool(ended)


def in_force(session: Session) -> list[Hold]:
    """List the holds that are neither released nor expired, oldest first."""
    columns = (holds.c[field.name] for field in fields(Hold))
    rows = session.execute(sa.select(*columns).where(_lasts()).order_by(holds.c.created_at))
    return [Hold(*row) for row in rows]


def is_in_force(session: Session, hold_id: str) -> bool:
    """Check whether a hold is neither released nor expired."""
    return session.execute(sa.select(holds.c.id).where(holds.c.id == hold_id, _lasts())).scalar() is not None


def _lasts() -> sa.ColumnElement[bool]:
    lasting = sa.or_(holds.c.expires_at.is_(None), holds.c.expires_at > Clock())
    return sa.and_(holds.c.released_at.is_(None), lasting)
