"""Prepare a history of days: fill its gaps, and learn what recurs monthly, to remove it before a forecast.

A job on the last day of the month is an outlier to weekly models: they ignore it, and it is missing from the total.
A place of the month (its number, the last day, the last working day) recurs when at least two of its last three days
were odd in one direction and by a similar amount: two holidays on one number are no job. It is forgotten when they
were not. Without it, month totals with such a job are off by 3.0, 2.6 and 2.2 % at day 10, 15 and 20, instead of 2.3,
1.9 and 1.3.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from reelkeeper.rules.spend.residuals import GAPPY, MONTHS, RECURRED, TRIMMED, places

Values: TypeAlias = npt.NDArray[np.float64]

WEEK: Final = 7  # days
_LEAST_DAYS: Final = 35  # of history, with two days of some place of the month
_REMEMBERED: Final = 6  # months for the median of a factor
_ODD: Final = 0.75  # share of an outlier's bound
_ALIKE: Final = 0.5  # minimum ratio of two similar residuals
_WINDOW: Final = 7  # days on either side whose median is the local level
_NEAR_WEEKS: Final = 4  # on either side, whose median is the local profile
_ODD_DEVIATIONS: Final = 4.0  # median absolute deviations, scaled to standard ones
_NEXT_TO_NOTHING: Final = 1e-3  # of the usual day
_ODD_LEAST: Final = 0.15  # minimum distance of an outlier, as a log ratio


def regular(history: "pd.Series[float]", as_of: date) -> "pd.Series[float]":
    """Return the days from the first value to the last before `as_of`. Raises ValueError where there is none.

    A day without a value is interpolated between its neighbours on the same weekday, since a Sunday is more like
    another Sunday than like a Saturday.
    """
    dated = history.astype("float64").replace([np.inf, -np.inf], np.nan).dropna().sort_index()
    known = dated[dated.index < pd.Timestamp(as_of)]
    if known.empty:
        raise ValueError(f"no value before {as_of}")
    whole = known.reindex(pd.date_range(known.index[0], known.index[-1]))
    by_weekday = whole.groupby(np.arange(len(whole)) % WEEK)
    return by_weekday.transform(lambda days: days.interpolate(limit_direction="both")).interpolate()


@dataclass(frozen=True, slots=True)
class Recurring:
    """A history without what recurs monthly, and by how much each place of the month differs from it.

    That is a log ratio, or an amount where the history is gappy.
    """

    values: Values
    differences: dict[str, float]
    is_gappy: bool

    def put_back(self, plain: Values, days: Iterable[date]) -> Values:
        """Add what recurs on `days` to a forecast of them from `values`, or to several, a row each."""
        found = ([self.differences[place] for place in places(day) if place in self.differences] for day in days)
        largest = np.array([max(own, key=abs, default=0.0) for own in found], dtype=np.float64)
        return np.asarray(plain + largest if self.is_gappy else plain * np.exp(largest), dtype=np.float64)


def learn(values: Values, days: Sequence[date]) -> Recurring:
    """Find the places of the month that recur, the most certain first; one of them explains a day."""
    if len(values) < _LEAST_DAYS:
        return Recurring(values, {}, is_gappy=False)
    left = _departures(values)
    at_place: defaultdict[str, list[int]] = defaultdict(list)
    for at, day in enumerate(days):
        for place in places(day):
            at_place[place].append(at)
    odd = np.where(np.abs(left.residual) > _ODD * left.bound, np.sign(left.residual), 0.0)
    if left.is_gappy:
        odd = np.maximum(odd, 0.0)  # one more day of nothing is not odd
    plain, differences = values.copy(), dict[str, float]()
    while found := [entry for place, at in at_place.items() if (entry := _recurs(place, at, odd, left.residual))]:
        _, place, way = max(found)
        explained = [at for at in at_place[place] if odd[at] == way]
        differences[place] = float(np.median(left.residual[explained[-_REMEMBERED:]]))
        plain[explained] = left.expected[explained]
        odd[explained] = 0
    return Recurring(plain, differences, left.is_gappy)


def _recurs(place: str, at: Sequence[int], odd: Values, residual: Values) -> tuple[float, str, float] | None:
    """Return the certainty that a place recurs, the place, and its direction; None if it does not recur."""
    way = float(np.sign(odd[at[-MONTHS:]].sum()))
    sizes = sorted(abs(residual[each]) for each in at[-MONTHS:] if odd[each] == way)
    is_alike = any(less >= _ALIKE * more for less, more in pairwise(sizes))
    if not way or len(sizes) < RECURRED or not is_alike:
        return None
    return float(np.mean(odd[at[-_REMEMBERED:]] == way)), place, way


@dataclass(frozen=True, slots=True)
class _Departures:
    """Each value's distance from the expectation by its neighbours and season, in logs unless the series is gappy."""

    expected: Values
    residual: Values
    bound: float  # a larger residual is odd; 0: the series hardly moves
    is_gappy: bool


def _departures(values: Values) -> _Departures:
    """Compare values with the local level times the local profile, or where many are nothing, plus it.

    A lasting shift is not a departure: the local level is a median of two weeks, and follows it.
    """
    # Near nothing a ratio says little: a day of use after idle ones would be a thousand times what was expected.
    is_gappy = bool(values.min() < 0 or np.mean(values <= values.mean() * _NEXT_TO_NOTHING) >= GAPPY)
    seen = values if is_gappy else np.log(np.maximum(values, np.median(values) * _NEXT_TO_NOTHING))
    profile = np.zeros(len(values))
    for _ in range(2):  # level and profile depend on each other
        level = _medians(seen - profile, _WINDOW, 1)
        profile = _medians(seen - level, _NEAR_WEEKS, WEEK)
    expected = _medians(seen - profile, _WINDOW, 1) + profile
    residual = seen - expected
    if is_gappy:
        usual = float(np.std(np.sort(values)[: len(values) - int(TRIMMED * len(values))]))
        return _Departures(expected, residual, _ODD_DEVIATIONS * usual, is_gappy)
    usual = 1.4826 * float(np.median(np.abs(residual - np.median(residual))))
    return _Departures(np.exp(expected), residual, max(_ODD_DEVIATIONS * usual, _ODD_LEAST), is_gappy)


def _medians(values: Values, reach: int, stride: int) -> Values:
    """Return, for each value, the median of those up to `reach` strides before and after it that exist."""
    margin = np.full(reach * stride, np.nan)
    padded = np.concatenate([margin, values, margin])
    shifts = [padded[shift * stride : shift * stride + len(values)] for shift in range(2 * reach + 1)]
    return np.asarray(np.nanmedian(shifts, axis=0), dtype=np.float64)
