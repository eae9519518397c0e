"""Write reelkeeper/rules/forecast/quantiles.py: the quantiles of forecasts' errors on public series.

    .venv/bin/python -m bench.series.calibrate

Monthly, quarterly and yearly quantiles come from M1 and Tourism, so that M3 remains for testing. Daily ones come from
all families; `python -m bench forecasts` measures their coverage family by family, with that family left out. The rest
of a month is calibrated on months drawn as in the benchmark, with a job and without, with a separate seed.
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from bench.series import monthly
from bench.series.forecasters import ours
from bench.series.load import HORIZON, ROOT, Task, exported, tasks
from reelkeeper.rules.forecast import bands, recurring
from reelkeeper.rules.forecast.ensemble import Fan
from reelkeeper.rules.forecast.series import Values

TARGET: Final = ROOT / "reelkeeper" / "rules" / "forecast" / "quantiles.py"
LEVELS: Final = (0, 10, 20, 30, 40, 50, 60, 70, 80, 85, 90, 95, 98, 99)
DAY_STEPS: Final = (1, 2, 3, 5, 7, 10, 14, 21, 28, 35, 45, HORIZON)
SUM_STEPS: Final = (6, 11, 16, 21, 26, 31, 46, 58)  # days to a sum's end: in this month or the next
SUM_REACH: Final = 5  # days: a sum that ends this close also counts for a step
SHORT: Final = 28
OF_A_KIND: Final = 15
HISTORIES: Final = (10, 20, 28, 60, 180, 730)
DAYS: Final = (0, 10, 20)
HEAD: Final = '''"""Quantiles of forecast errors on public series, in units of their scale: bench/series/calibrate.py.

Season 12, 4 and 1: the M1 and Tourism competitions, official splits. Season 7: daily births, rides, flights, sales,
walkers, electricity, bikes, visits and stops, half of them with added growth; "short": of less than 28 days. The
rest of a month: bench/series/monthly.py, seed CALIBRATION, half of it with a monthly job.
"""

from typing import Final, TypeAlias

Table: TypeAlias = tuple[tuple[int, ...], tuple[tuple[float, ...], ...]]  # steps ahead, and a row of levels for each

'''


def step_scores(made: Fan, history: Values, actual: Values, season: int) -> Values:
    """Return the error of each step in units of its scale."""
    unit = bands.step_scale(history, season, made.paths) * bands.own_factor(history, season)
    scale = np.maximum(unit, 1e-9)
    return np.asarray(np.abs(actual - made.middle) / scale, dtype=np.float64)


def month_scores(made: Fan, task: Task) -> list[tuple[int, float]]:
    """Score the sum of the next month and, for a short history, of the rest of this one: (last step, score)."""
    found = []
    own = [(0, task.rest)] if len(task.history) < SHORT else []
    for start, stop in (*own, (task.rest, task.rest + 30)):
        sums, actual = made.paths[:, start:stop].sum(axis=1), float(task.actual[start:stop].sum())
        expected = float(made.middle[start:stop].sum())
        if stop <= HORIZON and actual > 0 and expected > 0:
            scale = bands.sum_scale(task.history, 7, sums, (start, stop))
            found.append((stop, abs(math.log(actual / expected)) / scale))
    return found


def drawn_scores() -> list[tuple[int, float]]:
    """Score the rest of each month drawn with the calibration seed: (last step, score)."""
    asked = []
    for month in monthly.months(monthly.CALIBRATION, OF_A_KIND):
        days = [stamp.date() for stamp in month.series.index]
        whole: Values = np.array(month.series, dtype=np.float64)
        for at in (month.first + day for day in monthly.DAYS):
            learnt = recurring.learn(whole[:at], days[:at], 7)
            asked.append((learnt, learnt.factors(days[at:]), whole[at:]))
    found = []
    made = ours([(learnt.values, 7, len(actual)) for learnt, _, actual in asked])
    for (learnt, factors, actual), (each, _) in zip(asked, made, strict=True):
        expected, stop = float((each.middle * factors).sum()), len(actual)
        share = 1 - float(each.middle.sum()) / expected
        scale = bands.sum_scale(learnt.values, 7, (each.paths * factors).sum(axis=1), (0, stop), share)
        found.append((stop, abs(math.log(float(actual.sum()) / expected)) / scale))
    return found


def row(scores: Iterable[float]) -> tuple[float, ...]:
    """Return the quantiles at the levels, corrected for the small number of scores."""
    ranked = np.sort(np.fromiter(scores, dtype=np.float64))
    return tuple(
        round(float(q), 3) for q in np.quantile(ranked, [min(1, v / 100 * (1 + 1 / len(ranked))) for v in LEVELS])
    )


def competition_table(season: int, steps: Sequence[int]) -> str:
    """Return the table of one season, from all competitions but M3."""
    pairs = [
        (np.array(each["train"]), np.array(each["test"]))
        for each in exported("competitions.json")
        if each["period"] == season and each["family"] != "M3"
    ]
    scores = [
        step_scores(made, history, actual, season)
        for (history, actual), (made, _) in zip(pairs, ours([(x, season, len(y)) for x, y in pairs]), strict=True)
    ]
    return shown(steps, [row(each[step - 1] for each in scores if len(each) >= step) for step in steps])


def shown(steps: Sequence[int], rows: Sequence[tuple[float, ...]]) -> str:
    """Format a table as source code."""
    return f"({tuple(steps)}, ({', '.join(str(each) for each in rows)},))"


def main() -> None:
    """Calibrate, and write the constants."""
    drawn = tasks(HISTORIES, DAYS, 1, "bench")
    daily_steps, daily_sums = {}, {}
    for key, chosen in (
        ("7", [task for task in drawn if len(task.history) >= SHORT]),
        ("7 short", [task for task in drawn if len(task.history) < SHORT]),
    ):
        made = [found for found, _ in ours([(task.history, 7, HORIZON) for task in chosen])]
        scores = [step_scores(each, task.history, task.actual, 7) for each, task in zip(made, chosen, strict=True)]
        daily_steps[key] = shown(DAY_STEPS, [row(each[step - 1] for each in scores) for step in DAY_STEPS])
        sums = [pair for each, task in zip(made, chosen, strict=True) for pair in month_scores(each, task)]
        sums += drawn_scores() if key == "7" else []
        near = [[score for stop, score in sums if abs(stop - step) <= SUM_REACH] for step in SUM_STEPS]
        daily_sums[key] = shown(SUM_STEPS, [row(each) for each in near])
    seasons = {12: (1, 2, 3, 4, 6, 8, 12, 15, 18, 24), 4: tuple(range(1, 9)), 1: tuple(range(1, 7))}
    others = {str(season): competition_table(season, steps) for season, steps in seasons.items()}
    source = [HEAD, f"LEVELS: Final = {LEVELS}  # percent\n"]
    for name, tables in (("STEPS", daily_steps | others), ("SUMS", daily_sums)):
        body = "".join(f'    "{key}": {table},\n' for key, table in tables.items())
        source.append(f"{name}: Final[dict[str, Table]] = {{\n{body}}}\n")
    Path(TARGET).write_text("\n".join(source))


if __name__ == "__main__":
    main()
