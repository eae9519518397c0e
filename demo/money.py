"""The demo's second half: what the service costs, what is odd about it, what it will cost, and who is told.

Usage is staged (`usage`); the bill, the alerts, the forecast and the report are made by what production runs.
"""

import contextlib
import io
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import sqlalchemy as sa

from demo import chart, slack, usage
from reelkeeper.cli.commands import bill as bill_command
from reelkeeper.cli.screen import out, say
from reelkeeper.model.alerts import Message
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.reports.report import MonthReport, end_of, gather
from reelkeeper.store.core.engine import reading
from reelkeeper.store.tables import outbox

_MAX_MESSAGES = 3
_DAILY_BUDGET_USD = 10.0  # the default


def spend(workspace: Workspace) -> None:
    """Stage some months of usage with a spike yesterday, and show the bill of this one."""
    from flows.monitor_costs import monitor_costs  # noqa: PLC0415  Prefect reads the demo's environment, set before

    today = datetime.now(UTC).date()
    jobs = usage.stage(workspace, today)
    spiked = today - timedelta(days=usage.SPIKE_DAYS_AGO)
    say(f"The demo writes what {usage.DAYS} days of a busier service would have counted: some 400 generations a")
    say(f"day, and {jobs:,} of them on {spiked:%-d %B}: somebody's script ran wild.")
    with _quiet():
        report = monitor_costs(dry_run=False)
    say(f"monitor_costs counted, charged {report.days_charged} days anew, and judged. The days, and the daily budget:")
    for line in chart.bars(_daily(_gathered(workspace)), _DAILY_BUDGET_USD):
        say(line)
    say("This month's bill so far:")
    bill_command.bill(usage=None, month=None, by="service", form="table", reconcile=None, limit=100, as_json=False)
    say("By user, by day, or as CSV with FOCUS's names: `reelkeeper bill --by user`, `--format csv`.")


def alert(workspace: Workspace) -> None:
    """Show what people were told, as Slack would show it."""
    with reading(workspace.engine) as session:
        rows = session.execute(sa.select(outbox.c.payload).order_by(outbox.c.id)).scalars().all()
    for payload in rows[:_MAX_MESSAGES]:
        out.print(slack.drawn(Message.model_validate(payload)))
    more = f" The first {_MAX_MESSAGES} of {len(rows)}." if len(rows) > _MAX_MESSAGES else ""
    say(f"Each is told once, and its end once; it was written with what it tells of, in one transaction.{more}")
    say("No Slack is configured here, so they went to the console. `reelkeeper alerts list` has them all.")


def forecast(workspace: Workspace) -> None:
    """Forecast this month and the next, and draw where this one is going."""
    from flows.forecast_costs import forecast_costs  # noqa: PLC0415  as above
    from reelkeeper.adapters import charts  # noqa: PLC0415  half a second that only this and the report need
    from reelkeeper.operations.reports import figures  # noqa: PLC0415  the same

    with _quiet():
        months = forecast_costs(dry_run=False).months
    for line in months:
        say(line)
    report = _gathered(workspace)
    for line in chart.bars(_daily(report), _DAILY_BUDGET_USD, _to_come(report)):
        say(line)
    drawn = Path("forecast.png").absolute()
    drawn.write_bytes(charts.png(figures.month(report, title=f"{report.month:%B}: where it is going")))
    say(f"{drawn}: the picture that Slack gets, with the bands.")
    say("With more users, `reelkeeper forecast --growth 20`.")


def look(workspace: Workspace) -> None:
    """Write the month's report and its pictures into the demo's folder."""
    from reelkeeper.adapters import charts  # noqa: PLC0415  half a second that only this needs
    from reelkeeper.operations.reports import figures  # noqa: PLC0415  the same
    from reelkeeper.operations.reports.page import page  # noqa: PLC0415  the same

    report = _gathered(workspace)
    Path("report.html").write_text(page(report), encoding="utf-8")
    Path("spend.png").write_bytes(charts.png(figures.spend(report, title=f"{report.month:%B}, by service and day")))
    say(f"{Path('report.html').absolute()}: the month as one page that loads nothing, for people.")
    say(f"{Path('spend.png').absolute()}: its first picture, as Slack would get it.")
    say("As a command: `reelkeeper report -o report.html`.")


def _daily(report: MonthReport) -> dict[date, float]:
    days: dict[date, float] = {}
    for spending in report.spent:
        days[spending.day] = days.get(spending.day, 0.0) + spending.billed_nanousd / 10**9
    return days


def _to_come(report: MonthReport) -> dict[date, float]:
    """Spread what is expected of the rest of the month over its days."""
    days = (end_of(report.month) - report.last_day).days
    if report.this_month is None or not days:
        return {}
    rest = report.this_month.mean_microusd / 10**6 - report.billed_nanousd / 10**9
    return {report.last_day + timedelta(days=n): rest / days for n in range(1, days + 1)}


def _gathered(workspace: Workspace) -> MonthReport:
    now = datetime.now(UTC)
    return gather(workspace.engine, now.date().replace(day=1), now)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the console, which is the sink of the alerts here, from showing them twice."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield
