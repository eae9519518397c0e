"""Figures of the service's performance."""

from datetime import datetime
from typing import NamedTuple

from reelkeeper.model.jobs import JobState


class FinishedJob(NamedTuple):
    """A finished job, with the properties that matter for performance."""

    tier: str | None
    model: str
    state: JobState
    created_at: datetime
    finished_at: datetime
    started_at: datetime | None = None  # None: answered from the cache, or with another's video, or never begun
    is_follower: bool = False
    processing_seconds: float | None = None
    estimate_seconds: float = 0.0
    concurrency: float | None = None  # jobs that ran at once on average, itself included
    cost_microusd: int | None = None
    error: str | None = None
    complexity: float = 0.0
    attempts: int = 1  # begun until it ended
    lane: str | None = None  # the provider that was to make it

    @property
    def is_made(self) -> bool:
        """Check whether its video was made for it."""
        return self.state is JobState.SUCCEEDED and self.started_at is not None and not self.is_follower

    @property
    def is_hit(self) -> bool:
        """Check whether the cache answered it."""
        return self.state is JobState.SUCCEEDED and self.started_at is None and not self.is_follower


class JobAtWork(NamedTuple):
    """A job that was begun and is not over."""

    started_at: datetime
    estimate_seconds: float
    lane: str | None = None  # the provider that is to make it


class InFlight(NamedTuple):
    """Jobs of one tier and model in one state. `oldest_at` is when the first of them was requested."""

    tier: str | None
    model: str
    state: JobState
    jobs: int
    oldest_at: datetime
    estimate_seconds: float  # of all of them together


class Filled(NamedTuple):
    """The stored share of all quotas. `full_users` use more of their own quota than the limit."""

    used_bytes: int
    limit_bytes: int
    full_users: int


class Window(NamedTuple):
    """The service's performance for `seconds` from `start_at`, overall or for one tier or model ("" is all)."""

    start_at: datetime
    seconds: int
    tier: str
    model: str
    figures: dict[str, float | None]  # named with their units; None: not known
