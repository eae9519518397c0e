"""Forecast a month's total: its known part plus a forecast of the rest, with a band for the sum.

The ensemble is compared with the run rate on the line's own past, and the better one is used.
"""

import math
from calendar import monthrange
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Final

import numpy as np
import pandas as pd

from reelkeeper.rules.forecast import bands, recurring
from reelkeeper.rules.forecast.ensemble import fan
from reelkeeper.rules.forecast.members import profile_level
from reelkeeper.rules.forecast.quantiles import LEVELS
from reelkeeper.rules.forecast.recurring import Recurring
from reelkeeper.rules.forecast.series import Regular, Values, regular

_WEEK: Final = 7
_RATE_DAYS: Final = 30  # for the mean of the run rate
_ORIGIN_STEP_DAYS: Final = 14
_ORIGINS: Final = 8  # sixteen weeks; five more did not improve the choice, and took 1.5 times the CPU
_LEAST_ORIGINS: Final = 4  # fewer are not enough for a comparison
_LEAST_HISTORY_DAYS: Final = 14  # before an origin
_BETTER_BY: Final = 0.7  # the run rate's error must be below this share of the ensemble's
_DAYS_A_MONTH: Final = 365.25 / 12


@dataclass(frozen=True, slots=True)
class MonthTotal:
    """One month: its known part, and the forecast of the rest. `reach` is log half-widths at `LEVELS`."""

    month: date  # its first day
    so_far: float
    rest: float
    reach: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Return the expected total."""
        return self.so_far + self.rest

    def quantile(self, probability: float) -> float:
        """Return the total that is not exceeded with this probability."""
        return self.so_far + self.rest * math.exp(self.log_shift(probability))

    def log_shift(self, probability: float) -> float:
        """Return the log ratio of the rest, at this probability, to its expectation."""
        width = float(np.interp(abs(2 * probability - 1) * 100, LEVELS, self.reach))
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


@dataclass(frozen=True, slots=True)
class _Tried:
    """The mean relative error of the month's total at earlier origins, for each method."""

    ensemble: float
    run_rate: float
    origins: int

    @property
    def rate_wins(self) -> bool:
        return self.origins >= _LEAST_ORIGINS and self.run_rate < _BETTER_BY * self.ensemble


def outlook(
    history: "pd.Series[float]", as_of: date, count: int = 2, growth_percent_per_month: float | None = None
) -> Outlook:
    """Forecast the month of `as_of` and those after it, `count` in all, from daily values up to the day before `as_of`.

    Days between the last value and `as_of` are forecast as well. Days before the first value count as 0.
    `growth_percent_per_month` is a scenario: the level of the last four weeks grows at this rate, in place of
    the fitted trend. Raises ValueError where the history is not daily, or has no value before `as_of`.
    """
    known = _daily(history, as_of)
    first = known.index[-1].date() + timedelta(days=1)
    spans = list(_spans(as_of, first, count))
    horizon = spans[-1][2]
    ahead = known.ahead(horizon)
    monthly = _learn(known.amounts, known.index)
    paths, path, method = _forecast(monthly, ahead)
    middle, plain = path, path / monthly.factors(stamp.date() for stamp in ahead)
    tried = _try_out(known) if growth_percent_per_month is None else _Tried(0.0, 0.0, 0)
    if growth_percent_per_month is not None:
        if len(known.amounts) >= _WEEK:
            path = profile_level(monthly.values, _WEEK, horizon) * monthly.factors(stamp.date() for stamp in ahead)
        path = path * (1 + growth_percent_per_month / 100) ** (np.arange(1, horizon + 1) / _DAYS_A_MONTH)
        method = f"last level with {growth_percent_per_month:g} % growth a month"
    elif tried.rate_wins:
        path, method = np.full(horizon, known.amounts[-_RATE_DAYS:].mean()), "run rate"
    if tried.origins >= _LEAST_ORIGINS:
        method += f"; at {tried.origins} earlier days months were off by {_percent(tried.ensemble)}"
        method += f", the run rate's by {_percent(tried.run_rate)}"

    totals = []
    for month, start, stop in spans:
        sums = paths[:, start:stop].sum(axis=1)
        share = 1 - float(plain[start:stop].sum()) / max(float(middle[start:stop].sum()), 1e-12)
        scale = bands.sum_scale(monthly.values, _WEEK, sums, (start, stop), share)
        reach = [scale * bands.sum_quantile(len(known.amounts), _WEEK, stop, level) for level in LEVELS[1:]]
        so_far = _sum_from(known, month) if month == spans[0][0] else 0.0
        totals.append(
            MonthTotal(
                month,
                so_far,
                float(path[start:stop].sum()),
                (0.0, *(float(each) for each in np.maximum.accumulate(reach))),
            )
        )
    return Outlook(tuple(totals), pd.Series(path, ahead), method)


def _learn(values: Values, index: "pd.Index[Any]") -> Recurring:
    return recurring.learn(values, [stamp.date() for stamp in index], _WEEK)


def _forecast(monthly: Recurring, ahead: "pd.Index[Any]") -> tuple[Values, Values, str]:
    """Return each member's forecast of the days ahead, their median, and the method."""
    made = fan(monthly.values, _WEEK, len(ahead))
    factors = monthly.factors(stamp.date() for stamp in ahead)
    method = f"{made.method}; times what recurs on {', '.join(sorted(monthly.logs))}" if monthly.logs else made.method
    return made.paths * factors, made.middle * factors, method


def _daily(history: "pd.Series[float]", as_of: date) -> Regular:
    if not isinstance(history.index, pd.DatetimeIndex):
        raise ValueError(f"a month's total needs an index of days, not {type(history.index).__name__}")  # noqa: TRY004  as the other refusals
    known = regular(history[[stamp.date() < as_of for stamp in history.index]])
    if not len(known.amounts):
        raise ValueError(f"no value before {as_of}")
    if known.step != "D":
        raise ValueError(f"a month's total needs daily values, not steps of {known.step or 'another length'}")
    return known


def _spans(as_of: date, first: date, count: int) -> Sequence[tuple[date, int, int]]:
    """Return, for each month, its first day, and the range of steps ahead that it covers."""
    month, found = as_of.replace(day=1), []
    for _ in range(count):
        end = month.replace(day=monthrange(month.year, month.month)[1]) + timedelta(days=1)
        found.append((month, max(0, (month - first).days), max(0, (end - first).days)))
        month = end
    return found


def _try_out(known: Regular) -> _Tried:
    """Forecast the rest of the month from earlier days, as it would have been forecast then."""
    values, days = known.amounts, [stamp.date() for stamp in known.index]
    errors: list[tuple[float, float]] = []
    for origin in range(len(values) - _ORIGIN_STEP_DAYS, _LEAST_HISTORY_DAYS - 1, -_ORIGIN_STEP_DAYS)[:_ORIGINS]:
        day = days[origin]
        steps = min(monthrange(day.year, day.month)[1] - day.day + 1, len(values) - origin)
        before, actual = values[:origin], float(values[origin : origin + steps].sum())
        _, path, _ = _forecast(_learn(before, known.index[:origin]), known.index[origin : origin + steps])
        forecasts = (float(path.sum()), float(before[-_RATE_DAYS:].mean()) * steps)
        month_total = actual + float(before[len(before) - min(day.day - 1, origin) :].sum())
        if min(*forecasts, actual, month_total) <= 0:
            continue
        errors.append((abs(forecasts[0] - actual) / month_total, abs(forecasts[1] - actual) / month_total))
    if not errors:
        return _Tried(0.0, 0.0, 0)
    ensemble, rate = (float(each) for each in np.mean(errors, axis=0))
    return _Tried(ensemble, rate, len(errors))


def _sum_from(known: Regular, month: date) -> float:
    first = next((at for at, stamp in enumerate(known.index) if stamp.date() >= month), len(known.amounts))
    return float(known.amounts[first:].sum())


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
