"""Several dispatchers share a queue. What killed ones had is taken up once its claims end, and bought once."""

import signal
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from reelkeeper.model.jobs import JobState
from reelkeeper.operations.billing import ledger
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.jobs.claims import LEASE_SECONDS
from reelkeeper.store.tables import jobs
from tests.doubles.provider import Next, ProviderDouble
from tests.doubles.vendor import SLOW, Job
from tests.faults.conftest import Child, wait_for_end
from tests.faults.world import World
from tests.operations.books import DOLLAR
from tests.operations.queue import find
from tests.operations.shop import ask, spent

PATIENCE_SECONDS = 900


class Holding(ProviderDouble):
    """It works on jobs whose prompt begins with a word of `holds`, and does not answer about "unheard" ones."""

    def __init__(self, video: bytes) -> None:
        super().__init__(video)
        self.holds = {"theirs", "held", "made"}

    def look(self, job: Job) -> Job:
        return job if job["request"]["prompt"].split()[0] in self.holds else super().look(job)

    def accept(self, key: str, described: Callable[[Job], tuple[Any, ...]], **fields: Any) -> Next:  # noqa: ANN401  of a job
        self.queue = [SLOW] if fields["request"]["prompt"] == "unheard" else []
        return super().accept(key, described, **fields)


@pytest.fixture
def engine(postgresql_engine: sa.Engine) -> sa.Engine:
    """PostgreSQL, as several machines have it."""
    return postgresql_engine


@pytest.fixture
def provider(tiny_clip: Path) -> Iterator[Holding]:
    with Holding(tiny_clip.read_bytes()).serving() as double:
        yield double


def wait_until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def taken_up(engine: sa.Engine, left: dict[str, sa.Row[Any]]) -> dict[str, datetime]:
    """Wait until all jobs are over; return by when each of those left behind had another claim."""
    seen: dict[str, datetime] = {}

    def is_over() -> bool:
        with reading(engine) as session:
            as_of, rows = now(session), session.execute(sa.select(jobs)).all()
        for row in rows:
            if row.id in left and row.lease_token > left[row.id].lease_token:
                seen.setdefault(row.id, as_of)
        return {row.state for row in rows} == {JobState.SUCCEEDED}

    wait_until(is_over)
    return seen


@pytest.mark.long("the claims of the killed run out by themselves: a minute")
def test_what_two_killed_dispatchers_had_goes_on_at_a_third_within_a_minute_and_is_bought_once(
    world: World, provider: Holding, start_child: Child, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = world.workspace.engine
    with transaction(engine, "test") as session:
        ledger.grant(session, "ann", DOLLAR, "first", run_id="test")
    told: dict[str, object] = {"urls": {"http": provider.url}, "seconds": PATIENCE_SECONDS, "until_idle": False}
    own = ask(world, "theirs 1", "theirs 2")
    third = start_child("dispatch", world.address, "", told | {"slots": 2})  # both at its vendor
    try:
        wait_until(lambda: len(provider.submitted) == 2)
        sent = ask(world, "held", "unheard", "made")  # named at the vendor; there without a name; being stored
        first = start_child("dispatch", world.address, "upload.put.after=kill", told | {"slots": 3})
        wait_until(lambda: len(provider.submitted) == 5)
        unsent = ask(world, "late 1", "late 2")
        second = start_child("dispatch", world.address, "jobs.claim.after_commit=kill", told | {"slots": 2})
        assert wait_for_end(second, PATIENCE_SECONDS) == -signal.SIGKILL
        provider.holds.remove("made")
        assert wait_for_end(first, PATIENCE_SECONDS) == -signal.SIGKILL
        with reading(engine) as session:
            died_at = now(session)
        left = {job_id: find(engine, job_id) for job_id in (*sent, *unsent)}
        provider.holds.clear()
        seen = taken_up(engine, left)
    finally:
        third.kill()
    for job_id, row in left.items():
        assert row.lease_until <= died_at + timedelta(seconds=LEASE_SECONDS)
        assert row.lease_until <= seen[job_id]  # nobody takes what a living one may have
        assert find(engine, job_id).attempts == 2
    assert len(provider.submitted) == len(own) + len(left)
    assert provider.sent_twice() == []
    assert spent(world) == sum(find(engine, job_id).price_microusd for job_id in (*own, *left))
    world.check()
    waited = sorted((at - died_at).total_seconds() for at in seen.values())
    with capsys.disabled():
        print(f"\ntaken up {waited[0]:.0f} to {waited[-1]:.0f} s after the last death")  # noqa: T201  the figure that this is run for
