"""Make several forecasts of one series, and take their median, which is robust to a single wrong one.

Daily: ETS, STL-ETS, Theta, and the weekday profile on a level and on a trend. Monthly, quarterly, yearly: ETS, STL-ETS,
Theta, damped trend. A short history has only the members that it can support, as named in `Fan.method`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from reelkeeper.rules.core.wording import many
from reelkeeper.rules.forecast import members
from reelkeeper.rules.forecast.series import Values, cleaned

_MAX_SEASONS: Final = 104  # seasons of history that are used
_WEEK: Final = 7
_NO_FASTER: Final = 3.0  # a forecast may go beyond the history by this multiple of its range

_SHORT: Final = 10  # values; fewer are not enough for smoothing

Member = Callable[[Values, int, int], Values]


class Choice(NamedTuple):
    """One member; `sees_all`: it also gets outliers, as they belong to its mean."""

    name: str
    member: Member
    sees_all: bool


@dataclass(frozen=True, slots=True)
class Fan:
    """The members' forecasts, a row each, in the order of `names`; `middle` is their median."""

    paths: Values  # members x horizon
    names: tuple[str, ...]
    method: str

    @property
    def middle(self) -> Values:
        """Return the median of the members, step by step."""
        return np.asarray(np.median(self.paths, axis=0), dtype=np.float64)


def fan(values: Values, season: int, horizon: int) -> Fan:
    """Run every member that the length of the history allows. `values` have no gaps and are not empty."""
    values = values[-_MAX_SEASONS * max(season, 2) :]
    if np.ptp(values) == 0:
        return Fan(np.full((1, horizon), values[-1]), ("constant",), "constant")
    tidy = cleaned(values, season)
    chosen, why = _choose(len(values), season)
    found: dict[str, Values] = {}
    for name, member, sees_all in chosen:
        try:
            path = member(values if sees_all else tidy, season, horizon)
        except (ValueError, ArithmeticError, np.linalg.LinAlgError, IndexError):  # the member cannot fit this series
            continue
        if np.isfinite(path).all():
            found[name] = path
    if not found:
        found, why = {"mean": np.full(horizon, values.mean())}, "mean: nothing else fits"
    reach = _NO_FASTER * np.ptp(values)
    least = 0.0 if values.min() >= 0 else values.min() - reach
    paths = np.clip(np.array(list(found.values())), least, values.max() + reach)
    return Fan(paths, tuple(found), f"{why} of {', '.join(found)}" if len(found) > 1 else why)


def _choose(length: int, season: int) -> tuple[list[Choice], str]:
    """Return the members, and the name of the choice."""
    ets, theta = _smooth("ETS", members.ets), _smooth("Theta", members.theta)
    damped = _smooth("damped trend", members.damped)
    stl = _smooth("STL-ETS", members.stl_ets)
    if season == _WEEK:
        return _choose_daily(length, [ets, theta, stl])
    if length == 1:
        return [Choice("last value", _last, sees_all=True)], "last value: there is no other"
    if length < _SHORT:
        return [Choice("last value", _last, sees_all=True), theta], f"mean: {length} values are too few for more;"
    seasonal = season > 1 and length >= 2 * season + 1
    return [ets, theta, damped, *([stl] if seasonal else [])], "median"


def _choose_daily(days: int, models: list[Choice]) -> tuple[list[Choice], str]:
    level = Choice("weekday level", members.profile_level, sees_all=True)
    if days < _WEEK:
        return [Choice("mean", _mean, sees_all=True)], f"mean: {many(days, 'day')}, too few for weekdays"
    if days < 2 * _WEEK:
        return [level], f"weekday level: {days} days are too few for a trend"
    if days < 4 * _WEEK:
        return [models[-1], level], f"mean: {days} days are too few for more;"
    return [*models, level, _smooth("weekday trend", members.profile_trend)], "median"


def _smooth(name: str, member: Member) -> Choice:
    return Choice(name, member, sees_all=False)


def _mean(values: Values, _season: int, horizon: int) -> Values:
    return np.full(horizon, values.mean())


def _last(values: Values, _season: int, horizon: int) -> Values:
    return np.full(horizon, values[-1])
