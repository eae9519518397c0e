"""Plans: Prefect tasks and artifacts around `reelkeeper.operations.lifecycle.plans`."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.deployments import run_deployment
from prefect.logging import get_run_logger

import tasks
from reelkeeper.model import PlanSummary
from reelkeeper.operations import Engine
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.lifecycle import plan_document, plans
from reelkeeper.operations.lifecycle.previews import Decided
from reelkeeper.rules.core.wording import TRY_ANOTHER, dollars, many
from reelkeeper.rules.lifecycle.guard import BlastRadius
from reelkeeper.rules.lifecycle.report import Report
from tasks import going_on, step

HELPERS = "transcode-videos/on-demand"  # the deployment of the helpers
MAX_ROWS = 500  # in the table artifact
MAX_READ = 50  # in the summary, whose lines wrap
purge_terms = plans.purge_terms


@step("make the plan of {flow}")
def draw(
    engine: Engine,
    flow: str,
    under: Mapping[str, Any],
    judge: Callable[[], Decided],
    *,
    limits: BlastRadius,
    as_of: datetime,
    run_id: str,
) -> str:
    """Save what `judge` decides, which is read as it is written, as a plan; return its id."""
    return plans.make(engine, flow, under, judge(), limits=limits, as_of=as_of, run_id=run_id)


draw_purge = step("make the plan of purge_retired")(plans.make_purge)


@step("show plan {plan_id}")
def show(workspace: Workspace, plan_id: str) -> PlanSummary:
    """Publish a saved plan as artifacts, a summary and a table of its items; return its summary."""
    saved = plans.load(workspace.engine, plan_id, most=MAX_ROWS)
    plan, title, name = saved.plan, plan_document.title(saved), saved.plan.flow.replace("_", "-")
    document = [plan_document.by_rule(saved), *plan_document.document(workspace.engine, saved, MAX_READ)]
    if saved.items and not workspace.on_trial:
        document.append(f"To apply it: `reelkeeper run {plan.flow} --apply --plan {plan.id}`.")
    if plan.flow != "purge_retired":
        document.append(f"To try another policy: `{TRY_ANOTHER}`.")
    tasks.show(f"{name}-plan-summary", title, document, title)
    total = sum(rule.objects for rule in saved.planned)
    shown = f"{title}: {many(total, 'item')}" + (f", the first {len(saved.items)}" if total > len(saved.items) else "")
    with going_on():
        create_table_artifact(_rows(saved), key=f"{name}-plan", description=shown)
    counts = plan.population.objects, plan.compress.objects, plan.retire.objects
    get_run_logger().info("%s: of %s live videos, %s to compress, %s to retire", title, *counts)
    return plan


@step("preview plan {plan.id}")
def preview(workspace: Workspace, plan: PlanSummary, run_id: str, judge: plans.Limit) -> Report:
    """Report what a run would do, and the guard's verdict on it."""
    report = plans.preview(workspace.engine, plan, run_id, judge)
    if report.refusal:
        get_run_logger().warning("the guard would refuse: %s", report.refusal)
    return report


@task(task_run_name="claim plan {plan.id}", cache_policy=NO_CACHE)
def claim(workspace: Workspace, plan: PlanSummary, under: Mapping[str, Any], judge: plans.Limit, run_id: str) -> None:
    """Claim `plan`, so that only this run carries it out, if the guard allows it. Raises PlanRefused, GuardRefused.

    Misconfigured if the bucket has failed a dangerous check of the contract; OnTrial where it is only read.
    """
    workspace.require_live()
    workspace.require_safe()
    plans.claim(workspace.engine, plan, under, judge, run_id, service_keys=workspace.keeps_contract)


begin = plans.begin


@task(task_run_name="start {helpers} helpers", cache_policy=NO_CACHE)
def ask_for_help(plan: PlanSummary, helpers: int) -> None:
    """Start `helpers` runs of `transcode_videos` through Prefect. If that fails, this run works without them."""
    try:
        for number in range(min(helpers, plan.compress.objects - 1)):
            key = f"help/{plan.id}/{number}"
            run_deployment(HELPERS, timeout=0, idempotency_key=key, as_subflow=False)
    except Exception as error:  # noqa: BLE001  without helpers, this run does the work alone
        get_run_logger().warning(
            "plan %s is carried out without helpers, as no run of %s could be started: %s", plan.id, HELPERS, error
        )


under_way = plans.under_way
inherit = task(task_run_name="take over plan {plan_id} if its run has died", cache_policy=NO_CACHE)(plans.inherit)


def _rows(saved: plans.SavedPlan) -> list[dict[str, str | float]]:
    """Flatten the items: the artifact's table cannot show nested values."""
    has_segments = any(item.segment for item in saved.items)
    return [
        {
            "item": item.name,
            "reason": item.reason,  # a window 1,400 px wide ends after this column
            "USD per month": _dollars(item.saving_microusd),
            "USD net": _dollars(item.net_microusd),
            "action": item.action,
            "MB": round(item.size_bytes / 10**6, 3),
            "rule": item.rule,
            **({"segment": item.segment or ""} if has_segments else {}),
        }
        for item in saved.items
    ]


def _dollars(microusd: int | None) -> str:
    return "" if microusd is None else dollars(microusd)
