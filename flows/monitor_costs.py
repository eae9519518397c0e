"""Check spend against budgets and for anomalies."""

from datetime import date
from typing import Annotated

from prefect import flow

from reelkeeper.operations.core.overrides import Override, followed
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.spend import watch
from reelkeeper.rules.spend.anomaly import AnomalyPolicy
from reelkeeper.rules.spend.budget import BudgetPolicy
from reelkeeper.rules.spend.watch import CostsReport
from tasks import alerts, reports, runs, spending
from tasks.runs import AsOf, DryRun


@flow(flow_run_name=runs.run_name, on_completion=[runs.beat])
def monitor_costs(
    budget: Annotated[BudgetPolicy | None, Override()] = None,
    anomaly: Annotated[AnomalyPolicy | None, Override()] = None,
    book: Annotated[PriceBook | None, Override()] = None,
    dry_run: DryRun = True,
    as_of: AsOf = None,
) -> CostsReport:
    """Collect usage, charge it, and alert on budgets that are or will be exceeded, and on anomalous days.

    A dry run judges earlier charges; it collects nothing and sends no alerts. Usage is always collected as of now,
    whatever `as_of` says.
    """
    now, run_id = runs.scheduled_time(), runs.run_id()
    as_of, charged, trouble = as_of or now, list[date](), ""

    with runs.workspace() as workspace:
        rules = followed(workspace.engine, budget=budget, anomaly=anomaly, book=book)
        if not dry_run:
            trouble = spending.collect(workspace, now).trouble
            charged = spending.charge(workspace.engine, rules.book, now)
        first = watch.first_day(as_of)
        spent = spending.read(
            workspace.engine, as_of, first=first, users=rules.budget.users(), trouble=trouble, charged=charged
        )

        found = watch.judge(spent, rules.budget, rules.anomaly, as_of)

        observed = None
        if not dry_run:
            observed = alerts.observe(workspace.engine, found, rules=watch.RULES, run_id=run_id)
            alerts.deliver(workspace.engine)
        reports.show_picture(workspace.engine, "spend", as_of, rules.budget)
        return spending.publish(spent, found, run_id=run_id, as_of=as_of, charged=len(charged), observed=observed)
