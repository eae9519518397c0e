"""The cache: decide on its entries, show the plan, and prune a batch at a time."""

from dataclasses import replace
from datetime import datetime
from itertools import islice

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from reelkeeper.model.document import Table
from reelkeeper.operations.core import prune_records
from reelkeeper.operations.core.lease import HeldLease
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.jobs import prune_cache
from reelkeeper.operations.jobs.prune_cache import Done
from reelkeeper.rules.core.record_retention import RecordRetentionPolicy
from reelkeeper.rules.core.wording import dollars, size
from reelkeeper.rules.jobs.pruning import PrunePlan, PrunePolicy, PruneReport
from tasks import show, step


@step("judge the cache")
def judge(workspace: Workspace, policy: PrunePolicy, as_of: datetime, run_id: str, *, dry_run: bool) -> PrunePlan:
    """Decide on each entry, and show for each rule the entries to drop, the savings, and the cost to remake them."""
    plan = prune_cache.draw(workspace.engine, policy, as_of)
    publish(PruneReport("prune_cache", run_id, dry_run, plan.entries, plan.size_bytes, plan.by_rule()))
    return plan


@task(task_run_name="prune the cache", cache_policy=NO_CACHE)  # each batch is repeated by itself
def carry_out(workspace: Workspace, held: HeldLease, plan: PrunePlan, run_id: str) -> Done:
    """Drop the entries that the plan names."""
    leaving, done = iter(plan.leaving), Done(0, 0, 0)
    while batch := list(islice(leaving, prune_cache.BATCH)):
        held.check()
        done += prune_cache.carry_out(workspace.engine, batch, lease=held.lease, run_id=run_id)
    get_run_logger().info("dropped %d entries; %d were used meanwhile and stay", done.dropped, done.stayed)
    return done


@step("count old records")
def preview(workspace: Workspace, report: PruneReport, record_retention: RecordRetentionPolicy) -> PruneReport:
    """Report how many old records would be deleted; nothing is changed."""
    return replace(report, forgotten=prune_records.overdue(workspace.engine, record_retention))


@step("delete old records")
def forget(workspace: Workspace, held: HeldLease, record_retention: RecordRetentionPolicy) -> dict[str, int]:
    """Delete old records that nothing refers to."""
    held.check()
    gone = prune_records.forget(workspace.engine, record_retention, lease=held.lease)
    text = ", ".join(f"{count:,} of {name}" for name, count in gone.items()) or "none"
    get_run_logger().info("old records deleted: %s", text)
    return gone


def publish(report: PruneReport) -> None:
    """Show the entries to drop, by rule."""
    text = f"Entries in the cache: {report.entries:,}; their videos have {size(report.size_bytes)}."
    rows = [
        (of.rule, of.entries, size(of.size_bytes), dollars(of.saved_microusd_a_month), dollars(of.remake_microusd))
        for of in report.rules
    ]
    headings = ("dropped by", ">entries", ">bytes", ">storage saved per month", ">cost to remake")
    show("prune-cache-plan", report.title, [text, Table(headings, rows)])
