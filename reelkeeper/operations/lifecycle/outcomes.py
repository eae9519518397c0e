"""Carry out a plan: stream its items, record outcomes, count what is left, and report.

for batch in planned(engine, plan_id, "purge", 1_000): ...    # the largest first
record(engine, "swap.record", plan_id, [outcome])             # beside the plan, as each is done
report(engine, plan, run_id)                                  # from that record alone, whoever did the work
"""

from collections.abc import Generator, Sequence

from reelkeeper.model import Counts, Outcome, PlanSummary
from reelkeeper.rules.lifecycle.report import Report
from reelkeeper.store import Engine
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.lifecycle import crf_searches, plan_progress, plan_results, plans
from reelkeeper.store.lifecycle.plans import Item

MAX_FAILURES = 100  # in a report


def planned(engine: Engine, plan_id: str, action: str, batch_size: int) -> Generator[list[Item], None, None]:
    """Stream what a plan says to do by `action`, largest first, from one snapshot, which ends as it is closed."""
    with reading(engine) as session:
        yield from plans.planned(session, plan_id, action, batch_size)


def record(engine: Engine, name: str, plan_id: str, outcomes: Sequence[Outcome]) -> None:
    """Write what became of a plan's items beside them, in a transaction of this name."""
    with transaction(engine, name) as session:
        plans.record_outcomes(session, plan_id, outcomes)


def failed(item: Item, error: Exception, *, again: bool = False) -> Outcome:
    """Make the outcome of an item that has failed, for good or until another try."""
    why = f"{type(error).__name__}: {error}"
    action = plan_progress.AGAIN if again else "failed"
    return Outcome(item.video_id or "", action, why, item.size_bytes, item.size_bytes, item.blob_id)


def is_settled(outcome: Outcome) -> bool:
    """Whether an outcome is final, with no other try to come."""
    return outcome.action != plan_progress.AGAIN


def left(engine: Engine, plan_id: str) -> tuple[Counts, Counts]:
    """Count what a plan has still to compress, also what somebody is at work on, and all that it had."""
    with reading(engine) as session:
        return plan_progress.left(session, plan_id)


def report(engine: Engine, plan: PlanSummary, run_id: str) -> Report:
    """Sum up what became of a plan, from one snapshot, whether or not the run came to its end."""
    with reading(engine) as session:
        return Report(
            plan.flow,
            run_id,
            dry_run=False,
            plan=plan,
            planned=tuple(plan_results.by_rule(session, plan.id)),
            done=tuple(plan_results.by_outcome(session, plan.id)),
            failures=tuple(plan_results.failures(session, plan.id, MAX_FAILURES)),
            searches=crf_searches.totals(session, run_id=run_id),
        )
