"""Nouns of how the service does."""

from datetime import datetime
from typing import NamedTuple

from reelkeeper.model.jobs import JobState


class FinishedJob(NamedTuple):
    """A job that is over, as far as it tells how the service does."""

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
        """Whether its video was made for it."""
        return self.state is JobState.SUCCEEDED and self.started_at is not None and not self.is_follower

    @property
    def is_hit(self) -> bool:
        """Whether the cache answered it."""
        return self.state is JobState.SUCCEEDED and self.started_at is None and not self.is_follower


class JobAtWork(NamedTuple):
    """A job that was begun and is not over."""

    started_at: datetime
    estimate_seconds: float
    lane: str | None = None  # the provider that is to make it


class InFlight(NamedTuple):
    """Jobs of one tier and model that stand in one state. `oldest_at` is when the first of them was asked for."""

    tier: str | None
    model: str
    state: JobState
    jobs: int
    oldest_at: datetime
    estimate_seconds: float  # of all of them together


class Filled(NamedTuple):
    """How much is stored of what may be. `full_users` have more of their own quota in use than the limit."""

    used_bytes: int
    limit_bytes: int
    full_users: int


class Window(NamedTuple):
    """How the service did for `seconds` from `start_at`, all in all or for one tier or model ("" is all of them)."""

    start_at: datetime
    seconds: int
    tier: str
    model: str
    figures: dict[str, float | None]  # named with their units; None: not known
