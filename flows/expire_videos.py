"""Retire the videos that are past their tier's retention."""

from functools import partial
from typing import Annotated

from prefect import flow

from reelkeeper.operations.core.overrides import Override, followed
from reelkeeper.rules.core.tiers import Tiers
from reelkeeper.rules.lifecycle import guard
from reelkeeper.rules.lifecycle.guard import BlastRadius
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy
from reelkeeper.rules.lifecycle.report import Report
from reelkeeper.rules.policies import TERMS, terms_in
from tasks import plans, reports, runs, videos
from tasks.runs import AsOf, DryRun, PlanId


@flow(flow_run_name=runs.run_name, on_completion=[runs.beat])
def expire_videos(
    policy: Annotated[LifecyclePolicy | None, Override()] = None,
    tiers: Annotated[Tiers | None, Override()] = None,
    limits: Annotated[BlastRadius | None, Override()] = None,
    dry_run: DryRun = True,
    as_of: AsOf = None,
    plan_id: PlanId = None,
) -> Report:
    """Retire the videos that are older than the retention of their user's tier, viewed or not.

    A dry run saves and shows the plan, and changes nothing. `plan_id` names a saved plan, at most 24 hours old, to
    carry out unchanged. Retired videos can be restored for `lifecycle.grace_days`. If a tier promises notice
    (`notice_days`), the service is notified that many days ahead.
    """
    as_of, run_id = as_of or runs.scheduled_time(), runs.run_id()

    with runs.workspace() as workspace:
        rules = followed(workspace.engine, lifecycle=policy, tiers=tiers, limits=limits)
        rules.lifecycle.require_retention(rules.tiers, "expire_videos")
        terms = terms_in(rules, TERMS["expire_videos"])
        if plan_id is None:
            keeps = workspace.plans_service_keys
            expired = partial(videos.for_expiry, workspace.engine, rules, as_of, keeps_contract=keeps)
            plan_id = plans.draw(
                workspace.engine, "expire_videos", terms, expired, limits=rules.limits, as_of=as_of, run_id=run_id
            )
        plan = plans.show(workspace, plan_id)
        judge = partial(guard.within, rules.limits, plan, given=runs.given())
        if dry_run:
            return plans.preview(workspace, plan, run_id, judge)

        with runs.lease(workspace, "expire_videos") as held:
            plans.claim(workspace, plan, terms, judge, run_id)
            try:
                videos.notify_planned(workspace, held, plan, rules, run_id=run_id)
                videos.retire_planned(workspace, held, plan.id, run_id=run_id, grace=rules.lifecycle.grace)
            finally:
                report = reports.publish(workspace, plan, run_id)
    return report.require_complete()
