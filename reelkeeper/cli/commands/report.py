"""`report`: a month as one page, to be looked at and passed on."""

from pathlib import Path
from typing import Annotated

import typer

from reelkeeper.cli.opening import store
from reelkeeper.cli.screen import say
from reelkeeper.cli.words import DailyBudget, MonthlyBudget, budgets, moment, month_of


def report(
    output: Annotated[
        Path, typer.Option("--output", "-o", dir_okay=False, help="The file to write; one that is there is replaced.")
    ] = Path("report.html"),
    month: Annotated[
        str | None, typer.Option(metavar="YYYY-MM", help="Which month; the one that has begun, if not given.")
    ] = None,
    daily_budget: DailyBudget = None,
    monthly_budget: MonthlyBudget = None,
    as_of: Annotated[
        str | None, typer.Option("--as-of", metavar="TIME", help="Look at it as of this moment; UTC if no zone.")
    ] = None,
) -> None:
    """Write a month as one page: spend, bill, forecast, storage, savings, alerts.

    The page holds everything that it shows. It loads nothing, so it can be mailed, archived and printed.
    """
    from datetime import UTC, datetime

    from reelkeeper.operations.reports.page import page
    from reelkeeper.operations.reports.report import gather

    at = moment(as_of) or datetime.now(UTC)
    which = month_of(month, at)
    budget = budgets(daily_usd=daily_budget, monthly_usd=monthly_budget)
    with store() as engine:
        written = page(gather(engine, which, at, budget))
    output.write_text(written, encoding="utf-8")
    say(f"{output}: {which:%B %Y}, {len(written.encode()) / 1000:,.0f} kB. It loads nothing: open it anywhere.")
