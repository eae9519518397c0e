"""Decide how often a job is tried, when it is given up, and whose fault that is; report a run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field

from reelkeeper.errors import PartialFailure
from reelkeeper.model.alerts import Finding, Severity
from reelkeeper.model.document import RunReport
from reelkeeper.rules.core.wording import many

_UNREADABLE: Final = "unreadable_result"  # the alert's rule
_GIVEN_UP: Final = "given up after"  # the beginning of a dead job's error if its generator failed each attempt
LONGEST_PAUSE_SECONDS: Final = 600  # between two attempts: a job is never idle for long once its provider is well
_DOUBLINGS: Final = 10  # 2 ** 10 s are longer than that
_UNSERVED_SECONDS: Final = 3600  # in which a worker of the job's provider has its turn, before the job is dead
QUIET_SECONDS: Final = 120  # before a provider is asked again about a job that it does not know: it may be new to it


class AttemptPolicy(BaseModel):
    """Limits on the number and the duration of a job's attempts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    most_attempts: int = Field(5, ge=1, le=100, description="Maximum attempts per job, after which the job is dead")
    give_up_hours: int = Field(
        24, ge=1, le=720, description="Hours after its start at which a job that is in doubt or not made yet is dead"
    )

    @property
    def unserved_hours(self) -> int:
        """The hours after which a job is dead whose provider no worker serves: one may come back meanwhile."""
        return 2 * self.give_up_hours


def quiet_seconds(*, is_unserved: bool) -> float:
    """Return the pause before a job in doubt is looked up again, at a provider that no worker serves, or at another."""
    return _UNSERVED_SECONDS if is_unserved else QUIET_SECONDS


def pause_seconds(attempts: int, jitter: float) -> float:
    """Return the pause after the `attempts`-th attempt: 2 ** attempts seconds, and up to half as much in addition.

    `jitter` is a random number from 0 to 1, from the caller.

    >>> [pause_seconds(attempts, 0) for attempts in (1, 2, 5, 40)]
    [2, 4, 32, 600]
    >>> pause_seconds(3, 1)
    12.0
    """
    doubled = 1 << min(attempts, _DOUBLINGS)
    return min(doubled + doubled / 2 * jitter if jitter else doubled, LONGEST_PAUSE_SECONDS)


def give_up_error(attempts: int, last: str, *, by_generator: bool) -> str:
    """Return the error of a job that has used up its attempts, through its generator's failures or through ours."""
    given_up = _GIVEN_UP if by_generator else f"no success here, {_GIVEN_UP}"
    return f"{given_up} {many(attempts, 'attempt')}; the last: {last}"


def not_taken_error(policy: AttemptPolicy, last: str) -> str:
    """Return the error of a dead job that its provider never accepted."""
    return f"{_GIVEN_UP} {policy.give_up_hours} hours in which the provider took nothing; the last: {last}"


def is_generators_fault(error: str | None) -> bool:
    """Check whether a dead job shows that its generator is overloaded or broken.

    A job that was refused for its input or content, cancelled, or given up by a person does not, nor one that our
    storage or tools failed, or whose state stayed unknown for too long.

    >>> is_generators_fault(give_up_error(5, "the provider reports it as failed: out of memory", by_generator=True))
    True
    >>> [is_generators_fault(error) for error in ("the provider refuses it: a face", "result unknown for 24 hours")]
    [False, False]
    """
    return bool(error and error.startswith(_GIVEN_UP))


def is_given_up(started_at: datetime, as_of: datetime, policy: AttemptPolicy) -> bool:
    """Check whether a job that began then has been in doubt for too long."""
    return as_of - started_at > timedelta(hours=policy.give_up_hours)


def unreadable_result(provider: str, day: str, job_id: str, problem: str) -> Finding:
    """Make the finding that a vendor made and bills a video, and what was received from it cannot be read."""
    return Finding(
        rule=_UNREADABLE,
        scope=f"provider:{provider}",
        period=day,
        severity=Severity.WARNING,
        title=f"A video that {provider} made cannot be read",
        text=f"Job {job_id}: {problem}. It is paid for, so it is not made again by itself: it is parked, and fetched "
        "again every few minutes until it is given up. Others of the day are in `reelkeeper queue`.",
        suggestion=f"Open the address. To fetch it now: reelkeeper jobs retry {job_id}. To pay for another one: "
        f"reelkeeper jobs retry {job_id} --buy-again",
    )


@dataclass(frozen=True, slots=True)
class DispatchReport(RunReport):
    """The jobs that a run ended, how many wait, run and are dead after it, and which come next."""

    waiting: int
    running: int
    parked: int
    dead: int  # all dead jobs
    succeeded: int = 0
    refused: int = 0  # cannot be made
    cancelled: int = 0
    to_be_tried_again: int = 0
    in_doubt: int = 0  # parked by this run
    handed_over: int = 0  # to the next run
    given_up: int = 0  # dead: their attempts are used up
    failed_here: int = 0  # another worker takes them a minute later
    next_jobs: tuple[str, ...] = field(default=())  # a dry run: the first few, with the terms of their places

    @classmethod
    def of(cls, run_id: str, states: Mapping[str, int], **what: Any) -> Self:  # noqa: ANN401  fields of the report
        """Make a report from the number of jobs in each state."""
        what |= {name: states.get(name, 0) for name in ("running", "parked", "dead")}
        return cls("dispatch_jobs", run_id, waiting=states.get("queued", 0), **what)

    def require_complete(self) -> Self:
        """Raise PartialFailure for jobs that used up their attempts, or failed unexpectedly."""
        if self.given_up or self.failed_here:
            raise PartialFailure(
                f"{many(self.succeeded, 'job')} succeeded; {self.given_up} used up their attempts and are dead, "
                f"{self.failed_here} failed here and go to another worker. To try a dead one again: "
                "reelkeeper jobs retry JOB"
            )
        return self
