"""Videos: give notice and retire in batches, and import views from Cloudflare's count of reads."""

from collections.abc import Sequence
from contextlib import closing

from prefect.logging import get_run_logger

from reelkeeper.adapters import cloudflare
from reelkeeper.errors import Misconfigured, TokenRefused, UsageUnknown
from reelkeeper.model import Grace, PlanSummary
from reelkeeper.operations import Item
from reelkeeper.operations.core.lease import HeldLease
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.lifecycle import notices, outcomes, previews, retire
from reelkeeper.operations.videos.views import ReadsOfDay, days_to_import, import_reads
from reelkeeper.rules.policies import Policies
from reelkeeper.settings import settings
from tasks import step

RETIRED_AT_ONCE = 500
# No tasks: Prefect would read the streams into memory.
for_tiering, for_expiry = previews.for_tiering, previews.for_expiry


def notify_planned(
    workspace: Workspace, held: HeldLease, plan: PlanSummary, policies: Policies, *, run_id: str
) -> None:
    """Give the notices of a plan, and withdraw those that no longer apply, batch by batch."""
    for action in ("withdraw", "notify"):
        with closing(outcomes.planned(workspace.engine, plan.id, action, RETIRED_AT_ONCE)) as batches:
            for batch in batches:
                if video_ids := _not_erased(batch):
                    notify_batch(workspace, held, plan.id, video_ids, policies, run_id=run_id)
    notices.tell_of_waiting(workspace.engine, plan, run_id)


@step("give notice of the batch from {video_ids[0]}")
def notify_batch(
    workspace: Workspace, held: HeldLease, plan_id: str, video_ids: list[str], policies: Policies, *, run_id: str
) -> None:
    """Give or withdraw the notices of one batch; the outcomes are recorded in the plan."""
    held.check()
    notices.carry_out(workspace.engine, plan_id, video_ids, policies, lease=held.lease, run_id=run_id)


def retire_planned(workspace: Workspace, held: HeldLease, plan_id: str, *, run_id: str, grace: Grace) -> None:
    """Retire a plan's videos, batch by batch."""
    with closing(outcomes.planned(workspace.engine, plan_id, "retire", RETIRED_AT_ONCE)) as batches:
        for batch in batches:
            # guard retire.erased: a run ends, and compresses nothing, since all users of a batch were erased
            if video_ids := _not_erased(batch):
                retire_batch(workspace, held, plan_id, video_ids, run_id=run_id, grace=grace)


def _not_erased(batch: Sequence[Item]) -> list[str]:
    return [item.video_id for item in batch if item.video_id is not None]


@step("retire the batch from {video_ids[0]}")
def retire_batch(
    workspace: Workspace, held: HeldLease, plan_id: str, video_ids: list[str], *, run_id: str, grace: Grace
) -> None:
    """Retire one batch; the outcomes are recorded in the plan."""
    held.check()
    retire.retire(workspace, plan_id, video_ids, lease=held.lease, run_id=run_id, grace=grace)


@step("import reads of past days as views")
def bring_in_reads(workspace: Workspace) -> list[ReadsOfDay]:
    """Import the reads of each incomplete past day. Days without data stay unknown, so their videos are kept."""
    client = cloudflare.connect(settings())
    if client is None:
        raise Misconfigured("reads_are_views needs REELKEEPER_CLOUDFLARE_API_TOKEN, to read Cloudflare's counts")
    log, found = get_run_logger(), []
    with closing(client):
        for day in days_to_import(workspace.engine):
            try:
                found.append(import_reads(workspace.engine, client, settings().analytics_bucket, day, complete=True))
            except (TokenRefused, UsageUnknown) as error:
                log.warning("the views of %s and later stay unknown: %s", day, error)
                break
            if found[-1].doubt:
                log.warning("the views of %s are not complete: %s", day, found[-1].doubt)
    log.info("imported the reads of %d days", len(found))
    return found
