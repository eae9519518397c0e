"""Workers are killed or suspended anywhere in a job: it is still made, paid and charged exactly once."""

import contextlib
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from itertools import count
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from reelkeeper.model.jobs import JobState
from reelkeeper.model.requests import GenerationRequest, Queued
from reelkeeper.operations.billing import ledger
from reelkeeper.operations.jobs.admit import admit
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.tables import jobs
from tests.doubles.provider import ProviderDouble
from tests.faults.conftest import Child, MakeWorld, wait_for_end
from tests.faults.world import World
from tests.operations.books import DOLLAR, balances
from tests.operations.queue import expire_claims, make_due

POINTS = [
    "jobs.claim.after_commit",
    "jobs.announce.after_commit",
    "provider.submit.after",
    "jobs.sent.after_commit",
    "upload.put.after",
    "job.succeed.before_commit",
    "job.succeed.after_commit",
]
# Who sleeps within a transaction keeps SQLite's only lock, and everybody waits.
ASLEEP = [point for point in POINTS if not point.endswith("before_commit")]


def some(points: list[str], *quick: str) -> list[Any]:
    """Leave all but these points to the long suite: each takes seconds."""
    return [pytest.param(point, marks=() if point in quick else pytest.mark.long) for point in points]


@pytest.fixture
def provider(tiny_clip: Path) -> Iterator[ProviderDouble]:
    with ProviderDouble(tiny_clip.read_bytes()).serving() as double:
        yield double


class Shop:
    """A world in which ann has asked for one video, and workers that make it."""

    def __init__(self, world: World, provider: ProviderDouble, start_child: Child) -> None:
        self.world, self.provider, self.start_child = world, provider, start_child
        self.before = len(provider.submitted)
        with transaction(world.workspace.engine, "test") as session:
            ledger.grant(session, "ann", DOLLAR, "first", run_id="test")
        wanted = {"model": "a", "prompt": "a cat", "width": 64, "height": 64, "duration_seconds": 0.5, "fps": 8}
        answer = admit(
            world.workspace.engine, GenerationRequest.model_validate(wanted), user_id="ann", client_key="once"
        )
        assert isinstance(answer, Queued)

    def start(self, spec: str = "") -> BaseProcess:
        return self.start_child("dispatch", self.world.address, spec, {"urls": {"http": self.provider.url}})

    def let_time_pass(self) -> None:
        """A minute without a sign of life, and then as much as any pause takes."""
        expire_claims(self.world.workspace.engine)
        self.world.expire_leases()
        make_due(self.world.workspace.engine)

    def recover(self) -> None:
        """Run workers, with time in between, until the job has ended, at most for its five attempts."""
        for _ in range(5):
            self.let_time_pass()
            assert wait_for_end(self.start()) == 0
            if self.job().state not in (JobState.QUEUED, JobState.RUNNING, JobState.PARKED):
                return

    def is_locked(self) -> bool:
        """Check whether a transaction is open that others wait for."""
        file = sqlite3.connect(str(self.world.workspace.engine.url.database), timeout=0.5, isolation_level=None)
        with contextlib.closing(file):
            try:
                file.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return True
            file.execute("ROLLBACK")
            return False

    def job(self) -> sa.Row[tuple[object, ...]]:
        with reading(self.world.workspace.engine) as session:
            return session.execute(sa.select(jobs)).one()

    def check(self) -> None:
        job = self.job()
        assert job.state == JobState.SUCCEEDED, job.error
        assert len(self.provider.submitted) - self.before == 1, "the provider is paid for each of these"
        assert balances(self.world.workspace.engine, "ann") == (DOLLAR - job.price_microusd, 0)
        self.world.check()


@pytest.fixture
def open_shop(make_world: MakeWorld, provider: ProviderDouble, start_child: Child) -> Callable[[], Shop]:
    return lambda: Shop(make_world(), provider, start_child)


@pytest.mark.parametrize("point", some(POINTS, "provider.submit.after", "job.succeed.before_commit"))
def test_a_worker_is_killed_and_the_next_one_finishes(point: str, open_shop: Callable[[], Shop]) -> None:
    shop = open_shop()
    assert wait_for_end(shop.start(f"{point}=kill")) == -signal.SIGKILL
    shop.recover()
    shop.check()


@pytest.mark.parametrize("point", some(ASLEEP, "jobs.announce.after_commit"))
def test_a_worker_sleeps_past_its_claim_and_wakes_when_another_has_finished(
    point: str, open_shop: Callable[[], Shop], provider: ProviderDouble
) -> None:
    # One that wakes between its last look at the clock and its request does send it: under the same key.
    provider.honours_keys = True
    for _ in range(10):
        shop = open_shop()
        sleeper = shop.start(f"{point}=stop")
        _wait_until_stopped(sleeper)
        try:
            if others_wait := shop.is_locked():  # another thread of it fell asleep within a transaction: see ASLEEP
                continue
            shop.recover()
        finally:
            os.kill(sleeper.pid or 0, signal.SIGCONT)
            ended = wait_for_end(sleeper)
        break
    assert not others_wait
    assert ended == 0
    shop.check()


@pytest.mark.long("workers for each failpoint, each in a shop of its own")
def test_killed_at_any_failpoint_of_a_job_and_of_its_recovery(open_shop: Callable[[], Shop]) -> None:
    for point in count(1):
        shop = open_shop()
        ended = wait_for_end(shop.start(f"*=kill@{point}")) == 0
        shop.let_time_pass()
        wait_for_end(shop.start(f"*=kill@{point}"))
        shop.recover()
        shop.check()
        if ended:
            break
    assert point > 20


def _wait_until_stopped(process: BaseProcess) -> None:
    stat, deadline = Path(f"/proc/{process.pid}/stat"), time.monotonic() + 240
    while stat.read_text().rpartition(") ")[2][0] != "T":
        assert time.monotonic() < deadline, "the child never reached its failpoint"
        time.sleep(0.01)
