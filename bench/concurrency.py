"""Compare our concurrency limit with AIMD, Gradient2 and Vegas, on 28 kinds of server, with a step every 15 minutes.

Regret is the useful work that is lost against the bound: the best limit at each time, known in advance. Intervals are
95 %, over the seeds.
"""

from statistics import fmean
from typing import Final

from bench.report import Row
from bench.simulation import interval
from bench.simulation.concurrency import steer
from bench.simulation.controllers import CONTROLLERS
from bench.simulation.servers import SCENARIOS

SEEDS: Final = (1, 2, 3)
MEAN, WORST = 0.08, 0.25  # of the useful work, that may be lost


def measure() -> list[Row]:
    """Return each controller's loss by kind of server: ours and the best public one."""
    lost = {
        scenario.name: {
            name: [100 * steer(scenario, make(scenario), seed=seed).regret for seed in SEEDS]
            for name, make in CONTROLLERS.items()
        }
        for scenario in SCENARIOS
    }
    rows = []
    for server, by_name in lost.items():
        (ours, give_or_take), best = interval(by_name["ours"]), _best(by_name)
        floor = fmean(by_name[best])
        title = f"{server}: regret +-{give_or_take:.1f}, to its limit; {best} {floor:.1f}"
        rows.append(Row(title, ours, 100 * WORST, ours / (100 * WORST), 1.0, "%"))
    means = {
        name: [fmean(by_name[name][place] for by_name in lost.values()) for place in range(len(SEEDS))]
        for name in CONTROLLERS
    }
    ours, give_or_take = interval(means["ours"])
    rows.append(
        Row(f"mean of all: regret +-{give_or_take:.1f}, to its limit", ours, 100 * MEAN, ours / 100 / MEAN, 1.0, "%")
    )
    for name, of_one in means.items():
        if name != "ours":
            floor, apart = interval(of_one)
            title = f"mean of all: regret; {name}'s +-{apart:.1f}"
            rows.append(Row(title, ours, floor, ours / floor, 1.0, "%"))
    return rows


def _best(by_name: dict[str, list[float]]) -> str:
    return min((name for name in by_name if name != "ours"), key=lambda name: fmean(by_name[name]))
