"""Benchmark forecasts on public series: month totals, bands, the storage bill, M3, and statsforecast's AutoETS.

Month totals: daily series, histories of 28 to 730 days, rolling origins at day 0, 10 and 20; once unchanged, and once
with added growth of 0.1 to 1.2 % a day, and in half of these a level shift; `monthly` has those with a monthly job.
The coverage of bands is measured family by family, with quantiles of the other families.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Final

import numpy as np
import pandas as pd

from bench.report import Row
from bench.series import competition, monthly
from bench.series.forecasters import ForecastRequest, auto_ets, ours
from bench.series.load import HORIZON, Task, tasks
from reelkeeper.rules.billing.pricing import gb_months
from reelkeeper.rules.forecast import bands, forecast
from reelkeeper.rules.forecast.ensemble import Fan
from reelkeeper.rules.forecast.lines import storage_usd
from reelkeeper.rules.forecast.members import profile_level
from reelkeeper.rules.forecast.series import Values
from reelkeeper.rules.forecast.storage import Stock, daily_peaks

HISTORIES: Final = (28, 60, 180, 730)
DAYS: Final = (0, 10, 20)
LIMITS: Final = {"flat": (5.0, 3.0, 1.8), "growth": (9.0, 5.5, 2.3)}  # percent of the month's total, by origin
STORAGE_LIMITS: Final = (5.0, 1.5, 0.7)
PEER_EVERY: Final = 5
RETENTION_DAYS: Final = 30
GB_A_DAY: Final = 70  # of uploads: a large tenant, far beyond the free allowance
RATE_DAYS: Final = 30

Made = tuple[Task, Fan]


def measure() -> Iterator[Row]:
    """Measure everything; forecasts of an earlier run by the same code are taken from disk."""
    yield _two_years()
    yield competition.smooth()
    drawn = tasks(HISTORIES, DAYS, 1, "bench")
    asked: list[ForecastRequest] = [(task.history, 7, HORIZON) for task in drawn]
    made = [(task, found) for task, (found, _) in zip(drawn, ours(asked), strict=True)]
    for rows in (_totals(made), _covered(made), _storage(made), monthly.rows(), competition.rows(), _peer(made, asked)):
        yield from rows


def _totals(made: Sequence[Made]) -> Iterator[Row]:
    for kind, limits in LIMITS.items():
        for day, limit in zip(DAYS, limits, strict=True):
            some = [(task, found) for task, found in made if (task.kind, task.day) == (kind, day)]
            error = _error(some, lambda task, found: float(found.middle[: task.rest].sum()))
            what = f"month total, {kind}, day {day}, {len(some)} tasks: error, to its limit"
            yield Row(what, error, limit, error / limit, 1.0, "%")
    rivals: tuple[tuple[str, str, Callable[[Task, Fan], float], float | None], ...] = (
        ("growth", "the run rate's", _run_rate, 0.5),
        ("flat", "the weekday profile's", _profile, 1.1),
        ("flat", "the run rate's", _run_rate, None),
    )
    for kind, what, rival, most in rivals:
        some = [(task, found) for task, found in made if task.kind == kind]
        error, other = _error(some, lambda task, found: float(found.middle[: task.rest].sum())), _error(some, rival)
        yield Row(f"month total, {kind}, all days: error, to {what}", error, other, error / other, most, "%")


def _run_rate(task: Task, _found: Fan) -> float:
    return float(task.history[-RATE_DAYS:].mean()) * task.rest


def _profile(task: Task, _found: Fan) -> float:
    return float(profile_level(task.history, 7, task.rest).sum())


def _error(made: Sequence[Made], rest: Callable[[Task, Fan], float]) -> float:
    """Return the mean error of the month's total, in percent of the actual total."""
    errors = []
    for task, found in made:
        actual = float(task.actual[: task.rest].sum())
        errors.append(abs(rest(task, found) - actual) / (task.so_far + actual))
    return 100 * float(np.mean(errors))


def _covered(made: Sequence[Made]) -> Iterator[Row]:
    """Calibrate on all families but one, and measure the bands' coverage on that one."""
    scored = []
    for task, found in made:
        actual, expected = (float(path[: task.rest].sum()) for path in (task.actual, found.middle))
        if actual > 0 and expected > 0:
            scale = bands.sum_scale(task.history, 7, found.paths[:, : task.rest].sum(axis=1), (0, task.rest))
            scored.append((task, abs(float(np.log(actual / expected))) / scale))
    for kind in (*LIMITS, "all"):
        for level, tolerance in ((80, 4.0), (95, 2.5)):
            inside = []
            for family in sorted({task.family for task, _ in scored}):
                for day in DAYS:
                    others = [score for task, score in scored if task.family != family and task.day == day]
                    quantile = float(np.quantile(others, level / 100))
                    mine = [(task, score) for task, score in scored if (task.family, task.day) == (family, day)]
                    inside += [score <= quantile for task, score in mine if kind in (task.kind, "all")]
            share = 100 * float(np.mean(inside))
            what = f"month total, {kind}: {level} % bands cover {share:.1f} %, off by"
            yield Row(what, abs(share - level), tolerance, abs(share - level) / tolerance, 1.0, "%")


def _storage(made: Sequence[Made]) -> Iterator[Row]:
    """Treat the series as uploads that are kept for 30 days, and price the bytes stored in the month."""
    able = [(task, found) for task, found in made if len(task.history) >= RETENTION_DAYS + task.day]
    for day, limit in zip(DAYS, STORAGE_LIMITS, strict=True):
        wrong, whole = 0.0, 0.0
        for task, found in able:
            if task.day == day:
                said, became = (_storage_bill(task, path[: task.rest]) for path in (found.middle, task.actual))
                wrong, whole = wrong + abs(said - became), whole + became
        error = 100 * wrong / whole
        yield Row(f"storage bill, day {day}: error, to its limit", error, limit, error / limit, 1.0, "%")


def _storage_bill(task: Task, uploads: Values) -> float:
    bytes_a_unit = GB_A_DAY * 1e9 / task.history.mean()
    first, past = task.first.date() + timedelta(days=len(task.history)), task.history * bytes_a_unit
    alive = past[-RETENTION_DAYS:]
    leaving = {first + timedelta(days=number): round(size) for number, size in enumerate(alive)}
    ahead = daily_peaks(Stock(sum(leaving.values()), leaving, {RETENTION_DAYS: 1.0}), first, uploads * bytes_a_unit)
    known = [past[at - RETENTION_DAYS + 1 : at + 1].sum() for at in range(len(past) - task.day, len(past))]
    return storage_usd(gb_months([round(peak) for peak in (*known, *ahead)]), Decimal(0))


def _peer(made: Sequence[Made], asked: Sequence[ForecastRequest]) -> Iterator[Row]:
    few = range(0, len(made), PEER_EVERY)
    theirs = dict(zip(few, auto_ets([asked[at] for at in few]), strict=True))
    by_task = {id(made[at][0]): path for at, (path, _) in theirs.items()}
    for kind, limit in (("growth", 1.0), ("flat", None)):
        some = [made[at] for at in few if made[at][0].kind == kind]
        mine = _error(some, lambda task, found: float(found.middle[: task.rest].sum()))
        other = _error(some, lambda task, _: float(by_task[id(task)][: task.rest].sum()))
        yield Row(f"month total, {kind}, {len(some)} tasks: error, to AutoETS", mine, other, mine / other, limit, "%")
    cpu = [seconds for _, seconds in theirs.values()]
    own = [seconds for _, seconds in ours([asked[at] for at in few])]
    yield Row(
        "daily series: CPU a series, to AutoETS", float(np.mean(own)), float(np.mean(cpu)), sum(own) / sum(cpu), None
    )


def _two_years() -> Row:
    at = np.arange(730)
    history = pd.Series(1e6 * np.exp(0.002 * at) * (1 + 0.2 * (at % 7 < 5)), pd.date_range("2024-01-01", periods=730))  # noqa: PLR2004  weekdays
    forecast(history, 7)
    started = time.process_time()
    forecast(history, HORIZON)
    seconds = time.process_time() - started
    return Row("two years of days: CPU of a forecast, to its limit", seconds, 1.0, seconds, 1.0)
