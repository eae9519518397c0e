"""Holds: a person's word that a video, or all videos of a user, stay. A hold beats every rule."""

from dataclasses import dataclass
from datetime import datetime
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlmodel import Session

from reelkeeper.errors import NotFound
from reelkeeper.model import BlobState
from reelkeeper.store.core.audit import Event, append
from reelkeeper.store.core.engine import changed, now, transaction
from reelkeeper.store.tables import blobs, deployment, holds, users, videos


@dataclass(frozen=True, slots=True)
class Placed:
    """A hold as placed. `too_late` counts blobs that were already past the point of no return."""

    id: str
    too_late: int


def hold(
    engine: Engine, *, scope: str, subject: str, reason: str, author: str, expires_at: datetime | None = None
) -> Placed:
    """Hold a user's videos or one video, until `expires_at` or until released.

    Raises NotFound when there is no such user or video.
    """
    with transaction(engine, "hold") as session:
        return place(session, scope=scope, subject=subject, reason=reason, author=author, expires_at=expires_at)


def place(
    session: Session, *, scope: str, subject: str, reason: str, author: str, expires_at: datetime | None
) -> Placed:
    """`hold`, inside a transaction that is already open; writes its audit row, so it comes last.

    Locks the deployment row first, as every change does: a purge claimed before this is seen and counted, one that
    comes after sees the hold.
    """
    session.execute(sa.select(deployment.c.id).with_for_update())
    table = {"user": users, "video": videos}[scope]
    if not session.execute(sa.select(table.c.id).where(table.c.id == subject)).scalar():
        raise NotFound(f"no {scope} {subject!r} in the catalogue")
    hold_id = uuid4().hex[:12]
    session.execute(
        sa.insert(holds).values(
            id=hold_id,
            scope=scope,
            subject=subject,
            reason=reason,
            author=author,
            created_at=now(session),
            expires_at=expires_at,
        )
    )
    owner = videos.c.user_id if scope == "user" else videos.c.id
    too_late = session.execute(
        sa.select(sa.func.count())
        .select_from(blobs.join(videos, videos.c.id == blobs.c.video_id))
        .where(owner == subject, blobs.c.id == videos.c.blob_id, blobs.c.state == BlobState.DELETING)
    ).scalar_one()
    detail = {"hold": hold_id, "scope": scope, "reason": reason}
    video_id, user_id = (subject, None) if scope == "video" else (None, subject)
    append(session, [Event("hold", author, video_id, None, user_id, detail)])
    return Placed(hold_id, too_late)


def release(engine: Engine, hold_id: str, *, author: str) -> None:
    """End a hold. Raises NotFound when there is none in force with this id."""
    with transaction(engine, "release") as session:
        ended = changed(
            session,
            sa.update(holds)
            .where(holds.c.id == hold_id, holds.c.released_at.is_(None))
            .values(released_at=now(session)),
        )
        if not ended:
            raise NotFound(f"no hold {hold_id!r} in force")
        append(session, [Event("release", author, detail={"hold": hold_id})])
