"""Compute the next limits of `tune_concurrency` from the ended jobs, its stored state, and explanations. Pure.

Each provider is a lane with its own limit and state, as a busy provider says nothing about another. Jobs
without a named provider also have a lane, named "".

The rule in `concurrency` needs a job's time relative to an idle server. That time is the prior of its
size, corrected for its model by jobs that ran alone. Other jobs must not correct it: a limit that
began too high would look normal, and never be left.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import fmean, median
from typing import Any, Final, NamedTuple, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from reelkeeper.model.document import RunReport
from reelkeeper.model.jobs import JobState
from reelkeeper.model.money import MICRO
from reelkeeper.model.performance import FinishedJob, JobAtWork
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.core.limit_scopes import limits_of
from reelkeeper.rules.core.wording import many
from reelkeeper.rules.health.performance_report import money
from reelkeeper.rules.jobs.attempts import is_generators_fault
from reelkeeper.rules.jobs.concurrency import (
    FEWEST_JOBS,
    ConcurrencyPolicy,
    Finished,
    Memory,
    Reason,
    Running,
    Step,
    follow,
)
from reelkeeper.rules.jobs.estimate import prior_seconds
from reelkeeper.rules.jobs.lanes import Lane

_Job = TypeVar("_Job", FinishedJob, JobAtWork)
LOOKED_BACK: Final = timedelta(days=1)  # older jobs say nothing about the present server
_KNOWN: Final = timedelta(days=30)  # after a lane's last step, until it is forgotten if it has no jobs
TOO_FEW: Final[Reason] = "too_few_jobs"
_ALONE: Final = 1.25  # mean concurrency up to which a job counts as having run alone
_KEPT: Final = 32  # jobs of a model that ran alone
_BELIEVED: Final = 5  # the number of them that corrects the prior
_SENTENCES: Final[dict[Reason, str]] = {
    "room_to_grow": "A higher limit increases throughput",
    "near_the_peak": "A higher limit would hardly increase throughput",
    "over_the_ceiling": "A higher limit would raise the average cost of a job above its ceiling",
    "dear_at_any_limit": "A job costs more than its ceiling at any limit, so the limit follows throughput alone",
    "worse_than_lower": "Throughput was higher at a lower limit",
    "worse_than_before": "Throughput at this limit has dropped sharply, so a lower limit is tried",
    "unknown_below": "Little is known of throughput at a lower limit, so one is tried",
    "nothing_ends": "Hardly any job ends with a video at this limit, so a lower one is tried",
    TOO_FEW: "Too few jobs ended to decide",
    "not_used_up": "The limit was never reached, so the effect of a higher one is unknown",
    "at_the_bound": "The policy, or what the vendor takes, allows no other limit",
}


class Steered(BaseModel):
    """The stored state of a lane, from one run to the next."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    limit: int = Field(ge=1)
    known: Memory = Memory()  # not `memory`, which had another content in older versions
    alone: dict[str, tuple[float, ...]] = {}  # by model: ratio of time to prior of jobs that ran alone
    stepped_at: AwareDatetime | None = None  # jobs that ended before this were processed


class Lanes(BaseModel):
    """The stored state of all lanes; `limit` is their sum."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    limit: int = Field(ge=1)
    lanes: dict[str, Steered] = {}

    @model_validator(mode="before")
    @classmethod
    def _read_older(cls, kept: Any) -> Any:  # noqa: ANN401  whatever the store has
        """Convert the state of a version with one limit for all providers: each lane starts from it."""
        return kept if "lanes" in kept or "known" not in kept else {**kept, "lanes": {"": kept}}


class Tuned(NamedTuple):
    """A lane's step, its state to store, and the jobs behind the step."""

    lane: str
    before: int
    step: Step
    steered: Steered
    finished: Sequence[Finished]
    at_work: int = 0


@dataclass(frozen=True, slots=True)
class LaneReport:
    """A step of one lane."""

    lane: str  # the provider; "" where none is named
    before: int
    limit: int
    reason: Reason
    jobs: int  # behind the step
    explained: str


@dataclass(frozen=True, slots=True)
class TuningReport(RunReport):
    """The result of a run of `tune_concurrency`, or of a dry run."""

    as_of: datetime
    before: int  # jobs at once, in all lanes together
    limit: int  # the same, from now on
    jobs: int
    lanes: tuple[LaneReport, ...]
    explained: str


def since(steered: Steered, as_of: datetime) -> datetime:
    """Return the time since which a lane's ended jobs have not been processed."""
    return max(steered.stepped_at or as_of - LOOKED_BACK, as_of - LOOKED_BACK)


def since_by_lane(before: Lanes, as_of: datetime) -> tuple[dict[str, datetime], datetime]:
    """Return `since` of each known lane, and of any new one, which starts from the lane without a name."""
    known = {lane: since(steered, as_of) for lane, steered in before.lanes.items()}
    return known, known.get("", as_of - LOOKED_BACK)


def tune_lanes(
    before: Lanes,
    ended: Sequence[FinishedJob],
    book: PriceBook,
    policy: ConcurrencyPolicy,
    as_of: datetime,
    at_work: Sequence[JobAtWork] = (),
    ways: Mapping[str, Lane] | None = None,
) -> list[Tuned]:
    """Take the next steps of each lane with present or recent jobs, within the cap of its provider.

    `ways`: what vendors have shown to take. A limit beyond that would be sent and refused.

    `ended`: the jobs of each lane that ended since its last step, as returned by `since_by_lane`.
    """
    begun = (job for job in ended if job.started_at and not job.is_follower)  # cache hits have no provider
    finished, running = _by_lane(ended), _by_lane(at_work)
    busy = _by_lane(begun).keys() | running.keys()
    known = {lane for lane, steered in before.lanes.items() if as_of - (steered.stepped_at or as_of - _KNOWN) < _KNOWN}
    named = sorted({*known, *busy} - {""})
    lanes = [*([""] if "" in busy or not named else []), *named]
    of_all = before.lanes.get("", Steered(limit=policy.first_limit))
    return [
        tune(
            lane,
            before.lanes.get(lane, of_all),
            finished.get(lane, []),
            book,
            _within_cap(policy, lane, _taken(lane, finished.get(lane, []), running.get(lane, []), ways or {})),
            as_of,
            running.get(lane, []),
        )
        for lane in lanes
    ]


def _taken(
    name: str, ended: Sequence[FinishedJob], at_work: Sequence[JobAtWork], ways: Mapping[str, Lane]
) -> int | None:
    """Return how many jobs a vendor can have at once, by what it has shown to take; None: any number."""
    took = [_took(job) for job in ended if _took(job)] or [job.estimate_seconds for job in at_work]
    return ways[name].places(fmean(took) if took else 0.0) if name in ways else None


def _by_lane(jobs: Iterable[_Job]) -> dict[str, list[_Job]]:
    found = defaultdict[str, list[_Job]](list)
    for job in jobs:
        found[job.lane or ""].append(job)
    return found


def _within_cap(policy: ConcurrencyPolicy, lane: str, taken: int | None) -> ConcurrencyPolicy:
    scope = f"provider:{lane}"
    own = limits_of([scope], {cap.scope: cap.jobs for cap in policy.caps}).get(scope) if lane else None
    cap = min((limit for limit in (own, taken) if limit is not None), default=policy.max_limit)
    if cap >= policy.max_limit:
        return policy
    return policy.model_copy(update={"max_limit": cap})


def remember(tuned: Sequence[Tuned]) -> Lanes:
    """Return the state to store after these steps."""
    return Lanes(limit=sum(lane.step.limit for lane in tuned), lanes={lane.lane: lane.steered for lane in tuned})


def tune(
    lane: str,
    steered: Steered,
    ended: Iterable[FinishedJob],
    book: PriceBook,
    policy: ConcurrencyPolicy,
    as_of: datetime,
    at_work: Sequence[JobAtWork] = (),
) -> Tuned:
    """Take the next steps of a lane.

    A job with an unknown cost counts at its price in `book`; one billed by its clip counts as 0: the price of a clip is
    independent of concurrency, but with misjudged sizes it would seem to grow with time.
    """
    jobs = [job for job in ended if job.concurrency and (_took(job) or _failed(job))]
    alone, from_then = learn(steered.alone, [job for job in jobs if _took(job)]), since(steered, as_of)
    finished = [
        Finished(
            max(job.concurrency or 1.0, 1.0),
            _took(job),
            _idle_seconds(job, alone),
            _timed_cost(job, book),
            max(job.attempts, 1),
            job.is_made,
            job.model,
        )
        for job in jobs
    ]
    running = [
        Running(max((as_of - max(job.started_at, from_then)).total_seconds(), 0.0), job.estimate_seconds)
        for job in at_work
    ]
    step = follow(steered.limit, finished, steered.known, policy, running)
    if step.reason == TOO_FEW:  # the jobs are left for the next step
        kept = steered.model_copy(update={"limit": step.limit})
    else:
        kept = Steered(limit=step.limit, known=step.memory, alone=alone, stepped_at=as_of)
    return Tuned(lane, steered.limit, step, kept, finished, len(running))


def _timed_cost(job: FinishedJob, book: PriceBook) -> float:
    entry = book.entry(job.model)
    if entry and entry.is_billed_by_clip:
        return 0.0
    return MICRO * float(book.flat_price(job.model).cost_usd) if job.cost_microusd is None else job.cost_microusd


def _took(job: FinishedJob) -> float:
    return (job.processing_seconds or 0.0) if job.is_made else 0.0


def _failed(job: FinishedJob) -> bool:
    """Check whether its generator failed it; jobs refused, cancelled or lost by us say nothing about a limit."""
    return job.state is JobState.DEAD and not job.is_follower and is_generators_fault(job.error)


def learn(alone: dict[str, tuple[float, ...]], jobs: Iterable[FinishedJob]) -> dict[str, tuple[float, ...]]:
    """Add the ratios of jobs that ran alone, by model."""
    known = dict(alone)
    for job in jobs:
        if job.concurrency is not None and job.concurrency <= _ALONE and job.processing_seconds:
            ratio = job.processing_seconds / prior_seconds(job.complexity, 0)
            known[job.model] = (*known.get(job.model, ()), ratio)[-_KEPT:]
    return known


def explain(tuned: Tuned, policy: ConcurrencyPolicy) -> str:
    """Explain a lane's limit, with the figures behind it."""
    step, jobs = tuned.step, tuned.finished
    moved = f"stays at {step.limit}" if step.limit == tuned.before else f"goes from {tuned.before} to {step.limit}"
    if step.reason == TOO_FEW:
        few = f"{many(len(jobs), 'job')}, and {FEWEST_JOBS} are needed"
        return f"{_the_limit(tuned)} {moved}. {_SENTENCES[TOO_FEW]}: {few}."
    made, attempts = [job for job in jobs if job.made], sum(job.attempts for job in jobs)
    failed = f" with a video, by {many(attempts, 'attempt')}" if attempts > len(made) else ""
    summary = f"{_the_limit(tuned)} {moved}. {_SENTENCES[step.reason]}. {many(len(made), 'job')} ended{failed}"
    if step.reason == "nothing_ends":
        return f"{summary}; {many(tuned.at_work, 'job')} at work."
    ceiling, mean = policy.cost_ceiling_microusd, fmean(job.cost_microusd for job in made)
    at_most = f" of at most {money(ceiling)}" if ceiling else ""
    cost, at_a_cost = (f", and cost {money(mean)}{at_most}", f", at {money(step.cost_microusd)} a job")
    slowdown = fmean(job.seconds / job.estimate_seconds for job in made)
    at_once = fmean(job.concurrency for job in jobs)
    return (
        f"{summary}, with {at_once:.1f} at once; each took {slowdown:.2f} times as long as alone{cost if mean else ''}"
        f". At {step.limit} at once the model expects the work of {step.throughput:.1f} idle servers"
        f"{at_a_cost if mean else ''}."
    )


def _the_limit(tuned: Tuned) -> str:
    return f"The limit of provider {tuned.lane}" if tuned.lane else "The limit"


def _idle_seconds(job: FinishedJob, alone: dict[str, tuple[float, ...]]) -> float:
    ratios = alone.get(job.model, ())
    return prior_seconds(job.complexity, 0) * (median(ratios) if len(ratios) >= _BELIEVED else 1.0)
