"""Carry out a plan: stream its items, record outcomes, count what is left, and report.

for batch in planned(engine, plan_id, "purge", 1_000): ...    # the largest first
record(engine, "swap.record", plan_id, [outcome])             # in the plan, as each is done
report(engine, plan, run_id)                                  # from the records of all workers
"""

import logging
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from datetime import datetime
from enum import StrEnum
from itertools import islice
from typing import Final

from reelkeeper.model import Action, Counts, Outcome, PlanSummary, Verdict
from reelkeeper.operations.core.isolation import each_apart
from reelkeeper.rules.core.tiers import Tiers
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy, verdicts
from reelkeeper.rules.lifecycle.report import Report
from reelkeeper.rules.lifecycle.transcode import EFFICIENT_CODECS
from reelkeeper.store import DBAPIError, Engine, Session
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.core.failures import require_lost, safe_to_repeat
from reelkeeper.store.lifecycle import crf_searches, plan_progress, plan_results, plans, retirements
from reelkeeper.store.lifecycle.plans import Item
from reelkeeper.store.lifecycle.retirements import Planned
from reelkeeper.store.videos.videos import live_videos

Act = Callable[[Sequence[str]], list[Outcome]]  # changes all of some videos and records their outcomes, or nothing
MAX_FAILURES = 100  # in a report
_log = logging.getLogger(__name__)


class Fate(StrEnum):
    """The outcome of a claimed blob."""

    UNTOUCHED = "untouched"  # nothing was sent: back to retired
    KEPT = "kept"  # the same, with a reason
    SENT = "sent"  # a delete was sent, and its answer is unknown
    REFUSED = "refused"  # the bucket refused the delete: back to retired
    FAILED = "failed"  # no answer, and the bucket may still delete it: the claim stays
    DELETED = "deleted"
    ALREADY_GONE = "already gone"
    OVERWRITTEN = "overwritten"  # the service has stored another video at its key
    EMPTIED = "emptied"  # the service has stored 0 bytes at its key
    DOUBTFUL = "doubtful"


BY_FATE: Final = {  # the action and the reason that a plan shows
    Fate.UNTOUCHED: ("skipped", "not reached in time: left to the next run"),
    Fate.KEPT: ("skipped", ""),
    Fate.SENT: ("failed", "no answer to its delete request"),
    Fate.REFUSED: ("failed", ""),
    Fate.FAILED: ("failed", ""),
    Fate.DELETED: ("purged", "its grace is over"),
    Fate.ALREADY_GONE: ("purged", "its object was already gone"),
    Fate.OVERWRITTEN: ("skipped", "the service has stored another video at its key, which is now live"),
    Fate.EMPTIED: ("skipped", "the service has stored 0 bytes at its key: its bytes are lost"),
    Fate.DOUBTFUL: ("failed", ""),
}


def planned(engine: Engine, plan_id: str, action: str, batch_size: int) -> Generator[list[Item], None, None]:
    """Stream a plan's items with `action`, largest first, from one snapshot, which ends when the stream is closed.

    If the connection to the store is lost meanwhile, it goes on from a new one: which items a plan has never changes.
    """
    sent, lost = 0, 0
    while True:
        try:
            with reading(engine) as session:
                for batch in islice(plans.planned(session, plan_id, action, batch_size), sent, None):
                    yield batch
                    sent, lost = sent + 1, 0
                return
        except DBAPIError as error:
            lost += 1
            require_lost(error, lost)


def record(engine: Engine, name: str, plan_id: str, outcomes: Sequence[Outcome]) -> None:
    """Record the outcomes of a plan's items, in a transaction called `name`."""
    with transaction(engine, name) as session:
        plans.record_outcomes(session, plan_id, outcomes)


def judged_again(
    session: Session,
    video_ids: Sequence[str],
    policy: LifecyclePolicy,
    tiers: Tiers,
    as_of: datetime,
    codecs: Collection[str] = EFFICIENT_CODECS,
) -> Iterator[Verdict]:
    """Judge videos of a plan again: their user's tier, their age, tag or views may have been recorded since."""
    videos = live_videos(session, as_of, only=video_ids, classified=bool(policy.segments))
    return verdicts(videos, policy, tiers, as_of, "", codecs)


def each_recorded(
    engine: Engine, plan_id: str, video_ids: Sequence[str], act: Act, actions: Sequence[Action], what: str
) -> list[Outcome]:
    """Do `act` for videos; where one makes it fail, for each half, down to that one, which is logged and recorded."""
    outcomes: list[Outcome] = []

    def note_failed(some: Sequence[str], error: Exception) -> None:
        _log.error("%s %s failed; the others were processed: %s", what, ", ".join(some), error, exc_info=error)
        with transaction(engine, "plan.failed") as session:
            broken = [failed(row, error) for row in retirements.planned(session, plan_id, some, actions)]
            plans.record_outcomes(session, plan_id, broken)
        outcomes.extend(broken)

    each_apart(video_ids, lambda some: outcomes.extend(act(some)), note_failed)
    return outcomes


def stays(item: Item | Planned, action: str, why: str) -> Outcome:
    """Make the outcome of an item whose bytes stay as they are."""
    return Outcome(item.video_id or "", action, why, item.size_bytes, item.size_bytes, item.blob_id)


def failed(item: Item | Planned, error: Exception, *, again: bool = False) -> Outcome:
    """Make the outcome of a failed item, for good or until another try."""
    return stays(item, plan_progress.AGAIN if again else "failed", f"{type(error).__name__}: {error}")


def is_settled(outcome: Outcome) -> bool:
    """Check whether an outcome is final, without another try."""
    return outcome.action != plan_progress.AGAIN


@safe_to_repeat
def left(engine: Engine, plan_id: str) -> tuple[Counts, Counts]:
    """Count the items that a plan still has to compress, including those under way, and all that it had."""
    with reading(engine) as session:
        return plan_progress.left(session, plan_id)


def report(engine: Engine, plan: PlanSummary, run_id: str) -> Report:
    """Sum up the outcomes of a plan, from one snapshot, whether or not the run finished."""
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
