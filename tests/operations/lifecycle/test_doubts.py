"""Doubts: objects at keys of ours that are not as recorded. Each heals by its bytes, or ends by a person's word."""

import hashlib
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from reelkeeper.errors import Frozen, NotFound, Refused
from reelkeeper.model import BlobState, Grace, SettledAs, VideoState
from reelkeeper.operations.core.freeze import freeze, thaw, why_frozen
from reelkeeper.operations.lifecycle import purge
from reelkeeper.operations.removals.erase import erase
from reelkeeper.operations.videos import doubts
from reelkeeper.settings import Settings
from reelkeeper.store.core.audit import verify
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.lifecycle.doubts import Doubt, listed
from reelkeeper.store.tables import audit_events, blobs, videos
from tests.buckets import BUCKET
from tests.faults.world import LONG_AGO, World
from tests.marks import marked
from tests.operations.changes import change, sync_once

OTHER = b"other bytes, that nobody knows of"


def aside(world: World, *, due: bool = True, video: str = "v1") -> tuple[int, str]:
    """A video with a retired blob beside its present one, as a copy aside is; return the blob and its key."""
    blob = world.video(video, blob_state=BlobState.RETIRED, due=due, current=False)
    world.video(video, generation=2)
    with reading(world.workspace.engine) as session:
        return blob, session.execute(sa.select(blobs.c.key).where(blobs.c.id == blob)).scalar_one()


def in_parts(world: World, *, video: str = "v1") -> tuple[int, str]:
    """As a kill before 0.2.0 has left it: the copy of an original in parts, recorded with the MD5 of its bytes."""
    blob, key = aside(world, video=video)
    world.put_in_parts(key, world.clip.read_bytes())
    return blob, key


def put(world: World, key: str, data: bytes = OTHER) -> None:
    world.double.limits_overwrites = False
    world.double.client.put_object(Bucket=BUCKET, Key=key, Body=data)


def run_purge(world: World, blob: int, lease: Lease, plan: str | None = None) -> str:
    plan = plan or world.plan("purge_retired", "purge", [blob])
    (outcome,) = purge.purge(world.workspace, plan, [blob], lease=lease, run_id="purge", grace=Grace())
    return outcome.action


def open_doubts(world: World) -> list[Doubt]:
    with reading(world.workspace.engine) as session:
        return listed(session)


def row_of(world: World, blob: int) -> Any:  # noqa: ANN401  a row
    with reading(world.workspace.engine) as session:
        verify(session)
        return session.execute(sa.select(blobs).where(blobs.c.id == blob)).one()


def events(world: World) -> list[str]:
    with reading(world.workspace.engine) as session:
        return list(session.execute(sa.select(audit_events.c.event).order_by(audit_events.c.id)).scalars())


def settle(world: World, how: SettledAs) -> doubts.Settled:
    (doubt,) = open_doubts(world)
    return doubts.settle(world.workspace, doubt, how, author="ann", run_id="doubts")


def test_bytes_as_recorded_under_another_etag_heal_at_the_next_sync(world: World, lease: Lease) -> None:
    blob, key = in_parts(world)
    assert sync_once(world, lease) == []
    found = world.workspace.bucket.head(key)
    assert found is not None
    assert row_of(world, blob).etag == found.etag
    assert open_doubts(world) == []
    assert run_purge(world, blob, lease) == "purged"
    assert why_frozen(world.workspace.engine) is None
    world.check()


def test_a_purge_that_comes_before_that_sync_freezes_nothing_either(world: World, lease: Lease) -> None:
    blob, _ = in_parts(world)
    assert run_purge(world, blob, lease) == "skipped"
    assert why_frozen(world.workspace.engine) is None
    assert run_purge(world, blob, lease, "purge1") == "purged"


def test_nor_does_the_claim_of_a_killed_purge(world: World, lease: Lease) -> None:
    blob, _ = in_parts(world)
    with transaction(world.workspace.engine, "test") as session:
        claimed = {"state": BlobState.DELETING, "claimed_at": LONG_AGO, "claim_token": 1}
        session.execute(sa.update(blobs).where(blobs.c.id == blob).values(**claimed))
    assert sync_once(world, lease) == []
    assert why_frozen(world.workspace.engine) is None
    assert row_of(world, blob).state == BlobState.RETIRED


def test_other_bytes_of_the_same_size_do_not_heal(world: World, lease: Lease) -> None:
    blob, key = aside(world)
    data = bytes(reversed(world.clip.read_bytes()))
    put(world, key, data)
    before = row_of(world, blob).etag
    assert sync_once(world, lease) == [key] == sync_once(world, lease)
    (doubt,) = open_doubts(world)
    assert (doubt.id, doubt.expected_etag, doubt.found_bytes) == (blob, before, len(data))
    assert doubt.found_sha256 == hashlib.sha256(data).hexdigest() != doubt.expected_sha256
    assert [request.key for request in world.double.sent("GetObject")].count(key) == 1  # read once, not each night
    assert events(world).count("doubt") == 1
    assert row_of(world, blob).etag == before


def test_a_purge_freezes_once_and_then_leaves_the_object_to_a_person(world: World, lease: Lease) -> None:
    blob, key = aside(world)
    put(world, key)
    assert run_purge(world, blob, lease) == "failed"
    assert marked(why_frozen(world.workspace.engine), SIZE=world.clip.stat().st_size) == snapshot(
        "frozen since DAY TIME by purge: blobs in doubt: 1, first ID/videos/ann/v1/g1-ID.mp4: stored 33 bytes, ETag ID; recorded SIZE, ID. 1 object in doubt, each with the command that settles it: reelkeeper doubts. When the cause is resolved: reelkeeper thaw"
    )
    with pytest.raises(Frozen):
        run_purge(world, blob, lease, "purge1")
    thaw(world.workspace.engine, by="ann")
    change(world, blobs, purge_after=LONG_AGO)
    assert run_purge(world, blob, lease, "purge1") == "skipped"
    assert why_frozen(world.workspace.engine) is None
    assert world.workspace.bucket.read_bytes(key) == OTHER


def test_nor_are_old_bytes_purged_while_the_present_ones_are_in_doubt(world: World, lease: Lease) -> None:
    blob, _ = aside(world)
    with reading(world.workspace.engine) as session:
        key = session.execute(sa.select(blobs.c.key).where(blobs.c.state == BlobState.LIVE)).scalar_one()
    put(world, key)
    assert sync_once(world, lease) == [key]
    assert run_purge(world, blob, lease) == "skipped"
    assert why_frozen(world.workspace.engine) is None


def test_settled_as_stored_the_object_is_purged_after_a_new_grace(world: World, lease: Lease) -> None:
    blob, key = aside(world)
    put(world, key)
    assert sync_once(world, lease) == [key]
    freeze(world.workspace.engine, by="ann", reason="a doubt")
    done = settle(world, SettledAs.STORED)
    assert (done.left, done.frozen is not None) == (0, True)
    thaw(world.workspace.engine, by="ann")
    row = row_of(world, blob)
    assert (row.size_bytes, row.sha256) == (len(OTHER), hashlib.sha256(OTHER).hexdigest())
    assert (row.codec, row.frames) == (None, None)
    assert row.purge_after > LONG_AGO
    assert sync_once(world, lease) == []
    assert run_purge(world, blob, lease) == "skipped"  # in its grace
    change(world, blobs, purge_after=LONG_AGO)
    assert run_purge(world, blob, lease, "purge1") == "purged"
    assert "doubt_ended" in events(world)
    world.check()


@pytest.mark.parametrize("how", [SettledAs.STORED, SettledAs.LOST])
def test_of_two_doubts_the_one_that_is_settled_ends(world: World, lease: Lease, how: SettledAs) -> None:
    _, key = aside(world)
    with reading(world.workspace.engine) as session:
        shown = session.execute(sa.select(blobs.c.key).where(blobs.c.state == BlobState.LIVE)).scalar_one()
    for each in (key, shown):
        put(world, each)
    for _ in range(2):
        assert sorted(sync_once(world, lease)) == sorted([key, shown])
        assert events(world).count("doubt") == 2  # each is recorded once
    first, second = open_doubts(world)
    assert doubts.settle(world.workspace, first, how, author="ann", run_id="doubts").left == 1
    assert open_doubts(world) == [second]


def test_settled_as_lost_the_object_stays_for_ever_without_a_doubt(world: World, lease: Lease) -> None:
    blob, key = aside(world)
    put(world, key)
    sync_once(world, lease)
    settle(world, SettledAs.LOST)
    assert row_of(world, blob).state == BlobState.LOST
    for _ in range(2):
        assert sync_once(world, lease) == []
    change(world, blobs, purge_after=LONG_AGO)
    assert run_purge(world, blob, lease) == "skipped"
    assert world.workspace.bucket.read_bytes(key) == OTHER
    put(world, key, OTHER + b", and newer ones")
    assert sync_once(world, lease) == [key]
    assert len(open_doubts(world)) == 1


@pytest.mark.parametrize(("how", "state"), [(SettledAs.STORED, VideoState.LIVE), (SettledAs.LOST, VideoState.LOST)])
def test_a_live_video_shows_what_was_accepted_or_is_lost(
    world: World, lease: Lease, how: SettledAs, state: VideoState
) -> None:
    blob = world.video("v1")
    key = row_of(world, blob).key
    put(world, key)
    assert sync_once(world, lease) == [key]
    settle(world, how)
    with reading(world.workspace.engine) as session:
        assert session.execute(sa.select(videos.c.state)).scalar_one() == state
    assert sync_once(world, lease) == []
    if how is SettledAs.LOST:
        world.check()


def newer_object(world: World, key: str) -> None:
    put(world, key, OTHER + b"!")


def newer_doubt(world: World, key: str) -> None:
    newer_object(world, key)
    doubts.look_into(world.workspace, {key: world.workspace.bucket.head(key)}, run_id="another")
    put(world, key)


def deleted(world: World, key: str) -> None:
    world.double.client.delete_object(Bucket=BUCKET, Key=key)


@pytest.mark.parametrize("how", list(SettledAs))
@pytest.mark.parametrize("meanwhile", [newer_object, newer_doubt, deleted])
def test_a_doubt_that_has_changed_since_it_was_listed_is_not_settled(
    world: World, lease: Lease, meanwhile: Callable[[World, str], None], how: SettledAs
) -> None:
    blob, key = aside(world)
    put(world, key)
    sync_once(world, lease)
    (doubt,) = open_doubts(world)
    meanwhile(world, key)
    before = row_of(world, blob)
    with pytest.raises(Refused):
        doubts.settle(world.workspace, doubt, how, author="ann", run_id="doubts")
    assert row_of(world, blob) == before
    assert "doubt_ended" not in events(world)
    assert open_doubts(world)


@pytest.mark.parametrize("how", list(SettledAs))
def test_a_doubt_whose_object_a_purge_has_claimed_is_not_settled(world: World, lease: Lease, how: SettledAs) -> None:
    blob, key = aside(world)
    put(world, key)
    sync_once(world, lease)
    with transaction(world.workspace.engine, "test") as session:
        session.execute(sa.update(blobs).where(blobs.c.id == blob).values(state=BlobState.DELETING))
    (doubt,) = open_doubts(world)
    with pytest.raises(Refused):
        doubts.settle(world.workspace, doubt, how, author="ann", run_id="doubts")
    assert "doubt_ended" not in events(world)


def test_bytes_that_were_taken_down_are_not_accepted(world: World, lease: Lease) -> None:
    from tests.operations.removals.test_takedown import down  # noqa: PLC0415  the one like it

    world.video("v9")
    down(world, "v9")
    blob, key = aside(world)
    change(world, blobs, sha256="0" * 64, etag="0" * 32)
    sync_once(world, lease)
    found = next(item for item in open_doubts(world) if item.id == blob)
    assert found.key == key
    with pytest.raises(Refused):
        doubts.settle(world.workspace, found, SettledAs.STORED, author="ann", run_id="doubts")


def test_a_doubt_ends_by_itself_once_its_object_is_gone(world: World, lease: Lease) -> None:
    _, key = aside(world)
    put(world, key)
    assert sync_once(world, lease) == [key]
    deleted(world, key)
    assert sync_once(world, lease) == []
    assert open_doubts(world) == []
    assert events(world).count("doubt_ended") == 1
    with pytest.raises(NotFound):
        doubts.find(world.workspace, 1)


def test_nothing_is_recorded_during_a_freeze(world: World, lease: Lease) -> None:
    blob, key = in_parts(world)
    freeze(world.workspace.engine, by="ann", reason="an alarm")
    before = row_of(world, blob)
    stored = {key: world.workspace.bucket.head(key)}
    with pytest.raises(Frozen):
        doubts.look_into(world.workspace, stored, run_id="sync", lease=lease)
    assert row_of(world, blob) == before


@pytest.mark.parametrize("is_settled", [False, True])
def test_a_takedown_deletes_what_a_person_has_given_up_and_leaves_other_doubts(
    world: World, lease: Lease, is_settled: bool
) -> None:
    from tests.operations.removals.test_takedown import down  # noqa: PLC0415  the one like it

    _, key = aside(world)
    put(world, key)
    sync_once(world, lease)
    if is_settled:
        settle(world, SettledAs.LOST)
    assert (down(world, "v1").left == ()) == is_settled
    assert (world.workspace.bucket.head(key) is None) == is_settled
    assert (why_frozen(world.workspace.engine) is None) == is_settled
    assert events(world).count("doubt_ended") == 2 * is_settled


def test_an_erasure_deletes_what_a_person_has_given_up(world: World, lease: Lease) -> None:
    _, key = aside(world)
    put(world, key)
    sync_once(world, lease)
    settle(world, SettledAs.LOST)
    done = erase(world.workspace, "ann", by="front", run_id="erase", settings=Settings(), wait_seconds=0)
    assert done.left == ()
    assert world.workspace.bucket.head(key) is None
