"""Tables of alerts, notices and other messages, of requests to keep a video, and of the flows' heartbeats."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

from reelkeeper.model.alerts import AlertState, MessageKind, MessageState, Severity
from reelkeeper.store.tables.columns import UtcDateTime, counted, index_where, known


class Alert(SQLModel, table=True):
    """A notification that is sent once: a rule, for a scope, in a period, at a level."""

    __tablename__ = "alerts"
    __table_args__ = (
        known("state", AlertState),
        known("severity", Severity),
        sa.UniqueConstraint("rule", "scope", "period", "level", name="one_alert_per_crossing"),
        sa.Index("ix_alerts_state", "state", "rule"),
    )
    id: str = Field(primary_key=True)
    rule: str
    scope: str
    period: str
    level: str
    state: str = AlertState.FIRING
    severity: str
    title: str
    text: str
    suggestion: str = ""
    figures: list[list[str]] = Field(default_factory=list, sa_type=sa.JSON)
    impact_microusd: int | None = Field(None, sa_type=sa.BigInteger)
    run_id: str
    first_at: datetime = Field(sa_type=UtcDateTime)
    last_at: datetime = Field(sa_type=UtcDateTime)
    told_at: datetime | None = Field(None, sa_type=UtcDateTime)  # when its last firing message was queued
    is_told: bool = False  # people were last told that it fires
    message_id: int | None = Field(None, sa_type=sa.BigInteger)  # the last message about it
    resolved_at: datetime | None = Field(None, sa_type=UtcDateTime)
    acknowledged_at: datetime | None = Field(None, sa_type=UtcDateTime)
    acknowledged_by: str | None = None


class Snooze(SQLModel, table=True):
    """An operator's order to silence a rule, for one scope or all, for a while."""

    __tablename__ = "snoozes"
    id: str = Field(primary_key=True)
    rule: str
    scope: str | None = None  # None: of every scope
    author: str
    reason: str
    created_at: datetime = Field(sa_type=UtcDateTime)
    until: datetime = Field(sa_type=UtcDateTime)
    ended_at: datetime | None = Field(None, sa_type=UtcDateTime)


class OutboxRow(SQLModel, table=True):
    """A message to be sent, written in the same transaction as the change that it reports."""

    __tablename__ = "outbox"
    __table_args__ = (
        known("kind", MessageKind),
        known("state", MessageState),
        sa.Index("ix_outbox_due", "state", "due_at"),
        sa.Index("ix_outbox_endpoint", "endpoint_id", "state", "id"),
        sa.Index("ix_outbox_subject", "endpoint_id", "subject", "state"),
    )
    id: int | None = Field(None, sa_column=counted())
    kind: str
    state: str = MessageState.WAITING
    alert_ids: list[str] = Field(default_factory=list, sa_type=sa.JSON)
    payload: dict[str, Any] = Field(sa_type=sa.JSON)
    attachment: bytes | None = None  # a picture
    attachment_name: str | None = None
    attempts: int = 0
    created_at: datetime = Field(sa_type=UtcDateTime)
    due_at: datetime = Field(sa_type=UtcDateTime)
    after_id: int | None = Field(None, sa_type=sa.BigInteger)  # the message to be sent before it
    copied_at: datetime | None = Field(None, sa_type=UtcDateTime)  # when it was also sent to the second sink
    sent_at: datetime | None = Field(None, sa_type=UtcDateTime)
    receipt: str | None = None  # Slack's timestamp of the message, or the name of another sink
    last_error: str | None = None
    endpoint_id: str | None = None  # of an event: its webhook endpoint
    subject: str | None = None  # of an event: its subject, whose events keep their order
    url: str | None = None  # of an event for a job's own URL; unset: the endpoint's


class WebhookEndpoint(SQLModel, table=True):
    """A server of the service's that gets events. Its secrets sign messages, so they are stored in clear."""

    __tablename__ = "webhook_endpoints"
    id: str = Field(primary_key=True)
    url: str
    events: list[str] = Field(default_factory=list, sa_type=sa.JSON)  # empty: all
    secret: str
    old_secret: str | None = None  # or several, with spaces between, the newest first
    old_secret_until: datetime | None = Field(None, sa_type=UtcDateTime)
    created_at: datetime = Field(sa_type=UtcDateTime)
    closed_until: datetime = Field(sa_type=UtcDateTime)  # it gets no messages before this
    failures: int = 0  # in a row
    failing_since: datetime | None = Field(None, sa_type=UtcDateTime)
    last_ok_at: datetime | None = Field(None, sa_type=UtcDateTime)
    last_error: str | None = None
    disabled_at: datetime | None = Field(None, sa_type=UtcDateTime)
    disabled_reason: str | None = None


class Heartbeat(SQLModel, table=True):
    """Last success of a flow, and the time by which it must succeed again."""

    __tablename__ = "heartbeats"
    flow: str = Field(primary_key=True)
    last_ok_at: datetime = Field(sa_type=UtcDateTime)
    period_seconds: int
    grace_seconds: int
    run_id: str
    run_seconds: float | None = None  # the duration of that run; unknown for old runs


class NoticeRow(SQLModel, table=True):
    """A notice that a video will be retired. It is in force until `ended_at`; a video has one in force at a time."""

    __tablename__ = "notices"
    __table_args__ = (
        index_where("one_standing_notice_a_video", "video_id", "ended_at IS NULL"),
        sa.Index("ix_notices_given", "given_at"),
    )
    id: int | None = Field(None, sa_column=counted())
    video_id: str = Field(foreign_key="videos.id")
    tier: str
    days: int  # the promised days of notice
    rule: str
    given_at: datetime = Field(sa_type=UtcDateTime)
    expires_at: datetime = Field(sa_type=UtcDateTime)  # the earliest retirement that it states
    run_id: str
    ended_at: datetime | None = Field(None, sa_type=UtcDateTime)
    end: str | None = None  # the reason why it ended


class NoticeDelivery(SQLModel, table=True):
    """The delivery of a notice to one endpoint: taken, released by an operator, or still open."""

    __tablename__ = "notice_deliveries"
    __table_args__ = (
        sa.Index("ix_notice_deliveries_message", "message_id"),
        sa.Index("ix_notice_deliveries_endpoint", "endpoint_id"),
    )
    notice_id: int = Field(
        sa_column=sa.Column(sa.BigInteger, sa.ForeignKey("notices.id"), primary_key=True, autoincrement=False)
    )
    endpoint_id: str = Field(primary_key=True)
    message_id: int = Field(sa_type=sa.BigInteger)  # in the outbox, which deletes old messages
    delivered_at: datetime | None = Field(None, sa_type=UtcDateTime)
    released_at: datetime | None = Field(None, sa_type=UtcDateTime)


class KeepRow(SQLModel, table=True):
    """A request to keep a video, and until when. Each counts as one prolongation."""

    __tablename__ = "keeps"
    __table_args__ = (sa.Index("ix_keeps_video", "video_id"), sa.Index("ix_keeps_until", "until"))
    id: str = Field(primary_key=True)
    video_id: str = Field(foreign_key="videos.id")
    author: str
    at: datetime = Field(sa_type=UtcDateTime)
    days: int
    until: datetime = Field(sa_type=UtcDateTime)
