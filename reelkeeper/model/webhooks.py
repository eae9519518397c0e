"""Nouns of outgoing webhooks: what a service's own server is told of."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple


class EventType(StrEnum):
    """What happened. Each value stands in the `type` of a message's body."""

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
    """Something that endpoints are told of. Of one `subject`, a later event never arrives before an earlier one."""

    type: EventType
    subject: str  # a video's id; a job's is its video's
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event on its way to one endpoint. `id` is the same at every attempt."""

    message_id: int
    id: str
    body: Mapping[str, Any]
    attempts: int  # before this one
    url: str
    secrets: tuple[str, ...]  # each signs: the present one, and for a day the one before it
    at: datetime  # now, by the database's clock


class EndpointLine(NamedTuple):
    """An endpoint as it is listed: all but its secrets."""

    id: str
    url: str
    events: list[str]  # empty: all of them
    created_at: datetime
    last_ok_at: datetime | None
    failing_since: datetime | None
    last_error: str | None
    disabled_at: datetime | None
    disabled_reason: str | None
    old_secret_until: datetime | None
    waiting: int
    given_up: int
