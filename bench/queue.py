"""Compare the queue with other orders and the bound: five size distributions, two estimation errors, a virtual clock.

The bound is shortest job first by the true durations: without pausing jobs, no order waits less. Sizes are `wide` (ten
seconds to hours) or `narrow` (two minutes or more). All orders get the same jobs; figures are relative to first come,
first served, as means over the distributions and errors; intervals are 95 %, over the seeds.
"""

from collections.abc import Callable, Iterator
from itertools import product
from statistics import fmean
from typing import Final

from bench.report import Row
from bench.simulation import interval
from bench.simulation.queue import BLIND, COMPLEXITY, POLICIES, SIZES, Rules, Waits, arrivals, compare

SEEDS: Final = (1, 2, 3, 4)
JOBS_BY_SLOTS: Final = {8: 2_500, 32: 4_000}  # enough to contain several bursts
LOADS, ERRORS = (0.7, 0.85, 0.95), (0.3, 0.6)
BOUND: Final = "clairvoyant"
FIGURES: Final[dict[str, Callable[[Waits], float]]] = {
    "mean wait": lambda waits: waits.mean_seconds,
    "p95": lambda waits: waits.p95_seconds,
    "p99": lambda waits: waits.p99_seconds,
    "longest wait": lambda waits: waits.worst_seconds,
    "free users' mean": lambda waits: waits.by_tier["free"],
}
LIMITS: Final = {  # how many times first come first served's, where sizes are wide
    (0.85, "p95"): 0.85,
    (0.85, "longest wait"): 2.0,
    (0.95, "p95"): 1.0,
}
OF_BOUND: Final = 0.85  # of the mean wait that the bound saves, 85 % busy

Played = dict[str, list[list[Waits]]]  # by policy and seed: of every distribution and error


def measure() -> list[Row]:
    """Return each of our figures relative to first come, first served, with those of the other orders."""
    return [row for setting in product(SIZES, JOBS_BY_SLOTS, LOADS) for row in _rows(*setting)]


def _rows(sizes: str, slots: int, load: float) -> Iterator[Row]:
    played, setting = _play(sizes, slots, load), f"{sizes} sizes, {slots} slots, {load:.0%} busy"
    for what, figure in FIGURES.items():
        shares = {name: _shares(of_one, played["fifo"], figure) for name, of_one in played.items()}
        ours, give_or_take = interval(shares.pop("ours"))
        others = ", ".join(f"{name} {fmean(of_one):.2f}" for name, of_one in shares.items() if name != "fifo")
        limit = LIMITS.get((load, what)) if (sizes, slots) == ("wide", 8) else None
        yield Row(f"{setting}, {what} +-{give_or_take:.3f}; {others}", ours, 1.0, ours, limit, "of fifo's")
    saved = [1 - share for share in _shares(played["ours"], played["fifo"], FIGURES["mean wait"])]
    could = [1 - share for share in _shares(played[BOUND], played["fifo"], FIGURES["mean wait"])]
    share, give_or_take = interval([mine / most for mine, most in zip(saved, could, strict=True)])
    limit = 1.0 if (sizes, slots, load) == ("wide", 8, 0.85) else None
    title = f"{setting}, of the bound's gain in mean wait +-{give_or_take:.3f}, to its least"
    yield Row(title, share, OF_BOUND, OF_BOUND / share, limit, "of the gain")


def _play(sizes: str, slots: int, load: float) -> Played:
    found: Played = {name: [[] for _ in SEEDS] for name in (*POLICIES, "ours", BOUND)}
    chosen, count = SIZES[sizes], JOBS_BY_SLOTS[slots]
    for (place, seed), distribution in product(enumerate(SEEDS), COMPLEXITY):
        known = dict[str, Waits]()
        for error in ERRORS:
            coming = arrivals(
                distribution, seed=seed, count=count, slots=slots, load=load, error_sigma=error, sizes=chosen
            )
            waits = compare(coming, Rules(), slots=slots, loaded_seconds=chosen.loaded_seconds, known=known)
            known = {name: waits[name] for name in BLIND}
            for name, of_one in waits.items():
                found[name][place].append(of_one)
    return found


def _shares(of_one: list[list[Waits]], fifo: list[list[Waits]], figure: Callable[[Waits], float]) -> list[float]:
    """Return, for each seed, the mean of a figure divided by that of first come, first served, where that one waits."""
    return [
        fmean(figure(waits) / figure(first) for waits, first in zip(mine, theirs, strict=True) if figure(first))
        for mine, theirs in zip(of_one, fifo, strict=True)
    ]
