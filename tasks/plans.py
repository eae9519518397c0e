"""Plans: drawn and saved, shown as artifacts, and claimed by the run that carries them out."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.deployments import run_deployment
from prefect.logging import get_run_logger
from pydantic import BaseModel

from reelkeeper.errors import GuardRefused
from reelkeeper.model import Grace, PlannedRule, PlanSummary, Verdict
from reelkeeper.operations.core.lease import Lease
from reelkeeper.operations.core.workspace import Depot
from reelkeeper.rules.billing import pricing, tariff
from reelkeeper.rules.core.wording import CONTRACT_NOT_TRIED
from reelkeeper.rules.lifecycle import lifecycle
from reelkeeper.rules.lifecycle.guard import BlastRadius
from reelkeeper.rules.lifecycle.report import Report
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.lifecycle import plan_progress, plan_results, purge_plan
from reelkeeper.store.lifecycle.plan_writer import add_verdicts, begin_plan
from reelkeeper.store.lifecycle.plans import Item, begin_applying, load_summary, refuse_plan
from reelkeeper.store.lifecycle.user_share import leave_beyond_share

Judge = Callable[[int, int | None], None]  # retired in 24 h, last population: raises GuardRefused
HELPERS = "transcode-videos/on-demand"  # the deployment whose runs help
MOST_ROWS = 500  # of a table that a person reads
_MICROUSD = 10**6


def terms(**policies: BaseModel | int) -> dict[str, Any]:
    """Say in JSON what a plan is made under; one made under other terms is not applied."""
    return {
        name: policy.model_dump(mode="json") if isinstance(policy, BaseModel) else policy
        for name, policy in policies.items()
    }


@task(task_run_name="draw the plan of {flow}", cache_policy=NO_CACHE)
def draw(
    depot: Depot,
    flow: str,
    under: Mapping[str, Any],
    judged: Iterable[Verdict],
    *,
    limits: BlastRadius,
    as_of: datetime,
    run_id: str,
) -> str:
    """Save a stream of verdicts as a plan, in flat memory, spread over the nights where one user would lose much."""
    plan_id = begin_plan(depot.engine, flow, under, as_of, run_id)
    add_verdicts(depot.engine, plan_id, judged, lifecycle.reason, pricing.storage_microusd_per_month)
    leave_beyond_share(depot.engine, plan_id, max_percent=limits.max_user_percent, always_allowed=limits.always_allowed)
    return plan_id


@task(task_run_name="draw the plan of purge_retired", cache_policy=NO_CACHE)
def draw_purge(
    depot: Depot, under: Mapping[str, Any], *, as_of: datetime, run_id: str, grace: Grace, max_videos: int
) -> str:
    """Save what has waited out its grace as a plan; returns its id."""
    plan_id = begin_plan(depot.engine, "purge_retired", under, as_of, run_id)
    purge_plan.add_due(
        depot.engine,
        plan_id,
        as_of,
        grace=grace,
        service_keys=depot.may_purge_service_keys,
        max_videos=max_videos,
        microusd_per_gb=int(tariff.STANDARD.storage_usd_per_gb_month * _MICROUSD),
    )
    return plan_id


@task(task_run_name="show plan {plan_id}", cache_policy=NO_CACHE)
def show(depot: Depot, plan_id: str) -> PlanSummary:
    """Publish a saved plan as artifacts, a summary and a table of its largest items, and return it in figures."""
    with reading(depot.engine) as session:
        plan = load_summary(session, plan_id)
        planned = plan_results.by_rule(session, plan_id)
        items = plan_results.largest(session, plan_id, MOST_ROWS)
    name = plan.flow.replace("_", "-")
    total = sum(rule.objects for rule in planned)
    title = f"Plan {plan.id} of {plan.flow}, as of {plan.as_of:%Y-%m-%d %H:%M} UTC"
    create_markdown_artifact(_markdown(title, plan, planned), key=f"{name}-plan-summary", description=title)
    shown = f"{title}: {total:,} items" + (f", the {len(items)} largest" if total > len(items) else "")
    create_table_artifact([_row(item) for item in items], key=f"{name}-plan", description=shown)
    get_run_logger().info(
        "%s: of %s live videos, %s to compress, %s to go", title, plan.population.objects, *_counts(plan)
    )
    return plan


@task(task_run_name="preview plan {plan.id}", cache_policy=NO_CACHE)
def preview(depot: Depot, plan: PlanSummary, run_id: str, judge: Judge) -> Report:
    """Say what a run would do, and what the guard would say of it."""
    with reading(depot.engine) as session:
        planned = tuple(plan_results.by_rule(session, plan.id))
        figures = plan_results.retired_in_24h(session), plan_results.last_population(session)
    refusal = None
    try:
        judge(*figures)
    except GuardRefused as refused:
        refusal = str(refused)
        get_run_logger().warning("the guard would refuse: %s", refusal)
    return Report(plan.flow, run_id, dry_run=True, plan=plan, planned=planned, refusal=refusal)


@task(task_run_name="claim plan {plan.id}", cache_policy=NO_CACHE)
def claim(depot: Depot, plan: PlanSummary, under: Mapping[str, Any], judge: Judge, run_id: str) -> None:
    """Take the right to carry `plan` out, once, if the guard agrees; it is asked under the flow's lease.

    Raises PlanRefused, and GuardRefused, which is noted beside the plan. Nothing has been changed then.
    """
    try:
        with transaction(depot.engine, "plan.claim") as session:
            # Asked before this plan counts.
            before = plan_results.retired_in_24h(session), plan_results.last_population(session)
            begin_applying(session, plan.id, plan.flow, under, run_id)
            judge(*before)
    except GuardRefused as refused:
        with transaction(depot.engine, "plan.refuse") as session:
            refuse_plan(session, plan.id, str(refused))
        raise


def begin(depot: Depot, lease: Lease, plan: PlanSummary) -> Lease:
    """Take the plan's own lease: others may help now, and what dead runs of the flow left under way is over."""
    with transaction(depot.engine, "plan.begin") as session:
        plan_progress.close_others(session, plan.flow, plan.id)
    (grant,) = lease.keeper.take([plan_progress.plan_lease(plan.id)])
    return Lease(lease.keeper, grant)


@task(task_run_name="ask {helpers} other workers for help", cache_policy=NO_CACHE)
def ask_for_help(plan: PlanSummary, helpers: int) -> None:
    """Start so many runs of `transcode_videos` through Prefect. Where that cannot be, the work is done without."""
    try:
        for number in range(min(helpers, plan.compress.objects - 1)):
            key = f"help/{plan.id}/{number}"
            run_deployment(HELPERS, timeout=0, idempotency_key=key, as_subflow=False)
    except Exception as error:  # noqa: BLE001  whatever keeps helpers away, the run does the work alone
        get_run_logger().warning("nobody helps with plan %s, as no run of %s was made: %s", plan.id, HELPERS, error)


def under_way(depot: Depot) -> str | None:
    """Name the plan of `tier_storage` whose work is not over, or None."""
    with reading(depot.engine) as session:
        return plan_progress.under_way(session, "tier_storage")


@task(task_run_name="see who ends plan {plan_id}", cache_policy=NO_CACHE)
def inherit(depot: Depot, lease: Lease, plan_id: str) -> tuple[PlanSummary, str] | None:
    """Take over a plan with nothing left to compress, and its run's id, if that run is dead; else None."""
    with reading(depot.engine) as session:
        if plan_progress.left(session, plan_id)[0].objects or not plan_progress.is_under_way(session, plan_id):
            return None
    if not lease.keeper.take([plan_progress.plan_lease(plan_id)]):
        return None
    with reading(depot.engine) as session:
        return load_summary(session, plan_id), plan_progress.undertaking(session, plan_id).run_id


def _counts(plan: PlanSummary) -> tuple[int, int]:
    return plan.compress.objects, plan.retire.objects


def _row(item: Item) -> dict[str, str | float]:
    """Lay an item out flat: the artifact's table shows no nested value."""
    return {
        "what": item.video_id or f"blob {item.blob_id}",
        "do": item.action,
        "MB": round(item.size_bytes / 10**6, 3),
        "USD a month": _usd(item.saving_microusd),
        "user": item.user_id or "",
        "rule": item.rule,
        "why": item.reason,  # the longest is last: what does not fit a window is scrolled to
    }


def _usd(microusd: int | None) -> str:
    return "" if microusd is None else f"{Decimal(microusd) / _MICROUSD:.4f}"


def _markdown(title: str, plan: PlanSummary, planned: list[PlannedRule]) -> str:
    lines = [f"## {title}", "", "| do | rule | items | MB | USD a month saved |", "|---|---|--:|--:|--:|"]
    lines += [
        f"| {rule.action} | {rule.rule} | {rule.objects:,} | {rule.size_bytes / 10**6:,.1f} | "
        f"{_usd(rule.saving_microusd) or 'known afterwards'} |"
        for rule in planned
    ]
    if not planned:
        lines.append("| nothing | | 0 | 0.0 | |")
    if plan.kept:
        lines += ["", "| kept by | items |", "|---|--:|"]
    lines += [f"| {rule} | {count:,} |" for rule, count in sorted(plan.kept.items(), key=lambda kept: -kept[1])]
    if "contract_not_tried" in plan.kept:
        lines += ["", CONTRACT_NOT_TRIED]
    size = f"{plan.population.size_bytes / 10**6:,.1f} MB"
    lines += [
        "",
        f"Live videos: {plan.population.objects:,}, {size}.",
        f"Apply it: `reelkeeper run {plan.flow} --apply --plan {plan.id}`.",
    ]
    return "\n".join(lines)
