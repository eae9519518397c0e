"""Holds: a person's word that a video, or all videos of a user, stay. A hold beats every rule."""

from dataclasses import dataclass
from datetime import datetime
from uuid import uuid4

from reelkeeper.errors import NotFound
from reelkeeper.rules.billing.credits import fingerprint
from reelkeeper.store import Engine, Session
from reelkeeper.store.core import deployment
from reelkeeper.store.core.audit import Event, append
from reelkeeper.store.core.engine import transaction
from reelkeeper.store.videos import holds


@dataclass(frozen=True, slots=True)
class Placed:
    """A hold as placed. `too_late` counts blobs that were already past the point of no return."""

    id: str
    too_late: int


def hold(
    engine: Engine,
    *,
    scope: str,
    subject: str,
    reason: str,
    author: str,
    expires_at: datetime | None = None,
    is_legal: bool = False,
    key: str | None = None,
) -> Placed:
    """Hold a user's videos or one video, until `expires_at` or until released. The same under one `key` is one hold.

    One that `is_legal` keeps the bytes of what is taken down, too. Raises NotFound when there is no such user or video.
    """
    asked = fingerprint(
        key=key, scope=scope, subject=subject, reason=reason, expires_at=str(expires_at), legal=is_legal
    )
    with transaction(engine, "hold") as session:
        return place(
            session,
            scope=scope,
            subject=subject,
            reason=reason,
            author=author,
            expires_at=expires_at,
            is_legal=is_legal,
            hold_id=asked[:12] if key else None,
        )


def place(
    session: Session,
    *,
    scope: str,
    subject: str,
    reason: str,
    author: str,
    expires_at: datetime | None,
    is_legal: bool = False,
    hold_id: str | None = None,
) -> Placed:
    """`hold`, inside a transaction that is already open; writes its audit row, so it comes last.

    Locks the deployment row first, as every change does: a purge claimed before this is seen and counted, one that
    comes after sees the hold.
    """
    # guard holds.ordered: a hold that was confirmed is not seen by a purge that claims at the same time
    deployment.lock(session)
    if not holds.is_known(session, scope, subject):
        raise NotFound(f"no {scope} {subject!r} in the catalogue")
    hold_id = hold_id or uuid4().hex[:12]
    is_new, too_late = holds.place(
        session,
        hold_id,
        scope=scope,
        subject=subject,
        reason=reason,
        author=author,
        expires_at=expires_at,
        is_legal=is_legal,
    )
    detail = {"hold": hold_id, "scope": scope, "reason": reason} | ({"legal": True} if is_legal else {})
    video_id, user_id = (subject, None) if scope == "video" else (None, subject)
    if is_new:
        append(session, [Event("hold", author, video_id, None, user_id, detail)])
    return Placed(hold_id, too_late)


def release(engine: Engine, hold_id: str, *, author: str) -> None:
    """End a hold. Raises NotFound when there is none in force with this id."""
    with transaction(engine, "release") as session:
        if not holds.release(session, hold_id):
            raise NotFound(f"no hold {hold_id!r} in force")
        append(session, [Event("release", author, detail={"hold": hold_id})])
