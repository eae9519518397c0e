"""Which videos have outlived their retention, and go."""

from functools import partial

from prefect import flow

from reelkeeper.rules.lifecycle import guard, lifecycle
from reelkeeper.rules.lifecycle.guard import BlastRadius
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy
from reelkeeper.rules.lifecycle.report import Report
from tasks import depots, heartbeats, plans, reports, runs, videos
from tasks.parameters import AsOf, DryRun, PlanId


@flow(flow_run_name=runs.run_name, on_completion=[heartbeats.beat])
def expire_videos(
    policy: LifecyclePolicy = LifecyclePolicy(),
    limits: BlastRadius = BlastRadius(),
    dry_run: DryRun = True,
    as_of: AsOf = None,
    plan_id: PlanId = None,
) -> Report:
    """Retire the videos that are older than their user's tier keeps them, viewed or not.

    A dry run saves and shows the plan, and changes nothing. `plan_id` names a saved plan of at most 24 hours to carry
    out as it stands. What is retired can be brought back for `policy.grace_days`.
    """
    policy.require_active("expire_videos")
    as_of, run_id = as_of or runs.scheduled_time(), runs.run_id()
    terms = plans.terms(policy=policy)

    with depots.opened() as depot:
        if plan_id is None:
            judged = lifecycle.verdicts(videos.stream_live(depot, as_of), policy, as_of, recipe_fingerprint="")
            expired = lifecycle.for_expiry(judged)
            plan_id = plans.draw(depot, "expire_videos", terms, expired, limits=limits, as_of=as_of, run_id=run_id)
        plan = plans.show(depot, plan_id)
        judge = partial(guard.within, limits, plan)
        if dry_run:
            return plans.preview(depot, plan, run_id, judge)

        with depots.lease(depot, "expire_videos") as lease:
            plans.claim(depot, plan, terms, judge, run_id)
            try:
                videos.retire_planned(depot, lease, plan.id, run_id=run_id, grace=policy.grace)
            finally:
                report = reports.publish(depot, plan, run_id)
    return report.require_whole()
