"""R2's events only prompt a look at a key; changes are made in the same way as by a listing."""

import random
from collections.abc import Mapping

import pytest
import sqlalchemy as sa

from reelkeeper.adapters.s3.r2 import Bucket
from reelkeeper.errors import Frozen, LeaseLost, TokenRefused
from reelkeeper.model import BlobState, StoredObject, VideoState
from reelkeeper.model.buckets import Message
from reelkeeper.operations.core.freeze import freeze, thaw
from reelkeeper.operations.health import accounts
from reelkeeper.operations.sync import sync
from reelkeeper.operations.sync.events import Batch, handle
from reelkeeper.operations.sync.survey import survey
from reelkeeper.operations.videos.hold import hold
from reelkeeper.rules.policies import DEFAULTS
from reelkeeper.store.core.engine import reading
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.tables import audit_events, blobs, cache_entries, orphans, videos
from reelkeeper.store.videos.holds import HoldTerms
from tests.buckets import BUCKET
from tests.doubles.cloudflare import Reply
from tests.doubles.queue import event
from tests.faults.world import World
from tests.operations.changes import change, rows, sync_once
from tests.operations.sync.queue_scene import Service


def message(action: str, key: str) -> Message:
    return Message("lease", 1, event(action, BUCKET, key))


def batch(world: World, lease: Lease) -> Batch:
    return Batch(world.workspace, lease, "follow", DEFAULTS)


def test_a_new_object_is_a_video_and_the_message_is_done(service: Service) -> None:
    service.put("bob/clip.mp4")
    assert service.follow()["adopted"] == 1
    assert service.state("bob/clip.mp4") == (VideoState.LIVE, BlobState.LIVE)
    assert service.double.messages == []
    service.world.check()


def test_an_overwritten_key_is_a_new_video_and_the_same_event_again_changes_nothing(service: Service) -> None:
    service.put("bob/clip.mp4")
    service.follow()
    key = service.put("bob/clip.mp4", b"another video")
    service.double.disorder(random.Random(1), twice=1.0)
    assert service.follow()["overwritten"] == 1
    assert service.catalogue() == {key: service.stored()[key].etag}
    before = rows(service.world)
    service.double.put(event("PutObject", BUCKET, key, size=1, etag="of-long-ago"))
    service.follow()
    assert rows(service.world) == before


def test_an_upload_at_a_key_that_was_deleted_before_is_noticed_like_any_other(service: Service) -> None:
    for data in (b"a video", b"another video"):
        service.put("bob/clip.mp4", data)
        service.follow()
        service.delete("bob/clip.mp4")
        service.follow()
    service.put("bob/clip.mp4", b"a third one")
    service.follow()
    key = service.put("bob/clip.mp4", b"a fourth one")
    assert service.follow()["overwritten"] == 1
    assert service.catalogue() == {key: service.stored()[key].etag}
    service.world.check()


def test_a_deletion_by_the_service_is_known_as_one_and_nothing_is_lost(service: Service) -> None:
    service.put("bob/clip.mp4")
    service.follow()
    service.delete("bob/clip.mp4")
    assert service.follow()["deleted"] == 1
    assert service.state("bob/clip.mp4") == (VideoState.GONE, BlobState.GONE)
    with reading(service.world.workspace.engine) as session:
        assert list(session.execute(sa.select(audit_events.c.event)).scalars()) == ["adopt", "service_delete"]
    assert survey(service.world.workspace, run_id="run", note=False).missing == []
    assert accounts.recount(service.world.workspace.engine) == []


def test_a_deletion_event_before_its_creation_event_leaves_nothing_behind(service: Service) -> None:
    service.put("bob/clip.mp4")
    service.delete("bob/clip.mp4")
    service.double.messages.reverse()
    assert service.follow()["adopted"] == 0
    assert service.catalogue() == {}


@pytest.mark.parametrize("action", ["DeleteObject", "LifecycleDeletion"])
def test_a_late_deletion_event_does_not_affect_a_stored_object(service: Service, action: str) -> None:
    key = service.put("bob/clip.mp4")
    service.follow()
    service.double.put(event(action, BUCKET, key))
    assert service.follow()["deleted"] == 0
    assert service.state("bob/clip.mp4") == (VideoState.LIVE, BlobState.LIVE)


@pytest.mark.parametrize("action", ["PutObject", "LifecycleDeletion"])
def test_an_object_missing_without_a_deletion_event_is_left_to_the_listing(service: Service, action: str) -> None:
    key = service.put("bob/clip.mp4")
    service.follow()
    service.delete("bob/clip.mp4", tell=False)
    service.double.put(event(action, BUCKET, key))
    assert service.follow()["deleted"] == 0
    assert service.state("bob/clip.mp4") == (VideoState.LIVE, BlobState.LIVE)  # the listing says what it is


def test_a_video_that_a_listing_took_for_lost_is_known_as_deleted_by_its_late_event(
    service: Service, lease: Lease
) -> None:
    key = service.put("bob/clip.mp4")
    service.follow()
    service.delete("bob/clip.mp4", tell=False)
    sync_once(service.world, lease)
    assert service.state("bob/clip.mp4") == (VideoState.LOST, BlobState.LOST)
    service.double.put(event("DeleteObject", BUCKET, key))
    assert service.follow()["deleted"] == 1
    assert service.state("bob/clip.mp4") == (VideoState.GONE, BlobState.GONE)


def test_a_held_video_that_the_service_deletes_is_lost(service: Service) -> None:
    service.put("bob/clip.mp4")
    service.follow()
    hold(service.world.workspace.engine, HoldTerms("video", "clip", "a dispute", "test"))
    service.delete("bob/clip.mp4")
    counts = service.follow()
    assert (counts["deleted"], counts["lost"]) == (0, 1)
    assert service.state("bob/clip.mp4") == (VideoState.LOST, BlobState.LOST)


def test_a_video_recorded_as_deleted_that_exists_becomes_live_again(service: Service, lease: Lease) -> None:
    service.put("bob/clip.mp4")
    service.follow()
    with reading(service.world.workspace.engine) as session:
        blob_id = session.execute(sa.select(blobs.c.id)).scalar_one()
    sync.record_deletions(service.world.workspace, [blob_id], lease=lease, run_id="r")
    assert service.state("bob/clip.mp4") == (VideoState.GONE, BlobState.GONE)
    sync_once(service.world, lease)
    assert service.state("bob/clip.mp4") == (VideoState.LIVE, BlobState.LIVE)
    assert accounts.recount(service.world.workspace.engine) == []


def test_a_retired_video_that_the_service_deletes_is_gone_with_its_reason(service: Service) -> None:
    key = service.put("bob/clip.mp4")
    service.follow()
    change(service.world, blobs, state=BlobState.RETIRED, retire_reason="it is old")
    change(service.world, videos, state=VideoState.RETIRED)
    service.delete("bob/clip.mp4")
    service.follow()
    with reading(service.world.workspace.engine) as session:
        row = session.execute(sa.select(blobs.c.state, blobs.c.retire_reason).where(blobs.c.key == key)).one()
    assert tuple(row) == (BlobState.GONE, "it is old")
    assert service.state("bob/clip.mp4")[0] == VideoState.GONE


@pytest.mark.parametrize("state", [BlobState.DELETING, BlobState.GONE, BlobState.PENDING])
def test_a_blob_that_another_run_has_settled_is_not_marked_as_deleted(
    world: World, lease: Lease, state: BlobState
) -> None:
    blob_id = world.video("v1", stored=False)
    change(world, blobs, state=state)
    before = rows(world)
    assert sync.record_deletions(world.workspace, [blob_id], lease=lease, run_id="r") == set()
    assert rows(world) == before


def test_a_repeated_request_does_not_get_a_deleted_video(world: World, lease: Lease) -> None:
    blob_id = world.video("v1", stored=False)
    entry = {"key": "k", "video_id": "v1", "cost_microusd": 1, "hits": 0, "created_at": sa.func.now()}
    with world.workspace.engine.begin() as connection:
        connection.execute(sa.insert(cache_entries).values(entry))
    sync.record_deletions(world.workspace, [blob_id], lease=lease, run_id="r")
    with reading(world.workspace.engine) as session:
        assert session.execute(sa.select(cache_entries.c.key)).all() == []


def test_more_deletions_than_a_listing_may_miss_are_left_to_the_listing(service: Service) -> None:
    names = [f"bob/v{number}.mp4" for number in range(10)]
    for name in names:
        service.put(name)
    service.follow()
    for name in names[:2]:
        service.delete(name)
    assert service.follow()["deleted"] == 2  # 80 % are there
    for name in names[2:4]:  # of the same day, so they count together
        service.delete(name)
    counts = service.follow()
    assert (counts["deleted"], counts["left_to_listing"]) == (0, 2)
    assert {service.state(name)[0] for name in names[2:4]} == {VideoState.LIVE}
    assert service.double.messages == []


def test_a_pattern_that_does_not_fit_adopts_no_more_one_by_one_than_at_once(service: Service) -> None:
    for number in range(6):
        service.put(f"bob/final/{number}.mp4")
        if number % 3 == 2:
            service.follow()
    assert service.catalogue().keys() == {service.key("bob/final/0.mp4")}
    service.put("ann/other/1.mp4")
    counts = service.follow()
    assert (counts["adopted"], counts["left_to_listing"]) == (0, 1)


def test_events_of_reelkeepers_own_changes_need_no_head(service: Service) -> None:
    world = service.world
    world.video("v1")
    world.video("v2", state=VideoState.GONE, blob_state=BlobState.GONE)
    world.video("v3", blob_state=BlobState.DELETING, state=VideoState.RETIRED)
    world.video("v4", blob_state=BlobState.PENDING, state=VideoState.PENDING)
    with reading(world.workspace.engine) as session:
        known = session.execute(sa.select(blobs.c.key, blobs.c.size_bytes, blobs.c.etag, blobs.c.state)).all()
    for row in known:
        deleted = row.state in {BlobState.GONE, BlobState.DELETING}
        told = {} if deleted else {"size": row.size_bytes, "etag": row.etag}
        service.double.put(event("DeleteObject" if deleted else "PutObject", BUCKET, row.key, **told))
    before, asked = rows(world), len(world.double.requests)
    counts = service.follow()
    assert (counts["explained"], counts["looked_at"]) == (4, 0)
    assert (rows(world), len(world.double.requests)) == (before, asked)


def test_a_key_of_the_services_gets_a_head_even_with_a_known_etag(service: Service) -> None:
    service.put("bob/clip.mp4")
    service.follow()
    service.put("bob/clip.mp4")  # the same bytes again: a new upload
    assert service.follow()["looked_at"] == 1


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (event("PutObject", "another", "videos/bob/clip.mp4", size=1, etag="x"), "foreign"),
        (event("PutObject", BUCKET, "x") | {"account": "another"}, "foreign"),
        ("no JSON", "malformed"),
        ([1, 2], "malformed"),
        ({"action": "PutObject"}, "malformed"),
        (event("PutObject", BUCKET, "\ud800"), "malformed"),
        (event("PutObject", BUCKET, "beside/the/prefix.mp4", size=1, etag="x"), "elsewhere"),
    ],
    ids=["another bucket", "another account", "no JSON", "a list", "half an event", "half a character", "elsewhere"],
)
def test_a_message_that_is_none_of_ours_is_done_and_counted_and_stops_no_other(
    service: Service, body: object, kind: str
) -> None:
    service.double.put(body, kind="text" if body == "no JSON" else "json")
    service.put("bob/clip.mp4")
    counts = service.follow()
    assert (counts[kind], counts["adopted"]) == (1, 1)
    assert service.double.messages == []


def test_a_key_that_servers_read_differently_is_left_to_the_listing(service: Service) -> None:
    service.double.put(event("PutObject", BUCKET, service.key("bob//clip.mp4"), size=1, etag="x"))
    assert service.follow()["left_to_listing"] == 1


def test_other_bytes_at_a_key_of_ours_are_left_to_the_listing(service: Service) -> None:
    service.world.video("v1")
    with reading(service.world.workspace.engine) as session:
        key = session.execute(sa.select(blobs.c.key)).scalar_one()
    service.put(key.removeprefix(service.world.address.prefix), b"other bytes")
    before = rows(service.world)
    assert service.follow()["left_to_listing"] == 1
    assert rows(service.world) == before


def test_a_note_goes_with_its_object(service: Service) -> None:
    service.put("notes.txt")
    service.follow()
    service.delete("notes.txt")
    service.follow()
    with reading(service.world.workspace.engine) as session:
        assert session.execute(sa.select(orphans.c.key)).all() == []


def test_a_key_that_breaks_the_work_is_tried_again_later_and_stops_no_other(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = service.put("bob/bad.mp4")
    for number in range(5):
        service.put(f"bob/v{number}.mp4")
    stored = Bucket.stored

    def breaks(bucket: Bucket, keys: list[str]) -> dict[str, StoredObject | None]:
        if bad in keys:
            raise ValueError("nobody has thought of this")
        return stored(bucket, keys)

    with monkeypatch.context() as patched:
        patched.setattr(Bucket, "stored", breaks)
        counts = service.follow()
    assert (counts["adopted"], counts["retried"]) == (5, 1)
    (held,) = service.double.messages
    assert 0 < held.visible_at - service.double.clock() <= 30
    held.visible_at = 0
    assert service.follow()["adopted"] == 1


def test_frozen_or_fenced_off_no_event_changes_anything(world: World, lease: Lease) -> None:
    blob_id = world.video("v1", stored=False)
    key = f"{world.address.prefix}bob/clip.mp4"
    world.workspace.bucket.put_once(key, world.clip, "video/mp4")
    before = rows(world)
    fenced = lease._replace(token=lease.token - 1)
    with pytest.raises(LeaseLost):
        sync.record_deletions(world.workspace, [blob_id], lease=fenced, run_id="r")
    with pytest.raises(LeaseLost):
        handle(batch(world, fenced), [message("PutObject", key)], account_id=None)
    freeze(world.workspace.engine, by="test", reason="an alarm")
    with pytest.raises(Frozen):
        handle(batch(world, lease), [message("PutObject", key)], account_id=None)
    assert rows(world) == before


def test_an_object_stored_again_between_two_heads_is_not_marked_as_deleted(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = service.put("bob/clip.mp4")
    service.follow()
    service.double.put(event("DeleteObject", BUCKET, key))
    stored, looks = Bucket.stored, list[list[str]]()

    def first_missing(bucket: Bucket, keys: list[str]) -> dict[str, StoredObject | None]:
        looks.append(keys)
        return dict.fromkeys(keys) if len(looks) == 1 else stored(bucket, keys)

    monkeypatch.setattr(Bucket, "stored", first_missing)
    assert service.follow()["deleted"] == 0
    assert len(looks) == 2
    assert service.state("bob/clip.mp4") == (VideoState.LIVE, BlobState.LIVE)


def test_while_frozen_or_never_listed_nothing_is_pulled(world: World, service: Service) -> None:
    service.put("bob/clip.mp4")
    freeze(world.workspace.engine, by="test", reason="an alarm")
    service.follow()
    assert service.double.asked == []
    thaw(world.workspace.engine, by="test")
    with world.workspace.engine.begin() as connection:
        connection.execute(sa.text("UPDATE scans SET finished_at = NULL"))
    service.follow()
    assert service.double.asked == []


def test_a_batch_is_acknowledged_only_once_it_is_committed(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    service.put("bob/clip.mp4")
    seen: list[bool] = []
    reply = service.double.reply

    def watched(method: str, path: str, headers: Mapping[str, str], body: object) -> Reply:
        if path.endswith("/ack"):
            seen.append(bool(service.catalogue()))
        return reply(method, path, headers, body)

    monkeypatch.setattr(service.double, "reply", watched)
    service.follow()
    assert seen == [True]


def test_a_death_between_commit_and_acknowledgement_does_nothing_twice(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.put("bob/clip.mp4")
    reply = service.double.reply

    def deaf(method: str, path: str, headers: Mapping[str, str], body: object) -> Reply:
        return (403, {}, {}) if path.endswith("/ack") else reply(method, path, headers, body)

    with monkeypatch.context() as patched:
        patched.setattr(service.double, "reply", deaf)
        with pytest.raises(TokenRefused):
            service.follow()
    before = rows(service.world)
    assert service.catalogue().keys() == {service.key("bob/clip.mp4")}
    service.double.messages[0].visible_at = 0.0  # its lease has ended
    service.follow()
    assert (rows(service.world), service.double.messages) == (before, [])
    service.world.check()


@pytest.mark.long
def test_hundreds_of_events_twice_and_in_any_order_make_the_catalogue_what_the_bucket_is(service: Service) -> None:
    chance = random.Random(20261127)
    names = [f"user{number % 7}/v{number}.mp4" for number in range(150)]
    for name in names:
        service.put(name)
    for _ in range(2):
        for name in chance.sample(names, 12):
            if chance.random() < 0.6:
                service.put(name, chance.randbytes(20))
            else:
                service.delete(name)
        service.double.disorder(chance, twice=0.3)
        service.follow()
        assert service.catalogue() == {key: stored.etag for key, stored in service.stored().items()}
    service.world.check()
