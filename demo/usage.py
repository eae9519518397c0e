"""Months of usage for the demo, as a service of hundreds of generations a day may have left them, with a spike.

Only what was used is staged. What it cost, what is odd about it and what it will cost, production's own code says.
"""

import math
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Final

from reelkeeper.model.money import Metric, StorageClass, UsageSource, Used
from reelkeeper.operations.billing import metering
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.store.billing import usage
from reelkeeper.store.core.engine import transaction

DAYS: Final = 100  # before today
SPIKE_DAYS_AGO: Final = 1
SPIKE_TIMES: Final = 3
_TODAY_SO_FAR: Final = 0.4  # of a day's jobs
_GB: Final = 10**9
_SHARES: Final = {"ana": 0.18, "ben": 0.31, "chloe": 0.43}  # of the jobs; the rest is nobody's whom we know
_ONE_DAY: Final = timedelta(days=1)


def stage(workspace: Workspace, today: date) -> int:
    """Record what was used on each of the last `DAYS` days and today, and charge it; returns the jobs of the spike."""
    days = [today - n * _ONE_DAY for n in range(DAYS, -1, -1)]
    with transaction(workspace.engine, "demo.usage") as session:
        usage.record(session, [item for day in days for item in _used(day, today)])
    for month in dict.fromkeys(day.replace(day=1) for day in days):
        metering.charge_month(workspace.engine, workspace.in_force.policies.book, month, today)
    return jobs_on(today - SPIKE_DAYS_AGO * _ONE_DAY, today)


def jobs_on(day: date, today: date) -> int:
    """Say how many generations a day had: some growth, quieter weekends, a little unrest, and one spike."""
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
