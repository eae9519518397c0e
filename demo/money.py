"""The demo's part on money: the bill, anomalies, alerts, the forecast and the report.

Only the usage is simulated: months of a service with hundreds of generations a day, and a spike. The bill, the alerts,
the forecast and the report come from the code of production.
"""

import contextlib
import io
import math
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from reelkeeper.adapters.second_sink import as_text
from reelkeeper.cli.commands import bill as bill_command
from reelkeeper.cli.screen import say
from reelkeeper.model.alerts import Message
from reelkeeper.model.money import Metric, StorageClass, UsageSource, Used
from reelkeeper.operations.billing import metering
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.reports.report import MonthReport, gather
from reelkeeper.rules.core.wording import many
from reelkeeper.store.billing import usage
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.tables import outbox

_MAX_MESSAGES = 3
DAYS: Final = 100  # before today
SPIKE_DAYS_AGO: Final = 1
SPIKE_TIMES: Final = 3
_TODAY_SO_FAR: Final = 0.4  # of a day's jobs
_GB: Final = 10**9
_SHARES: Final = {"ana": 0.18, "ben": 0.31, "chloe": 0.43}  # shares of the jobs; the rest has no known user
_ONE_DAY: Final = timedelta(days=1)


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
    days = many(report.days_charged, "day")
    say(f"monitor_costs charged {days} and judged the spend. This month's bill so far:")
    bill_command.bill(usage=None, month=None, by="service", reconcile=None, limit=100, as_json=False)
    say("By user, by day, or as CSV with the column names of FOCUS: `reelkeeper bill --by user`, `--csv`.")


def alert(workspace: Workspace) -> None:
    """Show the alerts that were sent."""
    with reading(workspace.engine) as session:
        rows = session.execute(sa.select(outbox.c.payload).order_by(outbox.c.id)).scalars().all()
    for payload in rows[:_MAX_MESSAGES]:
        say(f"{as_text(Message.model_validate(payload))}\n")
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
