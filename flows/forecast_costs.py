"""What this month and the next will cost."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from reelkeeper.operations.core.overrides import Override, followed
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
    policy: Annotated[LifecyclePolicy | None, Override()] = None,
    book: Annotated[PriceBook | None, Override()] = None,
    budget: Annotated[BudgetPolicy | None, Override()] = None,
    saving: Annotated[SavingsPolicy | None, Override()] = None,
    alerting: Annotated[AlertPolicy | None, Override()] = None,
    months: Annotated[int, Field(ge=1, le=12), Says("This month and so many in all")] = 3,
    dry_run: DryRun = True,
    as_of: AsOf = None,
) -> ForecastReport:
    """Forecast the bill of this month and those after it, keep it, post its chart, and suggest what would save.

    `policy` says when videos leave, so it is that of expire_videos. A dry run shows the forecast and keeps nothing.
    """
    as_of, run_id = as_of or runs.scheduled_time(), runs.run_id()

    with depots.opened() as depot:
        rules = followed(depot.engine, lifecycle=policy, book=book, budget=budget, saving=saving, alerting=alerting)
        costs = forecasts.predict(depot, as_of, months, rules)
        stored, idle = forecasts.stored_now(depot, as_of, rules), forecasts.survey(depot, as_of, rules.lifecycle)

        found = savings.findings(idle, stored, rules.saving)

        if costs and not dry_run:
            forecasts.record(depot, costs, run_id=run_id, as_of=as_of)
            pictures.show(depot.engine, "forecast", as_of, rules.budget)
            forecasts.post(depot, costs, found, as_of, rules.budget)
            alerts.observe(depot.engine, found, rules=[savings.RULE], run_id=run_id, policy=rules.alerting)
            alerts.deliver(depot.engine)
        return forecasts.publish(costs, found, run_id=run_id, as_of=as_of, dry_run=dry_run)
