"""Compare our concurrency limit with AIMD, Vegas and the source document's, on 28 kinds of server.

A controller is asked every 15 minutes. Regret is the useful work that is lost against the bound: the best limit at each
time, known in advance. Intervals are 95 %, over the seeds.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from statistics import fmean
from typing import Final

from bench.report import Row, interval
from bench.servers import MAX_LIMIT, SCENARIOS, STEP_JOBS, Controller, Scenario, regret
from reelkeeper.rules.jobs.concurrency import ConcurrencyPolicy, Finished, Memory, Running, follow

SEEDS: Final = (1, 2, 3)
MEAN, WORST = 8.0, 25.0  # percent of the useful work, that may be lost
_SEED_COST_MICROUSD, _SEED_SECONDS = 20_000, 30.0  # the source document's two thresholds
_AIMD_SLOWDOWN, _AIMD_BACKOFF = 4.0, 0.9  # Netflix concurrency-limits backs off by 0.9
_VEGAS_ALPHA, _VEGAS_BETA, _VEGAS_PROBES = 3, 6, 30  # the same library's Vegas
_DROPS: Final = 0.1  # share of attempts that fail, from which AIMD and Vegas take a window for one with drops


def measure() -> Iterator[Row]:
    """Return our loss by kind of server beside the best public one, and each controller's mean."""
    means: dict[str, list[list[float]]] = {name: [] for name in CONTROLLERS}
    for scenario in SCENARIOS:
        lost = {
            name: [100 * regret(scenario, make(scenario), seed=seed) for seed in SEEDS]
            for name, make in CONTROLLERS.items()
        }
        ours, best = fmean(lost["ours"]), min((fmean(lost[name]), name) for name in lost if name != "ours")
        yield Row(f"{scenario.name}: regret", ours, best[1], best[0], None, "%")
        yield Row(f"{scenario.name}: regret", ours, "promised", WORST, 1.0, "%")
        for name, of_one in lost.items():
            means[name].append(of_one)
    (ours, give_or_take), *others = (
        interval([fmean(of_seed) for of_seed in zip(*of_one, strict=True)]) for of_one in means.values()
    )
    what = f"mean of all: regret +-{give_or_take:.1f}"
    yield Row(what, ours, "promised", MEAN, 1.0, "%")
    for name, (mean, apart) in zip([*means][1:], others, strict=True):
        yield Row(what, ours, f"{name} +-{apart:.1f}", mean, 1.0, "%")


def ours(scenario: Scenario) -> Controller:
    """Return the rule that `tune_concurrency` follows, with a memory of its own and the scenario's ceiling."""
    policy = ConcurrencyPolicy().model_copy(
        update={"max_limit": MAX_LIMIT, "cost_ceiling_microusd": scenario.ceiling_microusd}
    )
    memory = Memory()

    def control(limit: int, finished: Sequence[Finished], running: Sequence[Running]) -> int:
        nonlocal memory
        step = follow(limit, finished, memory, policy, running)
        memory = step.memory
        return step.limit

    return control


Rule = Callable[[int, Sequence[Finished]], int]


def _by_window(rule: Rule) -> Controller:
    """Call a rule only where enough jobs have ended."""
    return lambda limit, finished, _: rule(limit, finished) if len(finished) >= STEP_JOBS else limit


def seed(_: Scenario) -> Controller:
    """Return the source document's rule: one fewer when a job costs over $0.02, else one more above 30 s."""

    def control(limit: int, finished: Sequence[Finished]) -> int:
        if _mean_cost(finished) > _SEED_COST_MICROUSD:
            return limit - 1
        return limit + 1 if sum(job.seconds for job in finished) / len(finished) > _SEED_SECONDS else limit

    return _by_window(control)


def aimd(scenario: Scenario) -> Controller:
    """Return additive increase and multiplicative decrease, by slowdown, by cost and by failures."""

    def control(limit: int, finished: Sequence[Finished]) -> int:
        dear = _mean_cost(finished) > scenario.ceiling_microusd
        over = _slowdown(finished) > _AIMD_SLOWDOWN or dear or _drops(finished)
        return int(limit * _AIMD_BACKOFF) if over else limit + 1

    return _by_window(control)


def vegas(_: Scenario) -> Controller:
    """Return Netflix's Vegas: of those that run, as many queue as the excess over the least response time says.

    A short queue lets the limit grow, a long one or failures let it shrink, by the digits of the limit; the least time
    is found anew from time to time. Source: github.com/Netflix/concurrency-limits, VegasLimit.
    """
    least = exact = probed = 0.0

    def control(limit: int, finished: Sequence[Finished]) -> int:
        nonlocal least, exact, probed
        exact, now, probed = exact or float(limit), _slowdown(finished), probed + len(finished)
        if not least or now < least or probed > _VEGAS_PROBES * exact:
            least, probed = now, 0.0
            return round(exact)
        step, queue = max(1, int(math.log10(exact))), math.ceil(exact * (1 - least / now))
        if _drops(finished) or queue > _VEGAS_BETA * step:
            exact -= step
        elif 2 * max(job.concurrency for job in finished) >= exact and queue < _VEGAS_ALPHA * step:
            exact += _VEGAS_BETA * step if queue <= step else step
        exact = min(max(exact, 1.0), MAX_LIMIT)
        return round(exact)

    return _by_window(control)


def _mean_cost(finished: Sequence[Finished]) -> float:
    return sum(job.cost_microusd for job in finished) / len(finished)


def _slowdown(finished: Sequence[Finished]) -> float:
    return sum(job.seconds for job in finished) / sum(job.estimate_seconds for job in finished)


def _drops(finished: Sequence[Finished]) -> bool:
    return sum(job.made for job in finished) < (1 - _DROPS) * sum(job.attempts for job in finished)


CONTROLLERS: Final[dict[str, Callable[[Scenario], Controller]]] = {
    "ours": ours,
    "AIMD": aimd,
    "Vegas": vegas,
    "seed": seed,
}
