"""Videos: streamed to the rules, and retired in batches."""

from contextlib import closing

from prefect import task
from prefect.cache_policies import NO_CACHE

from reelkeeper.model import Grace
from reelkeeper.operations.core.lease import HeldLease
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.lifecycle import outcomes, plans, retire

RETIRED_AT_ONCE = 500
stream_live = plans.stream_live  # not a task: Prefect would gather it whole


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
