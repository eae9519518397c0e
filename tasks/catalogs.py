"""Catalogue and bucket: settle the open work of killed runs, compare the two, and reconcile them."""

from datetime import datetime
from typing import Any

from prefect.logging import get_run_logger

from reelkeeper.errors import NoRoom, ReelkeeperError
from reelkeeper.model import Done, Grace, Outcome
from reelkeeper.operations.core import epochs
from reelkeeper.operations.core.isolation import ENDS_ALL
from reelkeeper.operations.core.lease import HeldLease
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.lifecycle import purge
from reelkeeper.operations.sync import adoption, following, orphans, sync
from reelkeeper.operations.sync import survey as surveying
from reelkeeper.operations.sync.survey import Survey
from reelkeeper.operations.videos import doubts, intents
from reelkeeper.rules.lifecycle.report import SyncReport, count
from reelkeeper.rules.sync.adoption import AdoptionLimits
from reelkeeper.settings import settings
from tasks import RETRIES, step

_NAMED = 10  # lost videos, and changed keys, that a report names

tell_bucket = epochs.tell


@step("settle open work of killed runs")
def settle_left_open(workspace: Workspace, held: HeldLease, *, run_id: str, grace: Grace) -> tuple[Done, ...]:
    """Publish or abandon every open intent whose video no run works on; an unreadable one stays open.

    Blobs claimed by a killed purge are settled first. All of it waits while the bucket is only read.
    """
    if workspace.on_trial:
        return ()
    outcomes = []
    purge.settle_claims(workspace, run_id=run_id, grace=grace, lease=held.lease)
    for intent in intents.open_intents(workspace):
        taken = held.manager.take([f"video/{intent.video_id}"])
        if not taken:
            continue
        try:
            outcome = intents.settle(workspace, intent, scratch=settings().scratch, lease=taken[0], grace=grace)
        except Exception as error:  # one that cannot be settled must not stop the others
            # guard machines.room_to_settle: an upload too large for the scratch disk ends each hour's run, left open
            if isinstance(error, ENDS_ALL) and not isinstance(error, NoRoom):
                raise
            get_run_logger().warning("%s of %s stays open: %s", intent.kind, intent.video_id, error, exc_info=True)
            why = str(error) if isinstance(error, ReelkeeperError) else f"{type(error).__name__}: {error}"
            outcome = Outcome(intent.video_id, "failed", why, intent.old_bytes, intent.old_bytes)
        finally:
            held.manager.release(taken)
        outcomes.append(outcome)
    return count(outcomes)


@step("list the bucket", **RETRIES)
def look(workspace: Workspace, run_id: str, *, shards: int) -> Survey:
    """List all objects under the prefix and compare them with the catalogue; note objects without a row."""
    found = surveying.survey(workspace, run_id=run_id, note=True, shards=shards)
    surveying.require_placed(workspace, found)
    return found


@step("preview the comparison")
def preview(workspace: Workspace, found: Survey, adopting: AdoptionLimits, run_id: str, as_of: datetime) -> SyncReport:
    """Check the missing objects again, and summarize the differences and the objects that would be adopted."""
    surveying.confirm_missing(workspace, found)
    judged = adoption.judge(workspace, found.scan_id, adopting)
    return SyncReport(
        dry_run=True,
        **_figures(found, run_id, as_of),
        adopted=judged.adopted,
        taken_back=judged.taken_back,
        orphans=judged.kept_out,
        adoption=judged,
    )


@step("reconcile the catalogue")
def reconcile(
    workspace: Workspace,
    held: HeldLease,
    found: Survey,
    adopting: AdoptionLimits,
    *,
    run_id: str,
    as_of: datetime,
    grace: Grace,
) -> SyncReport:
    """Adopt new objects, mark lost videos, repair rows and retire leftovers; no object is changed."""
    surveying.confirm_missing(workspace, found)
    following.let_settle(workspace, found)
    held.check()
    lease = held.lease
    judged = adoption.judge(workspace, found.scan_id, adopting)
    gaps = following.count_gaps(workspace, found)
    adopted, taken_back = orphans.adopt(workspace, found, lease=lease, run_id=run_id)
    sync.lose(workspace, found, lease=lease, run_id=run_id)
    surveying.confirm_there(workspace, found)
    told = doubts.standing(workspace, (stored for _, stored in found.doubtful))
    in_question = sync.mend(workspace, found, lease=lease, run_id=run_id, grace=grace)
    explained = {*found.claimed, *told}
    doubtful = [key for key in in_question if key not in explained]
    known = tuple(key for key in in_question if key in told)
    doubts.tell(workspace, run_id=run_id)
    swept = orphans.sweep(workspace, found, lease=lease, run_id=run_id, grace=grace)
    count = len(doubtful) + len(known)
    lost_videos, lost = sync.name_lost(workspace, run_id, _NAMED)
    outcome = f"{lost_videos} lost, {count} in doubt" if lost_videos or count else "good"
    left, keys = sync.finish(workspace, found, outcome)
    # Where the patterns do not fit, what they make of an object is not told.
    unclear, unclear_keys = (0, ()) if judged.refusal else orphans.tell(workspace, found)
    return SyncReport(
        dry_run=False,
        **_figures(found, run_id, as_of),
        adopted=adopted,
        taken_back=taken_back,
        lost=lost,
        lost_videos=lost_videos,
        doubtful=tuple(doubtful),
        known_doubts=known,
        claimed=tuple(found.claimed),
        swept=swept,
        orphans=left,
        orphan_keys=tuple(keys),
        adoption=judged,
        unclear=unclear,
        unclear_keys=unclear_keys,
        event_gaps=gaps,
    )


def _figures(found: Survey, run_id: str, as_of: datetime) -> dict[str, Any]:
    return {
        "flow": "sync_catalog",
        "run_id": run_id,
        "as_of": as_of,
        "listed_objects": found.listed.objects,
        "listed_bytes": found.listed.size_bytes,
        "expected": found.expected,
        "seen": found.seen,
        "missing": len(found.missing),
        "unexplained": found.unexplained,
        "changed": len(found.changed),
        "changed_keys": tuple(found.changed[:_NAMED]),
        "reappeared": len(found.reappeared),
        "emptied": tuple(found.emptied),
    }
