"""Month totals of daily series, with a job on one day of each month and without, as the bill is forecast."""

import zlib
from collections import defaultdict
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Final, NamedTuple

import numpy as np
import pandas as pd

from bench.report import Row
from bench.series.load import exported
from reelkeeper.rules.forecast.month import outlook

SEED: Final = 9401
LIMITS: Final = {10: 4.6, 15: 3.2, 20: 1.8}  # percent of the month's total, by the days that are known of it
LEAST_DAYS, MOST_DAYS, AHEAD = 120, 365, 31  # of history, and of the month
FACTOR: Final = (1.5, 4.0)  # of the job's days; each differs from it by some 10 %
LEVEL, TOLERANCE = 80, 5.0
WITH: Final = "with a job a month"


class Found(NamedTuple):
    """One month's forecast: its error, as a share of what the month became, and whether the band held it."""

    error: float
    is_inside: bool


def rows() -> Iterator[Row]:
    """Forecast a month of each series with a year of history at most, at each of the days, twice."""
    found = defaultdict[tuple[str, int], list[Found]](list)
    for each in exported("daily.json"):
        dates = pd.date_range(each["start"], periods=len(each["values"]))
        values = pd.Series(each["values"], dates)
        rng = np.random.default_rng(zlib.crc32(f"{SEED}/{each['family']}/{each['name']}".encode()))
        able = [at for at, day in enumerate(dates) if day.day == 1 and LEAST_DAYS <= at <= len(values) - AHEAD]
        if not able:
            continue
        at = int(rng.choice(able))
        for kind, whole in ((WITH, values * _job(dates, rng)), ("without one", values)):
            for day in LIMITS:
                found[kind, day].append(_forecast(whole.iloc[max(0, at - MOST_DAYS) :], min(at, MOST_DAYS), day))
    for (kind, day), months in found.items():
        error, limit = 100 * float(np.mean([month.error for month in months])), LIMITS[day]
        most = 1.0 if kind == WITH else None
        what = f"month total, {kind}, day {day}, {len(months)} series: error, to its limit"
        yield Row(what, error, limit, error / limit, most, "%")
    for day in LIMITS:
        inside = [month.is_inside for (_, other), months in found.items() if other == day for month in months]
        share = 100 * float(np.mean(inside))
        what = f"month total, day {day}: {LEVEL} % bands cover {share:.1f} %, off by"
        yield Row(what, abs(share - LEVEL), TOLERANCE, abs(share - LEVEL) / TOLERANCE, None, "%")


def _job(days: pd.DatetimeIndex, rng: np.random.Generator) -> "pd.Series[float]":
    """Draw a job on the first day of the month, its last, its last from Monday to Friday, or one of its numbers."""
    number, factor, working = int(rng.integers(2, 28)), rng.uniform(*FACTOR), pd.offsets.BMonthEnd()
    kinds = {
        "first": days.is_month_start,
        "last": days.is_month_end,
        "working": np.array([working.is_on_offset(day) for day in days]),
        "number": days.day == number,
    }
    is_on = kinds[str(rng.choice(sorted(kinds)))]
    return pd.Series(np.where(is_on, factor * np.exp(rng.normal(0, 0.1, len(days))), 1.0), days)


def _forecast(values: "pd.Series[float]", first: int, day: int) -> Found:
    as_of: date = values.index[first].date() + timedelta(days=day)
    size = int(values.index[first].days_in_month)
    month = outlook(values.iloc[: first + day], as_of, 1).months[0]
    actual = float(values.iloc[first : first + size].sum())
    lower, upper = month.bounds(LEVEL)
    return Found(abs(month.mean - actual) / actual, bool(lower <= actual <= upper))
