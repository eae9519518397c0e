"""Keep the record of everything done to customers' data: append-only and hash-chained, so that a change is detected.

seal = sha256(salt + canonical JSON of what may be personal: video, user and detail)
digest = sha256(previous digest + canonical JSON of the rest, of the figures in the detail, and of the seal)

Each event has its own random salt for its personal part. To erase a user, the salt is deleted with the personal part:
the seal then reveals nothing, and the chain still verifies. A later `erase_events` in the record lists each
event that was erased: without it, a missing part counts as tampering.

Length and last digest are in the deployment row, so truncation is detected too. A person who can rewrite the whole
database can rewrite the chain: copy `audit_head` elsewhere.
"""

import hashlib
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.errors import Frozen, IntegrityDoubt
from reelkeeper.store.core.engine import Clock
from reelkeeper.store.core.former_ids import known_user, of_user
from reelkeeper.store.tables import audit_events, deployment

ERASED = "erase_events"  # events were erased: their numbers
REPLACED = "replace"  # other bytes were put at a key of the service's
MOVED: Final = "db move"  # who stopped the changes of a store that has moved; nothing thaws it
ARRIVING: Final = "db move, not ended"  # ... of one where a move has begun to bring a store
ELSEWHERE: Final = frozenset({MOVED, ARRIVING})  # another store is the one at work
_BATCH = 2_000
_SALT_BYTES = 16
_LOCKED = (
    sa.select(
        *(deployment.c[name] for name in ("audit_events", "audit_head", "policy_version", "frozen_by", "frozen_reason"))
    )
    # guard audit.one_chain: concurrent writers fork the chain, and changes are no longer detected
    .with_for_update()
    .subquery()
)
_END = sa.select(_LOCKED, Clock())  # the clock is read with the row locked, so that times only increase
_APPEND = sa.insert(audit_events)
_MOVE_END = sa.update(deployment).values(audit_events=sa.bindparam("length"), audit_head=sa.bindparam("head"))
_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


class Event(NamedTuple):
    """Something that a run did, and to what. `detail` is JSON."""

    event: str
    run_id: str
    video_id: str | None = None
    blob_id: int | None = None
    user_id: str | None = None
    detail: Mapping[str, Any] = {}


class Recorded(NamedTuple):
    """A recorded event: its place in the chain, from 1, and its time by the database's clock."""

    id: int
    at: datetime
    event: Event


def append(session: Session, events: Sequence[Event]) -> None:
    """Write `events` at the end of the record, each with the policy version in force once one was applied.

    The last statement of a transaction: others wait here until it ends. Raises Frozen for a store that was moved, or is
    arriving: what needs no other permission, such as a hold, would be confirmed, and not be in force.
    """
    if not events:
        return
    (length, head, version, stopped_by, reason, at), rows = session.execute(_END).one(), []
    # guard audit.moved: a hold is placed, or a token revoked, in a store that nobody reads any more
    if stopped_by in ELSEWHERE:
        raise Frozen(f"this store is not the one at work: {reason}. Nothing was changed: see REELKEEPER_DATABASE_URL")
    for place, plain in enumerate(events, start=length + 1):
        event = plain._replace(detail={**plain.detail, "policy": version}) if version else plain
        salt = secrets.token_hex(_SALT_BYTES)
        seal = _seal(salt, event)
        previous, head = head, _digest(head, place, at, event, seal)
        rows.append(
            {**event._asdict(), "id": place, "at": at, "previous": previous, "digest": head, "salt": salt, "seal": seal}
        )
    session.execute(_APPEND, rows)
    session.execute(_MOVE_END, {"length": length + len(events), "head": head})


def verify(session: Session) -> int:
    """Verify the whole record and return its number of events; memory grows only with the erased ones.

    Raises IntegrityDoubt naming the first event that was changed, removed, moved or added.
    """
    length, head = session.execute(sa.select(deployment.c.audit_events, deployment.c.audit_head)).one()
    place, previous, erased = 0, "", dict[int, str | None]()
    try:
        for row in _stream(session, sa.select(audit_events).order_by(audit_events.c.id)):
            place += 1
            recorded = _recorded(row)
            # guard audit.verified: nobody notices a change to the record
            if (row.id, row.previous, row.digest, row.seal) != (
                place,
                previous,
                _digest(previous, place, recorded.at, recorded.event, row.seal),
                row.seal if row.salt is None else _seal(row.salt, recorded.event),
            ):
                raise IntegrityDoubt(f"audit event {place} does not match its hash: it, or one before it, was changed")
            previous = row.digest
            if row.salt is None:
                _require_erased(recorded)
                erased[place] = row.user_id
            elif row.event == ERASED:
                for number in row.detail["events"]:
                    # guard audit.erased_as: an erased user's event is moved to another's pseudonym unnoticed
                    if erased.pop(number, None) != row.user_id:
                        raise IntegrityDoubt(f"audit event {number} was not erased, although event {place} says so")
    except (ValueError, TypeError) as error:
        raise IntegrityDoubt(f"audit event {place + 1}, or one shortly after it, cannot be read: {error}") from error
    # guard audit.erased: removing the contents of an event passes for a user's erasure
    if erased:
        raise IntegrityDoubt(f"audit event {min(erased)} has lost its details, and no event records their erasure")
    # guard audit.end: the last events are cut off unnoticed
    if (place, previous) != (length, head):
        raise IntegrityDoubt(
            f"the audit record has {place} events ending in {previous[:12] or 'nothing'}, but the deployment row says "
            f"{length} ending in {head[:12] or 'nothing'}: events were removed or added at the end"
        )
    return place


def events(
    session: Session,
    *,
    event: str | None = None,
    run_id: str | None = None,
    video_id: str | None = None,
    user_id: str | None = None,
    since: datetime | None = None,
    limit: int | None = None,
) -> Iterator[Recorded]:
    """Stream the events that match every filter given, newest first; a user's under each id that the user had."""
    filters = {"event": event, "run_id": run_id, "video_id": video_id}
    query = sa.select(audit_events).order_by(audit_events.c.id.desc()).limit(limit)
    query = query.where(*(audit_events.c[name] == value for name, value in filters.items() if value is not None))
    if user_id is not None:
        known = known_user(session, user_id)
        query = query.where(audit_events.c.user_id.in_({user_id, known, *of_user(session, known)}))
    if since is not None:
        query = query.where(audit_events.c.at >= since)
    return map(_recorded, _stream(session, query))


def purged_after(session: Session, position: int, limit: int) -> tuple[list[tuple[int, str | None]], int]:
    """List the next objects deleted or replaced after an event, as (event, key), and the number of the last event.

    Erased events have no key any more.
    """
    end = session.execute(sa.select(deployment.c.audit_events)).scalar_one()
    query = sa.select(audit_events).where(audit_events.c.id > position, audit_events.c.event.in_(["purge", REPLACED]))
    found = map(_recorded, session.execute(query.order_by(audit_events.c.id).limit(limit)))
    return [(item.id, item.event.detail.get("key")) for item in found], int(end)


def begun_before(session: Session, seconds: float) -> int:
    """Return the number of the newest event older than `seconds`; 0 if there is none."""
    older = sa.select(sa.func.max(audit_events.c.id)).where(audit_events.c.at < Clock(-seconds))
    return int(session.execute(older).scalar() or 0)


def runs_beginning_with(session: Session, prefix: str, *, limit: int) -> list[str]:
    """List at most `limit` runs with events whose id begins with this; an exact match is returned alone."""
    run_ids = sa.select(audit_events.c.run_id).where(audit_events.c.run_id.startswith(prefix, autoescape=True))
    found = [
        str(row) for row in session.execute(run_ids.distinct().order_by(audit_events.c.run_id).limit(limit)).scalars()
    ]
    return [prefix] if prefix in found else found


def _stream(session: Session, query: sa.Select[Any]) -> Iterator[sa.Row[Any]]:
    return iter(session.execute(query, execution_options={"yield_per": _BATCH}))


def _recorded(row: sa.Row[Any]) -> Recorded:
    event = Event(row.event, row.run_id, row.video_id, row.blob_id, row.user_id, row.detail)
    return Recorded(row.id, row.at, event)


def erase(session: Session, places: Sequence[int], pseudonym: str, *, run_id: str) -> int:
    """Erase the personal detail of the events at these places, and record that; returns how many had any.

    The pseudonym and the figures of the detail stay. It is the last statement of a transaction, as `append` is.
    """
    if not places:
        return 0
    rows = session.execute(
        sa.select(audit_events.c.id, audit_events.c.detail)
        .where(audit_events.c.id.in_(places), audit_events.c.salt.is_not(None), audit_events.c.event != ERASED)
        .order_by(audit_events.c.id)
    ).all()
    if not rows:
        return 0
    session.execute(
        sa.update(audit_events)
        .where(audit_events.c.id == sa.bindparam("place"))
        .values(salt=None, video_id=None, user_id=pseudonym, detail=sa.bindparam("figures", type_=sa.JSON)),
        [{"place": row.id, "figures": _figures(row.detail)} for row in rows],
        execution_options={"synchronize_session": False},
    )
    append(session, [Event(ERASED, run_id, user_id=pseudonym, detail={"events": [row.id for row in rows]})])
    return len(rows)


def _require_erased(recorded: Recorded) -> None:
    event = recorded.event
    # guard audit.erased_empty: text is added to an erased event unnoticed
    if event.video_id is not None or event.detail != _figures(event.detail):
        raise IntegrityDoubt(f"audit event {recorded.id} was erased, but contains more than figures")


def _figures(detail: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of a detail that stay when its user is erased: numbers, true, false and null, but no text."""
    return {name: value for name, value in detail.items() if value is None or isinstance(value, int | float)}


def _seal(salt: str, event: Event) -> str:
    personal = {"video_id": event.video_id, "user_id": event.user_id, "detail": event.detail}
    return hashlib.sha256(f"{salt}{_canonical(personal)}".encode()).hexdigest()


def _digest(previous: str, place: int, at: datetime, event: Event, seal: str) -> str:
    sealed = {
        "id": place,
        "at": at.isoformat(timespec="microseconds"),
        "event": event.event,
        "run_id": event.run_id,
        "blob_id": event.blob_id,
        "figures": _figures(event.detail),
        "seal": seal,
    }
    # guard audit.chained: an event is rewritten with a new digest, and the later events still verify
    return hashlib.sha256(f"{previous}{_canonical(sealed)}".encode()).hexdigest()
