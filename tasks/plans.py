"""Plans: Prefect tasks and artifacts around `reelkeeper.operations.lifecycle.plans`."""

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.deployments import run_deployment
from prefect.logging import get_run_logger

from reelkeeper.model import Grace, PlanSummary, Verdict
from reelkeeper.operations.core.lease import HeldLease
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.lifecycle import plans
from reelkeeper.rules.core.wording import CONTRACT_NOT_TRIED, EXPECTED_SAVING, TRY_ANOTHER, claimed, dollars, many
from reelkeeper.rules.lifecycle.guard import BlastRadius
from reelkeeper.rules.lifecycle.report import Report

HELPERS = "transcode-videos/on-demand"  # the deployment of the helpers
MAX_ROWS = 500  # in the table artifact
MAX_READ = 50  # in the summary, whose lines wrap
terms = plans.terms


@task(task_run_name="make the plan of {flow}", cache_policy=NO_CACHE)
def draw(
    workspace: Workspace,
    flow: str,
    under: Mapping[str, Any],
    judged: Iterable[Verdict],
    *,
    limits: BlastRadius,
    as_of: datetime,
    run_id: str,
) -> str:
    """Save a stream of verdicts as a plan; return its id."""
    return plans.make(workspace.engine, flow, under, judged, limits=limits, as_of=as_of, run_id=run_id)


@task(task_run_name="make the plan of purge_retired", cache_policy=NO_CACHE)
def draw_purge(
    workspace: Workspace, under: Mapping[str, Any], *, as_of: datetime, run_id: str, grace: Grace, max_videos: int
) -> str:
    """Save the blobs whose grace is over as a plan; return its id."""
    return plans.make_purge(
        workspace.engine,
        under,
        as_of=as_of,
        run_id=run_id,
        grace=grace,
        max_videos=max_videos,
        service_keys=workspace.plans_service_keys,
    )


@task(task_run_name="show plan {plan_id}", cache_policy=NO_CACHE)
def show(workspace: Workspace, plan_id: str) -> PlanSummary:
    """Publish a saved plan as artifacts, a summary and a table of its largest items; return its summary."""
    figures = plans.load(workspace.engine, plan_id, items=MAX_ROWS)
    plan, planned, items = figures
    name = plan.flow.replace("_", "-")
    total = sum(rule.objects for rule in planned)
    title = f"Plan {plan.id} of {plan.flow}, as of {plan.as_of:%Y-%m-%d %H:%M} UTC"
    told = list(plans.remarks(workspace.engine, plan))
    create_markdown_artifact(_markdown(title, figures, told), key=f"{name}-plan-summary", description=title)
    shown = f"{title}: {many(total, 'item')}" + (f", the {len(items)} largest" if total > len(items) else "")
    create_table_artifact(_rows(figures), key=f"{name}-plan", description=shown)
    counts = plan.population.objects, plan.compress.objects, plan.retire.objects
    get_run_logger().info("%s: of %s live videos, %s to compress, %s to retire", title, *counts)
    return plan


@task(task_run_name="preview plan {plan.id}", cache_policy=NO_CACHE)
def preview(workspace: Workspace, plan: PlanSummary, run_id: str, judge: plans.Judge) -> Report:
    """Report what a run would do, and the guard's verdict on it."""
    report = plans.preview(workspace.engine, plan, run_id, judge)
    if report.refusal:
        get_run_logger().warning("the guard would refuse: %s", report.refusal)
    return report


@task(task_run_name="claim plan {plan.id}", cache_policy=NO_CACHE)
def claim(workspace: Workspace, plan: PlanSummary, under: Mapping[str, Any], judge: plans.Judge, run_id: str) -> None:
    """Claim `plan`, so that only this run carries it out, if the guard allows it. Raises PlanRefused, GuardRefused.

    Misconfigured if the bucket has failed a dangerous check of the contract.
    """
    workspace.require_safe()
    plans.claim(workspace.engine, plan, under, judge, run_id)


def begin(workspace: Workspace, held: HeldLease, plan: PlanSummary) -> HeldLease:
    """Take the plan's own lease, so that helpers may begin."""
    return plans.begin(workspace.engine, held, plan)


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


def under_way(workspace: Workspace) -> str | None:
    """Find the plan that `tier_storage` is carrying out; None without one."""
    return plans.under_way(workspace.engine)


@task(task_run_name="take over plan {plan_id} if its run has died", cache_policy=NO_CACHE)
def inherit(workspace: Workspace, held: HeldLease, plan_id: str) -> tuple[PlanSummary, str] | None:
    """Take over the plan of a dead run once nothing is left to compress; return it and the run's id, else None."""
    return plans.inherit(workspace.engine, held, plan_id)


def _rows(figures: plans.Figures) -> list[dict[str, str | float]]:
    """Flatten the items: the artifact's table cannot show nested values."""
    has_segments = any(item.segment for item in figures.items)
    return [
        {
            "item": _what(item.video_id, item.blob_id),
            "reason": item.reason,  # a window 1,400 px wide ends after this column
            "USD per month": _dollars(item.saving_microusd),
            "USD net": _dollars(item.net_microusd),
            "action": item.action,
            "MB": round(item.size_bytes / 10**6, 3),
            "rule": item.rule,
            **({"segment": item.segment or ""} if has_segments else {}),
        }
        for item in figures.items
    ]


def _dollars(microusd: int | None) -> str:
    return "" if microusd is None else dollars(microusd)


def _what(video_id: str | None, blob_id: int) -> str:
    return video_id or f"blob {blob_id}"


def _plain(text: str) -> str:
    """Escape users' text for Markdown and HTML."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", text).replace("\n", " ")


def _markdown(title: str, figures: plans.Figures, remarks: Iterable[str] = ()) -> str:
    plan, planned, items = figures
    lines = [
        f"## {title}",
        "",
        "| action | rule | items | MB | USD saved per month | USD net |",
        "|---|---|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {rule.action} | {rule.title} | {rule.objects:,} | {rule.size_bytes / 10**6:,.1f} | "
        f"{_dollars(rule.saving_microusd)} | {_dollars(rule.net_microusd)} |"
        for rule in planned
    ]
    if not planned:
        lines.append("| nothing | | 0 | 0.0 | | |")
    if items:
        lines += ["", "| largest items | action | USD per month | USD net | reason |", "|---|---|--:|--:|---|"]
    lines += [
        f"| {_plain(_what(item.video_id, item.blob_id))} | {item.action} | {_dollars(item.saving_microusd)} "
        f"| {_dollars(item.net_microusd)} | {_plain(item.reason)} |"
        for item in items[:MAX_READ]
    ]
    if plan.kept:
        lines += ["", "| kept by | items |", "|---|--:|"]
    lines += [f"| {rule} | {count:,} |" for rule, count in sorted(plan.kept.items(), key=lambda kept: -kept[1])]
    if "contract_not_tried" in plan.kept:
        lines += ["", CONTRACT_NOT_TRIED]
    for claim in plan.claimed:
        lines += ["", claimed(claim)]
    if plan.compress.objects:
        lines += ["", EXPECTED_SAVING]
    for remark in remarks:
        lines += ["", remark]
    size = f"{plan.population.size_bytes / 10**6:,.1f} MB"
    lines += [
        "",
        f"Live videos: {plan.population.objects:,}, {size}.",
    ]
    if planned:
        lines.append(f"To apply it: `reelkeeper run {plan.flow} --apply --plan {plan.id}`.")
    if plan.flow != "purge_retired":
        lines.append(f"To try another policy: `{TRY_ANOTHER}`.")
    return "\n".join(lines)
