"""Report on the queue, keep the limits of jobs at once, and start runs of `dispatch_jobs`."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from reelkeeper.adapters.orchestrator import Orchestrator
from reelkeeper.errors import LeaseLost
from reelkeeper.failpoints import effect
from reelkeeper.model.performance import FinishedJob, JobAtWork
from reelkeeper.operations.jobs.lanes import known
from reelkeeper.operations.jobs.run import End
from reelkeeper.rules.alerts.cadence import CADENCES, seconds_until_next
from reelkeeper.rules.jobs import dispatch
from reelkeeper.rules.jobs.attempts import DispatchReport
from reelkeeper.rules.jobs.concurrency import ConcurrencyPolicy
from reelkeeper.rules.jobs.lanes import Lane
from reelkeeper.rules.jobs.steering import Lanes, since_by_lane
from reelkeeper.rules.policies import Policies
from reelkeeper.store import Engine
from reelkeeper.store.core import controls
from reelkeeper.store.core.controls import Kept
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.health import performance
from reelkeeper.store.jobs import claims, slots

_FLOW: Final = "dispatch_jobs"
_START_SECONDS: Final = 30  # for its start, so that it ends before the next scheduled run
_SHORTEST_SECONDS: Final = 10  # the shortest window that is worth a run
_TOGETHER_SECONDS: Final = 30  # in which all callers get the same run

_NAMED = 10  # the next jobs, in a report
FIELDS: Final = {  # of the report, by outcome
    End.SUCCEEDED: "succeeded",
    End.REFUSED: "refused",
    End.CANCELLED: "cancelled",
    End.RETRIED: "to_be_tried_again",
    End.PARKED: "in_doubt",
    End.HANDED_OVER: "handed_over",
    End.LOST: "handed_over",
    End.DEAD: "given_up",
    End.FAILED: "failed_here",
}


def preview(engine: Engine, policies: Policies, run_id: str) -> DispatchReport:
    """Report how many jobs wait, and which come first and why; nothing is changed."""
    order, tiers = policies.order, policies.tiers
    with reading(engine) as session:
        states, as_of = claims.count_states(session), now(session)
        waiting, more = claims.waiting_jobs(session, dispatch.window(order, tiers), tiers.names)
        at_once = slots.jobs_at_once(session) or 1
    first = dispatch.order(waiting, order, tiers, as_of, slots=at_once, more_seconds=more)[:_NAMED]
    reasons = (dispatch.explain(job, waiting, order, tiers, as_of, slots=at_once, more_seconds=more) for job in first)
    lines = tuple(f"{job.id}: {'; '.join(map(str, terms))}" for job, terms in zip(first, reasons, strict=True))
    return DispatchReport.of(run_id, states, dry_run=True, next_jobs=lines)


def report(engine: Engine, run_id: str, ends: Mapping[End, int]) -> DispatchReport:
    """Report how jobs ended in a run, and the number of jobs in each state after it."""
    counts = dict.fromkeys(FIELDS.values(), 0)
    for end, count in ends.items():
        counts[FIELDS[end]] += count
    with reading(engine) as session:
        return DispatchReport.of(run_id, claims.count_states(session), dry_run=False, **counts)


def jobs_at_once(engine: Engine) -> int | None:
    """Read the limit that `tune_concurrency` set last; None before its first run."""
    with reading(engine) as session:
        return slots.jobs_at_once(session)


def steered(
    engine: Engine, policy: ConcurrencyPolicy, as_of: datetime
) -> tuple[Kept | None, Lanes, list[FinishedJob], list[JobAtWork], dict[str, Lane]]:
    """Read the rule's state, the jobs that ended since each lane's last step, those at work, and what vendors take."""
    with reading(engine) as session:
        kept = controls.kept(session, slots.CONCURRENCY)
        remembered = Lanes.model_validate({"limit": policy.first_limit, **(kept.state if kept else {})})
        by_lane, otherwise = since_by_lane(remembered, as_of)
        ended = performance.ended(session, otherwise, as_of, by_lane)
        return kept, remembered, ended, performance.at_work(session), known(session)


def remember(engine: Engine, before: Kept | None, after: Lanes) -> None:
    """Save the state for the next step. Raises LeaseLost where another run has stepped in the meantime."""
    with transaction(engine, "limits.remember") as session:
        if not controls.keep(session, slots.CONCURRENCY, after.model_dump(mode="json"), before):
            raise LeaseLost("another run of tune_concurrency has changed the limits meanwhile; nothing was changed")


def start_dispatch(engine: Engine, orchestrator: Orchestrator) -> str | None:
    """Start a run whose window ends before the next scheduled run begins; returns the run's id.

    None where a worker runs, or the next scheduled run is about to begin: two runs would block each other. If several
    processes call this within some seconds, one run is started. Raises OrchestratorError.
    """
    with reading(engine) as session:
        is_there, at = slots.is_there(session), now(session)
    seconds = int(seconds_until_next(at, CADENCES[_FLOW])) - _START_SECONDS
    if is_there or seconds < _SHORTEST_SECONDS:
        return None
    key = f"{_FLOW}-{int(at.timestamp()) // _TOGETHER_SECONDS}"
    with effect("dispatch.start"):
        return orchestrator.start(_FLOW.replace("_", "-"), CADENCES[_FLOW].name, {"seconds": seconds}, key=key)
