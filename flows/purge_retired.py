"""Delete retired blobs whose grace is over: the only flow that deletes bytes."""

from typing import Annotated

from prefect import flow

from reelkeeper.operations.core.overrides import Override, followed
from reelkeeper.rules.lifecycle import guard
from reelkeeper.rules.lifecycle.guard import BlastRadius
from reelkeeper.rules.lifecycle.report import Report
from tasks import blobs, plans, reports, runs
from tasks.runs import AsOf, DryRun, GraceDays, PlanId, ServiceGraceDays


@flow(flow_run_name=runs.run_name, on_completion=[runs.beat])
def purge_retired(
    limits: Annotated[BlastRadius | None, Override()] = None,
    grace_days: GraceDays = None,
    grace_days_service_keys: ServiceGraceDays = None,
    dry_run: DryRun = True,
    as_of: AsOf = None,
    plan_id: PlanId = None,
) -> Report:
    """Delete the bytes of retired blobs whose grace is over. This cannot be undone.

    A dry run saves and shows the plan, and changes nothing. `plan_id` names a saved plan, at most 24 hours old, to
    carry out unchanged. One run deletes at most `limits.max_objects` videos, those retired longest ago first.
    """
    as_of, run_id = as_of or runs.scheduled_time(), runs.run_id()

    with runs.workspace() as workspace:
        rules = followed(workspace.engine, limits=limits)
        grace = rules.lifecycle.grace.overridden(grace_days, grace_days_service_keys)
        terms = plans.purge_terms(grace, rules.limits)
        if plan_id is None:
            keeps = workspace.plans_service_keys
            plan_id = plans.draw_purge(workspace.engine, terms, as_of=as_of, run_id=run_id, service_keys=keeps)
        plan = plans.show(workspace, plan_id)

        def judge(_retired_in_24h: int, last_population: int | None) -> None:
            guard.purge_within(rules.limits, plan, last_population, given=runs.given())

        if dry_run:
            return plans.preview(workspace, plan, run_id, judge)

        with runs.lease(workspace, "purge_retired") as held:
            blobs.begin(workspace, held.lease)
            plans.claim(workspace, plan, terms, judge, run_id)
            try:
                blobs.settle_claims(workspace, held, run_id=run_id, grace=grace)
                blobs.purge_planned(workspace, held, plan.id, run_id=run_id, grace=grace)
            finally:
                report = reports.publish(workspace, plan, run_id)
    return report.require_complete()
