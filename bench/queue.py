"""The queue beside other orders and the bound: five size distributions, two errors of estimates, a virtual clock.

The bound is shortest job first by what jobs will really take: no order of jobs that are not paused waits less.
"""

from collections.abc import Callable
from itertools import product
from statistics import fmean

from bench.report import Row
from reelkeeper.simulation.queue import COMPLEXITY, POLICIES, Rules, Waits, arrivals, clairvoyant, run

SEEDS, JOBS, SLOTS, ERRORS = (1, 2), 2_500, 8, (0.3, 0.6)
FIGURES: dict[str, tuple[Callable[[Waits], float], float]] = {  # and how many times first come first served's it may be
    "mean wait": (lambda waits: waits.mean_seconds, 0.75),
    "p95": (lambda waits: waits.p95_seconds, 1.4),
    "longest wait": (lambda waits: waits.worst_seconds, 2.2),
}


def measure() -> list[Row]:
    """Return mean, 95th percentile and longest wait at 85 and 95 % load, relative to first come first served."""
    return [row for load in (0.85, 0.95) for row in _rows(load)]


def _rows(load: float) -> list[Row]:
    found: dict[str, list[Waits]] = {name: [] for name in (*POLICIES, "ours", "clairvoyant")}
    for distribution, error, seed in product(COMPLEXITY, ERRORS, SEEDS):
        coming = arrivals(distribution, seed=seed, count=JOBS, slots=SLOTS, load=load, error_sigma=error)
        for name, policy in (POLICIES | {"ours": Rules()}).items():
            found[name].append(run(coming, policy, slots=SLOTS))
        found["clairvoyant"].append(run(clairvoyant(coming), POLICIES["shortest"], slots=SLOTS))
    rows = []
    for what, (figure, limit) in FIGURES.items():
        shares = {
            name: fmean(figure(waits) / figure(fifo) for waits, fifo in zip(of_one, found["fifo"], strict=True))
            for name, of_one in found.items()
        }
        for name, share in shares.items():
            if name != "ours":
                promised = limit if name == "fifo" else None
                title = f"{load:.0%} busy, {what}; floor: {name}"
                rows.append(Row(title, shares["ours"], share, shares["ours"] / share, promised, "of fifo's"))
    return rows
