"""Reports of what a run did, from the store's records, and charts of the month, as artifacts."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from reelkeeper.adapters import charts
from reelkeeper.model import Counts, Done, Outcome, PlanSummary
from reelkeeper.operations import Engine
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.lifecycle import outcomes as carried_out
from reelkeeper.operations.lifecycle.outcomes import MAX_FAILURES
from reelkeeper.operations.reports import figures, tables, text
from reelkeeper.operations.reports.report import gather
from reelkeeper.redaction import SHOWN, unnamed
from reelkeeper.rules.core.wording import TRY_ANOTHER, dollars, many, searched, size
from reelkeeper.rules.lifecycle.report import HelpReport, Report, SyncReport, count
from reelkeeper.rules.spend.budget import BudgetPolicy
from reelkeeper.rules.sync import adoption as adopting


@task(task_run_name="report on plan {plan.id}", cache_policy=NO_CACHE)
def publish(workspace: Workspace, plan: PlanSummary, run_id: str) -> Report:
    """Publish the outcomes of a plan, whether or not the run finished."""
    report = carried_out.report(workspace.engine, plan, run_id)
    name = plan.flow.replace("_", "-")
    create_markdown_artifact(_markdown(report), key=f"{name}-report", description=f"Outcome of plan {plan.id}")
    if report.failures:
        rows = [
            {"item": outcome.video_id, "reason": unnamed(outcome.reason), "bytes": outcome.before_bytes}
            for outcome in report.failures
        ]
        create_table_artifact(rows, key=f"{name}-failures", description=f"{many(report.failed, 'item')} failed")
    counts = ", ".join(f"{done.objects:,} {done.outcome}" for done in report.done) or "nothing to do"
    get_run_logger().info("%s: %s; %s bytes saved", plan.flow, counts, f"{report.saved_bytes:,}")
    return report


@task(task_run_name="report on the comparison", cache_policy=NO_CACHE)
def publish_sync(report: SyncReport) -> SyncReport:
    """Show the differences between bucket and catalogue, and the changes made."""
    found = {name: value for name, value in asdict(report).items() if isinstance(value, int) and name != "dry_run"}
    dry = " (dry run)" if report.dry_run else ""
    lines = [f"## {report.flow}, run {report.run_id[:8]}{dry}", "", "| | |", "|---|--:|"]
    lines += [f"| {name.replace('_', ' ')} | {value:,} |" for name, value in found.items()]
    lines += [f"| left open by killed runs, now {done.outcome} | {done.objects:,} |" for done in report.settled]
    named = {
        "Lost": report.lost,
        "In doubt": report.doubtful + report.known_doubts + report.claimed,
        "Unexplained": report.orphan_keys,
    }
    lines += [
        "",
        *(f"{what}: {', '.join(f'`{unnamed(name)}`' for name in names)}." for what, names in named.items() if names),
    ]
    for sheet in adopting.sheets(report.adoption, dry_run=report.dry_run):
        lines += ["", f"### {sheet.title}", "", *_sheet(sheet)]
    lines += ["", *adopting.remarks(report.adoption, dry_run=report.dry_run)]
    create_markdown_artifact("\n".join(lines), key=f"{report.flow.replace('_', '-')}-report")
    get_run_logger().info("%s: %s", report.flow, ", ".join(f"{name} {value:,}" for name, value in found.items()))
    return report


def _sheet(sheet: adopting.Sheet) -> list[str]:
    """Format a table in Markdown, with keys and names escaped, since users may choose them."""
    shown = [
        [SHOWN if heading == "user" else unnamed(cell) for heading, cell in zip(sheet.headings, row, strict=True)]
        for row in sheet.rows
    ]
    rows = [
        ["`" + cell.replace("`", "'").replace("|", "\\|").replace("\n", "` `") + "`" for cell in row] for row in shown
    ]
    lines = [[heading.lstrip(">!") for heading in sheet.headings]]
    lines += [["--:" if heading.startswith(">") else "---" for heading in sheet.headings], *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


@task(task_run_name="report the helper's work", cache_policy=NO_CACHE)
def publish_help(
    workspace: Workspace, run_id: str, plan_id: str | None, outcomes: Sequence[Outcome] | None
) -> HelpReport:
    """Report what this run compressed of a plan, and what is left. `outcomes` is None in a dry run."""
    left = everything = Counts()
    if plan_id is not None:
        left, everything = carried_out.left(workspace.engine, plan_id)
    report = HelpReport(
        "transcode_videos",
        run_id,
        dry_run=outcomes is None,
        plan_id=plan_id,
        videos=everything.objects,
        left=left.objects,
        done=count(outcomes or ()),
        failures=tuple(outcome for outcome in outcomes or () if outcome.action == "failed")[:MAX_FAILURES],
    )
    if plan_id is None:
        get_run_logger().info("no run of tier_storage is carrying out a plan: nothing to do")
        return report
    lines = [f"## Help with plan {plan_id}, run {run_id[:8]}", "", "| outcome | items | before | after |"]
    lines += [
        "|---|--:|--:|--:|",
        *_done(report.done),
        "",
        f"Left: {left.objects:,} of {many(everything.objects, 'video')}.",
    ]
    create_markdown_artifact("\n".join(lines), key="transcode-videos-report")
    return report


def _done(done: Sequence[Done]) -> list[str]:
    return [
        f"| {outcome.outcome} | {outcome.objects:,} | {size(outcome.before_bytes)} | {size(outcome.after_bytes)} |"
        for outcome in done
    ]


def _markdown(report: Report) -> str:
    shown = f"[all artifacts of the run](/v2/runs/flow-run/{report.run_id}?tab=Artifacts)"  # a path in Prefect's UI
    lines = [f"## What {report.flow} did", "", f"It carried out plan {report.plan.id}; see {shown}.", ""]
    lines += ["| outcome | items | before | after |", "|---|--:|--:|--:|"]
    lines += _done(report.done)
    saved = f"{size(report.saved_bytes)}, {dollars(report.saved_microusd_per_month)} a month"
    lines += ["", f"Saved once the grace is over: {saved}."]
    if report.searches.searches:
        lines += ["", searched(report.searches)]
    if report.plan.flow != "purge_retired":
        lines.append(f"To undo all of it: `reelkeeper restore --run {report.run_id}`.")
        lines.append(f"To try another policy: `{TRY_ANOTHER}`.")
    return "\n".join(lines)


# Heading, text, chart and table of each picture.
_PICTURES = {
    "spend": ("Spend by service and day", text.spend, figures.spend, tables.bill),
    "forecast": ("Forecast of the month", text.month, figures.month, tables.months),
}


@task(task_run_name="draw the {name}", cache_policy=NO_CACHE)
def show_picture(engine: Engine, name: str, as_of: datetime, budgets: BudgetPolicy) -> None:
    """Publish the chart `name` (spend or forecast) of the month of `as_of` as an artifact of that name."""
    heading, say, draw, listed = _PICTURES[name]
    report = gather(engine, as_of.date().replace(day=1), as_of, budgets)
    picture = f"![{heading}]({charts.data_uri(charts.svg(draw(report)))})"
    text = "\n\n".join([f"## {heading}, {report.month:%B %Y}", say(report), picture, *_table(listed(report))])
    create_markdown_artifact(text, key=name, description=f"{heading}, as of {as_of:%Y-%m-%d %H:%M} UTC")


def _table(table: tables.Table) -> list[str]:
    if not table.rows:
        return []
    rule = [":--", *("--:" for _ in table.headings[1:])]
    rows = [*table.rows, table.total] if table.total else table.rows
    return ["\n".join(_row(cells) for cells in (table.headings, rule, *rows))]


def _row(cells: Sequence[str]) -> str:
    """Write one row, with Markdown's characters escaped."""
    tame = (cell.replace("\n", ", ").replace("\\", r"\\").replace("|", r"\|").replace("`", r"\`") for cell in cells)
    return f"| {' | '.join(tame)} |"
