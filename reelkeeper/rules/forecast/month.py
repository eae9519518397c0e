"""Forecast a month's total: its known part plus a forecast of the rest, with a band for the sum."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

import numpy as np
import pandas as pd

from reelkeeper.model.money import next_month
from reelkeeper.rules.forecast import bands
from reelkeeper.rules.forecast.members import fan, weekday_level
from reelkeeper.rules.forecast.series import WEEK, learn, regular

_DAYS_A_MONTH: Final = 365.25 / 12


@dataclass(frozen=True, slots=True)
class MonthTotal:
    """One month: its known part, and the forecast of the rest, whose log error has the scale `unit`."""

    month: date  # its first day
    so_far: float
    rest: float
    unit: float

    @property
    def mean(self) -> float:
        """Return the expected total."""
        return self.so_far + self.rest

    def quantile(self, probability: float) -> float:
        """Return the total that is not exceeded with this probability."""
        return self.so_far + self.rest * math.exp(self.log_shift(probability))

    def log_shift(self, probability: float) -> float:
        """Return the log ratio of the rest, at this probability, to its expectation."""
        width = self.unit * bands.quantile(abs(2 * probability - 1) * 100)
        return math.copysign(width, probability - 0.5)

    def bounds(self, level: float) -> tuple[float, float]:
        """Return the bounds between which the total falls with `level` percent probability."""
        return self.quantile(0.5 - level / 200), self.quantile(0.5 + level / 200)


@dataclass(frozen=True, slots=True)
class Outlook:
    """The current month and those after it. `path` is the forecast of each day, from the first unknown one on."""

    months: tuple[MonthTotal, ...]
    path: "pd.Series[float]"
    method: str


def outlook(
    history: "pd.Series[float]", as_of: date, count: int = 2, growth_percent_per_month: float | None = None
) -> Outlook:
    """Forecast the month of `as_of` and those after it, `count` in all, from daily values up to the day before `as_of`.

    Days between the last value and `as_of` are forecast as well. Days before the first value count as 0.
    `growth_percent_per_month` is a scenario: the level of the last four weeks grows at this rate, in place of
    the fitted trend. Raises ValueError where the history has no value before `as_of`.
    """
    known = regular(history, as_of)
    spans = _spans(as_of, known.index[-1].date() + timedelta(days=1), count)
    horizon = spans[-1][2]
    ahead = pd.date_range(known.index[-1], periods=horizon + 1)[1:]
    monthly = learn(np.array(known, dtype=np.float64), [stamp.date() for stamp in known.index])
    days = [stamp.date() for stamp in ahead]
    made = fan(monthly.values, horizon)
    plain, method = made.middle, made.method
    if monthly.differences:
        how = "plus" if monthly.is_gappy else "times"
        method += f"; {how} what recurs on {', '.join(sorted(monthly.differences))}"
    path = monthly.put_back(plain, days)
    if growth_percent_per_month is not None:
        if len(known) >= WEEK:
            path = monthly.put_back(weekday_level(monthly.values, horizon), days)
        path = path * (1 + growth_percent_per_month / 100) ** (np.arange(1, horizon + 1) / _DAYS_A_MONTH)
        method = f"last level with {growth_percent_per_month:g} % growth a month"

    totals, paths = [], monthly.put_back(made.paths, days)
    for month, start, stop in spans:
        sums = paths[:, start:stop].sum(axis=1)
        unit = bands.unit(monthly.values, sums, (start, stop))
        so_far = float(known[known.index >= pd.Timestamp(month)].sum()) if month == spans[0][0] else 0.0
        totals.append(MonthTotal(month, so_far, float(path[start:stop].sum()), unit))
    return Outlook(tuple(totals), pd.Series(path, ahead), method)


def _spans(as_of: date, first: date, count: int) -> Sequence[tuple[date, int, int]]:
    """Return, for each month, its first day, and the range of steps ahead that it covers."""
    month, found = as_of.replace(day=1), []
    for _ in range(count):
        end = next_month(month)
        found.append((month, max(0, (month - first).days), max(0, (end - first).days)))
        month = end
    return found
