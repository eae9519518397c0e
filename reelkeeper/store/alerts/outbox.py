"""The outbox: messages that wait to be sent, untried ones first, each kind oldest first.

A message leaves it by being sent, diverted or withdrawn.

Events for webhooks wait in it too; `store/alerts/webhooks` handles them, and only their id is made here.

A row has only its state; a lease named for the sink decides which process may send, and when.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID, uuid5

import sqlalchemy as sa
from pydantic import ValidationError
from sqlmodel import Session

from reelkeeper.model.alerts import Message, MessageKind, MessageState, OutboxMessage, Picture
from reelkeeper.store.core import leases as leases_of
from reelkeeper.store.core.deployment import identity
from reelkeeper.store.core.engine import Clock, changed, now
from reelkeeper.store.tables import alerts, leases, outbox

_NAMES = UUID("6f0e3c1a-5d0b-4a53-9f5e-0c1f4a3b7d21")  # the namespace of messages' public ids
# guard outbox.for_people: a webhook event is posted to Slack, and reaches no endpoint
_FOR_PEOPLE = outbox.c.endpoint_id.is_(None)


class Waiting(NamedTuple):
    """A message as shown to people."""

    id: int
    kind: str
    state: str
    title: str
    attempts: int
    created_at: datetime
    due_at: datetime
    sent_at: datetime | None
    copied_at: datetime | None
    receipt: str | None
    last_error: str | None


def put(
    session: Session,
    message: Message,
    *,
    alert_ids: Sequence[str] = (),
    picture: Picture | None = None,
    after_id: int | None = None,
) -> int:
    """Insert a message that is due now, and return its id; it is sent after the message `after_id`."""
    at = now(session)
    row: int = session.execute(
        sa.insert(outbox)
        .values(
            kind=message.kind,
            state=MessageState.WAITING,
            alert_ids=list(alert_ids),
            payload=message.model_dump(mode="json"),
            attachment=picture.png if picture else None,
            attachment_name=picture.name if picture else None,
            attempts=0,
            created_at=at,
            due_at=at,
            after_id=after_id,
        )
        .returning(outbox.c.id)
    ).scalar_one()
    return row


_UNTOLD = (
    outbox.c.state == MessageState.WAITING,
    # guard outbox.withdraw_untried: people are told that an incident began, but not that it is over
    outbox.c.attempts == 0,
    # guard outbox.withdraw_uncopied: the second sink has that an incident began, but not that it is over
    outbox.c.copied_at.is_(None),
)


def withdraw(session: Session, message_ids: Collection[int]) -> list[str]:
    """Withdraw messages that report a single alert and were not tried yet; return the ids of alerts now unreported.

    What follows a message is a repetition: people know of its alert.
    """
    withdrawn = session.execute(
        sa.update(outbox)
        .where(outbox.c.id.in_(message_ids), outbox.c.kind == MessageKind.ALERT, *_UNTOLD)
        .values(state=MessageState.WITHDRAWN)
        .returning(outbox.c.alert_ids, outbox.c.after_id)
    )
    return [alert_id for row in withdrawn if row.after_id is None for alert_id in row.alert_ids]


def strike(session: Session, over: Mapping[str, int | None], title: Callable[[int], str]) -> set[str]:
    """Strike alerts that are over from digests that were not tried yet; `title` names what is left.

    `over` has the message that reported each. Return the ids of those struck from that: another is a repetition, and
    people know of its alerts. A digest of which nothing is left is withdrawn.
    """
    struck: set[str] = set()
    digests = sa.select(outbox).where(_FOR_PEOPLE, outbox.c.kind == MessageKind.DIGEST, *_UNTOLD)
    for row in session.execute(digests).all():
        if over.keys().isdisjoint(row.alert_ids):
            continue
        kept = [
            (alert_id, line)
            for alert_id, line in zip(row.alert_ids, row.payload["lines"], strict=True)
            if alert_id not in over
        ]
        values = {
            "alert_ids": [alert_id for alert_id, _ in kept],
            "payload": row.payload | {"lines": [line for _, line in kept], "title": title(len(kept))},
            "state": MessageState.WAITING if kept else MessageState.WITHDRAWN,
        }
        if changed(session, sa.update(outbox).where(outbox.c.id == row.id, *_UNTOLD).values(values)):
            # guard outbox.struck_repetition: the end of an incident is not told where its repetition was not sent yet
            struck |= {alert_id for alert_id in row.alert_ids if over.get(alert_id) == row.id}
    return struck


def has_due(session: Session) -> bool:
    """Return whether any message is due."""
    return session.execute(_due().limit(1)).scalar() is not None


def take_next(session: Session) -> tuple[int, OutboxMessage, int] | None:
    """Count an attempt of the first due message, and return its row id, the message, and its attempts."""
    row = session.execute(
        sa.update(outbox)
        # guard outbox.take_waiting: two processes send the same message
        .where(outbox.c.id == _due().limit(1).scalar_subquery(), outbox.c.state == MessageState.WAITING)
        .values(attempts=outbox.c.attempts + 1)
        .returning(*outbox.c)
    ).one_or_none()
    return None if row is None else (row.id, _outgoing(row, identity(session)), row.attempts)


def mark_sent(session: Session, message_id: int, receipt: str) -> None:
    """Record that a message was sent, in whatever state it is by now, and drop its picture."""
    gone = {"state": MessageState.SENT, "sent_at": Clock(), "receipt": receipt, "last_error": None, "attachment": None}
    session.execute(sa.update(outbox).where(outbox.c.id == message_id).values(gone))


def mark_diverted(session: Session, message_id: int, receipt: str, error: str) -> None:
    """Record that a message went to the second sink instead, and why."""
    gone = {"state": MessageState.DIVERTED, "copied_at": Clock(), "receipt": receipt, "last_error": error}
    chosen = (outbox.c.id == message_id, outbox.c.state == MessageState.WAITING)
    session.execute(sa.update(outbox).where(*chosen).values(gone))


def put_off(session: Session, message_id: int, seconds: float, error: str) -> None:
    """Postpone the next attempt of a message by `seconds`."""
    chosen = (outbox.c.id == message_id, outbox.c.state == MessageState.WAITING)
    session.execute(sa.update(outbox).where(*chosen).values(due_at=Clock(seconds), last_error=error))


def overdue(session: Session, seconds: float, *, tried: bool, limit: int) -> list[tuple[int, OutboxMessage]]:
    """Return messages older than `seconds` that the second sink does not have; `tried`: only those attempted."""
    chosen = [
        _FOR_PEOPLE,
        outbox.c.state == MessageState.WAITING,
        # guard outbox.copied_apart: a message is copied to the second sink again
        outbox.c.copied_at.is_(None),
        outbox.c.created_at <= Clock(-seconds),
        *([outbox.c.attempts > 0] if tried else []),
    ]
    rows = session.execute(sa.select(outbox).where(*chosen).order_by(outbox.c.id).limit(limit)).all()
    deployment_id = identity(session)
    return [(row.id, _outgoing(row, deployment_id)) for row in rows]


def uncopied(session: Session, rules: Collection[str]) -> list[tuple[int, OutboxMessage]]:
    """Return messages about firing alerts of `rules` that the second sink does not have."""
    of_rules = sa.select(alerts.c.message_id).where(alerts.c.rule.in_(rules), alerts.c.is_told)
    chosen = sa.select(outbox).where(outbox.c.id.in_(of_rules), outbox.c.copied_at.is_(None))
    deployment_id = identity(session)
    return [(row.id, _outgoing(row, deployment_id)) for row in session.execute(chosen.order_by(outbox.c.id))]


def mark_copied(session: Session, message_ids: Collection[int]) -> None:
    """Record that the second sink has these messages, too."""
    session.execute(sa.update(outbox).where(outbox.c.id.in_(message_ids)).values(copied_at=Clock()))


def count_waiting(session: Session) -> tuple[int, timedelta]:
    """Count the waiting messages, and return how long the oldest has waited."""
    row = session.execute(
        sa.select(sa.func.count(), sa.func.min(outbox.c.created_at), Clock()).where(
            _FOR_PEOPLE, outbox.c.state == MessageState.WAITING
        )
    ).one()
    count, oldest, at = row
    return count, at - oldest if oldest else timedelta()


def opens_in(session: Session, sink: str) -> timedelta:
    """Return the time until the sink may be used: another run is sending, or its pace or Retry-After forbids it."""
    row = session.execute(sa.select(leases.c.expires_at, Clock()).where(leases.c.name == sink)).one_or_none()
    return max(row[0] - row[1], timedelta()) if row else timedelta()


def listed(session: Session, *, everything: bool, limit: int) -> list[Waiting]:
    """Return messages for people, the newest first; without `everything`, only those that wait."""
    names = [name for name in Waiting._fields if name != "title"]
    wanted = sa.select(*(outbox.c[name] for name in names), outbox.c.payload).order_by(outbox.c.id.desc()).limit(limit)
    wanted = wanted.where(_FOR_PEOPLE)
    if not everything:
        wanted = wanted.where(outbox.c.state == MessageState.WAITING)
    return [
        Waiting(**{name: getattr(row, name) for name in names}, title=row.payload["title"])
        for row in session.execute(wanted)
    ]


def _due() -> sa.Select[tuple[int]]:
    before = outbox.alias()
    follows = sa.exists().where(before.c.id == outbox.c.after_id, before.c.state == MessageState.WAITING)
    # guard outbox.due: a failed message is tried again at once, and blocks the others
    is_due = outbox.c.due_at <= Clock()
    # guard outbox.of_future: an alert of a clock that was ahead is not sent until it has caught up
    is_due |= outbox.c.due_at > Clock(leases_of.LONGEST_SECONDS)
    # guard outbox.waiting: each run sends a sent message again
    # guard outbox.follows: people are told that an incident is over before they are told that it began
    due = sa.select(outbox.c.id).where(outbox.c.state == MessageState.WAITING, is_due, ~follows)
    # guard outbox.untried_first: three messages that Slack never takes end each run before any other is tried
    return due.where(_FOR_PEOPLE).order_by(sa.case((outbox.c.attempts > 0, 1), else_=0), outbox.c.id)


def _outgoing(row: sa.Row[Any], deployment_id: str) -> OutboxMessage:
    public = public_id(row, deployment_id)
    picture = Picture(row.attachment_name, row.attachment) if row.attachment else None
    # guard outbox.unreadable: one message that another version has written keeps all later ones from being sent
    try:
        message = Message.model_validate(row.payload)
    except ValidationError:
        message = Message(kind=row.kind, title="An alert of another version", text=json.dumps(row.payload, indent=1))
    return OutboxMessage(public, message, picture)


def public_id(row: sa.Row[Any], deployment_id: str) -> str:
    """Return the public id of a message: the same at every attempt, and unique."""
    return str(uuid5(_NAMES, f"{deployment_id}/{row.id}/{row.created_at.isoformat()}"))
