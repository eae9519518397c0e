"""How many jobs at once? A bounded controller that a slow server cannot run away with.

Each job that ended tells how many ran beside it, how long it took against its estimate for an idle server, and how many
attempts that needed. It steps once for every two turns of the slots, so that many short jobs count for more than a few
long ones, however often it is asked. Three things bear on a step:

- The curve of slowdown over concurrency, Gunther's Universal Scalability Law, slowdown - 1 = a (n - 1) + b n (n - 1),
  by least squares with both terms kept from below zero, older jobs counting less. The limit steps towards the smallest
  concurrency that reaches nearly the peak of the modelled throughput.
- The cost ceiling. Only what grows with the time that a job takes is a matter of the limit: the part of the cost that
  does is fitted, and where a job alone would be over the ceiling, the limit follows the throughput.
- What was seen. Where the model is wrong, a limit at which less succeeded than was seen at a lower one is left, and so
  is one at which nothing ends. None grows beyond twice what ran at once, or a quiet night would open the doors for the
  next burst. A server that has changed makes what was seen before doubtful.

>>> calm = [Finished(concurrency=4, seconds=165, estimate_seconds=150, cost_microusd=8_300)] * 12
>>> step = next_limit(4, calm, Memory(), ConcurrencyPolicy())
>>> step.limit, step.reason
(6, 'room to grow')
"""

import math
import operator
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean, pstdev
from typing import Final, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from reelkeeper.rules.jobs import curve
from reelkeeper.rules.jobs.caps import Cap

Reason = Literal[
    "room to grow",
    "near the peak",
    "over the cost ceiling",
    "too dear at any limit",
    "less done than at a lower limit",
    "less done than before",
    "a lower limit is hardly known",
    "nothing ends",
    "too few jobs finished",
    "at the bound",
    "not used up",
]
_PRIOR_SPREAD: Final = 0.1  # of the seconds, from which on their part in the cost is told apart from the rest
_UNSEEN: Final = 2  # times what ran at once, beyond which a limit would be a guess (Netflix concurrency-limits)
_LONG: Final = 5  # steps' worth of jobs at one limit, after which a lower one is looked at
_HARDLY: Final = 0.5  # if less than half a step's worth is left of what was seen there
_TURNS: Final = 2  # of the slots, that a step stands on
_STUCK_TURNS: Final = 4  # that the slots could have made on an idle server while not even one was
_FADE: Final = 0.97  # what a throughput seen earlier weighs after a step
_FADE_STUCK: Final = 0.99  # and a limit at which nothing ended: to try it again takes an hour of everybody's
_REMEMBERED: Final = 0.01  # jobs; below one, a bad limit is tried again, but with care
_BUCKETS_PER_DOUBLING: Final = 5  # how finely throughput is remembered over the limit
_SETTLED: Final = 0.15  # deviation of the concurrency, of 1, up to which jobs tell of one limit
_FADE_AGAIN: Final = 0.8  # and a limit that was bad, where more was done still further up in better times
_BETTER: Final = 1.25  # times the throughput, from which on times were better
_FELL: Final = 0.7  # in ln(throughput) at the same limit, from which on there is less to share: half as much, or less
_CHANGED: Final = 0.25  # in ln(throughput) at the same limit, from which on the server is another one
_DOUBTFUL: Final = 0.15  # what is left of the weight of evidence then
_FEW: Final = 10  # jobs that a throughput was seen of at least, however little it weighs by now
_RATE: Final = operator.attrgetter("rate")
_PROBE: Final = 1.1  # growth towards a limit that was bad when it was last seen
_LEFT: Final = 1.05  # times the limit, beyond which jobs ran under another one
_LET_GO: Final = 2  # times fewer are tried where nothing ends, and no lower limit is known


class ConcurrencyPolicy(BaseModel):
    """Bounds and temper of the controller."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_limit: int = Field(1, ge=1, description="Minimum concurrency limit of a provider, in jobs")
    first_limit: int = Field(
        8, ge=1, le=10_000, description="Initial concurrency limit, in jobs: in total, and of a new provider"
    )
    max_limit: int = Field(100, ge=1, le=10_000, description="Maximum concurrency limit of a provider, in jobs")
    cost_ceiling_microusd: int | None = Field(
        20_000,
        gt=0,
        description="Maximum mean cost of a job, in micro-dollars, without models billed per clip; unset: no ceiling",
    )
    cost_setpoint: float = Field(0.95, gt=0, le=1, description="Target for the mean cost, as a fraction of the ceiling")
    near_peak: float = Field(0.99, gt=0, le=1, description="Sufficient fraction of the modelled peak throughput")
    growth: float = Field(1.12, gt=1, le=2, description="Maximum growth of the limit per step, as a factor")
    forget: float = Field(0.93, gt=0, lt=1, description="Decay factor of the weight of earlier observations, per step")
    worse: float = Field(0.97, gt=0, lt=1, description="A limit below this share of a lower one's throughput is left")
    fewest_jobs: int = Field(10, ge=1, description="Minimum number of finished jobs per step")
    caps: tuple[Cap, ...] = Field(
        (),
        max_length=1000,
        description='Maximum concurrent jobs per provider, model, tier or user, over all workers: `[{"scope": '
        '"provider:fal", "jobs": 5}]`; * stands for each one not listed',
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.min_limit > self.max_limit:
            raise ValueError(f"min_limit {self.min_limit} is above max_limit {self.max_limit}")
        return self


class Finished(NamedTuple):
    """A job that was made or given up: how many ran on average during its last attempt, and what that took."""

    concurrency: float
    seconds: float
    estimate_seconds: float  # on an idle server
    cost_microusd: float
    attempts: int = 1  # this one included; the earlier ones failed
    made: bool = True
    model: str = ""


class Running(NamedTuple):
    """A job that has not ended: how long it has run since the last step, and what it would take on an idle server."""

    seconds: float
    estimate_seconds: float


class RateSample(NamedTuple):
    """How much was done, in idle servers, where about so many ran; `weight` is in jobs, and fades."""

    bucket: int  # a fifth of a doubling
    rate: float
    weight: float
    succeeded: float = 1.0  # share of the attempts


class Memory(NamedTuple):
    """What earlier steps left: sums of the two fits, and the throughput seen by bucket of concurrency."""

    slowdown: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0, 0.0)
    cost: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0, 0.0)
    totals: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)  # jobs, their estimates, seconds and costs
    seen: tuple[RateSample, ...] = ()  # from the lowest bucket up


class Step(NamedTuple):
    """The next limit, why, and what to remember."""

    limit: int
    reason: Reason
    memory: Memory
    throughput: float = 0.0  # in idle servers
    cost_microusd: float = 0.0  # modelled, of a mean job at the new limit


def follow(
    limit: int, finished: Sequence[Finished], memory: Memory, policy: ConcurrencyPolicy, running: Sequence[Running] = ()
) -> Step:
    """Take as many steps as the jobs that ended, in their order, are evidence for, and give the last.

    `running` is what has not ended: a limit at which hardly a job ends has no other evidence against it.
    """
    finished = [job for job in finished if not _was_held_up(job, limit)]
    if len(finished) < policy.fewest_jobs and _is_stuck(limit, finished, running):
        return _let_go(limit, len(running), memory, policy)
    turns = _TURNS * fmean(job.concurrency for job in finished) if finished else 0.0
    steps = max(1, len(finished) // max(policy.fewest_jobs, math.ceil(turns)))
    for first, last in pairwise(len(finished) * number // steps for number in range(steps + 1)):
        step = next_limit(limit, finished[first:last], memory, policy)
        limit, memory = step.limit, step.memory
    return step


def next_limit(limit: int, finished: Sequence[Finished], memory: Memory, policy: ConcurrencyPolicy) -> Step:
    """Return the limit that follows `limit` after the jobs that `finished` since the last step."""
    bounded = min(max(limit, policy.min_limit), policy.max_limit)
    if len(finished) < policy.fewest_jobs:
        return Step(bounded, "too few jobs finished", memory)
    if not any(job.made for job in finished):
        return _let_go(bounded, round(fmean(job.concurrency for job in finished)), memory, policy)
    memory, change = _learn(memory, finished, policy.forget)
    a, b = curve.fit(memory.slowdown)
    ceiling = policy.cost_ceiling_microusd or math.inf
    is_dear = _cost(a, b, 1, memory) > ceiling  # whatever the limit
    target, reason = _target(a, b, memory, policy, ceiling, is_dear=is_dear)
    target, reason = _guarded(target, reason, limit, finished, memory, policy, math.inf if is_dear else ceiling)
    if change < -_FELL and target > (fallen := round(limit * math.exp(change / 2))):
        target, reason = fallen, "less done than before"
    if target > limit:
        grown = max(math.floor(limit * policy.growth), limit + 2)
        ran = max(job.concurrency for job in finished)
        if was_bad := _worse(memory.seen, policy, above=_bucket(ran)):
            with_care = max(_middle(was_bad.bucket - 1), math.floor(ran * _PROBE), math.floor(ran) + 1)
            grown = max(min(grown, with_care), limit)
        target, reason = min(target, grown), reason if reason == "too dear at any limit" else "room to grow"
        if target > (most := math.floor(_UNSEEN * ran)):
            target, reason = max(most, limit), "not used up"
    wanted = min(max(target, policy.min_limit), policy.max_limit)
    return Step(
        wanted,
        reason if wanted == target else "at the bound",
        memory,
        wanted / curve.slowdown(a, b, wanted),
        _cost(a, b, wanted, memory),
    )


def _is_stuck(limit: int, finished: Sequence[Finished], running: Sequence[Running]) -> bool:
    """Whether the limit is used, and not one turn of the slots ended in the time of several."""
    is_used, is_slow = _UNSEEN * len(running) >= limit, len(finished) < len(running)
    seconds, idle_seconds = sum(job.seconds for job in running), sum(job.estimate_seconds for job in running)
    return is_used and is_slow and seconds > _STUCK_TURNS * idle_seconds


def _was_held_up(job: Finished, limit: int) -> bool:
    """Whether a job tells of nothing but a limit at which hardly a job ended, and that was left since."""
    return job.concurrency > _LEFT * limit and job.seconds > _STUCK_TURNS * job.estimate_seconds


def _let_go(limit: int, running: int, memory: Memory, policy: ConcurrencyPolicy) -> Step:
    """Leave a limit at which nothing gets done for where most was done, or for half of what runs, and remember it.

    For half as well where jobs did end at that limit: then the server has changed since lower ones were seen.
    """
    if running > limit:  # it was left already, and not all have ended yet
        return Step(min(max(limit, policy.min_limit), policy.max_limit), "nothing ends", memory)
    bad = RateSample(_bucket(running), 0.0, float(max(running, 1)), 0.0)
    others = [sample for sample in memory.seen if sample.bucket != bad.bucket]
    best = _best_below(bad, _sure(others))
    is_another = any(sample.bucket == bad.bucket and sample.rate for sample in memory.seen)  # than when all was well
    lower = running // _LET_GO if best is bad or is_another else _middle(best.bucket)
    lower = min(max(lower, policy.min_limit), limit, policy.max_limit)
    return Step(lower, "nothing ends", memory._replace(seen=tuple(sorted([bad, *others]))))


def _learn(memory: Memory, finished: Sequence[Finished], keep: float) -> tuple[Memory, float]:
    """Add the jobs to the sums, whose old part fades, and the more so where the server has changed; see `_look`."""
    seen, change = _look(memory.seen, finished, keep)
    keep *= _DOUBTFUL if change else 1
    slowdown, cost, totals = ([keep * value for value in sums] for sums in memory[:3])
    made = [job for job in finished if job.made]
    for job in made:
        n, slower = job.concurrency, job.seconds / job.estimate_seconds
        slowdown = curve.add(
            slowdown, curve.products(n - 1, n * (n - 1), slower - 1, slower**-2)
        )  # errors are relative
        totals = curve.add(totals, (1, job.estimate_seconds, job.seconds, job.cost_microusd))
    for model in {job.model for job in made}:  # a dear model that is slow as well is no reason to slow down
        of = [job for job in made if job.model == model]
        took, size, price = (fmean(values) for values in zip(*(job[1:4] for job in of), strict=True))
        for job in of:
            products = curve.products(job.seconds - took, job.estimate_seconds - size, job.cost_microusd - price, 1.0)
            cost = curve.add(cost, products)
    return Memory(tuple(slowdown), tuple(cost), tuple(totals), seen), change


def _look(
    seen: Sequence[RateSample], finished: Sequence[Finished], keep: float
) -> tuple[tuple[RateSample, ...], float]:
    """Add what succeeded to what was seen; also gives the change in ln(throughput) at the same limit, 0 if it is small.

    A limit above was bad when there was less to share, if more is done here now. A lower one was good in better times,
    if less is. Where more was done further up than is here, those times may come again: what was bad is soon tried.
    """
    at_once, made = fmean(job.concurrency for job in finished), [job for job in finished if job.made]
    share = len(made) / sum(max(job.attempts, 1) for job in finished)
    work = sum(job.estimate_seconds for job in made) / sum(job.seconds for job in made)
    fresh = RateSample(_bucket(at_once), at_once * work * share, float(len(finished)), share)
    is_settled = pstdev(job.concurrency for job in finished) < _SETTLED * at_once
    before = next((sample for sample in seen if sample.bucket == fresh.bucket), None)
    change = 0.0
    if before and before.rate and is_settled:
        change = math.log(fresh.rate / before.rate)
        if abs(change) <= _CHANGED + _error(before) + _error(fresh):
            change = 0.0
    known = dict[int, RateSample]()
    good = _BETTER * fresh.rate
    was_better = any(sample.bucket > fresh.bucket and sample.rate > good for sample in seen)
    for sample in seen:
        fade = _DOUBTFUL if change < 0 else _FADE
        if sample.bucket > fresh.bucket:
            bad = _FADE_AGAIN if was_better else _FADE if sample.rate else _FADE_STUCK
            fade = 0.0 if change > 0 else _FADE if sample.rate > good else bad
        if fade * sample.weight >= _REMEMBERED:
            known[sample.bucket] = sample._replace(weight=fade * sample.weight)
    if is_settled:
        kept = keep * (_DOUBTFUL if change else 1) * known[fresh.bucket].weight if fresh.bucket in known else 0.0
        old, mix = known.get(fresh.bucket, fresh), fresh.weight / (kept + fresh.weight)
        known[fresh.bucket] = RateSample(
            fresh.bucket,
            old.rate + mix * (fresh.rate - old.rate),
            kept + fresh.weight,
            old.succeeded + mix * (fresh.succeeded - old.succeeded),
        )
    return tuple(known[bucket] for bucket in sorted(known)), change


def _guarded(
    target: int,
    reason: Reason,
    limit: int,
    finished: Sequence[Finished],
    memory: Memory,
    policy: ConcurrencyPolicy,
    ceiling: float,
) -> tuple[int, Reason]:
    """Leave at once what was seen to be too dear, or to do less than a lower limit did, whatever the model says."""
    made = [job for job in finished if job.made]
    mean = fmean(job.cost_microusd for job in made)
    if mean > ceiling:
        within = math.floor(fmean(job.concurrency for job in made) * ceiling * policy.cost_setpoint / mean)
        if within < target:
            return min(within, limit), "over the cost ceiling"
    worse = _worse(sure := _sure(memory.seen), policy)
    if worse and target > (edge := _middle(worse.bucket - 1)):
        target = edge if limit <= edge else _middle(_best_below(worse, sure).bucket)
        reason = "less done than at a lower limit"
    lower = _hardly_known(limit, finished, memory.seen)
    if lower and target > lower and reason != "over the cost ceiling":
        return lower, "a lower limit is hardly known"
    return target, reason


def _hardly_known(limit: int, finished: Sequence[Finished], seen: Sequence[RateSample]) -> int | None:
    """Return the next lower limit where this one stood for long, that one was hardly seen, and could get more done.

    It can get no more done than so many idle servers, and is past the peak where more was seen one further up.
    """
    bucket, known = _bucket(limit), {sample.bucket: sample for sample in seen}
    here, lower = known.get(bucket), _middle(bucket - 1)
    if bucket != _bucket(fmean(job.concurrency for job in finished)) or here is None or not here.rate < lower < limit:
        return None
    nothing = RateSample(bucket, 0.0, 0.0)
    below, above = known.get(bucket - 1, nothing), known.get(bucket + 1, nothing)
    is_long, is_past = here.weight > _LONG * len(finished), above.weight >= 1 and above.rate > here.rate
    return lower if is_long and not is_past and below.weight < _HARDLY * len(finished) else None


def _worse(seen: Sequence[RateSample], policy: ConcurrencyPolicy, above: int = -1) -> RateSample | None:
    """Return the lowest limit at which less was done than at a lower one, by more than failures make by chance."""
    for sample in seen:
        best = _best_below(sample, seen)
        sure = policy.worse * math.exp(-math.hypot(_error(sample), _error(best)))
        if sample.bucket > above and sample.rate < sure * best.rate:
            return sample
    return None


def _best_below(sample: RateSample, seen: Sequence[RateSample]) -> RateSample:
    """Return where most was done among lower limits, or `sample` if none is lower."""
    return max((other for other in seen if other.bucket < sample.bucket), key=_RATE, default=sample)


def _sure(seen: Sequence[RateSample]) -> list[RateSample]:
    """Leave out what was seen so long ago that a limit is to be tried again."""
    return [sample for sample in seen if sample.weight >= 1]


def _error(sample: RateSample) -> float:
    """Return by how much chance alone moves a throughput, of 1, where attempts fail."""
    return math.sqrt((1 - sample.succeeded) / max(sample.weight, _FEW))


def _target(
    a: float, b: float, memory: Memory, policy: ConcurrencyPolicy, ceiling: float, *, is_dear: bool
) -> tuple[int, Reason]:
    """Return the smallest limit near the modelled peak, or the largest one within the ceiling.

    Where a job alone is over the ceiling already, what it costs more where others run is to be within it.
    """
    limits = range(policy.min_limit, policy.max_limit + 1)
    target = curve.near_peak(a, b, limits, policy.near_peak)
    assumed = 0.0 if is_dear else 1.0
    most = policy.cost_setpoint * ceiling + (_cost(a, b, 1, memory, assumed) if is_dear else 0.0)
    affordable = max((n for n in limits if _cost(a, b, n, memory, assumed) <= most), default=policy.min_limit)
    if affordable < target:
        return affordable, "over the cost ceiling"
    return target, "too dear at any limit" if is_dear else "near the peak"


def _cost(a: float, b: float, n: float, memory: Memory, assumed: float = 1.0) -> float:
    """Return the mean cost of a job where `n` run: its part for each second grows, as fitted, and the rest does not.

    Before the two can be told apart, `assumed` is the share of it that is for the seconds.
    """
    jobs, estimates, seconds, cost = memory.totals
    prior = curve.products(_PRIOR_SPREAD * seconds / jobs, 0.0, assumed * _PRIOR_SPREAD * cost / jobs, 1.0)
    per_second, _ = curve.least_squares(memory.cost, prior)
    return max((cost + per_second * (estimates * curve.slowdown(a, b, n) - seconds)) / jobs, 0.0)


def _bucket(n: float) -> int:
    return round(_BUCKETS_PER_DOUBLING * math.log2(max(n, 1.0)))


def _middle(bucket: int) -> int:
    return round(math.pow(2, bucket / _BUCKETS_PER_DOUBLING))
