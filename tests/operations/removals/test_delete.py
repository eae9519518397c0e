"""A user deletes a video: no longer served, purged after its grace, restored only by its own id."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from reelkeeper.errors import Frozen, LeaseLost, NotFound, VideoHeld
from reelkeeper.model import BlobState, Grace, VideoState
from reelkeeper.operations.core.freeze import freeze
from reelkeeper.operations.health import accounts
from reelkeeper.operations.lifecycle.purge import purge, settle_claims
from reelkeeper.operations.lifecycle.restore import find_restorable, restore
from reelkeeper.operations.removals.delete import delete
from reelkeeper.operations.removals.takedown import TakedownOrder, take_down
from reelkeeper.operations.videos.hold import hold
from reelkeeper.operations.videos.views import show
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.tables import audit_events, blobs, cache_entries, videos
from reelkeeper.store.videos import cache
from reelkeeper.store.videos.holds import HoldTerms
from tests.buckets import BUCKET
from tests.faults.world import LONG_AGO, World
from tests.marks import marked
from tests.operations.books import storage
from tests.operations.changes import change, rows, sync_once
from tests.policies import put_in_force


def ask(world: World, video_id: str = "v1", user_id: str | None = "ann") -> datetime:
    return delete(world.workspace.engine, video_id, by="front", run_id="delete-1", user_id=user_id).restorable_until


def test_a_deleted_video_is_not_served_and_its_quota_is_freed(world: World) -> None:
    world.video("v1")
    with transaction(world.workspace.engine, "test") as session:
        cache.insert(session, "key", "v1", user_id="ann", cost_microusd=1, ttl_seconds=None)
    until = ask(world)
    assert timedelta(days=6) < until - datetime.now(UTC) < timedelta(days=8)
    with pytest.raises(NotFound) as refused:
        show(world.workspace, "v1", url_seconds=60)
    assert marked(refused.value) == snapshot("video 'v1' is retired")
    with reading(world.workspace.engine) as session:
        assert not session.execute(sa.select(cache_entries)).all()
    assert storage(world.workspace.engine, "ann") == (0, 0)
    assert accounts.recount(world.workspace.engine) == []
    world.check()


def test_a_repeated_deletion_starts_no_new_grace_and_is_audited_once(world: World) -> None:
    world.video("v1")
    until = ask(world)
    assert ask(world) == until
    with reading(world.workspace.engine) as session:
        (event,) = session.execute(sa.select(audit_events).where(audit_events.c.event == "delete")).all()
    assert (event.video_id, event.user_id, event.detail) == ("v1", "ann", {"by": "front"})


def test_deleting_a_retired_video_keeps_its_grace(world: World) -> None:
    world.video("v1", state=VideoState.RETIRED, blob_state=BlobState.RETIRED)
    with reading(world.workspace.engine) as session:
        before = session.execute(sa.select(blobs.c.purge_after)).scalar_one()
    assert ask(world) == before


def test_views_keep_nothing_that_its_user_has_deleted(world: World, lease: Lease) -> None:
    blob_id = world.video("v1")
    ask(world)
    change(world, videos, last_viewed_at=datetime.now(UTC))
    change(world, blobs, purge_after=LONG_AGO)
    plan = world.plan("purge_retired", "purge", [blob_id])
    (outcome,) = purge(world.workspace, plan, [blob_id], lease=lease, run_id="r", grace=Grace())
    assert outcome.action == "purged"
    with pytest.raises(NotFound):
        ask(world)


def test_a_deleted_video_is_restored_by_its_id_but_not_by_its_user(world: World) -> None:
    world.video("v1")
    ask(world)
    world.video("v2", state=VideoState.RETIRED, blob_state=BlobState.RETIRED)
    assert [blob.video_id for blob in find_restorable(world.workspace, user_id="ann")] == ["v2"]
    found = find_restorable(world.workspace, video_id="v1")
    restore(world.workspace, found, run_id="p", author="support", grace=Grace(), hold_days=0)
    assert show(world.workspace, "v1", url_seconds=60).url
    world.check()


@pytest.mark.parametrize("is_counted", [False, True])
def test_a_deleted_video_is_not_served_again_when_its_lost_bytes_are_found(
    world: World, lease: Lease, is_counted: bool
) -> None:
    put_in_force(world.workspace.engine, lifecycle=LifecyclePolicy(count_deleted_until_purged=is_counted))
    key = f"{world.address.prefix}ann/v1/g1-0123456789abcdef.mp4"
    world.video("v1", key=key)
    ask(world)
    world.double.client.delete_object(Bucket=BUCKET, Key=key)
    sync_once(world, lease)
    world.double.client.put_object(Bucket=BUCKET, Key=key, Body=world.clip.read_bytes())
    sync_once(world, lease)
    with pytest.raises(NotFound):
        show(world.workspace, "v1", url_seconds=60)
    assert accounts.recount(world.workspace.engine) == []
    (found,) = find_restorable(world.workspace, video_id="v1")
    (outcome,) = restore(world.workspace, [found], run_id="undo", author="ops", grace=Grace(), hold_days=0)
    assert outcome.action == "restored"
    assert show(world.workspace, "v1", url_seconds=60)
    world.check()


def test_a_held_video_cannot_be_deleted(world: World) -> None:
    world.video("v1")
    hold(world.workspace.engine, HoldTerms("user", "ann", "a dispute", "test"))
    before = rows(world)
    with pytest.raises(VideoHeld) as refused:
        ask(world)
    assert str(refused.value) == snapshot("video 'v1' is held, so it is kept for now; nothing was deleted")
    assert rows(world) == before


def test_no_video_is_deleted_during_a_freeze(world: World) -> None:
    world.video("v1")
    freeze(world.workspace.engine, by="test", reason="an alarm")
    before = rows(world)
    with pytest.raises(Frozen):
        ask(world)
    assert rows(world) == before


def test_a_user_can_delete_only_their_own_existing_videos(world: World) -> None:
    world.video("v1")
    for video_id, user_id in (("v1", "eve"), ("none", "ann"), ("none", None)):
        with pytest.raises(NotFound):
            ask(world, video_id, user_id)
    for state, refusal in ((VideoState.PENDING, LeaseLost), (VideoState.LOST, VideoHeld), (VideoState.GONE, NotFound)):
        change(world, videos, state=state)
        with pytest.raises(refusal):
            ask(world)
    change(world, videos, state=VideoState.LIVE)
    assert ask(world, user_id=None)


COUNTED = LifecyclePolicy(count_deleted_until_purged=True)


def test_by_policy_the_quota_is_freed_only_when_the_bytes_are_purged(world: World, lease: Lease) -> None:
    put_in_force(world.workspace.engine, lifecycle=COUNTED)
    blob_id = world.video("v1")
    before = storage(world.workspace.engine, "ann")
    ask(world)
    ask(world)
    assert storage(world.workspace.engine, "ann") == before
    assert accounts.recount(world.workspace.engine) == []
    change(world, blobs, purge_after=LONG_AGO)
    plan = world.plan("purge_retired", "purge", [blob_id])
    purge(world.workspace, plan, [blob_id], lease=lease, run_id="r", grace=Grace())
    assert storage(world.workspace.engine, "ann") == (0, 0)
    world.check()


def test_a_deletion_counted_until_purged_ends_with_a_restore_or_takedown(world: World) -> None:
    put_in_force(world.workspace.engine, lifecycle=COUNTED)
    for name in ("v1", "v2"):
        world.video(name)
        ask(world, name)
    before = storage(world.workspace.engine, "ann")
    found = find_restorable(world.workspace, video_id="v1")
    restore(world.workspace, found, run_id="r", author="ops", grace=Grace(), hold_days=0)
    assert storage(world.workspace.engine, "ann") == before
    with pytest.raises(NotFound):
        find_restorable(world.workspace, user_id="ann")
    scratch = Path(world.address.folder) / "scratch"
    take_down(world.workspace, "v2", TakedownOrder("counsel", "court order 17", "takedown-1"), scratch=scratch)
    assert storage(world.workspace.engine, "ann") == (before[0] // 2, 0)
    put_in_force(world.workspace.engine, lifecycle=LifecyclePolicy())
    ask(world, "v1")
    assert storage(world.workspace.engine, "ann") == (0, 0)
    assert accounts.recount(world.workspace.engine) == []


def test_deleting_a_retired_video_uses_no_quota(world: World) -> None:
    put_in_force(world.workspace.engine, lifecycle=COUNTED)
    world.video("v1", state=VideoState.RETIRED, blob_state=BlobState.RETIRED)
    world.video("v2")
    before = storage(world.workspace.engine, "ann")
    ask(world)
    assert storage(world.workspace.engine, "ann") == before
    assert accounts.recount(world.workspace.engine) == []


def test_a_purge_with_a_timed_out_claim_frees_the_quota_too(world: World, lease: Lease) -> None:
    put_in_force(world.workspace.engine, lifecycle=COUNTED)
    world.video("v1")
    ask(world)
    with transaction(world.workspace.engine, "test") as session:
        values = {"state": BlobState.DELETING, "claimed_at": LONG_AGO, "claim_token": 99}
        session.execute(sa.update(blobs).values(values))
        (key,) = session.execute(sa.select(blobs.c.key)).scalars()
    world.workspace.bucket.delete([key])
    assert settle_claims(world.workspace, run_id="r", grace=Grace(), lease=lease) == 1
    assert storage(world.workspace.engine, "ann") == (0, 0)
    assert accounts.recount(world.workspace.engine) == []
