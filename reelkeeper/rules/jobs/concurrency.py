"""How many jobs at once? A bounded controller that a slow server cannot run away with.

Each finished job tells how many ran beside it and how long it took against its estimate for an idle server. From these
the curve of slowdown over concurrency is fitted: Gunther's Universal Scalability Law, slowdown - 1 = a (n - 1) +
b n (n - 1), by least squares with both terms kept from below zero, older jobs counting less. The limit steps towards
the smallest concurrency that reaches nearly the peak of the modelled throughput at a mean cost within the ceiling.
Where the model is wrong the guard holds: a limit at which less was finished than was seen at a lower one is left, and
none grows beyond twice what ran at once, or a quiet night would open the doors for the next burst.

>>> calm = [Finished(concurrency=4, seconds=165, estimate_seconds=150, cost_microusd=8_300)] * 12
>>> step = next_limit(4, calm, Memory(), ConcurrencyPolicy())
>>> step.limit, step.reason
(6, 'room to grow')
"""

import math
from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Reason = Literal[
    "room to grow",
    "near the peak",
    "over the cost ceiling",
    "less done than at a lower limit",
    "too few jobs finished",
    "at the bound",
    "not used up",
]
_PRIOR_JOBS: Final = 2.0  # what is assumed before anything is known weighs as much as so many jobs at n = 20
_PRIOR_CONTENTION, _PRIOR_COHERENCE = 0.02, 0.0005  # of a server that profits from some 40 at a time
_PRIOR_AT: Final = 20
_UNSEEN: Final = 2  # times what ran at once, beyond which a limit would be a guess (Netflix concurrency-limits)
_SINGULAR: Final = 1e-9
_FADE: Final = 0.97  # what a throughput seen earlier weighs after a step
_BUCKETS_PER_DOUBLING: Final = 5  # how finely throughput is remembered over the limit


class ConcurrencyPolicy(BaseModel):
    """Bounds and temper of the controller."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_limit: int = Field(1, ge=1, description="Fewest jobs at once")
    first_limit: int = Field(8, ge=1, le=10_000, description="Jobs at once before the first step")
    max_limit: int = Field(100, ge=1, le=10_000, description="Most jobs at once")
    cost_ceiling_microusd: int | None = Field(
        20_000, gt=0, description="Most that a job may cost on average; unset: no ceiling"
    )
    cost_setpoint: float = Field(0.95, gt=0, le=1, description="Share of the ceiling that is aimed at")
    near_peak: float = Field(0.98, gt=0, le=1, description="Share of the modelled peak throughput that is enough")
    growth: float = Field(1.25, gt=1, le=2, description="Most that the limit grows in one step, as a factor")
    forget: float = Field(0.85, gt=0, lt=1, description="Weight that what is known keeps from step to step")
    worse: float = Field(0.95, gt=0, lt=1, description="Share of an earlier throughput below which a limit is left")
    fewest_jobs: int = Field(10, ge=1, description="Finished jobs that a step needs")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.min_limit > self.max_limit:
            raise ValueError(f"min_limit {self.min_limit} is above max_limit {self.max_limit}")
        return self


class Finished(NamedTuple):
    """A job that ended well: how many ran on average during its life, and what it took."""

    concurrency: float
    seconds: float
    estimate_seconds: float  # on an idle server
    cost_microusd: float


class RateSample(NamedTuple):
    """How much was done, in idle servers, where about so many ran; `weight` is in jobs, and fades."""

    bucket: int  # a fifth of a doubling
    rate: float
    weight: float


class Memory(NamedTuple):
    """What earlier steps left: sums of the two fits, and the throughput seen by bucket of concurrency."""

    slowdown: tuple[float, float, float, float, float] = (0.0, 0.0, 0.0, 0.0, 0.0)
    cost: tuple[float, float, float, float, float] = (0.0, 0.0, 0.0, 0.0, 0.0)
    alone: tuple[float, float] = (0.0, 0.0)
    seen: tuple[RateSample, ...] = ()  # from the lowest bucket up


class Step(NamedTuple):
    """The next limit, why, and what to remember. `peak` is the concurrency of the modelled peak."""

    limit: int
    reason: Reason
    memory: Memory
    contention: float = 0.0
    coherence: float = 0.0
    throughput: float = 0.0  # in idle servers
    cost_microusd: float = 0.0  # modelled, of a mean job at the new limit


def next_limit(limit: int, finished: Sequence[Finished], memory: Memory, policy: ConcurrencyPolicy) -> Step:
    """Give the limit that follows `limit` after the jobs that `finished` since the last step."""
    bounded = min(max(limit, policy.min_limit), policy.max_limit)
    if len(finished) < policy.fewest_jobs:
        return Step(bounded, "too few jobs finished", memory)
    memory = _learn(memory, finished, policy.forget)
    a, b = _fit(memory.slowdown)
    target, reason = _target(a, b, memory, policy)
    target, reason = _guarded(target, reason, limit, finished, memory, policy)
    if target > limit:
        target = min(target, max(math.floor(limit * policy.growth), limit + 2))
        reason = "room to grow"
        if target > (most := math.floor(_UNSEEN * max(job.concurrency for job in finished))):
            target, reason = max(most, limit), "not used up"
    wanted = min(max(target, policy.min_limit), policy.max_limit)
    return Step(
        wanted,
        reason if wanted == target else "at the bound",
        memory,
        a,
        b,
        wanted / _slowdown(a, b, wanted),
        _cost(a, b, wanted, memory),
    )


def _learn(memory: Memory, finished: Sequence[Finished], keep: float) -> Memory:
    """Add the jobs to the sums, whose old part fades."""
    slowdown, cost = list(memory.slowdown), list(memory.cost)
    slowdown, cost = [keep * value for value in slowdown], [keep * value for value in cost]
    estimates = took = running = 0.0
    for job in finished:
        n, slower = job.concurrency, job.seconds / job.estimate_seconds
        x1, x2, y, weight = n - 1, n * (n - 1), slower - 1, slower**-2  # errors are relative
        _add(slowdown, (weight * x1 * x1, weight * x1 * x2, weight * x2 * x2, weight * x1 * y, weight * x2 * y))
        _add(cost, (1, job.seconds, job.seconds**2, job.cost_microusd, job.seconds * job.cost_microusd))
        estimates, took, running = estimates + job.estimate_seconds, took + job.seconds, running + n
    alone = (keep * memory.alone[0] + estimates, keep * memory.alone[1] + len(finished))
    here, fresh = _bucket(running / len(finished)), running / len(finished) * estimates / took
    seen = {
        sample.bucket: sample._replace(weight=_FADE * sample.weight)
        for sample in memory.seen
        if _FADE * sample.weight >= 1
    }
    before = seen.get(here, RateSample(here, 0.0, 0.0))
    weight = keep * before.weight + len(finished)
    seen[here] = RateSample(here, (keep * before.weight * before.rate + len(finished) * fresh) / weight, weight)
    return Memory(_five(slowdown), _five(cost), alone, tuple(seen[bucket] for bucket in sorted(seen)))


def _guarded(
    target: int, reason: Reason, limit: int, finished: Sequence[Finished], memory: Memory, policy: ConcurrencyPolicy
) -> tuple[int, Reason]:
    """Leave at once what was seen to be too dear, or to do less than a lower limit did, whatever the model says."""
    mean = sum(job.cost_microusd for job in finished) / len(finished)
    if policy.cost_ceiling_microusd and mean > policy.cost_ceiling_microusd and target >= limit:
        return math.floor(limit * policy.cost_ceiling_microusd * policy.cost_setpoint / mean), "over the cost ceiling"
    worse = next(
        (sample for sample in memory.seen if sample.rate < policy.worse * _best_below(sample, memory.seen).rate), None
    )
    if worse and target > (edge := _middle(worse.bucket - 1)):
        back = edge if limit <= edge else _middle(_best_below(worse, memory.seen).bucket)
        return back, "less done than at a lower limit"
    return target, reason


def _best_below(sample: RateSample, seen: Sequence[RateSample]) -> RateSample:
    """Give where most was done among lower limits, or `one` if none is lower."""
    return max((other for other in seen if other.bucket < sample.bucket), key=_rate, default=sample)


def _rate(sample: RateSample) -> float:
    return sample.rate


def _target(a: float, b: float, memory: Memory, policy: ConcurrencyPolicy) -> tuple[int, Reason]:
    """Give the smallest limit near the modelled peak, or the largest one within the ceiling."""
    limits = range(policy.min_limit, policy.max_limit + 1)
    rates = [n / _slowdown(a, b, n) for n in limits]
    enough = policy.near_peak * max(rates)
    target = next(n for n, rate in zip(limits, rates, strict=True) if rate >= enough)
    if policy.cost_ceiling_microusd:
        most = policy.cost_setpoint * policy.cost_ceiling_microusd
        affordable = [n for n in limits if _cost(a, b, n, memory) <= most]
        if not affordable:
            return policy.min_limit, "over the cost ceiling"
        if affordable[-1] < target:
            return affordable[-1], "over the cost ceiling"
    return target, "near the peak"


def _fit(sums: tuple[float, float, float, float, float]) -> tuple[float, float]:
    """Solve the least squares of two terms, neither below zero, with the prior as a job or two at n = 20."""
    s11, s12, s22, s1y, s2y = sums
    x1, x2 = _PRIOR_AT - 1, _PRIOR_AT * (_PRIOR_AT - 1)
    y = _PRIOR_CONTENTION * x1 + _PRIOR_COHERENCE * x2
    weight = _PRIOR_JOBS * (1 + y) ** -2
    s11, s12, s22 = s11 + weight * x1 * x1, s12 + weight * x1 * x2, s22 + weight * x2 * x2
    s1y, s2y = s1y + weight * x1 * y, s2y + weight * x2 * y
    flat = s11 * s22 - s12 * s12
    if flat > _SINGULAR * s11 * s22:
        a, b = (s1y * s22 - s2y * s12) / flat, (s2y * s11 - s1y * s12) / flat
        if a >= 0 and b >= 0:
            return a, b
    alone_a, alone_b = max(s1y / s11, 0.0), max(s2y / s22, 0.0)
    return (alone_a, 0.0) if s1y * alone_a >= s2y * alone_b else (0.0, alone_b)


def _slowdown(a: float, b: float, n: float) -> float:
    return 1 + a * (n - 1) + b * n * (n - 1)


def _cost(a: float, b: float, n: float, memory: Memory) -> float:
    """Give the mean cost of a job where `n` run: linear in its seconds, as fitted, and never falling."""
    count, x, xx, y, xy = memory.cost
    spread = count * xx - x * x
    per_second = max((count * xy - x * y) / spread, 0.0) if spread > _SINGULAR * count * xx else y / x
    seconds = memory.alone[0] / memory.alone[1] * _slowdown(a, b, n)
    return max((y - per_second * x) / count, 0.0) + per_second * seconds


def _bucket(n: float) -> int:
    return round(_BUCKETS_PER_DOUBLING * math.log2(max(n, 1.0)))


def _middle(bucket: int) -> int:
    return round(math.pow(2, bucket / _BUCKETS_PER_DOUBLING))


def _add(sums: list[float], more: Iterable[float]) -> None:
    for place, value in enumerate(more):
        sums[place] += value


def _five(values: list[float]) -> tuple[float, float, float, float, float]:
    first, second, third, fourth, fifth = values
    return first, second, third, fourth, fifth
