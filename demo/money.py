"""The demo's part on money: the bill, anomalies, alerts, the forecast and the report.

Only the usage is simulated: months of a service with hundreds of generations a day, and a spike. The bill, the alerts,
the forecast and the report come from the code of production.
"""

import contextlib
import io
import math
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from reelkeeper.adapters.slack.blocks import lay_out
from reelkeeper.cli.commands import bill as bill_command
from reelkeeper.cli.screen import out, say
from reelkeeper.model.alerts import Message, Severity
from reelkeeper.model.money import Metric, StorageClass, UsageSource, Used
from reelkeeper.operations.billing import metering
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.reports.report import MonthReport, end_of, gather
from reelkeeper.store.billing import usage
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.tables import outbox

_MAX_MESSAGES = 3
_DAILY_BUDGET_USD = 10.0  # the default
DAYS: Final = 100  # before today
SPIKE_DAYS_AGO: Final = 1
SPIKE_TIMES: Final = 3
_TODAY_SO_FAR: Final = 0.4  # of a day's jobs
_GB: Final = 10**9
_SHARES: Final = {"ana": 0.18, "ben": 0.31, "chloe": 0.43}  # shares of the jobs; the rest has no known user
_ONE_DAY: Final = timedelta(days=1)
_EIGHTHS = " ▁▂▃▄▅▆▇█"
_EXPECTED = " ░"
_ROWS = 8
_COLUMN = 2  # characters for each day, one of them a gap
_COLOURS = {Severity.CRITICAL: "red", Severity.WARNING: "yellow", Severity.NOTICE: "blue"}
_WIDTH = 88


def spend(workspace: Workspace) -> None:
    """Simulate some months of usage with a spike yesterday, and show the bill of this month."""
    from flows.monitor_costs import monitor_costs  # noqa: PLC0415  Prefect reads the demo's environment, set before

    today = datetime.now(UTC).date()
    jobs = stage(workspace, today)
    spiked = today - timedelta(days=SPIKE_DAYS_AGO)
    say(f"The demo records the usage of {DAYS} days of a busier service: some 400 generations a")
    say(f"day, and {jobs:,} on {spiked:%-d %B}, as by a runaway script.")
    with _quiet():
        report = monitor_costs(dry_run=False)
    say(f"monitor_costs charged {report.days_charged} days and checked them. The days, and the daily budget:")
    for line in bars(_daily(_gathered(workspace)), _DAILY_BUDGET_USD):
        say(line)
    say("This month's bill so far:")
    bill_command.bill(usage=None, month=None, by="service", form="table", reconcile=None, limit=100, as_json=False)
    say("By user, by day, or as CSV with the column names of FOCUS: `reelkeeper bill --by user`, `--format csv`.")


def alert(workspace: Workspace) -> None:
    """Show the alerts as Slack would show them."""
    with reading(workspace.engine) as session:
        rows = session.execute(sa.select(outbox.c.payload).order_by(outbox.c.id)).scalars().all()
    for payload in rows[:_MAX_MESSAGES]:
        out.print(drawn(Message.model_validate(payload)))
    more = f" These are the first {_MAX_MESSAGES} of {len(rows)}." if len(rows) > _MAX_MESSAGES else ""
    say(f"Each alert is sent once when it fires and once when it is resolved.{more}")
    say("No Slack is configured here, so they went to the console. `reelkeeper alerts list` shows all of them.")


def forecast(workspace: Workspace) -> None:
    """Forecast this month and the next, and draw this month's chart."""
    from flows.forecast_costs import forecast_costs  # noqa: PLC0415  as above
    from reelkeeper.adapters import charts  # noqa: PLC0415  half a second that only this and the report need
    from reelkeeper.operations.reports import figures  # noqa: PLC0415  the same

    with _quiet():
        months = forecast_costs(dry_run=False).months
    for line in months:
        say(line)
    report = _gathered(workspace)
    for line in bars(_daily(report), _DAILY_BUDGET_USD, _to_come(report)):
        say(line)
    drawn = Path("forecast.png").absolute()
    drawn.write_bytes(charts.png(figures.month(report, title=f"{report.month:%B}: spend and forecast")))
    say(f"{drawn}: the chart for Slack, with the bands.")
    say("To assume growth: `reelkeeper forecast --growth 20`.")


def look(workspace: Workspace) -> None:
    """Write the month's report and its pictures into the demo's folder."""
    from reelkeeper.adapters import charts  # noqa: PLC0415  half a second that only this needs
    from reelkeeper.operations.reports import figures  # noqa: PLC0415  the same
    from reelkeeper.operations.reports.page import page  # noqa: PLC0415  the same

    report = _gathered(workspace)
    Path("report.html").write_text(page(report), encoding="utf-8")
    Path("spend.png").write_bytes(charts.png(figures.spend(report, title=f"{report.month:%B}, by service and day")))
    say(f"{Path('report.html').absolute()}: the month's report as one self-contained page.")
    say(f"{Path('spend.png').absolute()}: its first chart, as in Slack.")
    say("As a command: `reelkeeper report -o report.html`.")


def _daily(report: MonthReport) -> dict[date, float]:
    days: dict[date, float] = {}
    for spending in report.spent:
        days[spending.day] = days.get(spending.day, 0.0) + spending.billed_nanousd / 10**9
    return days


def _to_come(report: MonthReport) -> dict[date, float]:
    """Spread the forecast for the rest of the month over its days."""
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
    """Silence the console sink, so that alerts are not shown twice."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield


def stage(workspace: Workspace, today: date) -> int:
    """Record the usage of the last `DAYS` days and today, and charge it; return the number of jobs of the spike."""
    days = [today - n * _ONE_DAY for n in range(DAYS, -1, -1)]
    with transaction(workspace.engine, "demo.usage") as session:
        usage.record(session, [item for day in days for item in _used(day, today)])
    for month in dict.fromkeys(day.replace(day=1) for day in days):
        metering.charge_month(workspace.engine, workspace.in_force.policies.book, month, today)
    return jobs_on(today - SPIKE_DAYS_AGO * _ONE_DAY, today)


def jobs_on(day: date, today: date) -> int:
    """Return a day's number of generations: growing, fewer at weekends, with noise and one spike."""
    ago = (today - day).days
    grown = 300 + 110 * (DAYS - ago) / DAYS
    week = 0.82 if day.weekday() >= 5 else 1.06  # noqa: PLR2004  Saturday and Sunday
    unrest = 1 + 0.05 * math.sin(2.4 * ago) + 0.03 * math.cos(5.1 * ago)
    part = {SPIKE_DAYS_AGO: SPIKE_TIMES, 0: _TODAY_SO_FAR}.get(ago, 1)
    return round(grown * week * unrest * part)


def _used(day: date, today: date) -> Iterator[Used]:
    jobs = jobs_on(day, today)
    stored = round((120 + 1.9 * (DAYS - (today - day).days)) * _GB)
    for user, share in (_SHARES | {"": 1.0}).items():
        yield _count(day, Metric.JOBS, round(jobs * share), user)
        yield _count(day, Metric.STORED_BYTES, round(stored * share), user)
    yield _count(day, Metric.OPERATIONS, jobs * 55, resource="PutObject")
    yield _count(day, Metric.OPERATIONS, jobs * 480, resource="GetObject")


def _count(day: date, metric: Metric, quantity: int, user: str = "", resource: str = "") -> Used:
    kept_as = StorageClass.STANDARD if metric == Metric.STORED_BYTES else ""
    return Used(day, metric, quantity, resource, kept_as, user, UsageSource.STORE)


def bars(
    daily: Mapping[date, float], limit: float | None = None, expected: Mapping[date, float] | None = None
) -> list[str]:
    """Draw the dollars of each day as bars, with a line at `limit` behind them, and the days below.

    The days of `expected` follow those of `daily`, and are drawn lighter.
    """
    days = {**(expected or {}), **daily}
    if not days:
        return ["no day with known spend"]
    most = max(*days.values(), limit or 0.0, 0.01)
    heights = {day: round(max(days[day], 0.0) / most * _ROWS * 8) for day in sorted(days)}
    at = None if limit is None else min(round(limit / most * _ROWS * 8 + 3) // 8, _ROWS - 1)
    lines = []
    for row in range(_ROWS - 1, -1, -1):
        fill = "╌" if row == at else " "
        cells = (_cell(height - row * 8, known=day in daily) for day, height in heights.items())
        drawn = "".join((fill if cell == " " else cell) + fill for cell in cells)
        label = f"${most:,.2f}" if row == _ROWS - 1 else f"${limit:,.2f}" if row == at else ""
        lines.append(f"{label:>9} {drawn}".rstrip())
    marks = "".join(f"{day.day:<{_COLUMN * 5}}" for day in list(heights)[::5])
    return [*lines, f"{'':>9} {marks.rstrip()}"]


def _cell(eighths: int, *, known: bool) -> str:
    filled = max(0, min(8, eighths))
    return _EIGHTHS[filled] if known else _EXPECTED[filled >= 4]  # noqa: PLR2004  half a cell or more


def drawn(message: Message) -> RenderableType:
    """Draw the message as a panel, with markup in its text shown literally."""
    parts = [part for block in lay_out(message).blocks for part in _block(block)]
    colour = _COLOURS[message.severity] if message.severity else "blue"
    return Panel(
        Group(*parts), title="[bold]# costs[/]  Reelkeeper", title_align="left", border_style=colour, width=_WIDTH
    )


def _block(block: dict[str, Any]) -> list[RenderableType]:
    match block:
        case {"type": "header", "text": {"text": text}}:
            return [Text(text, style="bold")]
        case {"type": "section", "text": {"text": text}}:
            return [Padding(Text(text), (1, 0, 0, 0))]
        case {"type": "section", "fields": fields}:
            grid = Table.grid(padding=(0, 4, 0, 0))
            cells = [Text(field["text"]) for field in fields]
            for cell in cells:
                cell.highlight_regex(r"^.*\n", "dim")
            for start in range(0, len(cells), 2):
                grid.add_row(*cells[start : start + 2])
            return [Padding(grid, (1, 0, 0, 0))]
        case {"type": "context", "elements": elements}:
            return [Padding(Text(" ".join(element["text"] for element in elements), style="dim"), (1, 0, 0, 0))]
    return []
