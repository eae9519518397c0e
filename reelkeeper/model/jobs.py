"""Nouns of generation work. The unit of it is a job."""

from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from typing import Final, NamedTuple

from pydantic import BaseModel, Field

GLOBAL_LIMIT: Final = "generation"  # under this name Prefect knows how many jobs run at once, in all processes together
TRIAL_KEYS: Final = "doctor-"  # begin the keys of trials of vendors, which no job has
TRIAL_CALLED: Final = "vendor_trial_called"  # the row of `controls` with the key of the last webhook about a trial


class WaitingJob(NamedTuple):
    """A waiting job as the dispatch rule sees it."""

    id: str
    user_id: str
    tier: str | None  # None, or one that is not known: ordered as free
    submitted_at: datetime
    estimate_seconds: float
    model: str = ""
    prompt_characters: int = 0
    ahead: int = 0  # jobs of its user that wait and were asked for earlier, beside those that are told with it
    lane: str | None = None  # the provider that is to make it


class Occupied(NamedTuple):
    """The number of jobs of one provider, model, tier and user that count against caps."""

    lane: str | None
    model: str
    tier: str | None
    user_id: str
    jobs: int


class Served(NamedTuple):
    """The providers that a worker sends jobs to; `default` gets those of models for which no provider is named."""

    names: frozenset[str]
    default: str | None

    def lane(self, admitted_for: str | None) -> str | None:
        """Return where a job goes that no catalogue gives to a provider; None: to no provider of this worker."""
        return admitted_for if admitted_for in self.names else self.default


MOST_TIMES: Final = 32  # that a job's size counts, however many of its user wait before it


class SizeAndAge(NamedTuple):
    """The rank of a waiting job: its request time, plus a number of seconds for each estimated second.

    The size of a user's first `burst` waiting jobs counts once, of the next `burst` twice, and so on, and at most
    MOST_TIMES.
    """

    seconds_by_tier: tuple[tuple[str, float], ...]
    other_seconds: float  # of a tier that is not known
    burst: int

    @property
    def mark(self) -> str:
        """A digest: scores of another order have another one."""
        return sha256(repr(self).encode()).hexdigest()[:12]


class JobState(StrEnum):
    """State of a job: queued -> running -> succeeded, or queued again, or dead once its attempts are used up.

    `parked`: what its provider made of it is not known; it is looked up, and never sent again.
    """

    QUEUED = "queued"
    RUNNING = "running"
    PARKED = "parked"
    SUCCEEDED = "succeeded"
    DEAD = "dead"
    CANCELLED = "cancelled"


class End(StrEnum):
    """The outcome of a job with one worker."""

    SUCCEEDED = "succeeded"
    RETRIED = "to be tried again"
    PARKED = "parked"
    REFUSED = "refused"  # it cannot be made, and is dead
    DEAD = "dead"
    CANCELLED = "cancelled"
    HANDED_OVER = "handed over"
    LOST = "lost to another worker"  # or with the store: then its claim expires, and any worker takes it
    FAILED = "failed here"  # its claim expires, and another worker takes it


IN_FLIGHT = (JobState.QUEUED, JobState.RUNNING, JobState.PARKED)


class VendorErasure(StrEnum):
    """The state of a vendor's copy of a job's request and files, which it was asked to delete."""

    WAITING = "waiting"  # for its answer, or for the end of the job or of a legal hold
    DELETED = "deleted"
    PARTLY = "partly"  # the request is deleted, and its files stay
    ABSENT = "absent"  # it does not have it, or has it no longer
    KEPT = "kept"  # it has no call that deletes it
    UNNAMED = "unnamed"  # it may have it under a name that we never learned
    GIVEN_UP = "given_up"  # it has neither deleted it nor said that it cannot


class CacheItem(NamedTuple):
    """An entry of the cache as the pruning rule sees it."""

    key: str
    video_id: str
    size_bytes: int
    cost_microusd: int  # what making it again would cost
    hits: int
    used_at: datetime  # its last hit, or when it was made
    expires_at: datetime | None
    live: bool  # whether its video can be given
    requests: int  # recorded with its key, whether it was in the cache then or not
    first_at: datetime  # the first of them, or when it was made


class Repeated(NamedTuple):
    """A job that made what an earlier one had made, and its cost to us in micro-dollars.

    `after` is the time since the same user's last such request; None: this is that user's first.
    """

    is_same_entry: bool  # of the cache, so the earlier video could have been given
    after: timedelta | None
    microusd: int


class RequestTime(NamedTuple):
    """The time of a request that got a video."""

    key: str
    at: datetime


class ListedJob(BaseModel):
    """A job in a list; `GET /v1/jobs/{job_id}` tells its place and estimates, too."""

    job_id: str
    user_id: str
    state: JobState = Field(description="Of a job that joined another, until it ends: the state of the other")
    leader_id: str | None
    model: str
    progress: float = Field(description="Progress, from 0 to 1")
    price_microusd: int
    charged_microusd: int
    video_id: str | None
    error: str | None
    tag: str | None
    metadata: dict[str, str]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
