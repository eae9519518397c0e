"""Controllers of concurrency to compare: ours, the source document's, and two well-known ones."""

import math
from collections.abc import Callable, Sequence
from typing import Final

from reelkeeper.rules.jobs.concurrency import ConcurrencyPolicy, Finished, Memory, next_limit
from reelkeeper.simulation.concurrency import MAX_LIMIT, Controller, Scenario

_SEED_COST_MICROUSD, _SEED_SECONDS = 20_000, 30.0  # the source document's two thresholds
_AIMD_SLOWDOWN, _AIMD_BACKOFF = 4.0, 0.9  # Netflix concurrency-limits backs off by 0.9
_GRADIENT_TOLERANCE, _GRADIENT_KEEPS, _GRADIENT_LEARNS = 1.5, 0.8, 2 / 601  # the same library's Gradient2


def ours(scenario: Scenario, policy: ConcurrencyPolicy | None = None) -> Controller:
    """Give the rule that `tune_concurrency` follows, with a memory of its own and the scenario's ceiling."""
    policy = (policy or ConcurrencyPolicy()).model_copy(
        update={"max_limit": MAX_LIMIT, "cost_ceiling_microusd": scenario.ceiling_microusd}
    )
    memory = Memory()

    def control(limit: int, finished: Sequence[Finished]) -> int:
        nonlocal memory
        step = next_limit(limit, finished, memory, policy)
        memory = step.memory
        return step.limit

    return control


def seed(_: Scenario) -> Controller:
    """Give the source document's rule: one fewer when a job costs over $0.02, else one more when it takes over 30 s."""

    def control(limit: int, finished: Sequence[Finished]) -> int:
        if _mean_cost(finished) > _SEED_COST_MICROUSD:
            return limit - 1
        return limit + 1 if sum(job.seconds for job in finished) / len(finished) > _SEED_SECONDS else limit

    return control


def aimd(scenario: Scenario) -> Controller:
    """Give additive increase and multiplicative decrease, by slowdown and by cost."""

    def control(limit: int, finished: Sequence[Finished]) -> int:
        over = _slowdown(finished) > _AIMD_SLOWDOWN or _mean_cost(finished) > scenario.ceiling_microusd
        return int(limit * _AIMD_BACKOFF) if over else limit + 1

    return control


def gradient2(_: Scenario) -> Controller:
    """Give Netflix's Gradient2: the limit follows the ratio of a long average of response times to the present one."""
    long = exact = 0.0

    def control(limit: int, finished: Sequence[Finished]) -> int:
        nonlocal long, exact
        exact = exact or float(limit)
        short = _slowdown(finished)
        long = short if not long else long + _GRADIENT_LEARNS * (short - long)
        gradient = min(max(_GRADIENT_TOLERANCE * long / short, 0.5), 1.0)
        exact = _GRADIENT_KEEPS * exact + (1 - _GRADIENT_KEEPS) * (exact * gradient + math.sqrt(exact))
        exact = min(exact, MAX_LIMIT)
        return round(exact)

    return control


def _mean_cost(finished: Sequence[Finished]) -> float:
    return sum(job.cost_microusd for job in finished) / len(finished)


def _slowdown(finished: Sequence[Finished]) -> float:
    return sum(job.seconds for job in finished) / sum(job.estimate_seconds for job in finished)


CONTROLLERS: Final[dict[str, Callable[[Scenario], Controller]]] = {
    "ours": ours,
    "AIMD": aimd,
    "Gradient2": gradient2,
    "seed": seed,
}
