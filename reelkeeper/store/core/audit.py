"""The record of everything done to customers' data: append-only, and chained so that a change to it shows.

digest = sha256(previous digest + canonical JSON of the event). Its length and last digest stand on the deployment row,
so a cut-off tail shows too. Whoever can rewrite the whole database can rewrite the chain: copy `audit_head` elsewhere.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.errors import IntegrityDoubt
from reelkeeper.store.core.engine import Clock
from reelkeeper.store.tables import audit_events, deployment

_BATCH = 2_000
_LOCKED = (
    sa.select(deployment.c.audit_events, deployment.c.audit_head, deployment.c.policy_version)
    # guard audit.one_chain: two who write at once make two chains, and a change to either shows no more
    .with_for_update()
    .subquery()
)
_END = sa.select(_LOCKED, Clock())  # the clock is read once the row is locked, so that times only grow
_APPEND = sa.insert(audit_events)
_MOVE_END = sa.update(deployment).values(audit_events=sa.bindparam("length"), audit_head=sa.bindparam("head"))
_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


class Event(NamedTuple):
    """Something that was done, by which run, to what. `detail` is what JSON can say."""

    event: str
    run_id: str
    video_id: str | None = None
    blob_id: int | None = None
    user_id: str | None = None
    detail: Mapping[str, Any] = {}


class Recorded(NamedTuple):
    """An event as it stands in the record: its place in the chain, from 1, and its time by the database's clock."""

    id: int
    at: datetime
    event: Event


def append(session: Session, events: Sequence[Event]) -> None:
    """Write `events` at the end of the record, each with the policy version in force once one was applied.

    The last statement of a transaction: others wait here until it ends.
    """
    if not events:
        return
    (length, head, version, at), rows = session.execute(_END).one(), []
    for place, plain in enumerate(events, start=length + 1):
        event = plain._replace(detail={**plain.detail, "policy": version}) if version else plain
        previous, head = head, _digest(head, place, at, event)
        rows.append({**event._asdict(), "id": place, "at": at, "previous": previous, "digest": head})
    session.execute(_APPEND, rows)
    session.execute(_MOVE_END, {"length": length + len(events), "head": head})


def verify(session: Session) -> int:
    """Read the whole record and return how many events it holds, in flat memory.

    Raises IntegrityDoubt naming the first event that was changed, removed, moved or added.
    """
    length, head = session.execute(sa.select(deployment.c.audit_events, deployment.c.audit_head)).one()
    place, previous = 0, ""
    try:
        for row in _stream(session, sa.select(audit_events).order_by(audit_events.c.id)):
            place += 1
            recorded = _recorded(row)
            # guard audit.verified: a change to the record shows to nobody
            if (row.id, row.previous, row.digest) != (
                place,
                previous,
                _digest(previous, place, recorded.at, recorded.event),
            ):
                raise IntegrityDoubt(f"audit event {place} is not what was written: it, or one before it, was changed")
            previous = row.digest
    except (ValueError, TypeError) as error:
        raise IntegrityDoubt(f"audit event {place + 1} or one soon after it cannot be read: {error}") from error
    # guard audit.end: the last events are cut off the record
    if (place, previous) != (length, head):
        raise IntegrityDoubt(
            f"the audit record has {place} events ending in {previous[:12] or 'nothing'}, the deployment row says "
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
    """Stream what was recorded, newest first, of those that match every filter given."""
    asked = {"event": event, "run_id": run_id, "video_id": video_id, "user_id": user_id}
    query = sa.select(audit_events).order_by(audit_events.c.id.desc()).limit(limit)
    query = query.where(*(audit_events.c[name] == value for name, value in asked.items() if value is not None))
    if since is not None:
        query = query.where(audit_events.c.at >= since)
    return map(_recorded, _stream(session, query))


def purged_after(session: Session, position: int, limit: int) -> tuple[list[tuple[int, str]], int]:
    """List the next deletions of objects after an event, as (event, key), and the number of the last event there is."""
    end = session.execute(sa.select(deployment.c.audit_events)).scalar_one()
    query = sa.select(audit_events).where(audit_events.c.id > position, audit_events.c.event == "purge")
    found = map(_recorded, session.execute(query.order_by(audit_events.c.id).limit(limit)))
    return [(item.id, str(item.event.detail["key"])) for item in found], int(end)


def begun_before(session: Session, seconds: float) -> int:
    """Give the number of the last event that is older than so many seconds; 0 where there is none."""
    older = sa.select(sa.func.max(audit_events.c.id)).where(audit_events.c.at < Clock(-seconds))
    return int(session.execute(older).scalar() or 0)


def runs_beginning_with(session: Session, prefix: str, *, limit: int) -> list[str]:
    """List at most `limit` runs that did anything and whose id begins like this; one that is just this stands alone."""
    alike = sa.select(audit_events.c.run_id).where(audit_events.c.run_id.startswith(prefix, autoescape=True))
    found = [
        str(row) for row in session.execute(alike.distinct().order_by(audit_events.c.run_id).limit(limit)).scalars()
    ]
    return [prefix] if prefix in found else found


def _stream(session: Session, query: sa.Select[Any]) -> Iterator[sa.Row[Any]]:
    return iter(session.execute(query, execution_options={"yield_per": _BATCH}))


def _recorded(row: sa.Row[Any]) -> Recorded:
    event = Event(row.event, row.run_id, row.video_id, row.blob_id, row.user_id, row.detail)
    return Recorded(row.id, row.at, event)


def _digest(previous: str, place: int, at: datetime, event: Event) -> str:
    whole = {**event._asdict(), "id": place, "at": at.isoformat(timespec="microseconds")}
    # guard audit.chained: an event is rewritten with its digest, and the rest still fits
    return hashlib.sha256(f"{previous}{_canonical(whole)}".encode()).hexdigest()
