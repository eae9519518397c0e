"""A run that is suspended between plan and action must notice what has changed when it continues.

SIGSTOP at a failpoint, something happens to the video, SIGCONT. No object that somebody wants may have been deleted.

Slow: each case takes a child process and a world of its own.
"""

import hashlib
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import sqlalchemy as sa

from reelkeeper.errors import StorageError
from reelkeeper.model import BlobState, Grace, Transcode, VideoState
from reelkeeper.operations.core.freeze import freeze, thaw
from reelkeeper.operations.core.lease import LeaseManager
from reelkeeper.operations.lifecycle.purge import settle_claims
from reelkeeper.operations.lifecycle.restore import find_restorable, restore
from reelkeeper.operations.videos import intents
from reelkeeper.operations.videos.hold import hold
from reelkeeper.operations.videos.views import record_views
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.tables import blobs, leases, videos
from reelkeeper.store.videos.holds import HoldTerms
from tests.buckets import BUCKET
from tests.faults.conftest import Child, MakeWorld
from tests.faults.world import LONG_AGO, World
from tests.operations.changes import sync_once

NEWER = b"another video altogether"
Meanwhile = Callable[[World], None]


def viewed(world: World) -> None:
    assert record_views(world.workspace.engine, {"v1": 1}, at=datetime.now(UTC)) == []


def held(world: World) -> None:
    hold(world.workspace.engine, HoldTerms("video", "v1", "a court asks for it", "test"))


def owner_held(world: World) -> None:
    hold(world.workspace.engine, HoldTerms("user", "ann", "a dispute", "test"))


def replaced(world: World) -> None:
    """The service stores new bytes for the video, as `upload` publishes them."""
    with transaction(world.workspace.engine, "test") as session:
        old = session.execute(sa.select(videos.c.blob_id).where(videos.c.id == "v1")).scalar_one()
        session.execute(sa.update(blobs).where(blobs.c.id == old).values(state=BlobState.RETIRED, purge_after=_soon()))
    world.video("v1", generation=7)


def restored(world: World) -> None:
    batch = find_restorable(world.workspace, video_id="v1")
    restore(world.workspace, batch, run_id="person", author="test", grace=Grace(), hold_days=30)


def restored_after_its_claim(world: World) -> None:
    """The sleeper's claim times out, a run settles it, and a person restores the video."""
    world.expire_leases()
    assert settle_claims(world.workspace, run_id="another", grace=Grace()) == 1
    restored(world)


def frozen(world: World) -> None:
    freeze(world.workspace.engine, by="test", reason="an alarm")


def taken_over(world: World) -> None:
    """A minute passes, and another run is granted the sleeper's leases."""
    world.expire_leases()
    with transaction(world.workspace.engine, "test") as session:
        session.execute(sa.text("UPDATE leases SET token = token + 1, holder = 'another'"))


def overwritten(world: World) -> None:
    """The service stores another video at its key."""
    world.double.client.put_object(Bucket=BUCKET, Key=_link(world), Body=NEWER)


def settled(world: World) -> None:
    """Another run takes over and settles what the sleeper has announced; no more than a minute passes."""
    with transaction(world.workspace.engine, "test") as session:
        session.execute(sa.update(leases).values(expires_at=LONG_AGO))
    with LeaseManager(world.workspace.engine) as manager:
        (lease,) = manager.take(["video/v1"])
        scratch = Path(world.address.folder) / "another"
        for intent in intents.open_intents(world.workspace):
            with suppress(StorageError):  # its put may come yet
                intents.settle(world.workspace, intent, scratch=scratch, lease=lease, grace=Grace())


def _link(world: World) -> str:
    return f"{world.address.prefix}ann/v1.mp4"


def _soon() -> datetime:
    return datetime.now(UTC).replace(year=2100)


SLEEPERS = 100
IN_PLACE_POINTS = [
    *("swap.announce.after_commit", "in_place.copy.after", "in_place.put.before", "in_place.sending.after_commit"),
    *("in_place.put.after", "swap.readback.after"),
]
AFTER_CLAIM = "purge.claim.after_commit"
AFTER_LEASE = "leases.acquire.after_commit"
CASES: list[tuple[str, str, Meanwhile]] = [
    *(("purge", AFTER_LEASE, what) for what in (viewed, held, owner_held, restored, frozen, taken_over)),
    *(("purge", AFTER_CLAIM, what) for what in (frozen, taken_over, restored_after_its_claim)),
    *(("retire", AFTER_LEASE, what) for what in (viewed, held, owner_held, replaced, frozen, taken_over)),
    *(("swap", "swap.put.after", what) for what in (viewed, held, replaced, frozen, taken_over)),
]
MORE_CASES: list[tuple[str, str, Meanwhile]] = [
    ("swap", point, what)
    for point in ("swap.download.after", "swap.announce.after_commit", "swap.readback.after")
    for what in (viewed, held, replaced, frozen, taken_over)
]
IN_PLACE_CASES: list[tuple[str, str, Meanwhile]] = [
    ("swap_in_place", point, what)
    for point in IN_PLACE_POINTS
    for what in (viewed, held, replaced, frozen, taken_over, overwritten, settled)
]


@pytest.fixture
def sleeper(make_world: MakeWorld, start_child: Child, tiny_transcode: Transcode) -> Callable[..., World]:
    """Run an operation on the video v1, asleep at `point` while `meanwhile` happens."""

    def run(operation: str, point: str, meanwhile: Meanwhile) -> World:
        world = make_world()
        arguments = _arguments(world, operation, tiny_transcode)
        process = start_child(operation, world.address, f"{point}=stop", arguments)
        _wait_until_stopped(process)
        try:
            meanwhile(world)
        finally:
            os.kill(process.pid or 0, signal.SIGCONT)
        process.join(240)
        assert process.exitcode is not None
        return world

    return run


def _arguments(world: World, operation: str, transcode: Transcode) -> dict[str, object]:
    if operation == "purge":
        due = world.video("v1", state=VideoState.RETIRED, blob_state=BlobState.RETIRED, due=True)
        return {"plan": world.plan("purge_retired", "purge", [due]), "blobs": [due]}
    world.double.limits_overwrites = False
    blob = world.video("v1", key=_link(world) if operation == "swap_in_place" else None)
    if operation == "retire":
        return {"plan": world.plan("expire_videos", "retire", [blob])}
    return {"blob": blob, "result": transcode}


def _wait_until_stopped(process: BaseProcess) -> None:
    stat, deadline = Path(f"/proc/{process.pid}/stat"), time.monotonic() + 240
    while stat.read_text().rpartition(") ")[2][0] != "T":
        assert time.monotonic() < deadline, "the child never reached its failpoint"
        time.sleep(0.01)


def _assert_nothing_wanted_is_gone(world: World, operation: str, meanwhile: Meanwhile) -> None:
    assert not world.double.deleted(), f"deleted {world.double.deleted()}"
    with reading(world.workspace.engine) as session:
        state = session.execute(sa.select(videos.c.state).where(videos.c.id == "v1")).scalar_one()
    if operation == "retire" or meanwhile in (restored, restored_after_its_claim):
        assert state == VideoState.LIVE
    if meanwhile is frozen:
        thaw(world.workspace.engine, by="test")
    if operation == "swap_in_place":
        _assert_the_link_is_whole(world, meanwhile)
    world.check(settled=False)


def _assert_the_link_is_whole(world: World, meanwhile: Meanwhile) -> None:
    """The service's key shows its last upload, or the video; once the next run has settled it, that is recorded."""
    bucket, original = world.workspace.bucket, world.clip.read_bytes()
    world.expire_leases()
    with LeaseManager(world.workspace.engine) as manager:
        (lease,) = manager.take(["video/v1"])
        scratch = Path(world.address.folder) / "next"
        for intent in intents.open_intents(world.workspace):
            intents.settle(world.workspace, intent, scratch=scratch, lease=lease, grace=Grace())
        assert sync_once(world, lease) == []
    with reading(world.workspace.engine) as session:
        rows = session.execute(sa.select(blobs.c.key, blobs.c.sha256).where(blobs.c.state != BlobState.GONE)).all()
    shown = bucket.read_bytes(_link(world), 10**7)
    if meanwhile is overwritten:
        assert shown == NEWER
    else:
        assert hashlib.sha256(shown).hexdigest() in [row.sha256 for row in rows if row.key == _link(world)]
        assert original in [shown, *(bucket.read_bytes(row.key, 10**7) for row in rows)]


@pytest.mark.parametrize(
    ("operation", "point", "meanwhile"),
    [*CASES, *MORE_CASES, *IN_PLACE_CASES],
    ids=lambda part: getattr(part, "__name__", part),
)
def test_a_run_that_slept_deletes_nothing_that_is_wanted_by_now(
    operation: str, point: str, meanwhile: Meanwhile, sleeper: Callable[..., World]
) -> None:
    _assert_nothing_wanted_is_gone(sleeper(operation, point, meanwhile), operation, meanwhile)


@pytest.mark.soak  # each once is the test before
def test_a_hundred_sleepers(sleeper: Callable[..., World]) -> None:
    for operation, point, meanwhile in (CASES + MORE_CASES) * -(-SLEEPERS // len(CASES + MORE_CASES)):
        _assert_nothing_wanted_is_gone(sleeper(operation, point, meanwhile), operation, meanwhile)


@pytest.mark.soak
def test_a_hundred_sleepers_in_place(sleeper: Callable[..., World]) -> None:
    for operation, point, meanwhile in (IN_PLACE_CASES * -(-SLEEPERS // len(IN_PLACE_CASES)))[:SLEEPERS]:
        _assert_nothing_wanted_is_gone(sleeper(operation, point, meanwhile), operation, meanwhile)


def test_an_undisturbed_purge_deletes(sleeper: Callable[..., World]) -> None:
    world = sleeper("purge", AFTER_LEASE, lambda _: None)
    assert len(world.double.deleted()) == 1
    world.check()
