"""The members of the ensemble. Each takes values without gaps, and forecasts `horizon` more.

ETS and STL-ETS choose their form by AICc among few (Hyndman and others, 2002), with heuristic starting values: five
times as fast as estimated ones and, in an ensemble, as good. Theta: Assimakopoulos and Nikolopoulos, 2000. Damped
trend: Gardner and McKenzie, 1985. Two need no fit, `profile_level` and `profile_trend`, for daily usage: the profile
of a week, times a constant level or one with a damped trend.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
from statsmodels.tsa.exponential_smoothing.ets import ETSModel
from statsmodels.tsa.forecasting.theta import ThetaModel
from statsmodels.tsa.seasonal import STL, seasonal_decompose

from reelkeeper.rules.forecast.series import Values

_PROFILE_CYCLES: Final = 8  # weeks for a profile
_LEVEL_CYCLES: Final = 4  # weeks for a level
_TREND_CYCLES: Final = 10  # weeks for a trend
_DAMPING: Final = 0.95  # of the trend, each week
_STEEPEST: Final = 0.35  # maximum growth per week, as a logarithm
_LEVEL_ONLY: Final[tuple[dict[str, Any], ...]] = ({}, {"trend": "add", "damped_trend": True}, {"trend": "add"})


def ets(values: Values, season: int, horizon: int) -> Values:
    """Smooth exponentially: level, trend or damped trend, with or without a season, by the lowest AICc."""
    forms: list[dict[str, Any]] = [{"error": "add", **form} for form in _LEVEL_ONLY]
    if season > 1 and len(values) >= 2 * season + 2:
        kinds = ("add", "mul") if values.min() > 0 else ("add",)
        forms = [
            {"error": kind, "seasonal": kind, "seasonal_periods": season, **form}
            for kind in kinds
            for form in _LEVEL_ONLY
        ] + forms[:1]
    return _least_aicc(values, forms, horizon)


def stl_ets(values: Values, season: int, horizon: int) -> Values:
    """Remove the season by loess (STL), smooth the rest, and add the last season back."""
    seasonal = STL(values, period=season).fit().seasonal
    forms = [{"error": "add", **form} for form in _LEVEL_ONLY]
    return _least_aicc(values - seasonal, forms, horizon) + np.resize(seasonal[-season:], horizon)


def theta(values: Values, season: int, horizon: int) -> Values:
    """Combine half the linear trend with simple smoothing, after removing the season where a test finds one."""
    seasonal = season > 1 and len(values) >= 2 * season + 1
    with _quiet():
        model = ThetaModel(values, period=season if seasonal else 1, deseasonalize=seasonal)
        return np.asarray(model.fit().forecast(horizon), dtype=np.float64)


def damped(values: Values, season: int, horizon: int) -> Values:
    """Use Holt's damped trend, after removing the season by classical decomposition."""
    adjusted, pattern, multiplicative = _adjusted(values, season)
    form = {"error": "add", "trend": "add", "damped_trend": True}
    forecast = _least_aicc(adjusted, [form], horizon)
    ahead = np.resize(np.roll(pattern, -(len(values) % season)), horizon)
    return forecast * ahead if multiplicative else forecast + ahead


def profile_level(values: Values, season: int, horizon: int) -> Values:
    """Use the mean of the last four seasons, with the profile of the last eight: a weekday keeps its share."""
    profile = _Profile(values, season)
    level = values[-_LEVEL_CYCLES * season :].mean()
    return profile.shape(np.full(horizon, level))


def profile_trend(values: Values, season: int, horizon: int) -> Values:
    """Use the same profile, on a damped median trend (Theil-Sen) through the means of the last ten seasons."""
    cycles = min(len(values) // season, _TREND_CYCLES)
    recent = values[-cycles * season :]
    profile = _Profile(values, season)
    level = recent.reshape(cycles, season).mean(axis=1)
    multiplicative = profile.multiplicative and bool(level.min() > 0)
    level = np.log(level) if multiplicative else level
    at = np.arange(cycles, dtype=np.float64)
    rise, run = np.subtract.outer(level, level), np.subtract.outer(at, at)
    slope = float(np.median(rise[run > 0] / run[run > 0]))
    slope = max(-_STEEPEST, min(slope, _STEEPEST)) if multiplicative else slope
    last = float(np.median((level - slope * at)[-_LEVEL_CYCLES:])) + slope * (cycles - 1)
    ahead = (np.arange(1, horizon + 1) + (season - 1) / 2) / season  # in cycles after the middle of the last one
    path = last + slope * (1 - _DAMPING**ahead) / -math.log(_DAMPING)
    return profile.shape(np.exp(path) if multiplicative else path)


def _least_aicc(values: Values, forms: Sequence[dict[str, Any]], horizon: int) -> Values:
    fits = []
    with _quiet():
        for form in forms:
            try:
                fit = ETSModel(values, initialization_method="heuristic", **form).fit(disp=False)
            except (ValueError, np.linalg.LinAlgError, ZeroDivisionError):  # too few values for this form
                continue
            if math.isfinite(fit.aicc):
                fits.append(fit)
        if not fits:
            raise ValueError("no form of exponential smoothing fits")
        return np.asarray(min(fits, key=lambda fit: fit.aicc).forecast(horizon), dtype=np.float64)


def _adjusted(values: Values, season: int) -> tuple[Values, Values, bool]:
    """Return the values without their season, the season from the first value on, and whether it is a factor."""
    if season == 1 or len(values) < 2 * season + 1 or not _is_seasonal(values, season):
        return values, np.zeros(season), False
    multiplicative = bool(values.min() > 0)
    pattern = seasonal_decompose(values, model="mul" if multiplicative else "add", period=season).seasonal[:season]
    repeated = np.resize(pattern, len(values))
    return (values / repeated if multiplicative else values - repeated), pattern, multiplicative


def _is_seasonal(values: Values, season: int) -> bool:
    """Test the autocorrelation at the season's lag at 90 %, as the M4 competition's benchmarks do."""
    centred = values - values.mean()
    if (total := float(centred @ centred)) == 0 or len(values) < 3 * season:
        return False
    lags = [float(centred[lag:] @ centred[:-lag]) / total for lag in range(1, season + 1)]
    bound = 1.645 * math.sqrt((1 + 2 * sum(each * each for each in lags[:-1])) / len(values))
    return abs(lags[-1]) > bound


class _Profile:
    """The deviation of each place of the season from the level, as a factor or a difference."""

    def __init__(self, values: Values, season: int) -> None:
        cycles = min(len(values) // season, _PROFILE_CYCLES)
        recent = values[-cycles * season :].reshape(cycles, season)
        self.multiplicative = bool(recent.mean(axis=1).min() > 0 and values.min() >= 0)
        means = recent.mean(axis=1, keepdims=True)
        self.places = np.mean(recent / means if self.multiplicative else recent - means, axis=0)

    def shape(self, levels: Values) -> Values:
        places: Values = np.resize(self.places, len(levels))
        return levels * places if self.multiplicative else levels + places


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress warnings of statsmodels and numpy about a fit that did not converge: it is one of several."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield
