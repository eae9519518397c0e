"""What happens to old bytes of a video happens to them alone, and each change of bytes is a new generation."""

import pytest
import sqlalchemy as sa

from reelkeeper.model import BlobState, Grace, Transcode, VideoState
from reelkeeper.operations.lifecycle.purge import purge
from reelkeeper.operations.lifecycle.restore import find_restorable, restore
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.sync import lost
from reelkeeper.store.tables import blobs, videos
from tests.faults.world import World
from tests.operations.changes import sync_once
from tests.operations.lifecycle.test_swap import blob_states
from tests.operations.lifecycle.test_swap import run as swap
from tests.swapping import shrinker


@pytest.fixture
def engine(sqlite_engine: sa.Engine) -> sa.Engine:
    """One database: the conditions are the same SQL on both."""
    return sqlite_engine


def standing(world: World, video_id: str = "v1") -> tuple[str, int, int]:
    """Return the video's state, its present blob, and its generation."""
    with reading(world.workspace.engine) as session:
        wanted = sa.select(videos.c.state, videos.c.blob_id, videos.c.generation).where(videos.c.id == video_id)
        return tuple(session.execute(wanted).one())


def key_of(world: World, blob: int) -> str:
    with reading(world.workspace.engine) as session:
        return str(session.execute(sa.select(blobs.c.key).where(blobs.c.id == blob)).scalar_one())


def two_generations(world: World, state: VideoState = VideoState.LIVE) -> tuple[int, int]:
    """Make a video with old bytes, retired, and present ones."""
    old = world.video("v1", state=state, blob_state=BlobState.RETIRED, due=True, current=False)
    return old, world.video("v1", generation=2, blob_state=BlobState(state))


def test_the_loss_of_old_bytes_is_no_loss_of_the_video(world: World, lease: Lease) -> None:
    for number in range(8):
        world.video(f"other{number}")
    old, present = two_generations(world)
    world.workspace.bucket.delete([key_of(world, old)])
    sync_once(world, lease)
    assert blob_states(world) == {1: BlobState.LOST, 2: BlobState.LIVE}
    assert standing(world) == ("live", present, 2)


def test_a_services_delete_of_old_bytes_is_no_delete_of_the_video(world: World) -> None:
    old, present = two_generations(world)
    with transaction(world.workspace.engine, "test") as session:
        assert [blob.blob_id for blob in lost.mark_deleted(session, [old], "run")] == [old]
    assert blob_states(world) == {1: BlobState.GONE, 2: BlobState.LIVE}
    assert standing(world) == ("live", present, 2)


def test_old_bytes_that_are_found_again_do_not_bring_back_a_lost_video(world: World) -> None:
    old, present = two_generations(world)
    with transaction(world.workspace.engine, "test") as session:
        lost.mark_blobs(session, [old, present], "run")
        lost.mark_videos(session, [old, present], "run")
        lost.revive(session, [old], "run", Grace())
    assert blob_states(world) == {1: BlobState.RETIRED, 2: BlobState.LOST}
    assert standing(world) == ("lost", present, 2)


def test_a_purge_of_old_bytes_leaves_a_retired_video_that_can_be_restored(world: World, lease: Lease) -> None:
    old, present = two_generations(world, VideoState.RETIRED)
    plan = world.plan("purge_retired", "purge", [old])
    (outcome,) = purge(world.workspace, plan, [old], lease=lease, run_id="run", grace=Grace())
    assert (outcome.action, *standing(world)) == ("purged", "retired", present, 2)
    found = find_restorable(world.workspace, video_id="v1")
    (restored,) = restore(world.workspace, found, run_id="p", author="p", grace=Grace(), hold_days=0)
    assert (restored.action, standing(world)[0]) == ("restored", "live")
    world.check()


def test_each_change_of_bytes_counts_the_generation_up(world: World, lease: Lease, tiny_transcode: Transcode) -> None:
    old = world.video("v1")
    swap(world, old, lease, shrinker(tiny_transcode))
    assert standing(world)[2] == 2
    found = find_restorable(world.workspace, video_id="v1")
    restore(world.workspace, found, run_id="p", author="p", grace=Grace(), hold_days=0)
    assert standing(world)[1:] == (old, 3)
    world.check()
