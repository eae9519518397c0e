"""`status`: where the whole service stands, on one screen."""

from typing import Annotated

import typer

from reelkeeper.cli.opening import store
from reelkeeper.cli.screen import emit
from reelkeeper.cli.words import DailyBudget, MonthlyBudget, budgets
from reelkeeper.errors import Frozen, Silence


def status(
    daily_budget: DailyBudget = None,
    monthly_budget: MonthlyBudget = None,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 3 if all changes are frozen, with 10 if a flow is overdue.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a script.")] = False,
) -> None:
    """Look at everything: flows, backlog, videos, queue, spend, savings, alerts. Nothing is changed.

    The exit code is 0 however it stands, unless --check asks.
    """
    from reelkeeper.cli import status_view
    from reelkeeper.operations.health.status import gather

    budget = budgets(daily_usd=daily_budget, monthly_usd=monthly_budget)
    with store() as engine:
        found = gather(engine, budget)
    if as_json:
        emit(status_view.document(found))
    else:
        status_view.show(found)
    if not check:
        return
    if found.frozen:
        raise Frozen(found.frozen.reason)
    if found.overdue:
        raise Silence(f"overdue: {', '.join(found.overdue)}")
