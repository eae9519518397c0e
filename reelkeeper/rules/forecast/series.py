"""Make a history regular: sorted, one value per step, gaps filled, outliers replaced; and continue its index.

A missing step or value is a gap; it is interpolated between its neighbours at the same place of the season, since a
Sunday is more like another Sunday than like a Saturday.
"""

from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

Values: TypeAlias = npt.NDArray[np.float64]

_SEASONS: Final = {"D": 7, "W": 1, "M": 12, "Q": 4, "Y": 1}
_STEP_DAYS: Final = (("D", 1, 1), ("W", 7, 7), ("M", 28, 31), ("Q", 89, 92), ("Y", 365, 366))
_WINDOW: Final = 7  # steps on either side whose median is the local level
_NEAR_CYCLES: Final = 4  # seasons on either side whose median is the local profile
_ODD_DEVIATIONS: Final = 4.0  # median absolute deviations, scaled to standard ones
_ODD_LEAST: Final = 0.15  # minimum distance of an outlier, as a log ratio


@dataclass(frozen=True, slots=True)
class Regular:
    """Values without gaps, one per step. `season` is its length in steps, 1 for none; `gaps` is the number filled."""

    amounts: Values
    season: int
    step: str  # D, W, M, Q, Y, or "" where the index has no dates
    gaps: int
    index: "pd.Index[Any]"

    def ahead(self, horizon: int) -> "pd.Index[Any]":
        """Return the `horizon` steps that follow, in the history's kind of index."""
        if not len(self.index):
            return pd.RangeIndex(horizon)
        last = self.index[-1]
        if isinstance(self.index, pd.PeriodIndex):
            return pd.period_range(last + 1, periods=horizon, freq=self.index.freq)
        if isinstance(self.index, pd.DatetimeIndex):
            return pd.DatetimeIndex([_stepped(last, self.step, count) for count in range(1, horizon + 1)])
        return pd.RangeIndex(int(last) + 1, int(last) + 1 + horizon)


def regular(history: "pd.Series[float]") -> Regular:
    """Make a history regular. NaN at either end is dropped. Raises ValueError for a repeated step."""
    dated = history.loc[history.index.notna()]
    series = dated.sort_index().astype("float64").replace([np.inf, -np.inf], np.nan)
    if series.index.has_duplicates:
        raise ValueError(f"the history has two values for {series.index[series.index.duplicated()][0]}: sum them first")
    known = series.dropna()
    if known.empty:
        return Regular(np.empty(0), 1, "", 0, pd.RangeIndex(0))
    series = series.loc[known.index[0] : known.index[-1]]
    step = _step(series.index)
    if step and isinstance(series.index, pd.DatetimeIndex):
        series = _on_calendar(series, step)
    elif isinstance(series.index, pd.PeriodIndex):
        series = series.reindex(pd.period_range(series.index[0], series.index[-1], freq=series.index.freq))
    elif not isinstance(series.index, pd.DatetimeIndex):
        series = series.reset_index(drop=True)
    season = _SEASONS.get(step, 1)
    values: Values = np.array(series, dtype=np.float64)
    return Regular(_filled(values, season), season, step, int(np.isnan(values).sum()), series.index)


@dataclass(frozen=True, slots=True)
class Departures:
    """Each value's distance from the expectation by its neighbours and season, in logs where no value is negative."""

    expected: Values
    residual: Values
    bound: float  # a larger residual is odd; 0: the series hardly moves


def departures(values: Values, season: int) -> Departures | None:
    """Compare values with the local level times the local profile; None if there are too few for a profile.

    A lasting shift is not a departure: the local level is a median of two weeks, and follows it.
    """
    if season == 1 or len(values) < 3 * season:
        return None
    logs = bool(values.min() >= 0 and np.median(values) > 0)
    seen = np.log(np.maximum(values, np.median(values) * 1e-3)) if logs else values
    profile = np.zeros(len(values))
    for _ in range(2):  # level and profile depend on each other
        level = _medians(seen - profile, _WINDOW, 1)
        profile = _medians(seen - level, _NEAR_CYCLES, season)
    expected = _medians(seen - profile, _WINDOW, 1) + profile
    residual = seen - expected
    usual = 1.4826 * float(np.median(np.abs(residual - np.median(residual))))
    bound = max(_ODD_DEVIATIONS * usual, _ODD_LEAST if logs else 0.0)
    return Departures(np.exp(expected) if logs else expected, residual, bound)


def cleaned(values: Values, season: int) -> Values:
    """Replace outliers, values far from their expectation, with the expectation.

    Otherwise a holiday or an outage in the last days would count as a new level.
    """
    found = departures(values, season)
    if found is None or found.bound == 0:
        return values
    return np.where(np.abs(found.residual) > found.bound, found.expected, values)


def _medians(values: Values, reach: int, stride: int) -> Values:
    """Return, for each value, the median of those up to `reach` strides before and after it that exist."""
    margin = np.full(reach * stride, np.nan)
    padded = np.concatenate([margin, values, margin])
    shifts = [padded[shift * stride : shift * stride + len(values)] for shift in range(2 * reach + 1)]
    return np.asarray(np.nanmedian(shifts, axis=0), dtype=np.float64)


def _filled(values: Values, season: int) -> Values:
    missing = np.isnan(values)
    if not missing.any():
        return values
    at = np.arange(len(values))
    filled = np.interp(at, at[~missing], values[~missing])
    if season > 1:
        for place in range(season):
            same = at[at % season == place]
            known = same[~missing[same]]
            gaps = same[missing[same]]
            if len(known) > 1:
                filled[gaps] = np.interp(gaps, known, values[known])
    return filled


def _step(index: "pd.Index[Any]") -> str:
    if isinstance(index, pd.PeriodIndex):
        index = index.to_timestamp()
    if not isinstance(index, pd.DatetimeIndex):
        return ""
    if len(index) == 1:  # days are assumed
        return "D"
    days = float(np.median(np.diff(index.to_numpy()) / np.timedelta64(1, "D")))
    return next((step for step, least, most in _STEP_DAYS if least <= days <= most), "")


def _on_calendar(series: "pd.Series[float]", step: str) -> "pd.Series[float]":
    """Put each value on its step of the calendar; a step without a value is a gap."""
    first = cast("pd.Timestamp", series.index[0])
    if step in "DW":
        count = round((series.index[-1] - first) / pd.Timedelta(days=_SEASONS["D"] if step == "W" else 1)) + 1
        whole = pd.DatetimeIndex([_stepped(first, step, number) for number in range(count)])
        return series.reindex(whole)
    zone = first.tz
    months = series.index.tz_localize(None).to_period(step)  # type: ignore[attr-defined]  # a DatetimeIndex by now
    whole_months = pd.period_range(months[0], months[-1], freq=step)
    by_month = pd.Series(series.to_numpy(), months).groupby(level=0).last().reindex(whole_months)
    by_month.index = pd.DatetimeIndex([_stepped(first, step, number) for number in range(len(whole_months))], tz=zone)
    return by_month


def _stepped(start: pd.Timestamp, step: str, count: int) -> pd.Timestamp:
    if step in {"D", "W", ""}:
        return start + pd.DateOffset(days=count * (7 if step == "W" else 1))
    months = count * {"M": 1, "Q": 3, "Y": 12}[step]
    moved = start + pd.DateOffset(months=months)
    return moved + pd.offsets.MonthEnd(0) if start.is_month_end else moved
