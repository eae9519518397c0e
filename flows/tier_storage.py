"""Compress cold videos, and retire those that nobody watches."""

from functools import partial
from typing import Annotated

from prefect import flow
from pydantic import Field

from reelkeeper.operations.core.overrides import Override, followed
from reelkeeper.rules.core.tiers import Tiers
from reelkeeper.rules.lifecycle import guard
from reelkeeper.rules.lifecycle.guard import BlastRadius
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy
from reelkeeper.rules.lifecycle.report import Report
from reelkeeper.rules.lifecycle.transcode import Acceptance, Recipe
from reelkeeper.rules.policies import TERMS, terms_in
from tasks import plans, reports, runs, transcodes, videos
from tasks.runs import AsOf, DryRun, FieldHelp, PlanId


@flow(flow_run_name=runs.run_name, on_completion=[runs.beat])
def tier_storage(
    policy: Annotated[LifecyclePolicy | None, Override()] = None,
    tiers: Annotated[Tiers | None, Override()] = None,
    limits: Annotated[BlastRadius | None, Override()] = None,
    recipe: Annotated[Recipe | None, Override()] = None,
    acceptance: Annotated[Acceptance | None, Override()] = None,
    helpers: Annotated[int, Field(ge=0, le=100), FieldHelp("Runs of transcode_videos to start on other workers")] = 0,
    dry_run: DryRun = True,
    as_of: AsOf = None,
    plan_id: PlanId = None,
) -> Report:
    """Compress the videos that are seldom watched, and retire those that nobody watches.

    A dry run saves and shows the plan, and changes nothing. `plan_id` names a saved plan, at most 24 hours old, to
    carry out unchanged. Compressed and retired videos can be restored for `lifecycle.grace_days`. `helpers` is the
    number of `transcode_videos` runs to start, which compress on other workers. If a user's tier promises notice
    (`notice_days`), the service is notified that many days before a video is retired.
    """
    as_of, run_id = as_of or runs.scheduled_time(), runs.run_id()

    with runs.workspace() as workspace:
        rules = followed(
            workspace.engine, lifecycle=policy, tiers=tiers, limits=limits, recipe=recipe, acceptance=acceptance
        )
        rules.lifecycle.require_active("tier_storage")
        terms = terms_in(rules, TERMS["tier_storage"])
        if plan_id is None:
            keeps = workspace.plans_service_keys
            chosen = partial(videos.for_tiering, workspace.engine, rules, as_of, keeps_contract=keeps)
            plan_id = plans.draw(
                workspace.engine, "tier_storage", terms, chosen, limits=rules.limits, as_of=as_of, run_id=run_id
            )
        plan = plans.show(workspace, plan_id)
        judge = partial(guard.within, rules.limits, plan, given=runs.given())
        if dry_run:
            return plans.preview(workspace, plan, run_id, judge)
        transcodes.require_workers()

        with runs.lease(workspace, "tier_storage") as held:
            plans.claim(workspace, plan, terms, judge, run_id)
            shared = plans.begin(workspace.engine, held, plan)
            if helpers:
                plans.ask_for_help(plan, helpers)
            try:
                videos.notify_planned(workspace, held, plan, rules, run_id=run_id)
                videos.retire_planned(workspace, held, plan.id, run_id=run_id, grace=rules.lifecycle.grace)
                transcodes.compress_planned(workspace, shared, plan.id, is_helped=helpers > 0)
            finally:
                report = reports.publish(workspace, plan, run_id)
    return report.require_complete()
