"""Forecasts: predict costs, record and show them, and suggest savings."""

from collections.abc import Sequence
from datetime import datetime

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from reelkeeper.adapters import charts
from reelkeeper.errors import UsageUnknown
from reelkeeper.model.alerts import Finding, Picture
from reelkeeper.model.document import Table
from reelkeeper.operations.alerts import alerts
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.forecast import forecast
from reelkeeper.operations.lifecycle import plans
from reelkeeper.operations.reports import figures, text
from reelkeeper.operations.reports.report import gather
from reelkeeper.rules.forecast.costs import Cost, ForecastReport, by_service, in_dollars, totals
from reelkeeper.rules.policies import Policies
from reelkeeper.rules.spend.budget import BudgetPolicy
from tasks import show, step, without_user


@step("forecast the bill")
def predict(workspace: Workspace, as_of: datetime, months: int, policies: Policies) -> list[Cost]:
    """Forecast the bill of this month and the following ones; empty if no day's usage is known yet."""
    try:
        return forecast.predict_costs(workspace.engine, as_of, months=months, policies=policies)
    except UsageUnknown as error:
        get_run_logger().warning("%s", error)
        return []


stored_now = step("read stored bytes")(forecast.stored_now)
survey = step("sum up unused bytes")(plans.survey)
repeats = step("count repeated jobs")(forecast.repeats)
cheaper_ways = step("compare the providers of a model")(forecast.cheaper_ways)
record = step("save the forecast")(forecast.record)


@task(task_run_name="post the chart", cache_policy=NO_CACHE)
def post(
    workspace: Workspace, costs: Sequence[Cost], found: Sequence[Finding], as_of: datetime, budget: BudgetPolicy
) -> None:
    """Put the month's chart into the outbox, with the totals, the largest savings, and what a trial would have done."""
    report = gather(workspace.engine, as_of.date().replace(day=1), as_of, budget)
    lines = [*totals(costs), *(finding.title for finding in found[:3])]
    lines += [text.trial(report.trial)] if report.trial else []
    title = f"Forecast of {as_of:%B %Y}: {in_dollars(costs[0].mean_usd)}"
    picture = Picture("forecast.png", charts.png(figures.month(report)))
    alerts.post_picture(workspace.engine, title, "\n".join(lines), picture)


@step("report on the forecast")
def publish(
    costs: Sequence[Cost], found: Sequence[Finding], *, run_id: str, as_of: datetime, dry_run: bool
) -> ForecastReport:
    """Show the forecast by service with its bands, the methods, and the savings."""
    title = f"Costs forecast on {as_of:%Y-%m-%d}{' (dry run)' if dry_run else ''}"
    # guard secrets.levers: a user who stores much stands in Prefect's database, which no erasure reaches
    suggested = [(without_user(each, f"{each.title}. {each.text} {each.suggestion}"),) for each in found]
    document = (by_service(costs), Table(("what",), suggested or [("nothing found",)], "Possible savings"))
    show("forecast-costs-report", title, document)
    report = ForecastReport(
        "forecast_costs", run_id, dry_run, as_of, totals(costs), tuple(finding.title for finding in found)
    )
    get_run_logger().info("%s", "; ".join(report.months) or "no forecast: no usage is known yet")
    return report
