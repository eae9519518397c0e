"""Alerts and messages for people, and events for the service's own servers."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, Field

_HARMFUL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


class Severity(StrEnum):
    """Severity of a finding."""

    NOTICE = "notice"
    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def weight(self) -> int:
        """Its place among all, from 0: a worse one has a higher."""
        return list(Severity).index(self)


class AlertState(StrEnum):
    """The state of an alert: firing -> acknowledged -> resolved, or firing -> resolved."""

    FIRING = "firing"
    ACKNOWLEDGED = "acknowledged"
    RESOLVED = "resolved"


class MessageState(StrEnum):
    """The state of a message: waiting -> sent, diverted (to the second sink) or withdrawn (its alert ended before).

    An event for a webhook is given up if its endpoint has not accepted it within three days.
    """

    WAITING = "waiting"
    SENT = "sent"
    DIVERTED = "diverted"
    WITHDRAWN = "withdrawn"
    GIVEN_UP = "given_up"


class Verb(StrEnum):
    """The action of a button beside an alert."""

    ACKNOWLEDGE = "acknowledge"
    SNOOZE = "snooze"
    WHY = "why"
    APPROVE = "approve"  # a refused plan, for one run


class Click(NamedTuple):
    """A click on a button in Slack. `alert_id` and `fired_at` identify the alert that the message was about."""

    user_id: str
    user_name: str
    verb: Verb
    alert_id: str
    fired_at: str  # ISO 8601
    plan_id: str
    at: str  # Slack's time of this click, as text: unique for each click
    answer_url: str


class MessageKind(StrEnum):
    """Kind of a message."""

    ALERT = "alert"
    RESOLVE = "resolve"
    DIGEST = "digest"
    CHART = "chart"
    NOTE = "note"
    EVENT = "event"  # for a webhook's endpoint, not for people


AlertRule = Literal[
    "anomaly",
    "backup_failed",
    "bucket_refuses",
    "budget",
    "cache_not_purged",
    "dear_jobs",
    "doubt",
    "drift",
    "erasure_given_up",
    "erasure_late",
    "failing_jobs",
    "forecast_breach",
    "full_storage",
    "hold_ended",
    "ledger_mismatch",
    "locked_account",
    "long_wait",
    "missing_usage",
    "no_room",
    "notice_no_endpoint",
    "notice_not_delivered",
    "plan_refused",
    "run_crashed",
    "run_failed",
    "run_late",
    "saving",
    "silent_flow",
    "slow_jobs",
    "spend_limit",
    "store_behind",
    "stuck_outbox",
    "unfit_machine",
    "unreadable_result",
    "unwell_provider",
    "vendor_cost",
    "webhook_disabled",
    "webhook_given_up",
]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that people should know: what happened, its severity, its cost, and what to do about it.

    Each combination of `rule`, `scope`, `period` and `level` is reported once. Text is plain: sinks escape it. What it
    `replaces`, by rule, scope and period, is not found any more, and yet not over.
    """

    rule: AlertRule  # a typed list, so that a snooze of any other name can be refused
    scope: str  # total, service:r2-storage, tier:free, user:ID, flow:tier_storage
    severity: Severity
    title: str  # one line
    text: str  # sentences, with the figures
    suggestion: str = ""
    impact_microusd: int | None = None  # cost, or possible saving, per month
    figures: tuple[tuple[str, str], ...] = ()  # label and value, shown side by side
    replaces: tuple[tuple[AlertRule, str, str], ...] = ()
    period: str = ""  # 2026-11, 2026-11-24, or "" if it has none
    level: str = ""  # "80", "100", or ""


class Message(BaseModel):
    """The content of a message: each sink formats and escapes it in its own way."""

    model_config = ConfigDict(frozen=True)

    kind: MessageKind
    title: str
    severity: Severity | None = None
    text: str = ""
    suggestion: str = ""
    figures: tuple[tuple[str, str], ...] = ()
    lines: tuple[str, ...] = ()  # one for each alert of a digest
    footer: str = ""
    run_id: str = ""  # the run that found it
    link: str = ""  # URL of that run, set by the process that sends the message
    alert_id: str = ""  # the one alert that the message is about, for buttons beside it
    fired_at: datetime | None = None  # when that alert began to fire
    plan_id: str = ""  # a refused plan that can be approved


@dataclass(frozen=True, slots=True)
class Picture:
    """A PNG image sent with a message."""

    name: str
    png: bytes


@dataclass(frozen=True, slots=True)
class OutboxMessage:
    """A message as passed to a sink. `id` is the same at every attempt, so that duplicates can be recognised."""

    id: str
    message: Message
    picture: Picture | None = None


class Sink(Protocol):
    """A destination of messages: Slack's bot, Slack's webhook, another webhook, the console."""

    name: str
    pace_seconds: float  # from the end of one message to the start of the next, across all processes

    def send(self, outgoing: OutboxMessage) -> str:
        """Send one message; return a receipt. Raises SinkBusy, SinkDown or SinkRefused."""
        ...


# `_HARMFUL`: control characters except line ends and tabs (a terminal executes them, PostgreSQL refuses NUL), halves of
# surrogate pairs (they cannot be encoded), and characters that reverse or hide text (Unicode TR 36, section 3.1.1).


def tame(text: str) -> str:
    """Remove control characters, direction marks and invisible characters; keep line ends and tabs."""
    return _HARMFUL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def one_line(text: str) -> str:
    """Put `text` on one line, tamed, without whitespace at its ends."""
    return " ".join(tame(text).split())


class EventType(StrEnum):
    """The type of an event: the `type` in a message's body."""

    JOB_ENDED = "job.ended"
    VIDEO_PUBLISHED = "video.published"
    VIDEO_CHANGED = "video.changed"
    VIDEO_EXPIRING = "video.expiring"
    VIDEO_RETIRED = "video.retired"
    VIDEO_RESTORED = "video.restored"
    VIDEO_PURGED = "video.purged"
    BUDGET_CROSSED = "budget.crossed"
    CREDITS_LOW = "credits.low"


class Happened(NamedTuple):
    """An event for endpoints. Events of one `subject` never arrive out of order."""

    type: EventType
    subject: str  # id of the video; for a job, of its video
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event to be sent to one endpoint. `id` is the same at every attempt."""

    message_id: int
    id: str
    body: Mapping[str, Any]
    attempts: int  # before this one
    url: str
    secrets: tuple[str, ...]  # each signs: the present one and, for a day, the previous ones
    at: datetime  # current time of the database
    is_own: bool = False  # `url` is that of a job, at the endpoint's origin

    @property
    def happened_at(self) -> datetime:
        """When it happened, and was queued."""
        return datetime.fromisoformat(self.body["timestamp"])


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint and its state, without its secrets."""

    id: str
    url: str
    events: Annotated[list[str], Field(description="Event types to send; empty: all")]
    created_at: datetime
    last_ok_at: datetime | None
    failing_since: datetime | None
    last_error: str | None
    disabled_at: datetime | None
    disabled_reason: str | None
    old_secret_until: Annotated[datetime | None, Field(description="When the previous secret stops signing messages")]
    waiting: int
    given_up: int


class EndedRun(NamedTuple):
    """A flow run of a deployment that failed or crashed, as Prefect's server has it."""

    has_crashed: bool
    flow: str
    id: str
    name: str
    message: str
    at: datetime
