"""How often a job is tried, how long it waits in between, and when it is given up."""

from datetime import datetime, timedelta
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

_DOUBLINGS: Final = 16  # 2 ** 16 s are 18 hours: no pause is longer


class AttemptPolicy(BaseModel):
    """How patient the queue is with one job."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    most_attempts: int = Field(5, ge=1, le=100, description="Times that a job is begun until it is dead")
    longest_pause_seconds: int = Field(600, ge=1, le=86_400, description="Longest pause between two attempts")
    quiet_seconds: int = Field(
        120, ge=0, le=86_400, description="Pause before a job whose provider does not know it is asked after once more"
    )
    give_up_hours: int = Field(
        24, ge=1, le=720, description="Hours after its start at which a job is dead whose outcome is still not known"
    )


def pause_seconds(attempts: int, jitter: float, policy: AttemptPolicy) -> float:
    """Give the pause after the `attempts`-th attempt: 2 ** attempts seconds, and up to half as much again.

    `jitter` is from 0 to 1, drawn by the caller.

    >>> [pause_seconds(attempts, 0, AttemptPolicy()) for attempts in (1, 2, 5, 40)]
    [2, 4, 32, 600]
    >>> pause_seconds(3, 1, AttemptPolicy())
    12.0
    """
    doubled = 1 << min(attempts, _DOUBLINGS)
    return min(doubled + doubled / 2 * jitter if jitter else doubled, policy.longest_pause_seconds)


def is_given_up(started_at: datetime, as_of: datetime, policy: AttemptPolicy) -> bool:
    """Whether a job that began then has been in doubt for too long."""
    return as_of - started_at > timedelta(hours=policy.give_up_hours)
