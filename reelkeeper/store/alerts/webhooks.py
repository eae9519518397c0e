"""Store webhook endpoints, and the events that wait for them in the outbox. Time is the database's."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any, NamedTuple
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model.alerts import Delivery, Endpoint, EventType, Happened, MessageKind, MessageState
from reelkeeper.store.alerts.outbox import public_id
from reelkeeper.store.core.deployment import identity
from reelkeeper.store.core.engine import Clock, changed, now
from reelkeeper.store.tables import blobs, jobs, outbox, videos
from reelkeeper.store.tables import webhook_endpoints as endpoints

_OLD_SECRETS = 2  # that sign beside the present one


class ChangedVideo(NamedTuple):
    """The state of a video after its change."""

    video_id: str
    user_id: str
    state: str
    generation: int
    blob_id: int | None
    reason: str | None
    key: str | None
    size_bytes: int | None
    content_type: str | None
    codec: str | None
    duration_seconds: float | None
    purge_after: datetime | None


class Failing(NamedTuple):
    """An endpoint whose delivery has just failed."""

    failing_since: datetime
    failures: int
    last_ok_at: datetime | None  # when it last accepted a message
    at: datetime


def has_endpoint(session: Session) -> bool:
    """Check whether there is any endpoint."""
    return session.execute(sa.select(endpoints.c.id).limit(1)).scalar() is not None


def changed_videos(session: Session, video_ids: Iterable[str]) -> dict[str, ChangedVideo]:
    """Read the state of these videos, in the transaction that has changed them."""
    rows = session.execute(
        sa.select(
            *(videos.c[name] for name in ("id", "user_id", "state", "generation", "blob_id", "retire_reason")),
            *(blobs.c[name] for name in ChangedVideo._fields[6:]),
        )
        .outerjoin_from(videos, blobs, blobs.c.id == videos.c.blob_id)
        .where(videos.c.id.in_(list(video_ids)))
    )
    return {row.id: ChangedVideo._make(row) for row in rows}


def ended_jobs(session: Session, job_ids: Sequence[str]) -> list[sa.Row[Any]]:
    """Read the outcome of these ended jobs."""
    columns = (jobs.c[name] for name in ("user_id", "state", "video_id", "model", "error", "webhook_url"))
    metadata = jobs.c.caller_metadata.label("metadata")
    chosen = sa.select(jobs.c.id.label("job_id"), *columns, metadata).where(jobs.c.id.in_(job_ids)).order_by(jobs.c.id)
    return list(session.execute(chosen))


def has_subscriber(session: Session, event: EventType) -> bool:
    """Check whether any endpoint, enabled or not, subscribes to an event."""
    return any(not events or event in events for events in session.execute(sa.select(endpoints.c.events)).scalars())


def put(session: Session, happened: Sequence[Happened]) -> None:
    """Insert each event into the outbox, once for each endpoint that subscribes to it, in order."""
    if rows := _messages(session, happened):
        session.execute(sa.insert(outbox), rows)


def put_to(session: Session, endpoint_id: str, url: str, event: Happened) -> None:
    """Insert an event for a URL at the origin of an endpoint, which signs it."""
    session.execute(sa.insert(outbox).values(**_message(event, endpoint_id, now(session)), url=url))


def put_each_apart(session: Session, happened: Sequence[Happened]) -> list[tuple[str, str, int]]:
    """Insert events like `put`, one for each subject, in any order; return subject, endpoint and message of each."""
    if not (rows := _messages(session, happened)):
        return []
    new = sa.insert(outbox).returning(outbox.c.subject, outbox.c.endpoint_id, outbox.c.id)
    return [(row.subject, row.endpoint_id, row.id) for row in session.execute(new, rows)]


def _messages(session: Session, happened: Sequence[Happened]) -> list[dict[str, Any]]:
    subscribers = session.execute(sa.select(endpoints.c.id, endpoints.c.events).order_by(endpoints.c.id)).all()
    at = now(session)
    return [
        _message(event, endpoint.id, at)
        for event in happened
        for endpoint in subscribers
        if not endpoint.events or event.type in endpoint.events
    ]


def _message(event: Happened, endpoint_id: str, at: datetime) -> dict[str, Any]:
    return {
        "kind": MessageKind.EVENT,
        "state": MessageState.WAITING,
        "alert_ids": [],
        "payload": {"type": event.type, "timestamp": at.isoformat(), "data": dict(event.data)},
        "attempts": 0,
        "created_at": at,
        "due_at": at,
        "endpoint_id": endpoint_id,
        "subject": event.subject,
    }


def add(session: Session, url: str, events: Sequence[EventType], secret: str, endpoint_id: str | None = None) -> str:
    """Insert an endpoint and return its id, 12 hex digits."""
    endpoint_id, at = endpoint_id or uuid4().hex[:12], now(session)
    values = {"url": url, "events": list(events), "secret": secret, "created_at": at, "closed_until": at, "failures": 0}
    session.execute(sa.insert(endpoints).values(id=endpoint_id, **values))
    return endpoint_id


def url_of(session: Session, endpoint_id: str) -> str | None:
    """Read the address of an endpoint; None where there is none."""
    return session.execute(sa.select(endpoints.c.url).where(endpoints.c.id == endpoint_id)).scalar()


def urls(session: Session) -> dict[str, str]:
    """Read the address of each endpoint, the oldest first."""
    rows = session.execute(sa.select(endpoints.c.id, endpoints.c.url).order_by(endpoints.c.created_at, endpoints.c.id))
    return {row.id: row.url for row in rows}


def count(session: Session) -> int:
    """Count the endpoints."""
    return int(session.execute(sa.select(sa.func.count()).select_from(endpoints)).scalar_one())


def rotate(session: Session, endpoint_id: str, secret: str, old_seconds: float) -> bool:
    """Set a new secret; the earlier ones also sign messages for a while. False where there is no endpoint."""
    still_signs = (endpoints.c.old_secret_until > Clock()).label("still_signs")
    query = sa.select(endpoints.c.secret, endpoints.c.old_secret, still_signs).where(endpoints.c.id == endpoint_id)
    row = session.execute(query.with_for_update()).one_or_none()
    if row is None:
        return False
    # guard webhooks.rotated_again: a rotation that is repeated, as its answer was lost, ends the secret in use at once
    earlier = row.old_secret.split() if row.still_signs else []
    old_secrets = " ".join([row.secret, *earlier][:_OLD_SECRETS])
    values = {"old_secret": old_secrets, "old_secret_until": Clock(old_seconds), "secret": secret}
    return _change(session, endpoint_id, values)


def choose(session: Session, endpoint_id: str, events: Sequence[EventType]) -> bool:
    """Subscribe an endpoint to these events from now on, or to all; False where there is no endpoint."""
    return _change(session, endpoint_id, {"events": list(events)})


def disable(session: Session, endpoint_id: str, reason: str) -> bool:
    """Stop sending to an endpoint; later events wait for it."""
    return _change(session, endpoint_id, {"disabled_at": Clock(), "disabled_reason": reason})


def enable(session: Session, endpoint_id: str) -> bool:
    """Send to an endpoint again, from its first waiting message on; all are due now."""
    values = {"disabled_at": None, "disabled_reason": None, "failing_since": None, "failures": 0, "last_error": None}
    # messages first, as where they are marked as sent: another order could deadlock
    _make_due(session, outbox.c.endpoint_id == endpoint_id, outbox.c.state == MessageState.WAITING)
    return _change(session, endpoint_id, {**values, "closed_until": Clock()})


def remove(session: Session, endpoint_id: str) -> bool:
    """Delete an endpoint; its waiting messages are withdrawn."""
    waiting = outbox.c.endpoint_id == endpoint_id, outbox.c.state == MessageState.WAITING
    session.execute(sa.update(outbox).where(*waiting).values(state=MessageState.WITHDRAWN))
    return bool(changed(session, sa.delete(endpoints).where(endpoints.c.id == endpoint_id)))


def replay(session: Session, endpoint_id: str, since: datetime | None) -> int:
    """Send messages again: those given up and, from `since` on, those sent; return how many."""
    again = outbox.c.state == MessageState.GIVEN_UP
    if since is not None:
        again = sa.or_(again, sa.and_(outbox.c.state == MessageState.SENT, outbox.c.sent_at >= since))
    return _make_due(session, outbox.c.endpoint_id == endpoint_id, again)


def exists(session: Session, endpoint_id: str) -> bool:
    """Check whether there is an endpoint of this id."""
    return session.execute(sa.select(endpoints.c.id).where(endpoints.c.id == endpoint_id)).scalar() is not None


def listed(session: Session) -> list[Endpoint]:
    """List the endpoints, the oldest first."""

    def counted(state: MessageState) -> sa.ScalarSelect[int]:
        of = outbox.c.endpoint_id == endpoints.c.id, outbox.c.state == state
        return sa.select(sa.func.count()).where(*of).scalar_subquery()

    columns = (endpoints.c[field.name] for field in fields(Endpoint)[:-2])
    counts = counted(MessageState.WAITING), counted(MessageState.GIVEN_UP)
    query: sa.Select[Any] = sa.select(*columns, *counts)
    rows = session.execute(query.order_by(endpoints.c.created_at, endpoints.c.id))
    return [Endpoint(*row) for row in rows]


def due_endpoints(session: Session) -> list[str]:
    """List the endpoints with messages to be sent now."""
    rows = session.execute(sa.select(endpoints.c.id).where(_open(), sa.exists(_due().correlate(endpoints))))
    return list(rows.scalars())


def due(session: Session, endpoint_id: str, limit: int, *, but: Collection[int] = ()) -> list[Delivery]:
    """Read the oldest messages due to an endpoint, one of each subject, without `but`; none while it is paused."""
    old = sa.case((endpoints.c.old_secret_until > Clock(), endpoints.c.old_secret))
    rows = session.execute(
        _due()
        .add_columns(
            *(outbox.c.created_at, outbox.c.payload, outbox.c.attempts, endpoints.c.secret),
            sa.func.coalesce(outbox.c.url, endpoints.c.url).label("url"),
            outbox.c.url.is_not(None).label("is_own"),
            # guard webhooks.old_secret: messages are signed with a leaked secret for ever
            old.label("old_secret"),
            Clock().label("at"),
        )
        # guard webhooks.at_work: an event is sent a second time while its first request waits for an answer
        .where(endpoints.c.id == endpoint_id, _open(), outbox.c.id.not_in(but))
        .order_by(outbox.c.id)
        .limit(limit)
    ).all()
    deployment_id = identity(session) if rows else ""
    return [
        Delivery(
            row.id,
            f"msg_{public_id(row, deployment_id)}",
            row.payload,
            row.attempts,
            row.url,
            (row.secret, *(row.old_secret or "").split()),
            row.at,
            bool(row.is_own),
        )
        for row in rows
    ]


def mark_sent(session: Session, endpoint_id: str, receipts: Mapping[int, str], *, is_well: bool = True) -> None:
    """Record that messages were accepted, with the receipt of each and, where it `is_well`, that the endpoint works."""
    values: dict[str, Any] = {"state": MessageState.SENT, "sent_at": Clock(), "last_error": None}
    values |= {"receipt": sa.case(dict(receipts), value=outbox.c.id), "attempts": outbox.c.attempts + 1}
    chosen = outbox.c.id.in_(receipts), outbox.c.state == MessageState.WAITING
    session.execute(sa.update(outbox).where(*chosen).values(values))
    if not is_well:
        return
    well = {"failures": 0, "failing_since": None, "last_error": None, "last_ok_at": Clock()}
    _change(session, endpoint_id, well)


def note_failure(
    session: Session, endpoint_id: str, error: str, *, in_a_row: bool, untried_seconds: float
) -> Failing | None:
    """Record that an endpoint has not accepted a message; return since when it is failing. None: it was removed.

    Failures count `in_a_row`, but for those of messages that were on their way when another failed. It is failing since
    now where it might have been sent to for `untried_seconds`, and was not: nothing was delivered, or this is a backup.
    """
    # guard webhooks.untried: an endpoint is disabled at its second failure, as nothing was delivered for days
    was_tried = endpoints.c.closed_until > Clock(-untried_seconds)
    row = session.execute(
        sa.update(endpoints)
        .where(endpoints.c.id == endpoint_id)
        .values(
            failures=endpoints.c.failures + int(in_a_row),
            failing_since=sa.func.coalesce(sa.case((was_tried, endpoints.c.failing_since)), Clock()),
            last_error=error,
        )
        .returning(endpoints.c.failing_since, endpoints.c.failures, endpoints.c.last_ok_at, Clock())
    ).one_or_none()
    return Failing._make(row) if row else None


def close(session: Session, endpoint_id: str, seconds: float) -> None:
    """Pause an endpoint for `seconds`, unless it is paused for longer."""
    longer = sa.case((endpoints.c.closed_until > Clock(seconds), endpoints.c.closed_until), else_=Clock(seconds))
    _change(session, endpoint_id, {"closed_until": longer})


def put_off(session: Session, message_id: int, seconds: float, error: str) -> None:
    """Postpone the next attempt of a message by `seconds`."""
    values = {"due_at": Clock(seconds), "last_error": error, "attempts": outbox.c.attempts + 1}
    session.execute(sa.update(outbox).where(*_waits(message_id)).values(values))


def give_up(session: Session, message_id: int, error: str) -> None:
    """Give a message up, unless it is no longer waiting."""
    values = {"state": MessageState.GIVEN_UP, "last_error": error, "attempts": outbox.c.attempts + 1}
    session.execute(sa.update(outbox).where(*_waits(message_id)).values(values))


def _open() -> sa.ColumnElement[bool]:
    # guard webhooks.disabled: messages are sent to a disabled endpoint
    is_enabled = endpoints.c.disabled_at.is_(None)
    # guard webhooks.closed: an endpoint that is down, or asked for a pause, gets requests without a pause
    return sa.and_(is_enabled, endpoints.c.closed_until <= Clock())


def _due() -> sa.Select[tuple[int]]:
    before = outbox.alias()
    waits = before.c.state == MessageState.WAITING
    earlier = sa.exists().where(
        before.c.endpoint_id == outbox.c.endpoint_id,
        before.c.subject == outbox.c.subject,
        waits,
        before.c.id < outbox.c.id,
    )
    # guard webhooks.waiting: a delivered event is delivered again and again
    due = sa.select(outbox.c.id).where(outbox.c.endpoint_id == endpoints.c.id, outbox.c.state == MessageState.WAITING)
    # guard webhooks.due: a failed event is tried again at once, and given up within a minute
    due = due.where(outbox.c.due_at <= Clock())
    # guard webhooks.order: a service learns that a video was restored before it learns that it was retired
    return due.where(~earlier)


def _waits(message_id: int) -> tuple[sa.ColumnElement[bool], ...]:
    return outbox.c.id == message_id, outbox.c.state == MessageState.WAITING


def _make_due(session: Session, *chosen: sa.ColumnElement[bool]) -> int:
    values = {"state": MessageState.WAITING, "due_at": Clock(), "attempts": 0}
    return changed(session, sa.update(outbox).where(*chosen).values(values))


def _change(session: Session, endpoint_id: str, values: dict[str, Any]) -> bool:
    return bool(changed(session, sa.update(endpoints).where(endpoints.c.id == endpoint_id).values(values)))
