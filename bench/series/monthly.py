"""Benchmark month totals of daily series, with and without a job on one day of each month, as for the bill.

The series are real, or of six synthetic kinds with a weekday profile and noise: steady, with level shifts, growing,
noisy, with heavy tails, and wandering. Bands are calibrated on other draws of these, with the seed CALIBRATION.
"""

import zlib
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Final, NamedTuple

import numpy as np
import pandas as pd

from bench.report import Row
from bench.series.load import exported
from reelkeeper.rules.forecast.month import outlook
from reelkeeper.rules.forecast.series import Values

SEED: Final = 9701
CALIBRATION: Final = 9601
LIMITS: Final = {10: 4.6, 15: 3.2, 20: 1.8}  # percent of the month's total, by its number of known days
DAYS: Final = (0, *LIMITS)
LEAST_DAYS, MOST_DAYS, AHEAD = 120, 365, 31  # of history, and of the month
FACTOR: Final = (1.5, 4.0)  # by which the job multiplies its days; each differs by about 10 %
LEVEL, TOLERANCE = 80, 5.0
WITH, WITHOUT = "with a job a month", "without one"
KINDS: Final = ("weekly", "shift", "growth", "noisy", "heavy", "wander")
OF_A_KIND: Final = 5  # synthetic series


class Month(NamedTuple):
    """A series that ends with a month, whose first day is at index `first`."""

    kind: str
    form: str
    series: "pd.Series[float]"
    first: int


class Found(NamedTuple):
    """One month's forecast: its error, as a share of the actual total, and whether the band contained it."""

    kind: str
    form: str
    day: int
    error: float
    is_inside: bool


def rows() -> Iterator[Row]:
    """Forecast each month at each of the days. Coverage is known only to 5 to 10 %, so it is informative only."""
    found = [_forecast(month, day) for month in months(SEED) for day in DAYS]
    sets = {"real": [each for each in found if each.kind == "real"], "made up": [e for e in found if e.kind != "real"]}
    for what, some in sets.items():
        for form in (WITH, WITHOUT):
            for day, limit in LIMITS.items():
                errors = [each.error for each in some if (each.form, each.day) == (form, day)]
                error, most = 100 * float(np.mean(errors)), 1.0 if (what, form) == ("real", WITH) else None
                name = f"month total, {what}, {form}, day {day}, {len(errors)} series: error, to its limit"
                yield Row(name, error, limit, error / limit, most, "%")
    for what, some in (*sets.items(), ("all", found)):
        for day in DAYS:
            inside = [each.is_inside for each in some if each.day == day]
            share = 100 * float(np.mean(inside))
            name = f"month total, {what}, day {day}, {len(inside)}: {LEVEL} % bands cover {share:.1f} %, off by"
            yield Row(name, abs(share - LEVEL), TOLERANCE, abs(share - LEVEL) / TOLERANCE, None, "%")


def months(seed: int, of_a_kind: int = OF_A_KIND) -> Iterator[Month]:
    """Draw a month of each real series, with at most a year of history, and of synthetic ones, each in both forms."""
    for each in exported("daily.json"):
        dates = pd.date_range(each["start"], periods=len(each["values"]))
        values = pd.Series(each["values"], dates)
        rng = np.random.default_rng(zlib.crc32(f"{seed}/{each['family']}/{each['name']}".encode()))
        able = [at for at, day in enumerate(dates) if day.day == 1 and LEAST_DAYS <= at <= len(values) - AHEAD]
        if able:
            at = int(rng.choice(able))
            span = slice(max(0, at - MOST_DAYS), at + int(dates[at].days_in_month))
            for form, whole in ((WITH, values * _job(dates, rng)), (WITHOUT, values)):
                yield Month("real", form, whole.iloc[span], min(at, MOST_DAYS))
    for kind in KINDS:
        for number in range(of_a_kind):
            yield from _made_up(kind, np.random.default_rng([seed, zlib.crc32(kind.encode()), number]))


def _made_up(kind: str, rng: np.random.Generator) -> Iterator[Month]:
    start = pd.Timestamp("2024-01-01") + pd.Timedelta(days=int(rng.integers(0, 365)))
    last = start + pd.Timedelta(days=int(rng.integers(LEAST_DAYS, MOST_DAYS + 1)))
    month = last.replace(day=1) + pd.offsets.MonthBegin(0)
    first = (month - start).days
    dates = pd.date_range(start, periods=first + int(month.days_in_month))
    at, level = np.arange(len(dates)), np.zeros(len(dates))
    week = np.exp(rng.normal(0, 0.08, 7))
    week[5:] *= rng.uniform(0.5, 1.1)
    spread = rng.uniform(0.03, 0.10)
    if kind == "shift":
        for _ in range(int(rng.integers(1, 3))):
            level[int(rng.integers(int(0.2 * first), first)) :] += rng.choice([-1, 1]) * rng.uniform(0.15, 0.45)
    elif kind == "growth":
        level += rng.uniform(0.001, 0.008) * at
    elif kind == "noisy":
        spread = rng.uniform(0.2, 0.4)
    elif kind == "wander":
        level += np.cumsum(rng.normal(0, rng.uniform(0.01, 0.03), len(at)))
    heavy = kind == "heavy"
    noise = rng.standard_t(3, len(at)) * rng.uniform(0.05, 0.15) if heavy else rng.normal(0, spread, len(at))
    values: Values = 1000 * week[(start.weekday() + at) % 7] * np.exp(level) * np.exp(noise)
    series = pd.Series(values, dates)
    yield Month(kind, WITH, series * _job(dates, rng), first)
    yield Month(kind, WITHOUT, series, first)


def _job(days: pd.DatetimeIndex, rng: np.random.Generator) -> "pd.Series[float]":
    """Draw a job on the first, the last, the last working day, or a fixed day of the month."""
    number, factor, working = int(rng.integers(2, 28)), rng.uniform(*FACTOR), pd.offsets.BMonthEnd()
    kinds = {
        "first": days.is_month_start,
        "last": days.is_month_end,
        "working": np.array([working.is_on_offset(day) for day in days]),
        "number": days.day == number,
    }
    is_on = kinds[str(rng.choice(sorted(kinds)))]
    return pd.Series(np.where(is_on, factor * np.exp(rng.normal(0, 0.1, len(days))), 1.0), days)


def _forecast(month: Month, day: int) -> Found:
    values, first = month.series, month.first
    as_of: date = values.index[first].date() + timedelta(days=day)
    said = outlook(values.iloc[: first + day], as_of, 1).months[0]
    actual = float(values.iloc[first:].sum())
    lower, upper = said.bounds(LEVEL)
    return Found(month.kind, month.form, day, abs(said.mean - actual) / actual, bool(lower <= actual <= upper))
