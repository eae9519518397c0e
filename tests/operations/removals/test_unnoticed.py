"""A video is removed whose key the service has written over before, which no run has noticed yet: that goes, too."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from reelkeeper.model import BlobState, Grace, VideoState
from reelkeeper.operations.health import accounts
from reelkeeper.operations.lifecycle.purge import purge
from reelkeeper.operations.removals.delete import delete
from reelkeeper.operations.removals.erase import erase
from reelkeeper.operations.removals.takedown import TakedownOrder, take_down
from reelkeeper.settings import Settings
from reelkeeper.store.core.engine import reading
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.tables import audit_events, blobs, videos
from reelkeeper.store.videos.conditions import DELETED
from tests.buckets import BUCKET
from tests.faults.world import LONG_AGO, World
from tests.operations.changes import change, sync_once

HOUR = timedelta(hours=1)


@pytest.fixture
def key(world: World) -> str:
    """The service's key of the video v1, where it has stored another video that no run has noticed."""
    key = f"{world.address.prefix}ann/v1.mp4"
    world.workspace.bucket.put_once(key, world.clip, "video/mp4")
    world.video("v1", key=key, stored=False)
    store_another(world, key)
    return key


def store_another(world: World, key: str, data: bytes = b"another video") -> None:
    world.double.client.put_object(Bucket=BUCKET, Key=key, Body=data)


def state(world: World) -> tuple[str, str, str | None]:
    with reading(world.workspace.engine) as session:
        of = sa.select(videos.c.state, blobs.c.state, videos.c.retire_reason).join(
            blobs, blobs.c.id == videos.c.blob_id
        )
        return tuple(session.execute(of).one())


@pytest.mark.parametrize("before", [BlobState.LIVE, BlobState.GONE])
def test_what_the_service_stored_before_a_takedown_is_taken_down(
    world: World, lease: Lease, key: str, before: BlobState
) -> None:
    if before == BlobState.GONE:
        change(world, blobs, state=BlobState.GONE)
        change(world, videos, state=VideoState.GONE)
    scratch = Path(world.address.folder) / "scratch"
    found = take_down(world.workspace, "v1", TakedownOrder("counsel", "an order", "run"), scratch=scratch)
    assert world.workspace.bucket.head(key) is None
    assert state(world)[0] == VideoState.GONE
    assert [(item.key, item.purged_at is not None) for item in found.objects] == [(key, True)]
    change(world, blobs, stored_at=LONG_AGO)
    store_another(world, key)  # the same again
    sync_once(world, lease)
    assert state(world)[0] == VideoState.RETIRED


def test_what_the_service_stored_before_an_erasure_is_erased_at_once(world: World, key: str) -> None:
    found = erase(world.workspace, "ann", by="counsel", run_id="run", settings=Settings(), wait_seconds=0)
    assert (found.left, world.workspace.bucket.head(key)) == ((), None)


@pytest.mark.parametrize("found_by", ["sync", "purge"])
def test_a_deleted_video_stays_deleted_although_its_key_was_written_over_before(
    world: World, lease: Lease, key: str, found_by: str
) -> None:
    delete(world.workspace.engine, "v1", by="front", run_id="delete", user_id="ann")
    change(world, videos, retired_at=datetime.now(UTC) + HOUR)  # so the upload was an hour before
    if found_by == "sync":
        sync_once(world, lease)
    else:
        purge_due(world, lease)
    assert state(world) == (VideoState.RETIRED, BlobState.RETIRED, DELETED)
    with reading(world.workspace.engine) as session:
        assert "overwritten" in set(session.execute(sa.select(audit_events.c.event)).scalars())
    purge_due(world, lease)
    assert world.workspace.bucket.head(key) is None
    assert accounts.recount(world.workspace.engine) == []


def test_an_upload_after_the_deletion_is_served(world: World, lease: Lease, key: str) -> None:
    delete(world.workspace.engine, "v1", by="front", run_id="delete", user_id="ann")
    change(world, videos, retired_at=datetime.now(UTC) - HOUR)
    sync_once(world, lease)
    assert state(world) == (VideoState.LIVE, BlobState.LIVE, None)
    assert world.workspace.bucket.head(key)


def purge_due(world: World, lease: Lease) -> None:
    change(world, blobs, purge_after=LONG_AGO)
    with reading(world.workspace.engine) as session:
        due = list(session.execute(sa.select(blobs.c.id).where(blobs.c.state == BlobState.RETIRED)).scalars())
    plan = world.plan(f"{due[-1]}", "purge", due)
    purge(world.workspace, plan, due, lease=lease, run_id="purge", grace=Grace())
