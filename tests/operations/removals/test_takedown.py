"""A video is taken down: not served, deleted at once, never published again, and certified by the audit."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from reelkeeper.errors import InputRefused, KeyReused, LeaseLost, NotFound
from reelkeeper.model import BlobState, Grace, VideoState
from reelkeeper.model.requests import Incoming
from reelkeeper.operations.billing import users
from reelkeeper.operations.core.freeze import freeze
from reelkeeper.operations.core.lease import LeaseManager
from reelkeeper.operations.health import accounts
from reelkeeper.operations.lifecycle.purge import purge_taken_down
from reelkeeper.operations.lifecycle.restore import find_restorable, restore
from reelkeeper.operations.removals import takedown
from reelkeeper.operations.removals.delete import delete
from reelkeeper.operations.removals.erase import erase
from reelkeeper.operations.removals.takedown import Certificate, TakedownOrder, certificate, take_down
from reelkeeper.operations.sync.survey import survey
from reelkeeper.operations.videos.complete import complete
from reelkeeper.operations.videos.hold import hold, release
from reelkeeper.operations.videos.intents import md5
from reelkeeper.operations.videos.receive import Announced, begin
from reelkeeper.operations.videos.upload import upload
from reelkeeper.operations.videos.views import show
from reelkeeper.settings import Settings
from reelkeeper.store.core.audit import verify
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.removals import takedowns
from reelkeeper.store.tables import blobs, cache_entries, videos
from reelkeeper.store.videos import cache
from reelkeeper.store.videos.conditions import TAKEN_DOWN
from reelkeeper.store.videos.holds import HoldTerms
from tests.buckets import BUCKET
from tests.clips import MakeClip
from tests.faults.world import LONG_AGO, World
from tests.marks import marked
from tests.operations.changes import change, sync_once
from tests.worlds import AtFailpoint

ORDER = TakedownOrder("counsel", "court order 17", "takedown-1")


def down(world: World, video_id: str = "v1", *, same_bytes: bool = False, max_videos: int = 500) -> Certificate:
    scratch = Path(world.address.folder) / "scratch"
    return take_down(world.workspace, video_id, ORDER, scratch=scratch, same_bytes=same_bytes, max_videos=max_videos)


def states(world: World) -> dict[str, str]:
    with reading(world.workspace.engine) as session:
        return {row.id: row.state for row in session.execute(sa.select(videos.c.id, videos.c.state))}


def stored(world: World) -> set[str]:
    return {item.key for page in world.workspace.bucket.pages() for item in page}


def test_a_video_taken_down_is_not_served_or_stored_and_its_deletions_are_audited(world: World) -> None:
    world.swapped("v1", run_id="tier-1")
    world.video("v2")
    before = stored(world)
    with transaction(world.workspace.engine, "test") as session:
        cache.insert(session, "key", "v1", user_id="ann", cost_microusd=1, ttl_seconds=None)
    found = down(world)
    assert (found.by, found.reason, found.video_ids, found.left) == (ORDER.by, ORDER.reason, ("v1",), ())
    sha256 = hashlib.sha256(world.clip.read_bytes()).hexdigest()
    assert {item.key for item in found.objects} == before - stored(world)
    assert len(found.objects) == 2
    assert all(item.sha256 == sha256 and item.purged_at and item.event for item in found.objects)
    assert states(world) == {"v1": VideoState.GONE, "v2": VideoState.LIVE}
    with pytest.raises(NotFound):
        show(world.workspace, "v1", url_seconds=60)
    with reading(world.workspace.engine) as session:
        assert not session.execute(sa.select(cache_entries)).all()
        verify(session)
    assert accounts.recount(world.workspace.engine) == []
    assert certificate(world.workspace.engine, "v1") == found
    world.check()


def test_a_certificate_names_the_services_files_beside_the_video_which_stay(world: World) -> None:
    world.video("v1", key=f"{world.address.prefix}clips/v1.mp4")
    for name in ("v1.jpg", "v1_thumb.webp", "v10.jpg", "v2.jpg"):
        world.double.client.put_object(Bucket=BUCKET, Key=f"{world.address.prefix}clips/{name}", Body=b"x")
    survey(world.workspace, run_id="sync", note=True)
    found = down(world)
    assert found.files == tuple(f"{world.address.prefix}clips/{name}" for name in ("v1.jpg", "v1_thumb.webp"))
    assert certificate(world.workspace.engine, "v1") == found


def test_no_freeze_no_view_and_no_ordinary_hold_stops_it(world: World) -> None:
    world.video("v1")
    hold(world.workspace.engine, HoldTerms("user", "ann", "a dispute", "test"))
    freeze(world.workspace.engine, by="test", reason="an alarm")
    assert down(world).left == ()
    assert states(world) == {"v1": VideoState.GONE}


def test_a_legal_hold_keeps_the_bytes_without_serving_them(world: World) -> None:
    world.video("v1")
    placed = hold(world.workspace.engine, HoldTerms("user", "ann", "evidence", "test", is_legal=True))
    (left,) = down(world).left
    assert marked(left.why) == snapshot(
        "a legal hold keeps it; it is not served to anyone. Repeat the takedown when the hold has ended"
    )
    assert left.key in stored(world)
    with pytest.raises(NotFound):
        show(world.workspace, "v1", url_seconds=60)
    release(world.workspace.engine, placed.id, author="test")
    assert down(world).left == ()
    assert states(world) == {"v1": VideoState.GONE}


def test_a_video_of_a_user_who_is_being_erased_gets_its_certificate_once(world: World) -> None:
    world.video("v1")
    hold(world.workspace.engine, HoldTerms("video", "v1", "evidence", "counsel", is_legal=True))
    assert erase(world.workspace, "ann", by="front", run_id="erase-1", settings=Settings(), wait_seconds=0.0).left
    first, second = down(world), down(world)
    assert (first.by, first.reason, len(first.left)) == (ORDER.by, ORDER.reason, 1)
    assert second == first


def test_a_certificate_stands_although_the_user_of_a_later_takedown_was_erased(world: World) -> None:
    world.video("v1")
    first = down(world)
    world.video("v2")
    users.put(world.workspace.engine, "bob", "free", by="front")
    with transaction(world.workspace.engine, "test") as session:
        session.execute(sa.update(videos).where(videos.c.id == "v2").values(user_id="bob"))
    down(world, "v2")
    erase(world.workspace, "bob", by="front", run_id="erase-1", settings=Settings(), wait_seconds=0.0)
    assert certificate(world.workspace.engine, "v1") == first


def test_a_video_taken_down_before_its_bytes_came_is_not_stored_again(
    world: World, lease: Lease, tmp_path: Path
) -> None:
    world.video("v1", state=VideoState.GONE, blob_state=BlobState.RETIRED, current=False)  # its first upload failed
    data = world.clip.read_bytes()
    announced = Announced("ann", "v1", len(data), md5(world.clip), "mp4")
    begun, _ = begin(world.workspace, announced, "before", url_seconds=600)
    world.workspace.bucket.put_once(begun.key, world.clip, "video/mp4")
    down(world)
    with pytest.raises(InputRefused):
        begin(world.workspace, announced, "after", url_seconds=600)
    terms: dict[str, Any] = {"scratch": tmp_path / "scratch", "run_id": "upload-1", "grace": Grace()}
    with pytest.raises(KeyReused):
        complete(world.workspace, begun.id, **terms)
    with pytest.raises(NotFound):
        upload(world.workspace, world.clip, Incoming("ann", "v1", LONG_AGO), lease=lease, **terms)
    assert states(world) == {"v1": VideoState.GONE}


def test_a_video_taken_down_cannot_be_restored(world: World) -> None:
    world.video("v1")
    hold(world.workspace.engine, HoldTerms("video", "v1", "evidence", "test", is_legal=True))
    down(world)
    for asked in ({"video_id": "v1"}, {"user_id": "ann"}, {"run_id": ORDER.run_id}):
        with pytest.raises(NotFound):
            find_restorable(world.workspace, **asked)
    with pytest.raises(NotFound) as refused:
        delete(world.workspace.engine, "v1", by="front", run_id="delete-1")
    assert marked(refused.value) == snapshot("video 'v1' was taken down")
    with pytest.raises(NotFound):
        find_restorable(world.workspace, video_id="v1")


def test_a_video_taken_down_is_not_served_when_its_lost_bytes_are_found_again(world: World, lease: Lease) -> None:
    world.video("v1")
    placed = hold(world.workspace.engine, HoldTerms("video", "v1", "evidence", "test", is_legal=True))
    down(world)
    (key,) = stored(world)
    world.double.client.delete_object(Bucket=BUCKET, Key=key)  # as by a lifecycle rule
    sync_once(world, lease)
    assert states(world) == {"v1": VideoState.LOST}
    world.double.client.put_object(Bucket=BUCKET, Key=key, Body=world.clip.read_bytes())  # from a copy of the bucket
    sync_once(world, lease)
    assert states(world) == {"v1": VideoState.RETIRED}
    with pytest.raises(NotFound):
        show(world.workspace, "v1", url_seconds=60)
    with pytest.raises(NotFound):
        find_restorable(world.workspace, video_id="v1")
    release(world.workspace.engine, placed.id, author="test")
    assert down(world).left == ()
    assert stored(world) == set()


def test_no_newer_generation_brings_back_a_lost_video_that_was_taken_down(world: World, lease: Lease) -> None:
    key = f"{world.address.prefix}ann/v1/g1-0123456789abcdef.mp4"
    world.video("v1", key=key)
    hold(world.workspace.engine, HoldTerms("video", "v1", "evidence", "test", is_legal=True))
    down(world)
    world.double.client.delete_object(Bucket=BUCKET, Key=key)
    newer = f"{world.address.prefix}ann/v1/g2-0123456789abcdef.mp4"  # of which a store from a backup does not know
    world.double.client.put_object(Bucket=BUCKET, Key=newer, Body=b"its compressed bytes")
    sync_once(world, lease)
    sync_once(world, lease)
    assert states(world) == {"v1": VideoState.LOST}


def test_bytes_that_were_taken_down_are_not_restored_once_their_video_has_others(
    world: World, lease: Lease, make_clip: MakeClip
) -> None:
    key = f"{world.address.prefix}ann/v1.mp4"
    world.video("v1", key=key, blob_state=BlobState.RETIRED, current=False)
    world.video("v1", generation=2, recipe="a recipe")
    hold(world.workspace.engine, HoldTerms("video", "v1", "evidence", "test", is_legal=True))
    down(world)
    world.double.client.put_object(Bucket=BUCKET, Key=key, Body=make_clip(seconds=1).read_bytes())
    sync_once(world, lease)
    assert states(world) == {"v1": VideoState.LIVE}  # other bytes, which the service has stored
    world.double.client.delete_object(Bucket=BUCKET, Key=key)
    sync_once(world, lease)
    assert states(world) == {"v1": VideoState.LOST}
    with pytest.raises(NotFound):
        find_restorable(world.workspace, video_id="v1")


def test_a_retired_copy_of_what_was_taken_down_is_not_restored(world: World) -> None:
    world.video("v1")
    world.video("v2", state=VideoState.RETIRED, blob_state=BlobState.RETIRED)
    down(world)
    found = find_restorable(world.workspace, video_id="v2")
    (outcome,) = restore(world.workspace, found, run_id="restore-1", author="ops", grace=Grace(), hold_days=0)
    assert outcome.action == "failed"
    assert states(world) == {"v1": VideoState.GONE, "v2": VideoState.RETIRED}


def test_the_same_bytes_are_taken_down_with_it_where_asked_and_no_others(world: World, make_clip: MakeClip) -> None:
    for video_id in ("v1", "v2", "v3"):
        world.video(video_id)
    world.video("v4", clip=make_clip(seconds=1))
    change(world, blobs, sha256=None)  # as adopted: only ETag and size are known
    refused = down(world, same_bytes=True, max_videos=1)
    assert (refused.video_ids, refused.left, refused.others_kept) == (("v1",), (), 2)
    assert states(world) == {"v1": "gone", "v2": "live", "v3": "live", "v4": "live"}
    found = down(world, same_bytes=True)
    assert (found.video_ids, found.left, found.others_kept) == (("v1", "v2", "v3"), (), 0)
    assert states(world) == {"v1": "gone", "v2": "gone", "v3": "gone", "v4": "live"}
    assert certificate(world.workspace.engine, "v1").objects == found.objects
    world.check()


def test_another_that_is_erased_meanwhile_keeps_none_of_the_rest(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.video("v1")
    world.video("v3")
    look = takedowns.videos_with_same_bytes
    monkeypatch.setattr(takedowns, "videos_with_same_bytes", lambda *asked: ["v2", *look(*asked)])
    assert down(world, same_bytes=True).video_ids == ("v1", "v3")
    assert states(world) == {"v1": "gone", "v3": "gone"}


def test_the_same_bytes_are_not_uploaded_or_made_again(world: World, lease: Lease, make_clip: MakeClip) -> None:
    key = f"{world.address.prefix}ann/v1.mp4"
    etag = world.put_in_parts(
        key, world.clip.read_bytes()
    )  # so that it has another ETag, and only its SHA-256 says that it is the same
    world.video("v1", key=key, stored=False)
    change(world, blobs, sha256=None, etag=etag)
    down(world)
    outcomes = [
        upload(
            world.workspace,
            clip,
            Incoming("ann", video_id, LONG_AGO),
            scratch=Path(world.address.folder) / "scratch",
            lease=lease,
            run_id="add-1",
            grace=world.workspace.in_force.policies.lifecycle.grace,
        )
        for video_id, clip in (("v2", world.clip), ("v3", make_clip(seconds=1)))
    ]
    assert [outcome.action for outcome in outcomes] == ["failed", "uploaded"]
    assert marked(outcomes[0].reason) == snapshot("these bytes were taken down, so they are not published")
    assert states(world) == {"v1": VideoState.GONE, "v2": VideoState.GONE, "v3": VideoState.LIVE}


@pytest.mark.parametrize("key", ["ann/v1.mp4", "ann/v9.mp4"])
def test_the_service_cannot_bring_it_back_by_storing_it_again(world: World, lease: Lease, key: str) -> None:
    known = f"{world.address.prefix}ann/v1.mp4"
    world.video("v1", key=known)
    down(world)
    assert known not in stored(world)
    change(world, blobs, stored_at=LONG_AGO)  # dates are in seconds: the same bytes within one would look untouched
    world.workspace.bucket.put_once(f"{world.address.prefix}{key}", world.clip, "video/mp4")
    sync_once(world, lease)
    assert set(states(world).values()) <= {VideoState.RETIRED, VideoState.GONE}
    video_id = key[4:6]
    assert down(world, video_id).left == ()
    assert f"{world.address.prefix}{key}" not in stored(world)


def test_a_lost_copy_of_what_was_taken_down_is_not_served_once_it_is_found(world: World, lease: Lease) -> None:
    keys = {name: f"{world.address.prefix}ann/{name}/g1-0123456789abcdef.mp4" for name in ("v1", "v2", "v3")}
    for name, key in keys.items():
        world.video(name, key=key)
    world.double.client.delete_object(Bucket=BUCKET, Key=keys["v2"])
    sync_once(world, lease)
    assert states(world) == {"v1": VideoState.LIVE, "v2": VideoState.LOST, "v3": VideoState.LIVE}
    down(world)
    world.double.client.put_object(Bucket=BUCKET, Key=keys["v2"], Body=world.clip.read_bytes())
    sync_once(world, lease)
    assert states(world) == {"v1": VideoState.GONE, "v2": VideoState.RETIRED, "v3": VideoState.LIVE}
    with pytest.raises(NotFound):
        find_restorable(world.workspace, video_id="v2")
    assert down(world, "v2").left == ()
    assert stored(world) == {keys["v3"]}
    assert accounts.recount(world.workspace.engine) == []


def test_a_certificate_says_so_once_the_bytes_are_stored_again(world: World, lease: Lease) -> None:
    key = f"{world.address.prefix}ann/v1/g1-0123456789abcdef.mp4"
    world.video("v1", key=key)
    (before,) = down(world).objects
    world.double.client.put_object(Bucket=BUCKET, Key=key, Body=world.clip.read_bytes())  # from a copy of the bucket
    sync_once(world, lease)
    (left,) = certificate(world.workspace.engine, "v1").left
    assert (left.key, left.purged_at, left.event) == (key, None, None)
    (removed,) = down(world).objects
    assert (removed.event or 0) > (before.event or 0)
    assert stored(world) == set()


def test_what_the_service_stores_while_a_takedown_reads_counts_in_no_quota(
    world: World, lease: Lease, at_failpoint: AtFailpoint, make_clip: MakeClip
) -> None:
    key = f"{world.address.prefix}ann/v1.mp4"
    world.workspace.bucket.put_once(key, world.clip, "video/mp4")
    world.video("v1", key=key, stored=False)
    change(world, blobs, sha256=None)

    def store_another() -> None:
        world.double.client.put_object(Bucket=BUCKET, Key=key, Body=make_clip(seconds=1).read_bytes())
        sync_once(world, lease)

    at_failpoint("takedown.read.after", store_another)
    assert down(world).left == ()
    assert accounts.recount(world.workspace.engine) == []


def test_unreadable_bytes_are_deleted_too(world: World) -> None:
    world.video("v1")
    change(world, blobs, sha256=None)
    world.double.faults.fail("GetObject", 403, times=50)
    found = down(world)
    assert [(item.sha256, item.why) for item in found.objects] == [(None, "")]


def test_a_video_that_another_run_works_on_is_not_served_and_deleted_on_repetition(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.video("v1")
    monkeypatch.setattr(takedown, "_WAIT_SECONDS", 0.0)
    with LeaseManager(world.workspace.engine) as other:
        other.take(["video/v1"])
        (left,) = down(world).left
        assert left.why == snapshot("another run is at work on its video: repeat the takedown in a minute")
        with pytest.raises(NotFound):
            show(world.workspace, "v1", url_seconds=60)
    assert down(world).left == ()


def test_the_result_of_a_killed_swap_is_deleted_too(world: World) -> None:
    world.video("v1")
    world.video("v1", generation=2, blob_state=BlobState.PENDING, current=False)
    assert [item.why for item in down(world).objects] == ["", ""]
    assert not [key for key in stored(world) if "/v1/" in key]


def test_the_result_of_a_concurrent_swap_is_deleted_too(world: World, at_failpoint: AtFailpoint) -> None:
    world.video("v1")

    def put() -> None:
        world.video("v1", generation=2, blob_state=BlobState.PENDING, current=False)

    at_failpoint("takedown.block.after_commit", put)
    down(world)
    assert not [key for key in stored(world) if "/v1/" in key]
    assert down(world).left == ()
    assert states(world) == {"v1": VideoState.GONE}


def test_only_unclaimed_bytes_that_were_taken_down_are_deleted_and_only_under_a_lease(
    world: World, lease: Lease
) -> None:
    retired = world.video("v1", state=VideoState.RETIRED, blob_state=BlobState.RETIRED)
    assert purge_taken_down(world.workspace, [retired], lease=lease, run_id="r", grace=Grace()) == []
    change(world, videos, retire_reason=TAKEN_DOWN)
    lost = lease._replace(token=lease.token + 1)
    with pytest.raises(LeaseLost):
        purge_taken_down(world.workspace, [retired], lease=lost, run_id="r", grace=Grace())
    change(world, blobs, state=BlobState.DELETING, claim_token=lost.token, claimed_at=datetime.now(UTC))
    assert purge_taken_down(world.workspace, [retired], lease=lease, run_id="r", grace=Grace()) == []
    assert len(stored(world)) == 1
    change(world, blobs, state=BlobState.RETIRED, claim_token=None, claimed_at=None)
    (outcome,) = purge_taken_down(world.workspace, [retired], lease=lease, run_id="r", grace=Grace())
    assert outcome.action == "purged"


def test_a_freeze_does_not_keep_what_a_killed_purge_has_claimed(world: World) -> None:
    world.video("v1", state=VideoState.RETIRED, blob_state=BlobState.RETIRED, due=True)
    claimed = {"state": BlobState.DELETING, "claim_token": 7, "run_id": "killed"}
    change(world, blobs, **claimed, claimed_at=datetime.now(UTC))
    freeze(world.workspace.engine, by="test", reason="an alarm")
    assert len(down(world).left) == 1  # the killed run's request may still arrive
    change(world, blobs, **claimed, claimed_at=LONG_AGO)
    assert down(world).left == ()
    assert stored(world) == set()


def test_an_unknown_video_changes_nothing(world: World) -> None:
    world.video("v1")
    with pytest.raises(NotFound):
        down(world, "none")
    with pytest.raises(NotFound) as refused:
        certificate(world.workspace.engine, "v1")
    assert marked(refused.value) == snapshot("video 'v1' was never taken down")
    assert states(world) == {"v1": VideoState.LIVE}
