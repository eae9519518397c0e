"""Drop cache entries that are not worth keeping, and old records."""

from typing import Annotated

from prefect import flow

from reelkeeper.operations.core.overrides import Override, followed
from reelkeeper.rules.core.record_retention import RecordRetentionPolicy
from reelkeeper.rules.jobs.pruning import PrunePolicy, PruneReport
from tasks import caches, runs
from tasks.runs import AsOf, DryRun


@flow(flow_run_name=runs.run_name, on_completion=[runs.beat])
def prune_cache(
    pruning: Annotated[PrunePolicy | None, Override()] = None,
    record_retention: Annotated[RecordRetentionPolicy | None, Override()] = None,
    dry_run: DryRun = True,
    as_of: AsOf = None,
) -> PruneReport:
    """Drop entries whose video is gone, that are expired, cost more to keep than to remake, or exceed the byte budget.

    A dry run shows how many entries each rule would drop, the storage saved, and the cost of making them again. Users
    keep their videos, and an entry that is used during the run stays. To keep the store from growing without end, old
    records that nothing refers to are deleted too, by `record_retention` and the store's clock.
    """
    as_of, run_id = as_of or runs.scheduled_time(), runs.run_id()

    with runs.workspace() as workspace:
        rules = followed(workspace.engine, pruning=pruning, record_retention=record_retention)
        plan = caches.judge(workspace, rules.pruning, as_of, run_id, dry_run=dry_run)
        report = PruneReport("prune_cache", run_id, dry_run, plan.entries, plan.size_bytes, plan.by_rule())
        if dry_run:
            return caches.preview(workspace, report, rules.record_retention)

        with runs.lease(workspace, "prune_cache") as held:
            done = caches.carry_out(workspace, held, plan, run_id)
            forgotten = caches.forget(workspace, held, rules.record_retention)
    return report.after(done.dropped, done.stayed, forgotten)
