"""Simulate a server that many jobs share, and a controller that limits how many run at once.

All running jobs progress equally (processor sharing), each at `speedup(n) / n` of an idle server's pace where n run. A
lowered limit lets running jobs finish. A failed attempt takes as long as a successful one, and is repeated at once, up
to five times. The controller is called every 15 minutes, as `tune_concurrency` runs.
"""

import heapq
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bench.simulation.servers import MAX_LIMIT, Scenario, Speedup
from reelkeeper.rules.jobs.concurrency import Finished, Running

Controller = Callable[[int, Sequence[Finished], Sequence[Running]], int]

HOURS = 40.0
RUN_SECONDS, STEP_JOBS, ATTEMPTS = 900.0, 10, 5
_MINUTE, _NOISE_MINUTES = 60.0, 10.0
_SIZE_CV, _ESTIMATE_SIGMA = 0.5, 0.2


@dataclass(frozen=True, slots=True)
class Steering:
    """A controller's result on a scenario. Regret is the share of useful work lost against the best limit each time."""

    scenario: str
    regret: float
    over_ceiling: float  # share of the time
    last_limit: int
    late_regret: float  # in the last quarter
    limits: tuple[int, ...]


def steer(scenario: Scenario, controller: Controller, *, seed: int) -> Steering:
    """Have `controller` choose the limit for 40 hours, from running jobs and those that ended since its last call."""
    server = _Server(scenario, random.Random(seed))
    limits = [scenario.start_limit]
    total = HOURS * 3600.0
    stepped = 0.0
    while server.now < total:
        server.advance(min(server.now + RUN_SECONDS, total), limits[-1])
        running = [Running(server.now - max(job.started, stepped), job.size) for job in server.running]
        limits.append(min(max(controller(limits[-1], server.finished, running), 1), MAX_LIMIT))
        if len(server.finished) >= STEP_JOBS or limits[-1] != limits[-2]:  # else they are left for the next step
            stepped, server.finished = server.now, []
    return Steering(
        scenario.name,
        1 - server.good / server.possible,
        server.over_seconds / total,
        limits[-1],
        1 - server.late_good / server.late_possible,
        tuple(limits),
    )


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
        self.good = self.possible = self.over_seconds = self.late_good = self.late_possible = 0.0
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
        good = work * self.scenario.good(count, self.speedup) if count else 0.0
        possible = work * self._best[self.speedup][could]
        self.good, self.possible = self.good + good, self.possible + possible
        self.over_seconds += seconds if count and not self.scenario.allows(count, self.speedup) else 0.0
        if self.now > HOURS * 2700.0:
            self.late_good, self.late_possible = self.late_good + good, self.late_possible + possible

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
