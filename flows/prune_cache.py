"""Which cache entries earn their keep."""

from prefect import flow
from pydantic import AwareDatetime

from reelkeeper.rules.pruning import PrunePolicy, PruneReport
from tasks import caches, depots, heartbeats, runs


@flow(flow_run_name=runs.run_name, on_completion=[heartbeats.beat])
def prune_cache(
    pruning: PrunePolicy = PrunePolicy(), dry_run: bool = True, as_of: AwareDatetime | None = None
) -> PruneReport:
    """Drop the entries that are gone, expired, dearer to keep than to make, or over the budget of bytes.

    A dry run shows what would go by which rule, what that saves in storage and what it loses. Videos stay their users',
    and an entry that is used while the run is at work stays.
    """
    as_of, run_id = as_of or runs.scheduled_time(), runs.run_id()

    with depots.opened() as depot:
        plan = caches.judge(depot, pruning, as_of, run_id, dry_run=dry_run)
        report = PruneReport("prune_cache", run_id, dry_run, plan.entries, plan.size_bytes, plan.by_rule())
        if dry_run:
            return report

        with depots.lease(depot, "prune_cache") as lease:
            done = caches.carry_out(depot, lease, plan, pruning, run_id)
    return report.after(done.dropped, done.stayed)
