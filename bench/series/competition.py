"""Benchmark the M3 competition's monthly series: accuracy against the competition's benchmark, and band coverage."""

import math
from collections.abc import Iterator
from typing import Final

import numpy as np
import pandas as pd

from bench.report import Row
from bench.series.forecasters import ForecastRequest, auto_ets, ours
from bench.series.load import exported
from reelkeeper.rules.forecast import bands, forecast
from reelkeeper.rules.forecast.series import Values

SEASON: Final = 12
PEER_EVERY: Final = 6  # the peer forecasts every sixth series, and ours are compared on the same
SMOOTH, SMOOTH_SEED, HORIZON = 60, 9301, 18
BANDS_EVERY: Final = 3  # bands need three more forecasts


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
    some = slice(None, None, BANDS_EVERY)
    factors = [bands.own_factor(train, SEASON) for train, _ in pairs[some]]
    for level, tolerance in ((80, 4.0), (95, 2.5)):
        share = _covered(pairs[some], [made.paths for made, _ in found[some]], factors, level)
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


def smooth() -> Row:
    """Draw series of 4 to 11 years with growth, season and noise of 0.3 to 2 %; measure coverage of 80 % bands."""
    rng, inside = np.random.default_rng(SMOOTH_SEED), []
    for _ in range(SMOOTH):
        length = int(rng.integers(4 * SEASON, 11 * SEASON))
        at = np.arange(length + HORIZON)
        season = rng.choice([0, 0.05, 0.15, 0.3]) * np.sin(2 * np.pi * (at / SEASON + rng.random()))
        wander = np.cumsum(rng.normal(0, rng.choice([0, 0.002]), len(at)))
        noise = rng.normal(0, rng.choice([0.003, 0.01, 0.02]), len(at))
        values = 1000 * np.exp(rng.normal(0, 0.008) * at + season + wander + noise)
        history = pd.Series(values[:length], pd.period_range("2015-01", periods=length, freq="M"))
        bounds = forecast(history, HORIZON).interval(80)
        inside.append(np.mean((bounds["lower"] <= values[length:]) & (values[length:] <= bounds["upper"])))
    share = 100 * float(np.mean(inside))
    what = f"smooth months, {SMOOTH} drawn series (seed {SMOOTH_SEED}): 80 % bands cover {share:.1f} %, off by"
    return Row(what, abs(share - 80), 5.0, abs(share - 80) / 5, None, "%")


def owa(pairs: list[tuple[Values, Values]], paths: list[Values]) -> float:
    """Return the overall weighted average of the M4 competition: sMAPE and MASE, each relative to Naive 2."""
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
    """Repeat the last value, with a season if the competition's test finds one."""
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


def _covered(pairs: list[tuple[Values, Values]], paths: list[Values], factors: list[float], level: int) -> float:
    inside = []
    for (train, test), some, own in zip(pairs, paths, factors, strict=True):
        unit = bands.step_scale(train, SEASON, some) * own
        reach = unit * bands.step_quantiles(len(train), SEASON, len(test), level)
        inside.append(np.mean(np.abs(test - np.median(some, axis=0)) <= reach))
    return 100 * float(np.mean(inside))
