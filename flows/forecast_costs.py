"""Forecast the bill of this month and the next."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from reelkeeper.operations.core.overrides import Override, followed
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.core.tiers import Tiers
from reelkeeper.rules.forecast.costs import ForecastReport
from reelkeeper.rules.lifecycle import savings
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy
from reelkeeper.rules.spend.budget import BudgetPolicy
from tasks import alerts, forecasts, reports, runs
from tasks.runs import AsOf, DryRun, FieldHelp


@flow(flow_run_name=runs.run_name, on_completion=[runs.beat])
def forecast_costs(
    policy: Annotated[LifecyclePolicy | None, Override()] = None,
    tiers: Annotated[Tiers | None, Override()] = None,
    book: Annotated[PriceBook | None, Override()] = None,
    budget: Annotated[BudgetPolicy | None, Override()] = None,
    months: Annotated[int, Field(ge=1, le=12), FieldHelp("Months to forecast, including this one")] = 3,
    dry_run: DryRun = True,
    as_of: AsOf = None,
) -> ForecastReport:
    """Forecast the bill of this month and the following ones, save it, post its chart, and suggest savings.

    `tiers` sets when videos expire, as in expire_videos. A dry run shows the forecast and saves nothing. Savings follow
    from the jobs of the last 30 days and from what is stored now. Status, report and API show those of the last
    real run.
    """
    as_of, run_id = as_of or runs.scheduled_time(), runs.run_id()

    with runs.workspace() as workspace:
        rules = followed(workspace.engine, lifecycle=policy, tiers=tiers, book=book, budget=budget)
        costs = forecasts.predict(workspace, as_of, months, rules)
        stored = forecasts.stored_now(workspace.engine, as_of, rules)
        idle = forecasts.survey(workspace.engine, as_of, rules)

        repeated = forecasts.repeats(workspace.engine, as_of)
        ways = forecasts.cheaper_ways(workspace.engine, as_of, rules.book)

        found = savings.findings(idle, stored, repeated=repeated, ways=ways, codec=rules.recipe.codec)

        if costs and not dry_run:
            forecasts.record(workspace.engine, costs, run_id=run_id, as_of=as_of)
            reports.show_picture(workspace.engine, "forecast", as_of, rules.budget)
            forecasts.post(workspace, costs, found, as_of, rules.budget)
            alerts.observe(workspace.engine, found, rules=[savings.RULE], run_id=run_id)
            alerts.deliver(workspace.engine)
        return forecasts.publish(costs, found, run_id=run_id, as_of=as_of, dry_run=dry_run)
