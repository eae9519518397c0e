"""Reports of what a run did, from the store's records, and charts of the month, as artifacts."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime

from prefect.logging import get_run_logger

from reelkeeper.model import Counts, Done, Grace, Outcome, PlanSummary
from reelkeeper.model.document import Table
from reelkeeper.operations import Engine
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.lifecycle import outcomes as carried_out
from reelkeeper.operations.lifecycle import plans
from reelkeeper.operations.lifecycle.outcomes import MAX_FAILURES
from reelkeeper.operations.reports import tables, text
from reelkeeper.operations.reports.report import gather
from reelkeeper.rules.core.wording import TRY_ANOTHER, many, searched, size
from reelkeeper.rules.lifecycle.report import HelpReport, Report, SyncReport, count, less_stored
from reelkeeper.rules.spend.budget import BudgetPolicy
from reelkeeper.rules.sync import adoption as adopting
from tasks import show, step


@step("report on plan {plan.id}")
def publish(workspace: Workspace, plan: PlanSummary, run_id: str) -> Report:
    """Publish the outcomes of a plan, whether or not the run finished."""
    report = carried_out.report(workspace.engine, plan, run_id)
    name = plan.flow.replace("_", "-")
    told = _told(report, plans.grace_of(workspace.engine, plan))
    show(f"{name}-report", f"What {report.flow} did", told, f"Outcome of plan {plan.id}")
    counts = ", ".join(f"{done.objects:,} {done.outcome}" for done in report.done) or "nothing to do"
    get_run_logger().info("%s: %s; %s bytes saved", plan.flow, counts, f"{report.saved_bytes:,}")
    return report


@step("report on the comparison")
def publish_sync(report: SyncReport) -> SyncReport:
    """Show the differences between bucket and catalogue, and the changes made."""
    found = {
        name.replace("_", " "): value
        for name, value in asdict(report).items()
        if isinstance(value, int) and name != "dry_run"
    }
    settled = [(f"left open by killed runs, now {done.outcome}", done.objects) for done in report.settled]
    named = [
        ("lost", report.lost),
        ("changed", report.changed_keys),
        ("overwritten with 0 bytes: upload it again", report.emptied),
        ("in doubt", report.doubtful + report.known_doubts + report.claimed),
        ("unexplained", report.orphan_keys),
    ]
    document = [
        Table(("", ">"), [*found.items(), *settled]),
        Table(("", "video or key"), [(what, name) for what, names in named for name in names]),
        *adopting.document(report.adoption, dry_run=report.dry_run),
    ]
    show(f"{report.flow.replace('_', '-')}-report", report.title, document)
    get_run_logger().info("%s: %s", report.flow, ", ".join(f"{name} {value:,}" for name, value in found.items()))
    return report


@step("report the helper's work")
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
    text = f"Left: {left.objects:,} of {many(everything.objects, 'video')}."
    title = f"Help with plan {plan_id}, run {run_id[:8]}"
    show("transcode-videos-report", title, [_outcomes(report.done), text])
    return report


def _outcomes(done: Sequence[Done]) -> Table:
    rows = [(each.outcome, each.objects, size(each.before_bytes), size(each.after_bytes)) for each in done]
    return Table(("outcome", ">items", ">before", ">after"), rows)


def _told(report: Report, grace: Grace | None) -> Iterator[str | Table]:
    shown = f"[all artifacts of the run](/v2/runs/flow-run/{report.run_id}?tab=Artifacts)"  # a path in Prefect's UI
    yield f"It carried out plan {report.plan.id}; see {shown}."
    yield _outcomes(report.done)
    failures = [(outcome.video_id, outcome.reason, outcome.before_bytes) for outcome in report.failures]
    yield Table(("item", "reason", ">bytes"), failures, f"{many(report.failed, 'item')} failed")
    yield less_stored(report.done, grace)
    if report.searches.searches:
        yield searched(report.searches)
    if report.plan.flow != "purge_retired":
        yield f"To undo all of it: `reelkeeper restore --run {report.run_id}`."
        yield f"To try another policy: `{TRY_ANOTHER}`."


# Heading, text and table of each picture.
_PICTURES = {
    "spend": ("Spend by service and day", text.spend, tables.bill),
    "forecast": ("Forecast of the month", text.month, tables.months),
}


@step("draw the {name}")
def show_picture(engine: Engine, name: str, as_of: datetime, budgets: BudgetPolicy) -> None:
    """Publish the chart `name` (spend or forecast) of the month of `as_of` as an artifact of that name."""
    from reelkeeper.adapters import charts  # noqa: PLC0415  most runs draw none, and it takes 0.5 s of CPU and 45 MB
    from reelkeeper.operations.reports import figures  # noqa: PLC0415  the same

    heading, say, listed = _PICTURES[name]
    draw = {"spend": figures.spend, "forecast": figures.month}[name]
    report = gather(engine, as_of.date().replace(day=1), as_of, budgets)
    picture = f"![{heading}]({charts.data_uri(charts.svg(draw(report)))})"
    document = (say(report), picture, listed(report))
    show(name, f"{heading}, {report.month:%B %Y}", document, f"{heading}, as of {as_of:%Y-%m-%d %H:%M} UTC")
