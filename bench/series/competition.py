"""The M3 competition's monthly series: accuracy beside the competition's own benchmark, and what the bands cover."""

import math
from collections.abc import Iterator
from typing import Final

import numpy as np

from bench.report import Row
from bench.series.forecasters import ForecastRequest, auto_ets, ours
from bench.series.load import exported
from reelkeeper.rules.forecast import bands
from reelkeeper.rules.forecast.series import Values

SEASON: Final = 12
PEER_EVERY: Final = 6  # the peer takes every sixth series, and ours are compared on the same


def rows() -> Iterator[Row]:
    """Measure all 1,428 series; against AutoETS, every sixth."""
    each = [item for item in exported("competitions.json") if item["family"] == "M3" and item["period"] == SEASON]
    pairs = [(np.array(item["train"]), np.array(item["test"])) for item in each]
    asked: list[ForecastRequest] = [(train, SEASON, len(test)) for train, test in pairs]
    found = ours(asked)
    cpu_seconds = sum(cpu for _, cpu in found) / len(found)
    score = owa(pairs, [made.middle for made, _ in found])
    yield Row("M3 monthly, 1,428 series: OWA, to its limit", score, 0.83, score / 0.83, 1.0, "")
    yield Row("M3 monthly: CPU a series, to its limit", cpu_seconds, 0.2, cpu_seconds / 0.2, 1.0)
    for level, tolerance in ((80, 4.0), (95, 2.5)):
        share = _covered(pairs, [made.paths for made, _ in found], level)
        off = abs(share - level)
        yield Row(f"M3 monthly: {level} % bands cover {share:.1f} %, off by", off, tolerance, off / tolerance, 1.0, "%")

    few = slice(None, None, PEER_EVERY)
    theirs = auto_ets(asked[few])
    mine, other = (
        owa(pairs[few], paths) for paths in ([made.middle for made, _ in found[few]], [path for path, _ in theirs])
    )
    seconds = [sum(cpu for _, cpu in some) / len(theirs) for some in (found[few], theirs)]
    yield Row(f"M3 monthly, {len(theirs)} series: OWA, to AutoETS", mine, other, mine / other, 1.0, "")
    yield Row("M3 monthly: CPU a series, to AutoETS", seconds[0], seconds[1], seconds[0] / seconds[1], None)


def owa(pairs: list[tuple[Values, Values]], paths: list[Values]) -> float:
    """Give the overall weighted average of the M4 competition: sMAPE and MASE, each relative to Naive 2."""
    naive = [_naive2(train, len(test)) for train, test in pairs]
    theirs, mine = (
        [_errors(train, test, path) for (train, test), path in zip(pairs, some, strict=True)] for some in (naive, paths)
    )
    relative = np.mean(mine, axis=0) / np.mean(theirs, axis=0)
    return float(np.mean(relative))


def _errors(train: Values, test: Values, path: Values) -> tuple[float, float]:
    smape = float(np.mean(2 * np.abs(test - path) / (np.abs(test) + np.abs(path))))
    return smape, float(np.mean(np.abs(test - path)) / np.mean(np.abs(train[SEASON:] - train[:-SEASON])))


def _naive2(train: Values, horizon: int) -> Values:
    """Repeat the last value, with the season where the competition's test finds one."""
    if not _is_seasonal(train):
        return np.full(horizon, train[-1])
    weights = np.array([0.5, *np.ones(SEASON - 1), 0.5]) / SEASON
    half = SEASON // 2
    ratios = train[half:-half] / np.convolve(train, weights, "valid")
    places = (np.arange(len(ratios)) + half) % SEASON
    index = np.array([ratios[places == place].mean() for place in range(SEASON)])
    index /= index.mean()
    level = train[-1] / index[(len(train) - 1) % SEASON]
    return np.asarray(level * index[(len(train) + np.arange(horizon)) % SEASON], dtype=np.float64)


def _is_seasonal(train: Values) -> bool:
    centred = train - train.mean()
    total = float(centred @ centred)
    lags = [float(centred[lag:] @ centred[:-lag]) / total for lag in range(1, SEASON + 1)]
    return abs(lags[-1]) > 1.645 * math.sqrt((1 + 2 * sum(lag * lag for lag in lags[:-1])) / len(train))


def _covered(pairs: list[tuple[Values, Values]], paths: list[Values], level: int) -> float:
    inside = []
    for (train, test), some in zip(pairs, paths, strict=True):
        reach = bands.step_scale(train, SEASON, some) * bands.step_quantiles(len(train), SEASON, len(test), level)
        inside.append(np.mean(np.abs(test - np.median(some, axis=0)) <= reach))
    return 100 * float(np.mean(inside))
