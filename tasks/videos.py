"""Videos: streamed to the rules, told of and retired in batches."""

from contextlib import closing

from prefect import task
from prefect.cache_policies import NO_CACHE

from reelkeeper.model import Grace, PlanSummary
from reelkeeper.operations.core.lease import HeldLease
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.lifecycle import notices, outcomes, plans, retire
from reelkeeper.rules.policies import Policies

RETIRED_AT_ONCE = 500
stream_live = plans.stream_live  # not a task: Prefect would gather it whole
notices_given = notices.given


def notify_planned(
    workspace: Workspace, held: HeldLease, plan: PlanSummary, policies: Policies, *, run_id: str
) -> None:
    """Tell the service of what will be retired, and end notices that have lapsed, as a plan says, batch by batch."""
    for action in ("withdraw", "notify"):
        with closing(outcomes.planned(workspace.engine, plan.id, action, RETIRED_AT_ONCE)) as batches:
            for batch in batches:
                video_ids = [item.video_id for item in batch if item.video_id is not None]
                notify_batch(workspace, held, plan.id, video_ids, policies, run_id=run_id)
    notices.tell_of_waiting(workspace.engine, plan, run_id)


@task(task_run_name="give notice of a batch from {video_ids[0]}", cache_policy=NO_CACHE)
def notify_batch(
    workspace: Workspace, held: HeldLease, plan_id: str, video_ids: list[str], policies: Policies, *, run_id: str
) -> None:
    """Give, or end, the notices of one batch; its outcomes are recorded beside the plan."""
    held.check()
    notices.carry_out(workspace.engine, plan_id, video_ids, policies, lease=held.lease, run_id=run_id)


def retire_planned(workspace: Workspace, held: HeldLease, plan_id: str, *, run_id: str, grace: Grace) -> None:
    """Retire what a plan says, batch by batch."""
    with closing(outcomes.planned(workspace.engine, plan_id, "retire", RETIRED_AT_ONCE)) as batches:
        for batch in batches:
            video_ids = [item.video_id for item in batch if item.video_id is not None]
            retire_batch(workspace, held, plan_id, video_ids, run_id=run_id, grace=grace)


@task(task_run_name="retire a batch from {video_ids[0]}", cache_policy=NO_CACHE)
def retire_batch(
    workspace: Workspace, held: HeldLease, plan_id: str, video_ids: list[str], *, run_id: str, grace: Grace
) -> None:
    """Retire one batch; its outcomes are recorded beside the plan."""
    held.check()
    retire.retire(workspace, plan_id, video_ids, lease=held.lease, run_id=run_id, grace=grace)
