"""Compute the bands of sums of days by split conformal prediction, calibrated on public and made-up series.

The error of a sum is measured in a unit that the history and the forecasts give, in which the errors of very different
series are alike, so that the quantiles of some hold for others (Lei and others, 2018). Bounds of single days cannot be
summed, as their errors are correlated. The unit has three parts that add up as independent errors do: a minimum, the
error of repeating the last week for sums over as many days in the history, and the spread of the members.

Without one of them, 80 % bands score 3, 4 and 4 % worse by the interval score, 95 % ones 8, 2 and 13 %. A part
for what recurs monthly was worth 1 % at most, and is not here.
"""

import math
from typing import Final

import numpy as np

from reelkeeper.rules.forecast.series import WEEK, Values

_LEAST, _REPEATED, _APART = 0.028, 0.8, 0.4  # the weights of the parts, as log ratios
_SHORT: Final = 0.1  # the minimum of a history of less than four weeks, which may lack a monthly job
_WIDEST: Final = 10  # times
_TRIES_A_STEP, _MOST_TRIES = 4, 364  # histories this many times a sum; days measured
# Quantiles of errors in this unit, at so many percent: 3,300 forecasts of bench/forecasts.py's months, drawn with seeds
# 9601, 8102 and 8103, from 15 days before a month to its 20th day.
_LEVELS: Final = (0, 20, 40, 60, 80, 90, 95, 98, 99)
_QUANTILES: Final = (0.0, 0.19, 0.42, 0.69, 1.17, 1.62, 2.08, 2.59, 3.47)


def quantile(level: float) -> float:
    """Return the quantile of errors at `level` percent, in units."""
    return float(np.interp(level, _LEVELS, _QUANTILES))


def unit(values: Values, sums: Values, span: tuple[int, int]) -> float:
    """Return the unit of the log error of a sum over the steps from `span[0]` up to `span[1]`.

    `sums` are the members' forecasts of it.
    """
    middle = float(np.median(sums))
    apart = math.log(max(float(sums.max()), middle) / max(float(sums.min()), middle / 1000)) if middle > 0 else 1.0
    repeated = min(_repeated_error(values, *span), 10.0)
    least = _LEAST if len(values) >= 4 * WEEK else _SHORT
    return min(math.hypot(least, _REPEATED * repeated, _APART * apart), _widest(values, middle, span))


def _widest(values: Values, middle: float, span: tuple[int, int]) -> float:
    """Return the unit by which the bound of 95 % is a multiple of what as many days ever were, and of the forecast.

    After an import of a million usual days, errors would reach as far again: to more than any account has.
    """
    if middle <= 0:
        return math.inf
    steps = max(1, span[1] - span[0])
    days = min(steps, len(values))
    largest = float(np.convolve(values, np.ones(days), "valid").max()) * steps / days
    return math.log(_WIDEST * max(largest, middle) / middle) / quantile(95)


def _repeated_error(values: Values, start: int, stop: int) -> float:
    """Return the mean log error, without its bias, of sums over steps `start` to `stop` if the last week is repeated.

    It is measured at each step of the history. A short history measures nearer sums; errors grow as a random walk's do.
    """
    near = min(stop, (len(values) - WEEK) // _TRIES_A_STEP)
    if near < 1:
        noise = _movement(values) / max(float(np.mean(np.abs(values[-4 * WEEK :]))), 1e-12)
        return noise * math.pow(max(1, stop - start), -0.25)
    steps = np.arange(max(0, near - (stop - start)), near)
    origins = np.arange(WEEK, len(values) - near + 1)[-_MOST_TRIES:, np.newaxis]
    predicted, actual = (values[at].sum(axis=1) for at in (origins - WEEK + steps % WEEK, origins + steps))
    positive = (predicted > 0) & (actual > 0)
    if not positive.any():
        return 1.0
    errors = np.log(actual[positive] / predicted[positive])
    return float(np.mean(np.abs(errors - np.median(errors)))) * math.sqrt(stop / near)


def _movement(values: Values) -> float:
    """Return the geometric mean of the usual change over a day and over a week; it is never 0 for few values."""
    step = float(np.mean(np.abs(np.diff(values)))) if len(values) > 1 else 0.0
    over = float(np.mean(np.abs(values[WEEK:] - values[:-WEEK]))) if len(values) > WEEK else step
    unseen = float(np.mean(np.abs(values))) / (2 * len(values))  # a minimum, as few values may not show any change
    return max(unseen, math.sqrt(max(step, over / 4) * max(over, step / 4)))
