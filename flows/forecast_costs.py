"""What this month and the next will cost."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from reelkeeper.rules.alerts.alerting import AlertPolicy
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.forecast.report import ForecastReport
from reelkeeper.rules.lifecycle import savings
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy
from reelkeeper.rules.lifecycle.savings import SavingsPolicy
from reelkeeper.rules.spend.budget import BudgetPolicy
from tasks import alerts, depots, forecasts, heartbeats, pictures, runs
from tasks.parameters import AsOf, DryRun, Says


@flow(flow_run_name=runs.run_name, on_completion=[heartbeats.beat])
def forecast_costs(
    policy: LifecyclePolicy = LifecyclePolicy(),
    book: PriceBook = PriceBook(),
    budget: BudgetPolicy = BudgetPolicy(),
    saving: SavingsPolicy = SavingsPolicy(),
    alerting: AlertPolicy = AlertPolicy(),
    months: Annotated[int, Field(ge=1, le=12), Says("This month and so many in all")] = 3,
    dry_run: DryRun = True,
    as_of: AsOf = None,
) -> ForecastReport:
    """Forecast the bill of this month and those after it, keep it, post its chart, and suggest what would save.

    `policy` says when videos leave, so it is that of expire_videos. A dry run shows the forecast and keeps nothing.
    """
    as_of, run_id = as_of or runs.scheduled_time(), runs.run_id()

    with depots.opened() as depot:
        costs = forecasts.predict(depot, as_of, months, policy, book)
        stored, idle = forecasts.stored_now(depot, as_of), forecasts.survey(depot, as_of, policy)

        found = savings.findings(idle, stored, saving)

        if costs and not dry_run:
            forecasts.record(depot, costs, run_id=run_id, as_of=as_of)
            pictures.show(depot.engine, "forecast", as_of, budget)
            forecasts.post(depot, costs, found, as_of, budget)
            alerts.observe(depot.engine, found, rules=[savings.RULE], run_id=run_id, policy=alerting)
            alerts.deliver(depot.engine)
        return forecasts.publish(costs, found, run_id=run_id, as_of=as_of, dry_run=dry_run)
