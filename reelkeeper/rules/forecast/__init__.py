"""Forecast a series, with intervals whose coverage is calibrated.

    >>> forecast(daily_bytes, horizon=30).interval(80)

`forecast` is for one series. `month` sums days to months, `storage` and `costs` turn usage into a bill.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from reelkeeper.rules.forecast import bands
from reelkeeper.rules.forecast.ensemble import fan
from reelkeeper.rules.forecast.series import regular

__all__ = ["LEVELS", "Forecast", "forecast"]

LEVELS: Final = (80, 95)  # percent


@dataclass(frozen=True, slots=True)
class Forecast:
    """The forecast steps after a history: `mean` is the expectation of each, `method` names how it was made.

    `intervals` has a frame for each requested level: columns lower and upper, a row for each step.
    """

    mean: "pd.Series[float]"
    method: str
    intervals: dict[float, pd.DataFrame]

    def interval(self, level: float) -> pd.DataFrame:
        """Return the bounds that contain `level` percent of outcomes. Raises KeyError for a level not requested."""
        return self.intervals[level]


def forecast(history: "pd.Series[float]", horizon: int, levels: Sequence[float] = LEVELS) -> Forecast:
    """Forecast the `horizon` steps that follow `history`: a daily, weekly, monthly, quarterly or yearly series.

    Its index is a DatetimeIndex or a PeriodIndex; without a calendar, steps have no season. Missing steps and NaN are
    gaps, and filled. A series that is never negative is not forecast to be negative. Any history has a result, however
    short or constant, and its method names what could not be used; without any value, it is NaN: unknown, not zero.
    Raises ValueError for a horizon below 1, a level that is not a percentage, or a step with two values.
    """
    if horizon < 1:
        raise ValueError(f"a horizon of {horizon} steps: at least 1 is needed")
    if odd := [level for level in levels if not 1 <= level < 100]:  # noqa: PLR2004  percent
        raise ValueError(f"a level of {odd[0]}: it is percent, at least 1 and below 100, such as 80")
    known = regular(history)
    ahead = known.ahead(horizon)
    if not len(known.amounts):
        unknown = pd.Series(np.full(horizon, np.nan), ahead, name="mean")
        empty = pd.DataFrame({"lower": unknown, "upper": unknown})
        return Forecast(unknown, "none: there is no history", dict.fromkeys(levels, empty))

    made = fan(known.amounts, known.season, horizon)
    scale = bands.step_scale(known.amounts, known.season, made.paths) * bands.own_factor(known.amounts, known.season)
    least = 0.0 if known.amounts.min() >= 0 else -np.inf
    intervals = {}
    for level in levels:
        reach = scale * bands.step_quantiles(len(known.amounts), known.season, horizon, level)
        bounds = {"lower": np.maximum(made.middle - reach, least), "upper": made.middle + reach}
        intervals[level] = pd.DataFrame(bounds, index=ahead)
    method = f"{made.method}; {known.gaps} gaps filled" if known.gaps else made.method
    return Forecast(pd.Series(made.middle, ahead, name="mean"), method, intervals)
