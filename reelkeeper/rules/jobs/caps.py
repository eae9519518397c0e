"""Limit the jobs made at once of one provider, model, tier or user, and of a provider that is unwell or full. Pure.

A job uses its place from its claim until its provider is done with it, or it is parked, or waits to be sent again, even
without a worker, as its provider is working on it.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field

from reelkeeper.model.jobs import Occupied, WaitingJob
from reelkeeper.rules.core.limit_scopes import LimitScope, limits_of, of_job


class Cap(BaseModel):
    """The maximum number of jobs of one scope at once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scope: LimitScope = Field(
        description="provider:X, model:X, tier:X or user:X; with * as X, the cap applies to each one not listed"
    )
    jobs: int = Field(ge=1, le=10_000, description="Maximum concurrent jobs")


class Room:
    """The free places under the caps, while jobs are chosen one after the other.

    `lanes`: how many jobs of each provider may be made at once, as tuned. `more`: how many more jobs a provider may get
    that is unwell, or takes no more; 0: none.
    """

    def __init__(
        self,
        caps: Sequence[Cap],
        occupied: Iterable[Occupied],
        lanes: Mapping[str, int] | None = None,
        more: Mapping[str, int] | None = None,
    ) -> None:
        self._more = {f"provider:{provider}": jobs for provider, jobs in (more or {}).items()}
        self._caps = dict[str, int]()
        for cap in caps:  # of two caps for one scope, the lower applies
            self._caps[cap.scope] = min(cap.jobs, self._caps.get(cap.scope, cap.jobs))
        tuned = {f"provider:{provider}": jobs for provider, jobs in (lanes or {}).items()}
        # guard claims.lanes: one provider gets the places of all, and is overloaded
        self._caps |= {
            scope: min(jobs, limits_of([scope], self._caps).get(scope, jobs)) for scope, jobs in tuned.items()
        }
        self._taken = Counter[str]()
        for some in occupied:
            for scope in of_job(some.lane, some.model, some.tier, some.user_id):
                self._taken[scope] += some.jobs

    def places(self, scope: str) -> int | None:
        """Return how many jobs of a scope may be made at once; None: no cap of its own."""
        return limits_of([scope], self._caps).get(scope)

    def full(self) -> dict[str, tuple[int, int]]:
        """Return, for each full scope, how many places are taken, and its limit."""
        limits = limits_of(self._taken, self._caps)
        return {scope: (self._taken[scope], cap) for scope, cap in limits.items() if self._taken[scope] >= cap}

    def shut(self) -> set[str]:
        """Return the scopes of which no job may be begun: full ones, and providers that get no more."""
        # guard claims.breaker: jobs are still sent to a provider that fails them
        return {*self.full(), *(scope for scope, left in self._more.items() if left < 1)}

    def fits(self, job: WaitingJob) -> bool:
        """Check whether there is a place for a job in each of its scopes."""
        return self._fits(_scopes(job))

    def _fits(self, job_scopes: Sequence[str]) -> bool:
        limits = limits_of(job_scopes, self._caps)
        is_tried = any(self._more.get(scope, 1) < 1 for scope in job_scopes)
        return not is_tried and all(self._taken[scope] < cap for scope, cap in limits.items())

    def take(self, job: WaitingJob) -> bool:
        """Give a job its place; return whether one of its scopes is full now."""
        if not self._caps and not self._more:
            return False
        job_scopes = _scopes(job)
        self._taken.update(job_scopes)
        # guard claims.trials: a provider on trial, or one that takes two more, gets all jobs at once
        self._more |= {scope: self._more[scope] - 1 for scope in job_scopes if scope in self._more}
        return not self._fits(job_scopes)


def _scopes(job: WaitingJob) -> tuple[str, ...]:
    return of_job(job.lane, job.model, job.tier, job.user_id)
