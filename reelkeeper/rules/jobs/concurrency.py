"""Control how many jobs run at once, within bounds that a slow server cannot break.

Each ended job records how many ran at the same time, its time relative to its estimate for an idle server, and how many
attempts it needed. It steps once for every two turns of the slots, so that many short jobs count for more than a few
long ones, however often it is called. Three things determine a step:

- The curve of slowdown over concurrency, Gunther's Universal Scalability Law, slowdown - 1 = a (n - 1) + b n (n - 1),
  by least squares with both terms at least zero, and less weight for older jobs. The limit steps towards the smallest
  concurrency that reaches nearly the peak of the modelled throughput.
- The cost ceiling. Only the part of a job's cost that grows with its time depends on the limit: that part is
  fitted, and where a job alone would be over the ceiling, the limit follows the throughput.
- Observed throughput. If the model is wrong, a limit with less success than was observed at a lower one is left, and so
  is one at which nothing ends. No limit grows beyond twice the jobs that ran at once, or a quiet night would allow the
  next burst. When the server has changed, earlier observations lose weight.

>>> calm = [Finished(concurrency=4, seconds=165, estimate_seconds=150, cost_microusd=8_300)] * 12
>>> step = next_limit(4, calm, Memory(), ConcurrencyPolicy())
>>> step.limit, step.reason
(6, 'room_to_grow')
"""

import math
import operator
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean, pstdev
from typing import Final, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from reelkeeper.rules.jobs import curve
from reelkeeper.rules.jobs.caps import Cap

Reason = Literal[
    "room_to_grow",
    "near_the_peak",
    "over_the_ceiling",
    "dear_at_any_limit",
    "worse_than_lower",
    "worse_than_before",
    "unknown_below",
    "nothing_ends",
    "too_few_jobs",
    "at_the_bound",
    "not_used_up",
]
_PRIOR_SPREAD: Final = 0.1  # of the seconds: spread from which on their part of the cost can be separated
_RATE: Final = operator.attrgetter("rate")
# What a step aims for.
_SETPOINT: Final = 0.95  # target for the mean cost, as a fraction of the ceiling: the next jobs may cost more
_NEAR_PEAK: Final = 0.99  # sufficient fraction of the modelled peak throughput
_WORSE: Final = 0.97  # a limit below this share of a lower one's throughput is left
# How far one step goes. Each is a factor, of the jobs that ran at once if nothing else is said.
_MOST_UNSEEN: Final = 2  # the highest limit, as none above it was ever observed (Netflix concurrency-limits)
_GROWTH: Final = 1.12  # of the limit
_BACK_TO_BAD: Final = 1.1  # growth towards a limit that was bad when it was last observed
_LET_GO: Final = 1 / 2  # the jobs that stay, where nothing ends and no lower limit is known
# When a step has seen enough, in jobs or in turns of the slots.
FEWEST_JOBS: Final = 10
_STEP_TURNS: Final = 2  # the jobs of one step
_STUCK_TURNS: Final = 4  # turns that an idle server would have made: without one real turn, the provider is stuck
_LONG_STEPS: Final = 5  # steps' worth of jobs at one limit, after which a lower one may be tried
_SEEN_STEPS: Final = 0.5  # steps' worth of jobs at that lower limit, below which it counts as hardly observed
_MIN_JOBS: Final = 10  # behind an observation, whatever its weight
# Which limit a job ran under.
_SETTLED: Final = 0.15  # relative deviation of the concurrency, up to which jobs count as run at one limit
_ABOVE_LIMIT: Final = 1.05  # ratio to the limit, beyond which a job ran under another
_BUCKETS_PER_DOUBLING: Final = 5  # resolution of the observed throughput by limit
# How the throughput at one limit has to change, as a change of its natural logarithm, or as a ratio.
_FELL: Final = 0.7  # it fell to half or less: the limit is lowered
_CHANGED: Final = 0.25  # the server is another one: earlier observations are doubtful
_BETTER: Final = 1.25  # times were better when it was observed
# What an earlier observation still weighs after a step.
_KEEP: Final = 0.93  # in the sums of the model
_FADE: Final = 0.97  # in the throughput by limit
_FADE_STUCK: Final = 0.99  # at a limit at which nothing ended: trying it again costs everybody an hour
_FADE_OUTDONE: Final = 0.8  # at a bad limit, if a higher one had more throughput in better times
_FADE_CHANGED: Final = 0.15  # after the server has changed
_FORGOTTEN: Final = 0.01  # in jobs: what weighs less is dropped; below 1, a bad limit is tried again with care


class ConcurrencyPolicy(BaseModel):
    """Bounds of the controller."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    first_limit: int = Field(
        8, ge=1, le=10_000, description="Initial concurrency limit, in jobs: in total, and of a new provider"
    )
    max_limit: int = Field(100, ge=1, le=10_000, description="Maximum concurrency limit of a provider, in jobs")
    cost_ceiling_microusd: int | None = Field(
        20_000,
        gt=0,
        description="Maximum mean cost of a job, in micro-dollars, without models billed per clip; unset: no ceiling",
    )
    caps: tuple[Cap, ...] = Field(
        (),
        max_length=1000,
        description='Maximum concurrent jobs per provider, model, tier or user, over all workers: `[{"scope": '
        '"provider:fal", "jobs": 5}]`; * stands for each one not listed',
    )


class Finished(NamedTuple):
    """A job that was made or given up: the mean concurrency during its last attempt, its time and its cost."""

    concurrency: float
    seconds: float
    estimate_seconds: float  # on an idle server
    cost_microusd: float
    attempts: int = 1  # this one included; the earlier ones failed
    made: bool = True
    model: str = ""


class Running(NamedTuple):
    """A running job: its seconds since the last step, and its estimate for an idle server."""

    seconds: float
    estimate_seconds: float


class RateSample(NamedTuple):
    """The throughput, in idle servers, at about one concurrency; `weight` is in jobs, and decays."""

    bucket: int  # of concurrency, a fifth of a doubling each
    rate: float
    weight: float
    succeeded: float = 1.0  # share of the attempts


class Memory(NamedTuple):
    """The state after earlier steps: sums of the two fits, and the observed throughput by bucket of concurrency."""

    slowdown: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0, 0.0)
    cost: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0, 0.0)
    totals: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)  # jobs, their estimates, seconds and costs
    seen: tuple[RateSample, ...] = ()  # from the lowest bucket up


class Step(NamedTuple):
    """The next limit, the reason, and the state to store."""

    limit: int
    reason: Reason
    memory: Memory
    throughput: float = 0.0  # in idle servers
    cost_microusd: float = 0.0  # modelled, for a mean job at the new limit


def follow(
    limit: int, finished: Sequence[Finished], memory: Memory, policy: ConcurrencyPolicy, running: Sequence[Running] = ()
) -> Step:
    """Take as many steps as the ended jobs, in their order, are evidence for; return the last.

    `running` are jobs that have not ended, the only evidence against a limit at which hardly any job ends.
    """
    finished = [job for job in finished if not _was_held_up(job, limit)]
    if len(finished) < FEWEST_JOBS and _is_stuck(limit, finished, running):
        return _let_go(limit, len(running), memory, policy)
    turns = _STEP_TURNS * fmean(job.concurrency for job in finished) if finished else 0.0
    steps = max(1, len(finished) // max(FEWEST_JOBS, math.ceil(turns)))
    for first, last in pairwise(len(finished) * number // steps for number in range(steps + 1)):
        step = next_limit(limit, finished[first:last], memory, policy)
        limit, memory = step.limit, step.memory
    return step


def next_limit(limit: int, finished: Sequence[Finished], memory: Memory, policy: ConcurrencyPolicy) -> Step:
    """Return the limit that follows `limit` after the jobs that `finished` since the last step."""
    bounded = min(max(limit, 1), policy.max_limit)
    if len(finished) < FEWEST_JOBS:
        return Step(bounded, "too_few_jobs", memory)
    if not any(job.made for job in finished):
        return _let_go(bounded, round(fmean(job.concurrency for job in finished)), memory, policy)
    memory, change = _learn(memory, finished)
    a, b = curve.fit(memory.slowdown)
    ceiling = policy.cost_ceiling_microusd or math.inf
    is_dear = _cost(a, b, 1, memory) > ceiling  # at any limit
    target, reason = _target(a, b, memory, policy, ceiling, is_dear=is_dear)
    target, reason = _guarded(target, reason, limit, finished, memory, math.inf if is_dear else ceiling)
    if change < -_FELL and target > (fallen := round(limit * math.exp(change / 2))):
        target, reason = fallen, "worse_than_before"
    if target > limit:
        grown = max(math.floor(limit * _GROWTH), limit + 2)
        ran = max(job.concurrency for job in finished)
        if was_bad := _worse(memory.seen, above=_bucket(ran)):
            with_care = max(_middle(was_bad.bucket - 1), math.floor(ran * _BACK_TO_BAD), math.floor(ran) + 1)
            grown = max(min(grown, with_care), limit)
        target, reason = min(target, grown), reason if reason == "dear_at_any_limit" else "room_to_grow"
        if target > (most := math.floor(_MOST_UNSEEN * ran)):
            target, reason = max(most, limit), "not_used_up"
    wanted = min(max(target, 1), policy.max_limit)
    return Step(
        wanted,
        reason if wanted == target else "at_the_bound",
        memory,
        wanted / curve.slowdown(a, b, wanted),
        _cost(a, b, wanted, memory),
    )


def _is_stuck(limit: int, finished: Sequence[Finished], running: Sequence[Running]) -> bool:
    """Check whether the limit is used, and not one turn of the slots has ended in the time for several."""
    is_used, is_slow = _MOST_UNSEEN * len(running) >= limit, len(finished) < len(running)
    seconds, idle_seconds = sum(job.seconds for job in running), sum(job.estimate_seconds for job in running)
    return is_used and is_slow and seconds > _STUCK_TURNS * idle_seconds


def _was_held_up(job: Finished, limit: int) -> bool:
    """Check whether a job is evidence only about an earlier limit at which hardly any job ended."""
    return job.concurrency > _ABOVE_LIMIT * limit and job.seconds > _STUCK_TURNS * job.estimate_seconds


def _let_go(limit: int, running: int, memory: Memory, policy: ConcurrencyPolicy) -> Step:
    """Leave a limit at which nothing ends, for the lower limit with most throughput, or for half of the running jobs.

    It is half as well if jobs did end at this limit before: then the server has changed since lower ones were observed.
    """
    if running > limit:  # already lowered, and not all jobs have ended yet
        return Step(min(max(limit, 1), policy.max_limit), "nothing_ends", memory)
    bad = RateSample(_bucket(running), 0.0, float(max(running, 1)), 0.0)
    others = [sample for sample in memory.seen if sample.bucket != bad.bucket]
    best = _best_below(bad, _sure(others))
    is_another = any(sample.bucket == bad.bucket and sample.rate for sample in memory.seen)  # then jobs ended
    lower = int(running * _LET_GO) if best is bad or is_another else _middle(best.bucket)
    lower = min(max(lower, 1), limit, policy.max_limit)
    return Step(lower, "nothing_ends", memory._replace(seen=tuple(sorted([bad, *others]))))


def _learn(memory: Memory, finished: Sequence[Finished]) -> tuple[Memory, float]:
    """Add the jobs to the sums, whose old part decays, faster where the server has changed; see `_look`."""
    seen, change = _look(memory.seen, finished)
    keep = _KEEP * (_FADE_CHANGED if change else 1)
    slowdown, cost, totals = ([keep * value for value in sums] for sums in memory[:3])
    made = [job for job in finished if job.made]
    for job in made:
        n, slower = job.concurrency, job.seconds / job.estimate_seconds
        slowdown = curve.add(
            slowdown, curve.products(n - 1, n * (n - 1), slower - 1, slower**-2)
        )  # errors are relative
        totals = curve.add(totals, (1, job.estimate_seconds, job.seconds, job.cost_microusd))
    for model in {job.model for job in made}:  # a slow, expensive model is no reason to slow down
        of = [job for job in made if job.model == model]
        took, size, price = (fmean(values) for values in zip(*(job[1:4] for job in of), strict=True))
        for job in of:
            products = curve.products(job.seconds - took, job.estimate_seconds - size, job.cost_microusd - price, 1.0)
            cost = curve.add(cost, products)
    return Memory(tuple(slowdown), tuple(cost), tuple(totals), seen), change


def _look(seen: Sequence[RateSample], finished: Sequence[Finished]) -> tuple[tuple[RateSample, ...], float]:
    """Add the successes to the observations; return also the change in ln(throughput) at this limit, 0 if small.

    If throughput here has risen, a higher limit was bad only under worse conditions. If it has fallen, a lower one was
    good under better ones. If a higher limit once had more throughput than this one, bad ones above are soon retried.
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
        fade = _FADE_CHANGED if change < 0 else _FADE
        if sample.bucket > fresh.bucket:
            bad = _FADE_OUTDONE if was_better else _FADE if sample.rate else _FADE_STUCK
            fade = 0.0 if change > 0 else _FADE if sample.rate > good else bad
        if fade * sample.weight >= _FORGOTTEN:
            known[sample.bucket] = sample._replace(weight=fade * sample.weight)
    if is_settled:
        kept = _KEEP * (_FADE_CHANGED if change else 1) * known[fresh.bucket].weight if fresh.bucket in known else 0.0
        old, mix = known.get(fresh.bucket, fresh), fresh.weight / (kept + fresh.weight)
        known[fresh.bucket] = RateSample(
            fresh.bucket,
            old.rate + mix * (fresh.rate - old.rate),
            kept + fresh.weight,
            old.succeeded + mix * (fresh.succeeded - old.succeeded),
        )
    return tuple(known[bucket] for bucket in sorted(known)), change


def _guarded(
    target: int, reason: Reason, limit: int, finished: Sequence[Finished], memory: Memory, ceiling: float
) -> tuple[int, Reason]:
    """Leave a limit that was observed to be too expensive, or worse than a lower one, whatever the model says."""
    made = [job for job in finished if job.made]
    mean = fmean(job.cost_microusd for job in made)
    if mean > ceiling:
        within = math.floor(fmean(job.concurrency for job in made) * ceiling * _SETPOINT / mean)
        if within < target:
            return min(within, limit), "over_the_ceiling"
    worse = _worse(sure := _sure(memory.seen))
    if worse and target > (edge := _middle(worse.bucket - 1)):
        target = edge if limit <= edge else _middle(_best_below(worse, sure).bucket)
        reason = "worse_than_lower"
    lower = _hardly_known(limit, finished, memory.seen)
    if lower and target > lower and reason != "over_the_ceiling":
        return lower, "unknown_below"
    return target, reason


def _hardly_known(limit: int, finished: Sequence[Finished], seen: Sequence[RateSample]) -> int | None:
    """Return the next lower limit if this one was used for long, that one is hardly known, and it could do more.

    Its throughput is at most that of as many idle servers, and not higher if the next higher limit had more than this.
    """
    bucket, known = _bucket(limit), {sample.bucket: sample for sample in seen}
    here, lower = known.get(bucket), _middle(bucket - 1)
    if bucket != _bucket(fmean(job.concurrency for job in finished)) or here is None or not here.rate < lower < limit:
        return None
    nothing = RateSample(bucket, 0.0, 0.0)
    below, above = known.get(bucket - 1, nothing), known.get(bucket + 1, nothing)
    is_long, is_past = here.weight > _LONG_STEPS * len(finished), above.weight >= 1 and above.rate > here.rate
    return lower if is_long and not is_past and below.weight < _SEEN_STEPS * len(finished) else None


def _worse(seen: Sequence[RateSample], above: int = -1) -> RateSample | None:
    """Return the lowest limit with less throughput than a lower one, by more than failures explain by chance."""
    for sample in seen:
        best = _best_below(sample, seen)
        sure = _WORSE * math.exp(-math.hypot(_error(sample), _error(best)))
        if sample.bucket > above and sample.rate < sure * best.rate:
            return sample
    return None


def _best_below(sample: RateSample, seen: Sequence[RateSample]) -> RateSample:
    """Return the lower limit with the most throughput, or `sample` if there is none."""
    return max((other for other in seen if other.bucket < sample.bucket), key=_RATE, default=sample)


def _sure(seen: Sequence[RateSample]) -> list[RateSample]:
    """Leave out observations so old that the limit should be tried again."""
    return [sample for sample in seen if sample.weight >= 1]


def _error(sample: RateSample) -> float:
    """Return the relative standard error of a throughput, from failing attempts."""
    return math.sqrt((1 - sample.succeeded) / max(sample.weight, _MIN_JOBS))


def _target(
    a: float, b: float, memory: Memory, policy: ConcurrencyPolicy, ceiling: float, *, is_dear: bool
) -> tuple[int, Reason]:
    """Return the smallest limit near the modelled peak, or the largest one within the ceiling.

    If a job alone is over the ceiling, its additional cost from concurrency must be within it.
    """
    limits = range(1, policy.max_limit + 1)
    target = curve.near_peak(a, b, limits, _NEAR_PEAK)
    assumed = 0.0 if is_dear else 1.0
    most = _SETPOINT * ceiling + (_cost(a, b, 1, memory, assumed) if is_dear else 0.0)
    affordable = max((n for n in limits if _cost(a, b, n, memory, assumed) <= most), default=1)
    if affordable < target:
        return affordable, "over_the_ceiling"
    return target, "dear_at_any_limit" if is_dear else "near_the_peak"


def _cost(a: float, b: float, n: float, memory: Memory, assumed: float = 1.0) -> float:
    """Return the mean cost of a job if `n` run: the part per second grows, as fitted, and the rest does not.

    Until the two can be separated, `assumed` is the share that grows.
    """
    jobs, estimates, seconds, cost = memory.totals
    prior = curve.products(_PRIOR_SPREAD * seconds / jobs, 0.0, assumed * _PRIOR_SPREAD * cost / jobs, 1.0)
    per_second, _ = curve.least_squares(memory.cost, prior)
    return max((cost + per_second * (estimates * curve.slowdown(a, b, n) - seconds)) / jobs, 0.0)


def _bucket(n: float) -> int:
    return round(_BUCKETS_PER_DOUBLING * math.log2(max(n, 1.0)))


def _middle(bucket: int) -> int:
    return round(math.pow(2, bucket / _BUCKETS_PER_DOUBLING))
