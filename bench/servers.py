"""Models of servers that generate videos, and a simulation of one that a controller limits.

All running jobs progress equally (processor sharing), each at `speedup(n) / n` of an idle server's pace where n run. A
lowered limit lets running jobs finish. A failed attempt takes as long as a successful one, and is repeated at once, up
to five times. The controller is called every 15 minutes, as `tune_concurrency` runs.
"""

import heapq
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from reelkeeper.rules.jobs.concurrency import Finished, Running

Controller = Callable[[int, Sequence[Finished], Sequence[Running]], int]
HOURS = 40.0
RUN_SECONDS, STEP_JOBS, ATTEMPTS = 900.0, 10, 5
_MINUTE, _NOISE_MINUTES = 60.0, 10.0
_SIZE_CV, _ESTIMATE_SIGMA = 0.5, 0.2

Speedup = Callable[[float], float]  # idle servers' worth of work, where so many jobs run
ByHour = Callable[[float], float]

FIXED_MICROUSD, SLOT_MICROUSD_PER_SECOND = 5_000.0, 20.0  # of a job: what it costs at all, and per second of its slot
MAX_LIMIT: Final = 200


def usl(contention: float, coherence: float) -> Speedup:
    """Gunther's Universal Scalability Law: n / (1 + a (n - 1) + b n (n - 1))."""
    return lambda n: n / (1 + contention * (n - 1) + coherence * n * (n - 1))


def knee(most: int) -> Speedup:
    """As many as `most` run side by side, and more only share."""
    return lambda n: float(min(n, most))


def collapse(start: int, scale: float) -> Speedup:
    """Beyond `start` each further job costs all of them: throughput falls by e every `scale` jobs."""
    return lambda n: float(n) if n <= start else start * math.exp(-(n - start) / scale)


def choke(most: int) -> Speedup:
    """More than `most` keep each other from ending at all."""
    return lambda n: float(n) if n <= most else 0.02


@lru_cache(maxsize=1000)
def scaled(speedup: Speedup, share: float) -> Speedup:
    """Scale a model to a share of the machines: 10 jobs load half of them as 20 load all."""
    return lambda n: min(float(n), share * speedup(n / share))


@dataclass(frozen=True, slots=True)
class Scenario:
    """A server, where its controller starts, and what a job may cost on average."""

    name: str
    speedup: Speedup
    start_limit: int = 4
    ceiling_microusd: int = 20_000
    alone_seconds: float = 150.0
    later: Speedup | None = None  # from half time on
    machines: ByHour | None = None  # share of them that is there
    noise: float = 0.0  # deviation of ln(pace), which changes in some ten minutes
    fails: Callable[[float], float] = lambda _: 0.0  # share of attempts that do, by how many run
    arrivals: ByHour | None = None  # jobs an hour; None: there is always more work
    timeout_seconds: float = math.inf  # of an attempt
    fixed_microusd: float = FIXED_MICROUSD
    slot_microusd: float = SLOT_MICROUSD_PER_SECOND

    def speedup_at(self, hour: float, hours: float) -> Speedup:
        """Return the throughput at `hour` where `n` jobs run."""
        if self.machines:
            return scaled(self.speedup, round(self.machines(hour), 2))
        return self.later if self.later and hour >= hours / 2 else self.speedup

    def cost_microusd(self, n: int, speedup: Speedup) -> float:
        """Return the mean cost of a job where `n` run: its fixed part, and its slot for as long as it takes."""
        return self.fixed_microusd + self.slot_microusd * self.alone_seconds * n / speedup(n)

    def allows(self, n: int, speedup: Speedup) -> bool:
        """Check whether a job is within the ceiling where `n` run, or over it however few do."""
        return not self.cost_microusd(1, speedup) <= self.ceiling_microusd < self.cost_microusd(n, speedup)

    def good(self, n: int, speedup: Speedup) -> float:
        """Return the useful work: within the cost ceiling, for attempts that succeed."""
        return speedup(n) * (1 - self.fails(n)) if self.allows(n, speedup) else 0.0

    def best(self, speedup: Speedup) -> int:
        """Return the concurrency with the most useful work."""
        return max(range(1, MAX_LIMIT + 1), key=lambda n: self.good(n, speedup))


def _rises(at: float, width: float, most: float) -> Callable[[float], float]:
    return lambda n: most / (1 + math.exp(-(n - at) / width))


def _swings(hours: float) -> ByHour:
    return lambda hour: 0.65 + 0.35 * math.sin(hour * math.tau / hours)


def _from_time_to_time(every: float, after: float, there: float, usual: float = 1.0) -> ByHour:
    return lambda hour: there if hour % every > after else usual


_PLAIN: Final = usl(0.03, 0.0008)  # best at 35

SCENARIOS: Final = (
    Scenario("ceiling loose", _PLAIN),
    Scenario("ceiling binds", _PLAIN, ceiling_microusd=11_000),
    Scenario("capacity drops", _PLAIN, later=usl(0.06, 0.0032)),
    Scenario("starts at 120", _PLAIN, start_limit=120),
    Scenario("quick API", _PLAIN, alone_seconds=8.0),
    Scenario("hard knee at 20", knee(20)),
    Scenario("knee at 60", knee(60)),
    Scenario("collapse after 15", collapse(15, 20)),
    Scenario("contended", usl(0.10, 0.004)),
    Scenario("scales well", usl(0.005, 0.0001)),
    Scenario("collapse, starts at 80", collapse(15, 30), start_limit=80),
    Scenario("collapse, ceiling binds", collapse(15, 20), ceiling_microusd=10_000),
    Scenario("noisy", _PLAIN, noise=0.3),
    Scenario("noisy, collapses", collapse(15, 20), noise=0.2),
    Scenario("drifts in six hours", _PLAIN, machines=_swings(6)),
    Scenario("drifts in two hours", _PLAIN, machines=_swings(2)),
    Scenario("drops to 30 %, and back", _PLAIN, machines=_from_time_to_time(7, 4.1, 0.3)),
    Scenario("drops, collapses", collapse(30, 20), machines=_from_time_to_time(9, 6.2, 0.4)),
    Scenario("fails when crowded", usl(0.005, 0.0001), fails=_rises(25, 3, 0.95)),
    Scenario("fails the more the more", knee(40), fails=lambda n: min(0.02 * max(n - 10, 0), 0.9)),
    Scenario("fails at random", _PLAIN, fails=lambda _: 0.15),
    Scenario("fails at random, often", _PLAIN, fails=lambda _: 0.4, start_limit=8),
    Scenario("bursts", _PLAIN, arrivals=_from_time_to_time(2, 1.5, 900, usual=60)),
    Scenario("flat price over ceiling", _PLAIN, fixed_microusd=350_000, slot_microusd=0, start_limit=8),
    Scenario("price over ceiling, grows", _PLAIN, fixed_microusd=30_000, start_limit=8),
    Scenario("nothing ends over 30", choke(30), start_limit=64, timeout_seconds=3600),
    Scenario("knee, fails, noisy", knee(30), fails=lambda n: 0.05 + _rises(36, 2, 0.6)(n), noise=0.15),
    Scenario(
        "drifts, collapses, bursts",
        collapse(20, 15),
        machines=_swings(5),
        arrivals=_from_time_to_time(3, 1.5, 700, usual=120),
    ),
)


def regret(scenario: Scenario, controller: Controller, *, seed: int) -> float:
    """Have `controller` choose the limit for 40 hours, from running jobs and those that ended since its last call.

    Return the share of useful work that is lost against the best limit each time.
    """
    server, limit = _Server(scenario, random.Random(seed)), scenario.start_limit
    total, stepped = HOURS * 3600.0, 0.0
    while server.now < total:
        server.advance(min(server.now + RUN_SECONDS, total), limit)
        running = [Running(server.now - max(job.started, stepped), job.size) for job in server.running]
        before, limit = limit, min(max(controller(limit, server.finished, running), 1), MAX_LIMIT)
        if len(server.finished) >= STEP_JOBS or limit != before:  # else they are left for the next step
            stepped, server.finished = server.now, []
    return 1 - server.good / server.possible


class _Job(NamedTuple):
    ends: float  # when so much has been done for every running job
    size: float  # seconds on an idle server
    started: float
    area: float  # job-seconds of concurrency at the start
    attempt: int = 1


class _Server:
    """Jobs that share a server, by a clock of work done for each running job: a job ends at its own amount of work."""

    def __init__(self, scenario: Scenario, draw: random.Random) -> None:
        self.scenario, self.draw, self.speedup = scenario, draw, scenario.speedup
        self.now = self.done = self.area = 0.0  # seconds; work per running job; job-seconds of concurrency
        self.running: list[_Job] = []
        self.again: list[_Job] = []  # that failed
        self.waiting = 0 if scenario.arrivals else math.inf
        self.finished: list[Finished] = []
        self.good = self.possible = 0.0
        self._swing, self._pace = 0.0, 1.0
        self._best: dict[Speedup, list[float]] = {}  # by how many could run at most

    def advance(self, until: float, limit: int) -> None:
        """Run until a time, with at most `limit` jobs."""
        scenario = self.scenario
        changes = scenario.machines or scenario.noise or scenario.arrivals or scenario.timeout_seconds < math.inf
        while self.now < until:
            self._change()
            self._run(min(self.now + _MINUTE, until) if changes else until, limit)

    def _change(self) -> None:
        hour, scenario = self.now / 3600, self.scenario
        self.speedup = scenario.speedup_at(hour, HOURS)
        if self.speedup not in self._best:
            best = [0.0]
            for n in range(1, MAX_LIMIT + 1):
                best.append(max(best[-1], scenario.good(n, self.speedup)))
            self._best[self.speedup] = best
        for job in [job for job in self.running if self.now - job.started > scenario.timeout_seconds]:
            self.running.remove(job)
            heapq.heapify(self.running)
            self._end(job, made=False)
        if scenario.noise:
            kept = math.exp(-1 / _NOISE_MINUTES)
            self._swing = kept * self._swing + math.sqrt(1 - kept**2) * self.draw.gauss(0, scenario.noise)
            self._pace = math.exp(self._swing)
        if scenario.arrivals:
            left = math.exp(-scenario.arrivals(hour) / 60)  # Knuth's way to draw from Poisson's distribution
            drawn = self.draw.random()
            while drawn > left:
                self.waiting, drawn = self.waiting + 1, drawn * self.draw.random()

    def _run(self, until: float, limit: int) -> None:
        while True:
            while len(self.running) < limit and (self.again or self.waiting):
                if self.again:
                    job = self.again.pop()
                else:
                    size = self.draw.gammavariate(1 / _SIZE_CV**2, _SIZE_CV**2) * self.scenario.alone_seconds
                    job, self.waiting = _Job(0.0, size, 0.0, 0.0), self.waiting - 1
                heapq.heappush(self.running, _Job(self.done + job.size, job.size, self.now, self.area, job.attempt))
            count = len(self.running)
            pace = self._pace * self.speedup(count) / count if count else 0.0
            ends = self.now + (self.running[0].ends - self.done) / pace if count else math.inf
            if ends > until:
                self._pass(until - self.now, count, pace)
                return
            self._pass(ends - self.now, count, pace)
            self._finish(heapq.heappop(self.running))

    def _pass(self, seconds: float, count: int, pace: float) -> None:
        self.now += seconds
        self.done += seconds * pace
        self.area += seconds * count
        could = int(min(count + len(self.again) + self.waiting, MAX_LIMIT))
        work = self._pace * seconds
        self.good += work * self.scenario.good(count, self.speedup) if count else 0.0
        self.possible += work * self._best[self.speedup][could]

    def _finish(self, job: _Job) -> None:
        share = self.scenario.fails((self.area - job.area) / (self.now - job.started))
        self._end(job, made=not share or self.draw.random() >= share)

    def _end(self, job: _Job, *, made: bool) -> None:
        took = self.now - job.started
        at_once = (self.area - job.area) / took
        if not made and job.attempt < ATTEMPTS:
            self.again.append(job._replace(attempt=job.attempt + 1))
            return
        estimate = job.size * math.exp(self.draw.gauss(0, _ESTIMATE_SIGMA))
        cost = self.scenario.fixed_microusd + self.scenario.slot_microusd * took
        self.finished.append(Finished(at_once, took, estimate, cost, job.attempt, made))
