"""Which cold videos should be smaller, and which should go."""

from functools import partial
from typing import Annotated

from prefect import flow
from pydantic import Field

from reelkeeper.rules.lifecycle import guard, lifecycle
from reelkeeper.rules.lifecycle.guard import BlastRadius
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy
from reelkeeper.rules.lifecycle.report import Report
from reelkeeper.rules.lifecycle.transcode import Acceptance, Recipe
from tasks import depots, heartbeats, plans, reports, runs, transcodes, videos
from tasks.parameters import AsOf, DryRun, PlanId, Says


@flow(flow_run_name=runs.run_name, on_completion=[heartbeats.beat])
def tier_storage(
    policy: LifecyclePolicy = LifecyclePolicy(),
    limits: BlastRadius = BlastRadius(),
    recipe: Recipe = Recipe(),
    acceptance: Acceptance = Acceptance(),
    helpers: Annotated[int, Field(ge=0, le=100), Says("Runs of transcode_videos that help, on other workers")] = 0,
    dry_run: DryRun = True,
    as_of: AsOf = None,
    plan_id: PlanId = None,
) -> Report:
    """Compress the videos that are seldom watched, and retire those that nobody watches.

    A dry run saves and shows the plan, and changes nothing. `plan_id` names a saved plan of at most 24 hours to carry
    out as it stands. What is compressed or retired can be brought back for `policy.grace_days`. So many `helpers`,
    runs of `transcode_videos` on other workers, are asked to compress too.
    """
    policy.require_active("tier_storage")
    as_of, run_id = as_of or runs.scheduled_time(), runs.run_id()
    terms = plans.terms(policy=policy, recipe=recipe, acceptance=acceptance)

    with depots.opened() as depot:
        if plan_id is None:
            mark = transcodes.recipe_mark(recipe, acceptance)
            live = videos.stream_live(depot, as_of)
            judged = lifecycle.verdicts(live, policy, as_of, mark, recipe.skip_codecs)
            chosen = lifecycle.largest_first(lifecycle.for_tiering(judged), policy.compress_limit)
            plan_id = plans.draw(depot, "tier_storage", terms, chosen, limits=limits, as_of=as_of, run_id=run_id)
        plan = plans.show(depot, plan_id)
        judge = partial(guard.within, limits, plan)
        if dry_run:
            return plans.preview(depot, plan, run_id, judge)
        transcodes.require_workers()

        with depots.lease(depot, "tier_storage") as lease:
            plans.claim(depot, plan, terms, judge, run_id)
            shared = plans.begin(depot, lease, plan)
            if helpers:
                plans.ask_for_help(plan, helpers)
            try:
                videos.retire_planned(depot, lease, plan.id, run_id=run_id, grace=policy.grace)
                transcodes.compress_planned(depot, shared, plan.id)
            finally:
                report = reports.publish(depot, plan, run_id)
    return report.require_whole()
