"""What `tune_concurrency` makes of the jobs that ended: the next limit, what is remembered, and why. Pure.

The rule in `concurrency` asks how much slower a job was than on an idle server. How long that takes is the prior of its
size, put right for its model by jobs that did run alone. Jobs that ran beside others say nothing about it: a limit that
began too high would pass for normal, and would never be left.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import fmean, median
from typing import Final, NamedTuple

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from reelkeeper.model.performance import FinishedJob
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.core.wording import many
from reelkeeper.rules.health.performance_report import money
from reelkeeper.rules.jobs.concurrency import ConcurrencyPolicy, Finished, Memory, Reason, Step, next_limit
from reelkeeper.rules.jobs.estimate import prior_seconds

LOOKED_BACK: Final = timedelta(days=1)  # older jobs say nothing of the server as it is
TOO_FEW: Final[Reason] = "too few jobs finished"
_MICROUSD: Final = 10**6
_ALONE: Final = 1.25  # at once on average, up to which a job counts as having run alone
_KEPT: Final = 32  # jobs that ran alone, of a model
_BELIEVED: Final = 5  # as many of them put the prior right
_SENTENCES: Final[dict[Reason, str]] = {
    "room to grow": "More at once still get more done",
    "near the peak": "More at once would get hardly more done",
    "over the cost ceiling": "More at once would cost more than a job may on average",
    "less done than at a lower limit": "Fewer at once were seen to get more done",
    TOO_FEW: "Too few jobs ended to go by",
    "not used up": "Fewer ran at once than may: what more would do is not known",
    "at the bound": "The policy allows no other limit",
}


class Steered(BaseModel):
    """What is remembered from one run to the next, as the store keeps it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    limit: int = Field(ge=1)
    memory: Memory = Memory()
    alone: dict[str, tuple[float, ...]] = {}  # by model: how many times their prior jobs took that ran alone
    stepped_at: AwareDatetime | None = None  # jobs that ended before are accounted for
    reason: Reason = TOO_FEW


class Tuned(NamedTuple):
    """A step, what is to be remembered, and the jobs that it stands on."""

    before: int
    step: Step
    steered: Steered
    finished: Sequence[Finished]


@dataclass(frozen=True, slots=True)
class TuningReport:
    """What a run of `tune_concurrency` did, or would do."""

    flow: str
    run_id: str
    dry_run: bool
    as_of: datetime
    before: int
    limit: int
    reason: str
    jobs: int
    explained: str


def since(steered: Steered, as_of: datetime) -> datetime:
    """Say from when on the jobs that ended are not accounted for."""
    return max(steered.stepped_at or as_of - LOOKED_BACK, as_of - LOOKED_BACK)


def tune(
    steered: Steered, ended: Iterable[FinishedJob], book: PriceBook, policy: ConcurrencyPolicy, as_of: datetime
) -> Tuned:
    """Take the next step. A job whose cost nobody knows costs what `book` says."""
    jobs = [job for job in ended if job.is_made and job.processing_seconds and job.concurrency]
    alone = learn(steered.alone, jobs)
    finished = [
        Finished(
            max(job.concurrency or 1.0, 1.0),
            job.processing_seconds or 0.0,
            _idle_seconds(job, alone),
            _MICROUSD * float(book.price_of(job.model).cost_usd) if job.cost_microusd is None else job.cost_microusd,
        )
        for job in jobs
    ]
    step = next_limit(steered.limit, finished, steered.memory, policy)
    if step.reason == TOO_FEW:  # they are left for the next step
        return Tuned(steered.limit, step, steered.model_copy(update={"limit": step.limit, "reason": TOO_FEW}), finished)
    kept = Steered(limit=step.limit, memory=step.memory, alone=alone, stepped_at=as_of, reason=step.reason)
    return Tuned(steered.limit, step, kept, finished)


def learn(alone: dict[str, tuple[float, ...]], jobs: Iterable[FinishedJob]) -> dict[str, tuple[float, ...]]:
    """Add to what is known of each model the jobs that ran alone."""
    known = dict(alone)
    for job in jobs:
        if job.concurrency is not None and job.concurrency <= _ALONE and job.processing_seconds:
            ratio = job.processing_seconds / prior_seconds(job.complexity, 0)
            known[job.model] = (*known.get(job.model, ()), ratio)[-_KEPT:]
    return known


def explain(tuned: Tuned, policy: ConcurrencyPolicy) -> str:
    """Say why the limit is what it is, with the figures that it stands on."""
    step, jobs = tuned.step, tuned.finished
    moved = f"stays at {step.limit}" if step.limit == tuned.before else f"goes from {tuned.before} to {step.limit}"
    if step.reason == TOO_FEW:
        return (
            f"The limit {moved}. {_SENTENCES[TOO_FEW]}: {many(len(jobs), 'job')}, and {policy.fewest_jobs} are needed."
        )
    ceiling = policy.cost_ceiling_microusd
    at_most = f", of {money(ceiling)} that it may" if ceiling else ""
    slowdown = fmean(finished.seconds / finished.estimate_seconds for finished in jobs)
    at_once = fmean(finished.concurrency for finished in jobs)
    cost = money(fmean(finished.cost_microusd for finished in jobs))
    return (
        f"The limit {moved}. {_SENTENCES[step.reason]}. {many(len(jobs), 'job')} ended, with {at_once:.1f} at once; "
        f"each took {slowdown:.2f} times as long as alone, and cost {cost}{at_most}. At {step.limit} at once the model "
        f"expects the work of {step.throughput:.1f} idle servers, at {money(step.cost_microusd)} a job."
    )


def _idle_seconds(job: FinishedJob, alone: dict[str, tuple[float, ...]]) -> float:
    ratios = alone.get(job.model, ())
    return prior_seconds(job.complexity, 0) * (median(ratios) if len(ratios) >= _BELIEVED else 1.0)
