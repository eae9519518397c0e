"""Hold a video, or all videos of a user: a hold overrides every rule."""

from dataclasses import dataclass
from uuid import uuid4

from reelkeeper.errors import KeyReused, NotFound, Refused
from reelkeeper.operations.core import epochs, replays
from reelkeeper.rules.billing.credits import fingerprint
from reelkeeper.store import Engine, Session
from reelkeeper.store.core import deployment, former_ids
from reelkeeper.store.core.audit import Event, append
from reelkeeper.store.core.engine import now, transaction
from reelkeeper.store.videos import holds
from reelkeeper.store.videos.holds import HoldTerms


@dataclass(frozen=True, slots=True)
class Placed:
    """A hold as placed. `too_late` counts blobs that were already being deleted; of a video, also one that is gone."""

    id: str
    too_late: int


def hold(engine: Engine, terms: HoldTerms, *, key: str | None = None) -> Placed:
    """Place a hold on a user's videos or on one video. Requests with the same `key` place one hold.

    It is announced for other copies of the store: `epochs.tell` then puts that into the bucket.

    Raises NotFound for an unknown user or video, Refused when a new hold would have expired already, KeyReused where
    the hold of this key has ended.
    """
    digest = fingerprint(
        key=key,
        scope=terms.scope,
        subject=terms.subject,
        reason=terms.reason,
        expires_at=str(terms.expires_at),
        legal=terms.is_legal,
    )
    with transaction(engine, "hold") as session:
        terms = terms._replace(subject=_known(session, terms.scope, terms.subject))
        placed = place(session, terms, digest[:12] if key else None)
        until = terms.expires_at.isoformat() if terms.expires_at else None
        # guard holds.former: after a restored backup, a hold on a user who was renamed since it was made is gone
        former = former_ids.of_user(session, terms.subject) if terms.scope == "user" else []
        about = epochs.concerned(session, terms.scope, [terms.subject, *former], until=until, legal=terms.is_legal)
        # guard holds.announced: a copy of the store, or a restored backup, purges a video that was held since
        epochs.announce(session, "hold", about)
        return placed


def place(session: Session, terms: HoldTerms, hold_id: str | None = None) -> Placed:
    """Do what `hold` does within the caller's transaction, as its last step: it writes the audit row.

    It locks the deployment row first, as every change does: it sees and counts earlier claims of a purge, and a
    later claim sees the hold.
    """
    # guard holds.ordered: a purge that claims at the same time does not see a confirmed hold
    deployment.lock(session)
    scope, subject = terms.scope, terms.subject
    require_known(session, scope, subject)
    hold_id = hold_id or uuid4().hex[:12]
    is_new, too_late = holds.place(session, hold_id, terms)
    # guard holds.future: with a mistyped year, a hold is confirmed that protects nothing
    if is_new and terms.expires_at is not None and terms.expires_at <= now(session):
        raise Refused(f"a hold until {terms.expires_at:%Y-%m-%d %H:%M} UTC would be over already; nothing is held")
    detail = {"hold": hold_id, "scope": scope, "reason": terms.reason} | ({"legal": True} if terms.is_legal else {})
    video_id, user_id = (subject, None) if scope == "video" else (None, subject)
    # guard holds.ended: a repeated request confirms a hold that was released since, and protects nothing
    if not is_new and not holds.is_in_force(session, hold_id):
        raise KeyReused(f"the hold {hold_id} that was placed with this key has ended; nothing is held. Use a new key")
    if is_new:
        append(session, [Event("hold", terms.author, video_id, None, user_id, detail)])
    else:
        replays.note()
    return Placed(hold_id, too_late)


def _known(session: Session, scope: str, subject: str) -> str:
    if scope == "user":
        return former_ids.known_user(session, subject)
    is_known = holds.is_known(session, scope, subject)
    return subject if is_known else former_ids.known_videos(session, [subject]).get(subject, subject)


def require_known(session: Session, scope: str, subject: str) -> None:
    """Raise NotFound where the catalogue has no such "user" or "video"."""
    if not holds.is_known(session, scope, subject):
        raise NotFound(f"no {scope} {subject!r} in the catalogue")


def release(engine: Engine, hold_id: str, *, author: str) -> None:
    """End a hold. Raises NotFound when there is none in force with this id."""
    with transaction(engine, "release") as session:
        deployment.lock(session)
        if not holds.release(session, hold_id):
            raise NotFound(f"no hold {hold_id!r} in force")
        append(session, [Event("release", author, detail={"hold": hold_id})])
