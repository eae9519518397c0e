"""Simulate a queue with a few slots, under several dispatch policies, on the same arrivals.

Arrivals come in bursts (a tenth of the time at three times the rate, for 20 minutes at a time). A job takes the seconds
of the source document: 120, 30 per unit of complexity, and up to 60 by how busy the slots are; or, with `wide` sizes,
ten seconds and a minute per unit.
"""

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from statistics import fmean
from types import MappingProxyType
from typing import Final, NamedTuple

from reelkeeper.model.jobs import WaitingJob
from reelkeeper.rules.core.tiers import SHIPPED, Tiers
from reelkeeper.rules.jobs.dispatch import DispatchPolicy, RankedQueue, class_bounds

EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
_BURST_SHARE, _BURST_RATE, _BURST_SECONDS = 0.1, 3.0, 1200.0
_TIERS, _TIER_WEIGHTS = SHIPPED.names, (80, 15, 5)  # of jobs that are drawn
_REMEMBERED = 500  # estimates that the size classes are drawn from,
_BOUNDS_LAST = 900.0  # and for how many seconds, as the claim does

_MAX_COMPLEXITY: Final = 100.0

COMPLEXITY: Final[dict[str, Callable[[random.Random], float]]] = {  # of mean 5 or so; the CV of 120 + 30 c beside it
    "uniform": lambda draw: draw.uniform(0, 10),  # 0.32
    "exponential": lambda draw: draw.expovariate(1 / 5),  # 0.56
    "lognormal": lambda draw: draw.lognormvariate(math.log(3), 1.1),  # 0.89
    "bimodal": lambda draw: 1.0 if draw.random() < 0.85 else 27.5,  # noqa: PLR2004  the share of the short; 1.05
    "pareto": lambda draw: min(2.5 * (draw.paretovariate(1.5) - 1), _MAX_COMPLEXITY),  # 1.2
}


class Sizes(NamedTuple):
    """Duration of a job in seconds: the least, more per unit of complexity, and more where all slots are busy."""

    base_seconds: float
    unit_seconds: float
    loaded_seconds: float


SIZES: Final = {"narrow": Sizes(120.0, 30.0, 60.0), "wide": Sizes(10.0, 60.0, 0.0)}
NARROW: Final = SIZES["narrow"]


class Rules(NamedTuple):
    """Order of jobs, and the effect of their users' tiers on it."""

    policy: DispatchPolicy = DispatchPolicy()
    tiers: Tiers = SHIPPED


_NEVER: Final = 10**9

POLICIES: Final = {  # beside ours; "cmu" weighs size by tier, Cox and Smith, "Queues", 1961, and lets nobody age
    "fifo": Rules(DispatchPolicy(rule="fifo")),
    "seed": Rules(DispatchPolicy(rule="seed")),
    "levels": Rules(DispatchPolicy(rule="levels")),
    "cmu": Rules(DispatchPolicy(size_weight=_NEVER, user_burst=_NEVER, oldest_patience=_NEVER)),
    "shortest": Rules(
        DispatchPolicy(size_weight=_NEVER, user_burst=_NEVER, oldest_patience=_NEVER),
        Tiers({name: tier.model_copy(update={"queue_weight": 1}) for name, tier in SHIPPED.items()}),
    ),
}


BLIND: Final = ("fifo", "seed", "clairvoyant")  # that play alike however wrong the estimates are


class Arrival(NamedTuple):
    """A job, and its seconds without those that the load adds."""

    job: WaitingJob
    work_seconds: float


@dataclass(frozen=True, slots=True)
class Waits:
    """The waits of jobs under one policy, in seconds; `by_tier` has means."""

    policy: str
    mean_seconds: float
    p50_seconds: float
    p95_seconds: float
    p99_seconds: float
    worst_seconds: float
    by_tier: dict[str, float]
    makespan_seconds: float


def arrivals(
    distribution: str,
    *,
    seed: int,
    count: int = 12_000,
    slots: int = 8,
    load: float = 0.85,
    error_sigma: float = 0.0,
    sizes: Sizes = NARROW,
) -> list[Arrival]:
    """Draw jobs that keep `slots` busy for the share `load`; ln(estimate / truth) has deviation `error_sigma`."""
    draw = random.Random(seed)
    complexity = [COMPLEXITY[distribution](draw) for _ in range(count)]
    mean = sizes.base_seconds + sizes.unit_seconds * fmean(complexity) + sizes.loaded_seconds * load
    times = _bursts(draw, load * slots / mean)
    made = []
    for number, (units, at) in enumerate(zip(complexity, times, strict=False)):
        work = sizes.base_seconds + sizes.unit_seconds * units
        job = WaitingJob(
            id=f"{number:06}",
            user_id=f"u{draw.randrange(2000)}",
            tier=draw.choices(_TIERS, _TIER_WEIGHTS)[0],
            submitted_at=EPOCH + timedelta(seconds=at),
            estimate_seconds=(work + sizes.loaded_seconds * load) * math.exp(draw.gauss(0, error_sigma)),
            prompt_characters=int(60 + 40 * units * draw.uniform(0.5, 1.5)),
        )
        made.append(Arrival(job, work))
    return made


def _bursts(draw: random.Random, rate: float) -> Iterator[float]:
    """Give arrival times of mean `rate` per second, a tenth of the time three times as dense as else."""
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
    """Give the same jobs with true estimates: without preemption, no order waits less than `shortest` on them."""
    return [arrival._replace(job=arrival.job._replace(estimate_seconds=arrival.work_seconds)) for arrival in coming]


def run(
    coming: Sequence[Arrival],
    rules: Rules,
    *,
    slots: int = 8,
    setup_seconds: float = 0.0,
    loaded_seconds: float = NARROW.loaded_seconds,
) -> Waits:
    """Play `coming`, in order of arrival, through `slots` that never idle while a job waits.

    A slot that changes its model first takes `setup_seconds`. A full system adds `loaded_seconds` to each job.
    """
    queue = _Queue(coming, rules, slots, setup_seconds, loaded_seconds)
    queue.play()
    waits = sorted(queue.waits.values())
    tiers: dict[str, list[float]] = {tier: [] for tier in rules.tiers.names}
    for arrival in coming:
        tiers.setdefault(arrival.job.tier or "", []).append(queue.waits[arrival.job.id])
    return Waits(
        policy=rules.policy.rule,
        mean_seconds=fmean(waits),
        p50_seconds=waits[len(waits) // 2],
        p95_seconds=waits[int(len(waits) * 0.95)],
        p99_seconds=waits[int(len(waits) * 0.99)],
        worst_seconds=waits[-1],
        by_tier={tier: fmean(found) for tier, found in tiers.items() if found},
        makespan_seconds=queue.ended,
    )


def compare(
    coming: Sequence[Arrival],
    ours: Rules,
    *,
    slots: int,
    loaded_seconds: float,
    known: Mapping[str, Waits] = MappingProxyType({}),
) -> dict[str, Waits]:
    """Play the same jobs under `POLICIES`, under `ours`, and as the bound, `clairvoyant`; return the waits by name.

    Those that are `known` are not played again.
    """
    runs = {name: (coming, rules) for name, rules in (POLICIES | {"ours": ours}).items()}
    runs["clairvoyant"] = (clairvoyant(coming), POLICIES["shortest"])
    play = partial(run, slots=slots, loaded_seconds=loaded_seconds)
    return {name: known.get(name) or play(*load_and_rules) for name, load_and_rules in runs.items()}


class _Queue:
    """Slots, the jobs that wait for them, and the clock."""

    def __init__(
        self,
        coming: Sequence[Arrival],
        rules: Rules,
        slots: int,
        setup_seconds: float,
        loaded_seconds: float,
    ) -> None:
        self.coming, self.rules, self.slots = coming, rules, slots
        self.setup_seconds, self.loaded_seconds = setup_seconds, loaded_seconds
        self.waiting: dict[str, Arrival] = {}
        self.busy: list[tuple[float, str]] = []  # when a slot is free again, and with which model loaded
        self.cold = slots  # slots that never had a model
        self.free: list[str] = []  # the models of the free ones
        self.seen: deque[float] = deque(maxlen=_REMEMBERED)
        self.waits: dict[str, float] = {}
        self.credit_seconds = self.ended = self.bounds_until = 0.0
        self.line = self._ranked(0.0)

    def play(self) -> None:
        """Take each arrival and each end in the order of time."""
        for arrival in self.coming:
            job = arrival.job
            at = (job.submitted_at - EPOCH).total_seconds()
            self._finish(at)
            self.waiting[job.id] = arrival
            self.seen.append(job.estimate_seconds)
            self.line.go_on(job.submitted_at, [job])
            self._fill(at)
        self._finish(math.inf)

    def _finish(self, until: float) -> None:
        while self.busy and self.busy[0][0] <= until:
            self.ended, model = heapq.heappop(self.busy)
            self.free.append(model)
            if self.waiting:
                self.line.go_on(EPOCH + timedelta(seconds=self.ended))
                self._fill(self.ended)

    def _fill(self, at: float) -> None:
        while self.waiting and len(self.busy) < self.slots:
            warm = self.free.pop() if self.free else None
            if warm is None:
                self.cold -= 1
            self._start(self._next(at, warm), at, warm)

    def _next(self, at: float, warm: str | None) -> Arrival:
        if self.rules.policy.rule == "levels" and at >= self.bounds_until and len(self.waiting) > 1:
            self.line, self.bounds_until = self._ranked(at), at + _BOUNDS_LAST
        job, self.credit_seconds = self.line.first(self.credit_seconds, warm)
        self.line.start(job)
        return self.waiting.pop(job.id)

    def _ranked(self, at: float) -> RankedQueue:
        policy, tiers = self.rules
        if policy.rule == "levels":
            bounds = class_bounds(self.seen, policy.size_classes)
            policy = policy.model_copy(update={"class_bounds_seconds": bounds})
        jobs = [arrival.job for arrival in self.waiting.values()]
        return RankedQueue(jobs, policy, tiers, EPOCH + timedelta(seconds=at), slots=self.slots)

    def _start(self, arrival: Arrival, at: float, warm: str | None) -> None:
        load = (len(self.busy) + 1) / self.slots
        took = arrival.work_seconds + self.loaded_seconds * load
        if self.setup_seconds and warm != arrival.job.model:
            took += self.setup_seconds
        self.waits[arrival.job.id] = at - (arrival.job.submitted_at - EPOCH).total_seconds()
        heapq.heappush(self.busy, (at + took, arrival.job.model))
