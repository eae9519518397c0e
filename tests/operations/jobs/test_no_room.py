"""A clip that is too large for a machine's scratch disk waits, people are told once, and the other jobs go on."""

import struct
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from reelkeeper.model.jobs import End, JobState
from reelkeeper.operations.jobs import worker
from reelkeeper.store.core.engine import Clock, reading, transaction
from reelkeeper.store.tables import alerts, jobs
from tests.disks import fill, small_disk
from tests.doubles.provider import ProviderDouble
from tests.faults.world import World
from tests.operations.conftest import killed
from tests.operations.queue import find, make_due
from tests.operations.shop import ask, http, run, spent
from tests.worlds import AtFailpoint

DISK_MEGABYTES = 64


@pytest.fixture
def engine(sqlite_engine: sa.Engine) -> sa.Engine:
    """One database: nothing here depends on which."""
    return sqlite_engine


def told(shop: World) -> list[str]:
    with reading(shop.workspace.engine) as session:
        return list(session.execute(sa.select(alerts.c.rule)).scalars())


def scratch(shop: World) -> Path:
    return Path(shop.address.folder) / "scratch"


def large(clip: bytes, megabytes: int) -> bytes:
    """Return the clip with this many megabytes appended, which players ignore."""
    size = megabytes * 1_000_000
    return clip + struct.pack(">I4s", size, b"free") + bytes(size - 8)


@pytest.mark.parametrize("megabytes", [20, 40, 80])  # no room to read it back; nor for anything else; nor for itself
def test_a_clip_without_room_waits_is_told_once_and_holds_up_no_other(
    shop: World, provider: ProviderDouble, megabytes: int
) -> None:
    big, small = ask(shop, "a cat", "a dog")
    clip = large(provider.video, megabytes)
    with small_disk(scratch(shop), DISK_MEGABYTES):
        provider.files = [(200, clip)]
        assert run(shop, http(provider), slots=1) == {End.PARKED: 1, End.SUCCEEDED: 1}
        for _ in range(3):  # more often than it may be tried
            make_due(shop.workspace.engine)
            provider.files = [(200, clip)]
            assert run(shop, http(provider), slots=1) == {End.PARKED: 1}
    left = find(shop.workspace.engine, big)
    assert (left.state, left.attempts, told(shop)) == (JobState.PARKED, 1, ["no_room"])
    make_due(shop.workspace.engine)
    assert run(shop, http(provider), slots=1) == {End.SUCCEEDED: 1}, "another machine has room"
    assert len(provider.submitted) == 2
    assert spent(shop) == sum(find(shop.workspace.engine, job_id).price_microusd for job_id in (big, small))


def test_a_disk_that_jobs_at_work_fill_hands_back_others_and_ends_no_worker(
    shop: World, provider: ProviderDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(shop, "a cat", "a dog")
    monkeypatch.setattr(worker, "LOOK_SECONDS", 0.05)
    fillers: list[Path] = []

    def weather(what: str, _: str) -> None:
        if what == "file" and not fillers:
            fillers.append(fill(scratch(shop), 1_000_000))
        elif what == "file" and fillers[0].exists():
            while not handed_back(shop):
                time.sleep(0.05)
            time.sleep(1.0)  # several looks
            fillers[0].unlink()

    with small_disk(scratch(shop), DISK_MEGABYTES):
        provider.weather = weather
        assert run(shop, http(provider), slots=2) == {End.HANDED_OVER: 1, End.SUCCEEDED: 2}
    assert (len(provider.submitted), told(shop)) == (2, [])


def handed_back(shop: World) -> bool:
    with reading(shop.workspace.engine) as session:
        return JobState.QUEUED in session.execute(sa.select(jobs.c.state)).scalars().all()


def test_a_stored_clip_that_a_machine_cannot_read_back_is_not_given_up_after_a_day(
    shop: World, provider: ProviderDouble, at_failpoint: AtFailpoint
) -> None:
    (job_id,) = ask(shop, "a cat")

    provider.files = [(200, large(provider.video, 40))]
    at_failpoint("upload.put.after", killed)
    assert run(shop, http(provider)) == {End.LOST: 1}
    with small_disk(scratch(shop), DISK_MEGABYTES):
        for _ in range(2):
            with transaction(shop.workspace.engine, "test") as session:
                long_ago = {"started_at": Clock(-25 * 3600), "due_at": Clock(-1), "lease_until": Clock(-1)}
                session.execute(sa.update(jobs).values(long_ago))
            assert run(shop, http(provider)) in ({End.PARKED: 1}, {End.RETRIED: 1})
    make_due(shop.workspace.engine)
    assert run(shop, http(provider)) == {End.SUCCEEDED: 1}
    assert spent(shop) == find(shop.workspace.engine, job_id).price_microusd
