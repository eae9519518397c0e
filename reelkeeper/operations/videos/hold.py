"""Holds: an order to keep a video, or all videos of a user. A hold beats every rule."""

from dataclasses import dataclass
from uuid import uuid4

from reelkeeper.errors import NotFound, Refused
from reelkeeper.rules.billing.credits import fingerprint
from reelkeeper.store import Engine, Session
from reelkeeper.store.core import deployment
from reelkeeper.store.core.audit import Event, append
from reelkeeper.store.core.engine import now, transaction
from reelkeeper.store.videos import holds
from reelkeeper.store.videos.holds import HoldTerms


@dataclass(frozen=True, slots=True)
class Placed:
    """A hold as placed. `too_late` counts blobs that were already being deleted."""

    id: str
    too_late: int


def hold(engine: Engine, terms: HoldTerms, *, key: str | None = None) -> Placed:
    """Hold a user's videos or one video. Requests with the same `key` are one hold.

    Raises NotFound when there is no such user or video, Refused when a new hold would be over already.
    """
    asked = fingerprint(
        key=key,
        scope=terms.scope,
        subject=terms.subject,
        reason=terms.reason,
        expires_at=str(terms.expires_at),
        legal=terms.is_legal,
    )
    with transaction(engine, "hold") as session:
        return place(session, terms, asked[:12] if key else None)


def place(session: Session, terms: HoldTerms, hold_id: str | None = None) -> Placed:
    """`hold`, inside a transaction that is already open; writes its audit row, so it comes last.

    It locks the deployment row first, as every change does: an earlier claim of a purge is seen and counted, and a
    later one sees the hold.
    """
    # guard holds.ordered: a hold that was confirmed is not seen by a purge that claims at the same time
    deployment.lock(session)
    scope, subject = terms.scope, terms.subject
    if not holds.is_known(session, scope, subject):
        raise NotFound(f"no {scope} {subject!r} in the catalogue")
    hold_id = hold_id or uuid4().hex[:12]
    is_new, too_late = holds.place(session, hold_id, terms)
    # guard holds.future: a mistyped year confirms a hold that protects nothing
    if is_new and terms.expires_at is not None and terms.expires_at <= now(session):
        raise Refused(f"a hold until {terms.expires_at:%Y-%m-%d %H:%M} UTC would be over already; nothing is held")
    detail = {"hold": hold_id, "scope": scope, "reason": terms.reason} | ({"legal": True} if terms.is_legal else {})
    video_id, user_id = (subject, None) if scope == "video" else (None, subject)
    if is_new:
        append(session, [Event("hold", terms.author, video_id, None, user_id, detail)])
    return Placed(hold_id, too_late)


def release(engine: Engine, hold_id: str, *, author: str) -> None:
    """End a hold. Raises NotFound when there is none in force with this id."""
    with transaction(engine, "release") as session:
        if not holds.release(session, hold_id):
            raise NotFound(f"no hold {hold_id!r} in force")
        append(session, [Event("release", author, detail={"hold": hold_id})])
