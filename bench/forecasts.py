"""Benchmark forecasts of month totals, and their bands, beside statsforecast's AutoETS.

The series are public, or of six made-up kinds with a weekday profile and noise: steady, with level shifts, growing,
noisy, with heavy tails, and wandering. Each is once as it is and once with a job on one day of each month.
"""

import zlib
from collections.abc import Iterator
from datetime import timedelta
from itertools import product
from typing import Final, NamedTuple

import numpy as np
import pandas as pd

from bench.report import Row
from bench.series import auto_ets, daily
from reelkeeper.rules.forecast.month import outlook
from reelkeeper.rules.forecast.series import Values

SEED: Final = 9701
LIMITS: Final = {10: 0.95, 15: 0.94, 20: 0.87}  # of AutoETS's error, by the month's known days
LEAST_DAYS, MOST_DAYS, AHEAD = 120, 365, 31  # of history, and of the month
FACTOR: Final = (1.5, 4.0)  # by which the job multiplies its days; each differs by about 10 %
LEVEL, TOLERANCE = 80, 5.0  # percent
KINDS: Final = ("weekly", "shift", "growth", "noisy", "heavy", "wander")
OF_A_KIND: Final = 12  # made-up series


class Month(NamedTuple):
    """A series that ends with a month, whose first day is at index `first`."""

    has_job: bool
    series: "pd.Series[float]"
    first: int


def measure() -> Iterator[Row]:
    """Forecast each month on each of the days; an error is a share of the month's total."""
    cases = list(product(months(SEED), LIMITS))
    rest = [(month.series.to_numpy(), month.first + day) for month, day in cases]
    theirs = auto_ets([(values[:at].tolist(), len(values) - at) for values, at in rest])
    errors, peers, inside = np.zeros((3, len(cases)))
    for at, ((month, day), (values, known), path) in enumerate(zip(cases, rest, theirs, strict=True)):
        as_of = month.series.index[month.first].date() + timedelta(days=day)
        said = outlook(month.series.iloc[:known], as_of, 1).months[0]
        actual, so_far = values[month.first :].sum(), values[month.first : known].sum()
        lower, upper = said.bounds(LEVEL)
        errors[at], peers[at] = abs(said.mean - actual) / actual, abs(so_far + sum(path) - actual) / actual
        inside[at] = lower <= actual <= upper
    jobs, days = (np.array(each) for each in zip(*((month.has_job, day) for month, day in cases), strict=True))
    for (form, of_form), (day, limit) in product((("a job a month", jobs), ("no job", ~jobs)), LIMITS.items()):
        some = of_form & (days == day)
        mine, peer = (100 * float(of_one[some].mean()) for of_one in (errors, peers))
        yield Row(f"month total, {form}, day {day}, {some.sum()} months: error", mine, "AutoETS(7)", peer, limit, "%")
    for day in LIMITS:
        share = 100 * float(inside[days == day].mean())
        name = f"{LEVEL} % bands on day {day} cover {share:.1f} %: off by"
        yield Row(name, abs(share - LEVEL), "promised", TOLERANCE, 1.0, "points")


def months(seed: int, of_a_kind: int = OF_A_KIND) -> Iterator[Month]:
    """Draw a month of each public series, with at most a year of history, and of made-up ones, each in both forms."""
    for each in daily():
        values = pd.Series(each["values"], pd.date_range(each["start"], periods=len(each["values"])))
        rng = np.random.default_rng(zlib.crc32(f"{seed}/{each['family']}/{each['name']}".encode()))
        able = [at for at, day in enumerate(values.index) if day.day == 1 and LEAST_DAYS <= at <= len(values) - AHEAD]
        if able:
            at = int(rng.choice(able))
            span = slice(max(0, at - MOST_DAYS), at + int(values.index[at].days_in_month))
            yield from _both(values, rng, span, min(at, MOST_DAYS))
    for kind, number in product(KINDS, range(of_a_kind)):
        yield from _made_up(kind, np.random.default_rng([seed, zlib.crc32(kind.encode()), number]))


def _both(values: "pd.Series[float]", rng: np.random.Generator, span: slice, first: int) -> Iterator[Month]:
    job = _job(pd.DatetimeIndex(values.index), rng)
    yield Month(True, values.mul(job).iloc[span], first)
    yield Month(False, values.iloc[span], first)


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
    yield from _both(pd.Series(values, dates), rng, slice(None), first)


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
