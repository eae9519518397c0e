"""A vendor that takes 2 jobs at once, and answers 429 with a Retry-After of 30 s to the rest, a tenth as long here.

What a person would do who knew the vendor's limit is a cap: each figure is compared with a run that has one.
"""

import threading
import time
from collections import Counter
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa

from reelkeeper.model.jobs import IN_FLIGHT, End
from reelkeeper.operations.billing import ledger
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.jobs.caps import Cap
from reelkeeper.rules.jobs.concurrency import ConcurrencyPolicy
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.jobs import lanes
from reelkeeper.store.tables import jobs
from tests.doubles.provider import ProviderDouble
from tests.doubles.vendor import Job, Next
from tests.faults.world import World
from tests.operations.books import DOLLAR
from tests.operations.shop import ask, http, run
from tests.policies import put_in_force

TAKES, JOB_SECONDS, RETRY_SECONDS = 2, 1.0, 3
_NAMES = count()
SOLD = PriceBook.model_validate({"models": [{"model": "a", "provider": "http", "price": {"base_usd": "0.01"}}]})


class Crowded(ProviderDouble):
    """Its places are free again when a job has taken its time, whether it was asked for or not."""

    def __init__(self, video: bytes) -> None:
        super().__init__(video)
        self.refused: list[float] = []
        self.taken: list[float] = []
        self.weather = self.crowd

    def crowd(self, what: str, _path: str) -> Next | None:
        if what != "submit":
            return None
        at = time.monotonic()
        if sum(begun + JOB_SECONDS > at for begun in self.taken) < TAKES:
            self.taken.append(at)
            return None
        self.refused.append(at)
        return 429, {"error": "too many concurrent jobs"}, {"Retry-After": str(RETRY_SECONDS)}

    def look(self, job: Job) -> Job:
        is_over = time.monotonic() - self.taken[int(job["id"][1:]) - 1] >= JOB_SECONDS
        return super().look(job) if is_over else job


class Figures(NamedTuple):
    """What a run cost those who waited."""

    refused: int
    refused_at_first: int  # in the time that stands for a minute
    mean_wait: float
    longest_wait: float
    idle_percent: float  # of the vendor's places, while jobs waited for them


def figures(vendor: Crowded, began: float) -> Figures:
    waits = [at - began for at in vendor.taken]
    ends = vendor.taken[-1]
    idle = 1 - JOB_SECONDS * (len(waits) - TAKES) / (TAKES * (ends - vendor.taken[0]))
    at_first = sum(at - began < 2 * RETRY_SECONDS for at in vendor.refused)
    return Figures(len(vendor.refused), at_first, sum(waits) / len(waits), max(waits), 100 * idle)


def dispatch(shop: World, vendor: Crowded, number: int, dispatchers: int, **how: Any) -> Figures:  # noqa: ANN401  of run
    with transaction(shop.workspace.engine, "test") as session:
        ledger.grant(session, "ann", 99 * DOLLAR, f"more {next(_NAMES)}", run_id="test")
    ask(shop, *(f"clip {next(_NAMES)}" for _ in range(number)))
    began, ends, generator = time.monotonic(), Counter[End](), http(vendor)

    def work() -> None:
        while in_flight(shop.workspace.engine):
            ends.update(run(shop, generator, slots=14, **how))
            time.sleep(0.2)

    threads = [threading.Thread(target=work) for _ in range(dispatchers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ends[End.SUCCEEDED] == number
    return figures(vendor, began)


def in_flight(engine: sa.Engine) -> int:
    with reading(engine) as session:
        return int(session.execute(sa.select(sa.func.count()).where(jobs.c.state.in_(IN_FLIGHT))).scalar_one())


@pytest.mark.long
@pytest.mark.parametrize(("dispatchers", "number"), [pytest.param(1, 60, marks=pytest.mark.soak), (2, 16)])
def test_a_vendors_limit_is_found_by_few_refusals(shop: World, tiny_clip: Path, dispatchers: int, number: int) -> None:
    """The waits depend on the machine here; the rule's are compared in `tests/rules/jobs/test_lanes.py`."""
    put_in_force(shop.workspace.engine, book=SOLD)
    with Crowded(tiny_clip.read_bytes()).serving() as vendor:
        found = dispatch(shop, vendor, number, dispatchers)
    with transaction(shop.workspace.engine, "test") as session:
        lanes.write(session, "http", {})
    caps = (Cap(scope="provider:http", jobs=TAKES),)
    put_in_force(shop.workspace.engine, book=SOLD, concurrency=ConcurrencyPolicy(caps=caps))
    with Crowded(tiny_clip.read_bytes()).serving() as vendor:
        known = dispatch(shop, vendor, number, dispatchers)
    print(f"it is found: {found}\nit is known: {known}")  # noqa: T201  the table
    assert found.refused_at_first <= 6
    assert found.refused <= 6 + found.longest_wait / RETRY_SECONDS / 4  # of a crowd, and ever rarer tries of one more
    assert known.refused == 0
