"""A server that many jobs share, and a controller that says how many at once.

All running jobs progress alike (processor sharing), each at `speedup(n) / n` of an idle server's pace where n run.
There is always more work, so that the limit decides alone; a lowered limit lets running jobs finish. A control step
comes every 15 minutes in which at least ten jobs finished, as `tune_concurrency` has it.
"""

import heapq
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from reelkeeper.rules.jobs.concurrency import Finished

Speedup = Callable[[int], float]
Controller = Callable[[int, Sequence[Finished]], int]

HOURS = 40
STEP_SECONDS, STEP_JOBS = 900.0, 10
FIXED_MICROUSD, SLOT_MICROUSD_PER_SECOND = 5_000, 20.0  # of a job: what it costs at all, and per second of its slot
_SIZE_CV, _ESTIMATE_SIGMA = 0.5, 0.2
MAX_LIMIT = 200


def usl(contention: float, coherence: float) -> Speedup:
    """Gunther's Universal Scalability Law: n / (1 + a (n - 1) + b n (n - 1))."""
    return lambda n: n / (1 + contention * (n - 1) + coherence * n * (n - 1))


def knee(most: int) -> Speedup:
    """As many as `most` run side by side, and more only share."""
    return lambda n: float(min(n, most))


def collapse(start: int, scale: float) -> Speedup:
    """Beyond `start` each further job costs all of them: throughput falls by e every `scale` jobs."""
    return lambda n: float(n) if n <= start else start * math.exp(-(n - start) / scale)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A server, where its controller starts, and what a job may cost on average."""

    name: str
    speedup: Speedup
    start_limit: int = 4
    ceiling_microusd: int = 20_000
    alone_seconds: float = 150.0
    later: Speedup | None = None  # from half time on

    def cost_microusd(self, n: int, speedup: Speedup) -> float:
        """Give what a mean job costs where `n` run: its fixed part, and its slot for as long as it takes."""
        return FIXED_MICROUSD + SLOT_MICROUSD_PER_SECOND * self.alone_seconds * n / speedup(n)

    def best(self, speedup: Speedup) -> int:
        """Give the concurrency of the highest throughput within the ceiling."""
        allowed = [n for n in range(1, MAX_LIMIT + 1) if self.cost_microusd(n, speedup) <= self.ceiling_microusd]
        return max(allowed or [1], key=speedup)


SCENARIOS: Final = (
    Scenario("ceiling loose", usl(0.03, 0.0008)),
    Scenario("ceiling binds", usl(0.03, 0.0008), ceiling_microusd=11_000),
    Scenario("capacity drops", usl(0.03, 0.0008), later=usl(0.06, 0.0032)),
    Scenario("starts at 120", usl(0.03, 0.0008), start_limit=120),
    Scenario("quick API", usl(0.03, 0.0008), alone_seconds=8.0),
    Scenario("hard knee at 20", knee(20)),
    Scenario("knee at 60", knee(60)),
    Scenario("collapse after 15", collapse(15, 20)),
    Scenario("contended", usl(0.10, 0.004)),
    Scenario("scales well", usl(0.005, 0.0001)),
    Scenario("collapse, starts at 80", collapse(15, 30), start_limit=80),
    Scenario("collapse, ceiling binds", collapse(15, 20), ceiling_microusd=10_000),
)


@dataclass(frozen=True, slots=True)
class Steering:
    """What a controller made of a scenario. Regret is goodput lost against the best feasible limit, of 1."""

    scenario: str
    regret: float
    over_ceiling: float  # share of the time
    last_limit: int
    late_regret: float  # in the last quarter
    limits: tuple[int, ...]


def steer(scenario: Scenario, controller: Controller, *, seed: int) -> Steering:
    """Let `controller` choose the limit, from what finished since it was last asked, for 40 hours."""
    server = _Server(scenario, random.Random(seed))  # noqa: S311  a simulation is repeated by its seed
    limits = [scenario.start_limit]
    total = HOURS * 3600.0
    while server.now < total:
        server.advance(min(server.now + STEP_SECONDS, total), limits[-1])
        if len(server.finished) >= STEP_JOBS:
            limits.append(min(max(controller(limits[-1], server.finished), 1), MAX_LIMIT))
            server.finished = []
    return Steering(
        scenario.name,
        1 - server.good / server.possible,
        server.over_seconds / total,
        limits[-1],
        1 - server.late_good / server.late_possible,
        tuple(limits),
    )


class _Server:
    """Jobs that share a server, by a clock of work: each ends when so much has been done for every running job."""

    def __init__(self, scenario: Scenario, draw: random.Random) -> None:
        self.scenario, self.draw, self.speedup = scenario, draw, scenario.speedup
        self.now = self.done = self.area = 0.0  # seconds; work per running job; job-seconds of concurrency
        self.running: list[tuple[float, float, float, float]] = []  # ends at done, size, started, area at the start
        self.finished: list[Finished] = []
        self.good = self.possible = self.over_seconds = self.late_good = self.late_possible = 0.0
        self.best = scenario.speedup(scenario.best(scenario.speedup))

    def advance(self, until: float, limit: int) -> None:
        """Run until a time, with at most `limit` jobs."""
        half = HOURS * 1800.0
        if self.scenario.later and self.now >= half and self.speedup is not self.scenario.later:
            self.speedup = self.scenario.later
            self.best = self.speedup(self.scenario.best(self.speedup))
        while True:
            while len(self.running) < limit:
                size = self.draw.gammavariate(1 / _SIZE_CV**2, _SIZE_CV**2) * self.scenario.alone_seconds
                heapq.heappush(self.running, (self.done + size, size, self.now, self.area))
            count = len(self.running)
            pace = self.speedup(count) / count
            ends = self.now + (self.running[0][0] - self.done) / pace
            if ends > until:
                self._pass(until - self.now, count, pace)
                return
            self._pass(ends - self.now, count, pace)
            self._finish(heapq.heappop(self.running))

    def _pass(self, seconds: float, count: int, pace: float) -> None:
        self.now += seconds
        self.done += seconds * pace
        self.area += seconds * count
        over = self.scenario.cost_microusd(count, self.speedup) > self.scenario.ceiling_microusd
        good = 0.0 if over else self.speedup(count) * seconds
        self.good, self.possible = self.good + good, self.possible + self.best * seconds
        self.over_seconds += seconds if over else 0.0
        if self.now > HOURS * 2700.0:
            self.late_good, self.late_possible = self.late_good + good, self.late_possible + self.best * seconds

    def _finish(self, job: tuple[float, float, float, float]) -> None:
        _, size, started, area = job
        took = self.now - started
        estimate = size * math.exp(self.draw.gauss(0, _ESTIMATE_SIGMA))
        cost = FIXED_MICROUSD + SLOT_MICROUSD_PER_SECOND * took
        self.finished.append(Finished((self.area - area) / took, took, estimate, cost))
