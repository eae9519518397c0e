"""Compare the queue with other orders and the bound: five size distributions, two estimation errors, a virtual clock.

The bound is shortest job first by the true durations: without pausing jobs, no order waits less. Arrivals come in
bursts: a tenth of the time at three times the rate, for 20 minutes at a time. A job takes two minutes and half a minute
per unit of complexity (`narrow`), or ten seconds and a minute per unit (`wide`). All orders get the same jobs; figures
are relative to first come, first served, as means over the distributions and errors, with intervals of 95 %.
"""

import heapq
import math
import random
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import product
from statistics import fmean
from typing import Final, NamedTuple

from bench.report import Row, interval
from reelkeeper.model.jobs import WaitingJob
from reelkeeper.rules.core.tiers import SHIPPED, Tiers
from reelkeeper.rules.jobs.dispatch import DispatchPolicy, RankedQueue

SEEDS: Final = (1, 2, 3, 4)
JOBS_BY_SLOTS: Final = {8: 2_500, 32: 4_000}  # enough to contain several bursts
LOADS, ERRORS = (0.7, 0.85, 0.95), (0.3, 0.6)
BOUND: Final = "clairvoyant"
LIMITS: Final = {(0.85, "p95"): 0.85, (0.85, "longest"): 2.0, (0.95, "p95"): 1.0}  # of fifo's, where sizes are wide
OF_BOUND: Final = 0.85  # of the mean wait that the bound saves, 85 % busy
EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
_BURST_SHARE, _BURST_RATE, _BURST_SECONDS = 0.1, 3.0, 1200.0
_TIERS, _TIER_WEIGHTS = SHIPPED.names, (80, 15, 5)  # of jobs that are drawn
_MAX_COMPLEXITY: Final = 100.0

COMPLEXITY: Final[dict[str, Callable[[random.Random], float]]] = {  # of mean 5 or so; the CV of 120 + 30 c beside it
    "uniform": lambda draw: draw.uniform(0, 10),  # 0.32
    "exponential": lambda draw: draw.expovariate(1 / 5),  # 0.56
    "lognormal": lambda draw: draw.lognormvariate(math.log(3), 1.1),  # 0.89
    "bimodal": lambda draw: 1.0 if draw.random() < 0.85 else 27.5,  # noqa: PLR2004  the share of the short; 1.05
    "pareto": lambda draw: min(2.5 * (draw.paretovariate(1.5) - 1), _MAX_COMPLEXITY),  # 1.2
}


class Sizes(NamedTuple):
    """Duration of a job in seconds: the least, and more per unit of complexity."""

    base_seconds: float
    unit_seconds: float


SIZES: Final = {"narrow": Sizes(120.0, 30.0), "wide": Sizes(10.0, 60.0)}


class Rules(NamedTuple):
    """Order of jobs, and the effect of their users' tiers on it."""

    policy: DispatchPolicy = DispatchPolicy()
    tiers: Tiers = SHIPPED


_NEVER: Final = 10**9

POLICIES: Final = {  # beside ours; "cmu" weighs size by tier, Cox and Smith, "Queues", 1961, and lets nobody age
    "fifo": Rules(DispatchPolicy(rule="fifo")),
    "seed": Rules(DispatchPolicy(rule="seed")),
    "cmu": Rules(DispatchPolicy(size_weight=_NEVER, user_burst=_NEVER, oldest_patience=_NEVER)),
    "shortest": Rules(
        DispatchPolicy(size_weight=_NEVER, user_burst=_NEVER, oldest_patience=_NEVER),
        Tiers({name: tier.model_copy(update={"queue_weight": 1}) for name, tier in SHIPPED.items()}),
    ),
}


class Arrival(NamedTuple):
    """A job, and the seconds that it really takes."""

    job: WaitingJob
    work_seconds: float


class Waits(NamedTuple):
    """The waits of jobs under one policy, in seconds; `free` is the mean of the free tier's."""

    mean: float
    p95: float
    p99: float
    longest: float
    free: float


NAMES: Final = (*POLICIES, "ours", BOUND)

Played = dict[str, list[list[Waits]]]  # by policy and seed: of every distribution and error


def measure() -> Iterator[Row]:
    """Return each of our figures relative to first come, first served, with those of the other orders."""
    for sizes, slots, load in product(SIZES, JOBS_BY_SLOTS, LOADS):
        played, setting = _play(sizes, slots, load), f"{sizes} sizes, {slots} slots, {load:.0%} busy"
        is_promised = (sizes, slots) == ("wide", 8)
        for figure in Waits._fields:
            shares = {name: _shares(played, name, figure) for name in NAMES}
            ours, give_or_take = interval(shares["ours"])
            others = ", ".join(f"{name} {fmean(of_one):.2f}" for name, of_one in shares.items() if name != "ours")
            limit = LIMITS.get((load, figure)) if is_promised else None
            yield Row(f"{setting}, {figure} wait +-{give_or_take:.3f}; {others}", ours, "fifo", 1.0, limit, "of fifo's")
        mean = {name: _shares(played, name, "mean") for name in ("ours", BOUND)}
        lost, give_or_take = interval([(a - b) / (1 - b) for a, b in zip(mean["ours"], mean[BOUND], strict=True)])
        limit = 1 - OF_BOUND if is_promised and load == 0.85 else None  # noqa: PLR2004  the promise's load
        yield Row(f"{setting}, gain in mean wait that is lost +-{give_or_take:.3f}", lost, BOUND, 1.0, limit, "of its")


def _play(sizes: str, slots: int, load: float) -> Played:
    found: Played = {name: [[] for _ in SEEDS] for name in NAMES}
    count = JOBS_BY_SLOTS[slots]
    for (place, seed), distribution, error in product(enumerate(SEEDS), COMPLEXITY, ERRORS):
        coming = arrivals(distribution, SIZES[sizes], seed=seed, count=count, slots=slots, load=load, error_sigma=error)
        runs = {name: (coming, rules) for name, rules in (POLICIES | {"ours": Rules()}).items()}
        runs[BOUND] = (clairvoyant(coming), POLICIES["shortest"])
        for name, (jobs, rules) in runs.items():
            found[name][place].append(run(jobs, rules, slots))
    return found


def _shares(played: Played, name: str, figure: str) -> list[float]:
    """Return, for each seed, the mean of a figure divided by that of first come, first served, where that one waits."""
    return [
        fmean(getattr(a, figure) / getattr(b, figure) for a, b in zip(mine, theirs, strict=True) if getattr(b, figure))
        for mine, theirs in zip(played[name], played["fifo"], strict=True)
    ]


def arrivals(
    distribution: str, sizes: Sizes, *, seed: int, count: int, slots: int, load: float, error_sigma: float
) -> list[Arrival]:
    """Draw jobs that keep `slots` busy for the share `load`; ln(estimate / truth) has deviation `error_sigma`."""
    draw = random.Random(seed)
    complexity = [COMPLEXITY[distribution](draw) for _ in range(count)]
    mean = sizes.base_seconds + sizes.unit_seconds * fmean(complexity)
    times = _bursts(draw, load * slots / mean)
    made = []
    for number, (units, at) in enumerate(zip(complexity, times, strict=False)):
        work = sizes.base_seconds + sizes.unit_seconds * units
        job = WaitingJob(
            id=f"{number:06}",
            user_id=f"u{draw.randrange(2000)}",
            tier=draw.choices(_TIERS, _TIER_WEIGHTS)[0],
            submitted_at=EPOCH + timedelta(seconds=at),
            estimate_seconds=work * math.exp(draw.gauss(0, error_sigma)),
            prompt_characters=int(60 + 40 * units * draw.uniform(0.5, 1.5)),
        )
        made.append(Arrival(job, work))
    return made


def _bursts(draw: random.Random, rate: float) -> Iterator[float]:
    """Return arrival times of mean `rate` per second, a tenth of the time three times as dense as otherwise."""
    calm = rate / (1 - _BURST_SHARE + _BURST_SHARE * _BURST_RATE)
    quiet_seconds = _BURST_SECONDS * (1 - _BURST_SHARE) / _BURST_SHARE
    now, bursting = 0.0, False
    until = draw.expovariate(1 / quiet_seconds)
    while True:
        step = draw.expovariate(calm * (_BURST_RATE if bursting else 1))
        if now + step > until:
            now, bursting = until, not bursting
            until = now + draw.expovariate(1 / (_BURST_SECONDS if bursting else quiet_seconds))
            continue
        now += step
        yield now


def clairvoyant(coming: Sequence[Arrival]) -> list[Arrival]:
    """Return the same jobs with true estimates: without preemption, no order waits less than `shortest` on them."""
    return [arrival._replace(job=arrival.job._replace(estimate_seconds=arrival.work_seconds)) for arrival in coming]


def run(coming: Sequence[Arrival], rules: Rules, slots: int) -> Waits:
    """Play `coming`, in order of arrival, through `slots` that never idle while a job waits."""
    queue = _Queue(coming, rules, slots)
    queue.play()
    waits = sorted(queue.waits.values())
    free = fmean(queue.waits[arrival.job.id] for arrival in coming if arrival.job.tier == "free")
    return Waits(fmean(waits), waits[int(len(waits) * 0.95)], waits[int(len(waits) * 0.99)], waits[-1], free)


class _Queue:
    """Slots, the jobs that wait for them, and the clock."""

    def __init__(self, coming: Sequence[Arrival], rules: Rules, slots: int) -> None:
        self.coming, self.slots = coming, slots
        self.waiting: dict[str, Arrival] = {}
        self.busy: list[float] = []  # when a slot is free again
        self.waits: dict[str, float] = {}
        self.credit_seconds = 0.0
        self.line = RankedQueue([], rules.policy, rules.tiers, EPOCH, slots=slots)

    def play(self) -> None:
        """Take each arrival and each end in the order of time."""
        for arrival in self.coming:
            job = arrival.job
            at = (job.submitted_at - EPOCH).total_seconds()
            self._finish(at)
            self.waiting[job.id] = arrival
            self.line.go_on(job.submitted_at, [job])
            self._fill(at)
        self._finish(math.inf)

    def _finish(self, until: float) -> None:
        while self.busy and self.busy[0] <= until:
            ended = heapq.heappop(self.busy)
            if self.waiting:
                self.line.go_on(EPOCH + timedelta(seconds=ended))
                self._fill(ended)

    def _fill(self, at: float) -> None:
        while self.waiting and len(self.busy) < self.slots:
            job, self.credit_seconds = self.line.first(self.credit_seconds, None)
            self.line.start(job)
            arrival = self.waiting.pop(job.id)
            self.waits[job.id] = at - (job.submitted_at - EPOCH).total_seconds()
            heapq.heappush(self.busy, at + arrival.work_seconds)
