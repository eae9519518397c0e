"""Replacing an original at the service's own key: links keep working, and the original can be restored."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from botocore.handlers import validate_ascii_metadata
from inline_snapshot import snapshot

from reelkeeper.adapters.s3 import replace as replacing
from reelkeeper.adapters.s3.transport import LOCKED
from reelkeeper.errors import Frozen, InputRefused, IntegrityDoubt, LeaseLost, NotPlayable, StorageError
from reelkeeper.model import Action, BlobState, Grace, Outcome, Refusal, Transcode, Verdict, Video, VideoState
from reelkeeper.operations.core.freeze import freeze, thaw
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.lifecycle import plans, purge
from reelkeeper.operations.lifecycle.restore import find_restorable, restore
from reelkeeper.operations.lifecycle.retire import retire
from reelkeeper.operations.lifecycle.swap import Run
from reelkeeper.operations.removals import takedown
from reelkeeper.operations.videos import intents
from reelkeeper.operations.videos.hold import hold
from reelkeeper.operations.videos.views import show
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy
from reelkeeper.rules.lifecycle.transcode import (
    BUCKET_LOCK,
    OWN_RESULT,
    Placement,
    Recipe,
    links,
    mark_of_month,
)
from reelkeeper.rules.policies import Policies, terms_in
from reelkeeper.store.core.audit import purged_after
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.core.leases import Lease, acquire, release
from reelkeeper.store.lifecycle.plan_writer import add_verdicts, begin_plan
from reelkeeper.store.tables import audit_events, blobs, holds, operations, videos
from reelkeeper.store.videos.holds import HoldTerms
from tests.buckets import BUCKET
from tests.clips import MakeClip
from tests.disks import small_disk
from tests.doubles.requests import Request
from tests.faults.world import LONG_AGO, World
from tests.marks import marked
from tests.operations.changes import change, sync_once
from tests.shrinking import shrink
from tests.swapping import Shrinker, shrinker, swap
from tests.worlds import AtFailpoint

SERVED: dict[str, Any] = {
    "ContentType": "video/x-mine",
    "CacheControl": "public, max-age=86400",
    "ContentDisposition": 'attachment; filename="fox.mp4"',
    "Metadata": {"prompt-id": "p-17"},
}
NEWER = b"another video altogether"


class Linked:
    """A video at a key of the service's, which its users have links to."""

    def __init__(self, world: World, lease: Lease, result: Transcode) -> None:
        self.world, self.lease, self.result = world, lease, result
        world.double.limits_overwrites = False
        self.workspace, self.key = world.workspace, f"{world.address.prefix}ann/v1.mp4"
        self.original, self.smaller = world.clip.read_bytes(), Path(result.path).read_bytes()
        self.put(self.original)
        self.blob = world.video("v1", key=self.key, stored=False)

    @property
    def scratch(self) -> Path:
        return Path(self.world.address.folder) / "scratch"

    def put(self, data: bytes) -> None:
        self.world.double.client.put_object(Bucket=BUCKET, Key=self.key, Body=data, **SERVED)

    def swap(
        self, shrink: Shrinker | None = None, workspace: Workspace | None = None, placement: Placement = "in_place"
    ) -> Outcome:
        return swap(
            workspace or self.workspace,
            "v1",
            self.blob,
            shrink or shrinker(self.result),
            Run("run", self.lease, Grace(), self.scratch),
            placement,
        )

    def restore(self, hold_days: int = 30) -> Outcome:
        found = find_restorable(self.workspace, video_id="v1")
        how: dict[str, Any] = {"grace": Grace(), "hold_days": hold_days, "scratch": self.scratch}
        (outcome,) = restore(self.workspace, found, run_id="back", author="ann", **how)
        return outcome

    def settle(self) -> list[Outcome]:
        how: dict[str, Any] = {"scratch": self.scratch, "lease": self.lease, "grace": Grace()}
        return [intents.settle(self.workspace, item, **how) for item in intents.open_intents(self.workspace)]

    def purge_overdue(self, blob_id: int) -> list[Outcome]:
        """Purge a blob, as if every grace had passed."""
        change(self.world, blobs, purge_after=LONG_AGO)
        plan = self.world.plan("purge_retired", "purge", [blob_id])
        return purge.purge(self.workspace, plan, [blob_id], lease=self.lease, run_id="purge", grace=Grace())

    def shows(self) -> bytes:
        return self.workspace.bucket.read_bytes(self.key, 10**7)

    def served(self) -> dict[str, Any]:
        answer: Any = self.world.double.client.head_object(Bucket=BUCKET, Key=self.key)
        return {name: answer[name] for name in SERVED}

    def asides(self) -> list[Any]:
        """The copies that are stored, by age."""
        with reading(self.workspace.engine) as session:
            query = sa.select(blobs).where(blobs.c.is_ours, blobs.c.video_id == "v1", blobs.c.state != BlobState.GONE)
            return list(session.execute(query.order_by(blobs.c.id)))

    def is_kept(self, data: bytes) -> bool:
        """Check whether these bytes are in their grace at one of our keys."""
        tomorrow = datetime.now(UTC) + timedelta(days=1)
        kept = [row for row in self.asides() if row.state == BlobState.RETIRED and row.purge_after > tomorrow]
        return any(self.workspace.bucket.read_bytes(row.key, 10**7) == data for row in kept)

    def events(self) -> list[str]:
        with reading(self.workspace.engine) as session:
            return list(session.execute(sa.select(audit_events.c.event).order_by(audit_events.c.id)).scalars())

    def assert_as_it_was(self) -> None:
        assert self.shows() == self.original
        assert self.served() == SERVED
        assert sync_once(self.world, self.lease) == []
        assert "overwritten" not in self.events()
        with reading(self.workspace.engine) as session:
            row = session.execute(sa.select(videos.c.blob_id, videos.c.generation, blobs.c.state).join(
                blobs, blobs.c.id == videos.c.blob_id))  # fmt: skip
            assert tuple(row.one()) == (self.blob, 1, BlobState.LIVE)
        self.world.check()


@pytest.fixture
def linked(world: World, lease: Lease, tiny_transcode: Transcode) -> Linked:
    return Linked(world, lease, tiny_transcode)


def die() -> None:
    raise KeyboardInterrupt


def test_the_link_shows_the_smaller_bytes_as_it_showed_the_original(linked: Linked) -> None:
    outcome = linked.swap()
    assert (outcome.action, outcome.before_bytes, outcome.after_bytes) == (
        "compressed", len(linked.original), len(linked.smaller))  # fmt: skip
    assert linked.shows() == linked.smaller
    assert linked.served() == SERVED | {"Metadata": {"prompt-id": "p-17", "reelkeeper": "compressed"}}
    (copied,) = linked.world.double.sent("CopyObject")
    assert copied.key == linked.asides()[0].key
    assert copied.key not in [request.key for request in linked.world.double.sent("GetObject")]  # no bytes through us
    assert linked.is_kept(linked.original)
    assert sync_once(linked.world, linked.lease) == []
    assert linked.events() == ["swap", "replace"]
    linked.world.check()


@pytest.mark.long
def test_a_run_killed_before_recording_the_outcome_returns_it_again(linked: Linked) -> None:
    assert linked.swap() == linked.swap()
    linked.world.check()


def test_a_result_unknown_to_the_store_is_not_compressed_again(linked: Linked) -> None:
    """As after the store was restored from a backup, or where the service copies its objects."""
    linked.swap()
    copy, bucket = f"{linked.world.address.prefix}ann/v2.mp4", linked.world.double.client
    bucket.copy_object(Bucket=BUCKET, Key=copy, CopySource={"Bucket": BUCKET, "Key": linked.key})
    blob = linked.world.video("v2", key=copy, clip=Path(linked.result.path), stored=False)

    def shrink(_: Path, __: Path) -> Transcode:
        pytest.fail("a result was encoded once more")

    run = Run("run", linked.lease, Grace(), linked.scratch)
    assert swap(linked.workspace, "v2", blob, shrink, run).action == "refused"
    with reading(linked.workspace.engine) as session:
        found = sa.select(videos.c.refused_recipe).where(videos.c.id == "v2")
        assert session.execute(found).scalar_one() == OWN_RESULT


def test_the_original_is_put_back_as_it_was_and_stays(linked: Linked) -> None:
    linked.swap()
    freeze(linked.workspace.engine, by="test", reason="an alarm")
    outcome = linked.restore()
    thaw(linked.workspace.engine, by="test")
    assert (outcome.action, outcome.reason, outcome.after_bytes) == ("restored", "by ann", len(linked.original))
    assert hashlib.sha256(linked.shows()).digest() == hashlib.sha256(linked.original).digest()
    assert linked.served() == SERVED
    assert linked.is_kept(linked.smaller)
    with reading(linked.workspace.engine) as session:
        row = session.execute(sa.select(videos.c.refused_recipe, videos.c.refused_reason)).one()
        assert tuple(row) == (linked.result.recipe, snapshot("its swap was taken back"))
        subject, author, until = session.execute(sa.select(holds.c.subject, holds.c.author, holds.c.expires_at)).one()
        assert (subject, author) == ("v1", "ann")
        assert timedelta(days=29) < until - now(session) <= timedelta(days=30)
        keys = [key for _, key in purged_after(session, 0, 10)[0]]
        restored = sa.select(audit_events.c.detail).where(audit_events.c.event == "restore")
        detail = session.execute(restored).scalar_one()
    assert (detail["by"], detail["was"]) == ("ann", "live")
    assert keys == [linked.key, linked.key]  # swapped and taken back: a cache is told of both
    assert sync_once(linked.world, linked.lease) == []
    linked.world.check()


@pytest.mark.long
def test_names_beyond_ascii_are_served_as_before_and_come_back(linked: Linked) -> None:
    served = SERVED | {"ContentDisposition": 'inline; filename="видео.mp4"', "Metadata": {"title": "für Zoë"}}
    client = linked.world.double.client
    client.meta.events.unregister("before-parameter-build.s3.PutObject", validate_ascii_metadata)
    client.put_object(Bucket=BUCKET, Key=linked.key, Body=linked.original, **served)
    stored = linked.workspace.bucket.head(linked.key)
    assert stored
    change(linked.world, blobs, stored_at=stored.last_modified)
    before = linked.served()
    assert linked.swap().action == "compressed"
    after = linked.served()
    assert after["Metadata"].pop("reelkeeper")
    assert linked.restore().action == "restored"
    assert before == after == linked.served()


def test_an_original_for_which_the_disk_has_no_room_keeps_no_other_from_coming_back(
    linked: Linked, tmp_path: Path
) -> None:
    other = f"{linked.world.address.prefix}ann/v2.mp4"
    blob = linked.world.video("v2", key=other)
    (lease,) = acquire(linked.workspace.engine, ["video/v2"], "test")
    run = Run("run", lease, Grace(), linked.scratch)
    assert linked.swap().action == "compressed"
    assert swap(linked.workspace, "v2", blob, shrinker(linked.result), run, "in_place").action == "compressed"
    release(linked.workspace.engine, [lease])
    grown = sa.update(blobs).where(blobs.c.key == linked.asides()[0].key).values(size_bytes=10**9)
    with transaction(linked.workspace.engine, "test") as session:
        session.execute(grown)
    with small_disk(tmp_path / "small", 100) as scratch:
        how: dict[str, Any] = {"grace": Grace(), "hold_days": 30, "scratch": scratch}
        outcomes = restore(
            linked.workspace, find_restorable(linked.workspace, run_id="run"), run_id="back", author="ann", **how
        )
    assert {outcome.video_id: outcome.action for outcome in outcomes} == {"v1": "failed", "v2": "restored"}


def test_a_retired_video_comes_back_where_it_was(linked: Linked) -> None:
    linked.swap()
    with reading(linked.workspace.engine) as session:
        live = session.execute(sa.select(blobs.c.id).where(blobs.c.state == BlobState.LIVE)).scalar_one()
    plan = linked.world.plan("expire_videos", "retire", [live])
    retire(linked.workspace, plan, ["v1"], lease=linked.lease, run_id="old", grace=Grace())
    assert linked.restore().action == "restored"
    assert linked.shows() == linked.smaller
    linked.world.check()


@pytest.mark.long
def test_the_copy_is_purged_after_its_grace_and_the_key_never(linked: Linked) -> None:
    linked.swap()
    (aside,) = linked.asides()
    linked.purge_overdue(aside.id)
    assert linked.world.double.deleted() == [aside.key]
    assert linked.shows() == linked.smaller
    linked.world.check()


@pytest.mark.long
def test_a_copy_stays_while_the_key_does_not_show_what_took_its_place(linked: Linked) -> None:
    linked.swap()
    (aside,) = linked.asides()
    linked.put(NEWER)
    (kept,) = linked.purge_overdue(aside.id)
    assert (kept.action, linked.world.double.deleted()) == ("skipped", [])


def test_a_result_that_is_not_as_announced_is_replaced_by_the_original(linked: Linked) -> None:
    outcome = linked.swap(shrinker(linked.result, tamper=True))
    assert outcome.action == "failed"
    assert "sha256" in outcome.reason
    assert linked.events() == ["swap_abandoned", "replace"]
    linked.assert_as_it_was()


@pytest.mark.long
def test_an_original_that_came_in_parts_is_put_back_and_known_again(
    world: World, lease: Lease, tiny_transcode: Transcode
) -> None:
    linked = Linked(world, lease, tiny_transcode)
    etag = world.put_in_parts(linked.key, linked.original)
    assert etag.endswith("-1")
    found = world.workspace.bucket.head(linked.key)
    assert found is not None
    change(world, blobs, etag=etag, stored_at=found.last_modified)
    assert linked.swap(shrinker(linked.result, tamper=True)).action == "failed"
    assert linked.shows() == linked.original
    assert sync_once(world, lease) == []
    assert "overwritten" not in linked.events()
    assert linked.swap().action == "compressed"
    assert linked.is_kept(linked.original)
    assert linked.restore().action == "restored"
    assert linked.shows() == linked.original
    world.check()


@pytest.mark.long
def test_a_video_that_is_held_meanwhile_shows_its_original_again(linked: Linked, at_failpoint: AtFailpoint) -> None:
    terms = HoldTerms("video", "v1", "a court asks for it", "test")
    at_failpoint("in_place.put.after", lambda: hold(linked.workspace.engine, terms))
    assert linked.swap().action == "failed"
    linked.assert_as_it_was()


POINTS = [
    *("in_place.copy.before", "in_place.copy.after", "in_place.copied.after_commit", "in_place.put.before"),
    *("in_place.sending.after_commit", "in_place.put.after", "swap.readback.before", "swap.readback.after"),
]


@pytest.mark.long
@pytest.mark.parametrize("point", POINTS)
def test_an_object_that_the_service_stores_meanwhile_stays(
    linked: Linked, at_failpoint: AtFailpoint, point: str
) -> None:
    at_failpoint(point, lambda: linked.put(NEWER))
    linked.swap()
    assert linked.shows() == NEWER
    sync_once(linked.world, linked.lease)
    assert "overwritten" in linked.events()
    assert linked.is_kept(linked.original) or point == "in_place.copy.before"
    with reading(linked.workspace.engine) as session:
        row = session.execute(sa.select(blobs.c.etag, blobs.c.state).join(videos, videos.c.blob_id == blobs.c.id)).one()
    assert tuple(row) == (hashlib.md5(NEWER, usedforsecurity=False).hexdigest(), BlobState.LIVE)


def test_an_object_that_the_service_stores_during_the_put_stays(linked: Linked) -> None:
    linked.world.double.faults.before("PutObject", lambda _: linked.put(NEWER))
    assert linked.swap().action == "failed"
    assert linked.shows() == NEWER
    assert linked.is_kept(linked.original)


@pytest.mark.long
def test_an_upload_is_noticed_while_a_swap_in_place_is_open(linked: Linked, at_failpoint: AtFailpoint) -> None:
    at_failpoint("in_place.put.after", die)
    with pytest.raises(KeyboardInterrupt):
        linked.swap()
    linked.put(NEWER)
    assert sync_once(linked.world, linked.lease) == []
    assert "overwritten" in linked.events()
    change(linked.world, operations, sent_at=None)
    assert [outcome.action for outcome in linked.settle()] == ["failed"]
    assert linked.shows() == NEWER


def test_days_beyond_the_calendar_are_refused_before_a_swap_is_undone(linked: Linked) -> None:
    linked.swap()
    with pytest.raises(InputRefused):
        linked.restore(hold_days=3_000_000)
    assert linked.restore().action == "restored"


@pytest.mark.long
@pytest.mark.parametrize("point", ["in_place.put.before", "in_place.sending.after_commit", "in_place.put.after"])
def test_an_object_that_the_service_stores_while_a_swap_is_undone_stays(
    linked: Linked, at_failpoint: AtFailpoint, point: str
) -> None:
    linked.swap()
    at_failpoint(point, lambda: linked.put(NEWER))
    assert linked.restore().action == "failed"
    assert linked.shows() == NEWER
    assert linked.is_kept(linked.original)


@pytest.mark.long
def test_the_same_bytes_stored_again_while_it_was_encoded_are_an_upload(linked: Linked) -> None:
    change(linked.world, blobs, stored_at=LONG_AGO)
    assert linked.swap().action == "failed"
    assert linked.shows() == linked.original
    assert not [request for request in linked.world.double.sent("PutObject") if "if-match" in request.headers]


@pytest.mark.long
@pytest.mark.parametrize(
    "point", ["in_place.put.after", "in_place.answered.after_commit", "swap.publish.before_commit"]
)
def test_a_put_is_known_as_our_own_after_a_crash(linked: Linked, at_failpoint: AtFailpoint, point: str) -> None:
    at_failpoint(point, die)
    with pytest.raises(KeyboardInterrupt):
        linked.swap()
    assert linked.shows() == linked.smaller
    assert sync_once(linked.world, linked.lease) == []
    assert "overwritten" not in linked.events()
    (outcome,) = linked.settle()
    assert outcome.action == "compressed"
    assert sync_once(linked.world, linked.lease) == []
    linked.world.check()


@pytest.mark.long
def test_an_original_that_is_being_put_back_is_known_after_a_crash(linked: Linked, at_failpoint: AtFailpoint) -> None:
    at_failpoint("in_place.fetch.after", lambda: at_failpoint("in_place.put.after", die))
    with pytest.raises(KeyboardInterrupt):
        linked.swap(shrinker(linked.result, tamper=True))
    assert linked.shows() == linked.original
    assert sync_once(linked.world, linked.lease) == []
    linked.world.expire_leases()
    (linked.lease,) = acquire(linked.workspace.engine, ["test"], "again")
    assert [outcome.action for outcome in linked.settle()] == ["failed"]
    linked.assert_as_it_was()


def test_a_result_to_be_undone_is_never_published(linked: Linked, at_failpoint: AtFailpoint) -> None:
    def hold_it_and_fail() -> None:
        hold(linked.workspace.engine, HoldTerms("video", "v1", "a dispute", "test"))
        at_failpoint("in_place.fetch.before", lambda: linked.world.double.faults.fail("GetObject", 404))

    at_failpoint("in_place.put.after", hold_it_and_fail)
    with pytest.raises(StorageError):
        linked.swap()
    change(linked.world, holds, released_at=LONG_AGO)
    assert [outcome.action for outcome in linked.settle()] == ["failed"]
    linked.assert_as_it_was()


@pytest.mark.long
def test_a_put_that_may_come_yet_keeps_its_intent_open(linked: Linked, at_failpoint: AtFailpoint) -> None:
    at_failpoint("in_place.sending.after_commit", die)
    with pytest.raises(KeyboardInterrupt):
        linked.swap()
    with pytest.raises(StorageError) as refused:
        linked.settle()
    assert marked(refused.value) == snapshot("ID/videos/ann/v1.mp4: a PUT of TIME got no answer: resolved 25 min later")
    with pytest.raises(StorageError) as refused:
        linked.swap()
    assert marked(refused.value) == snapshot("ID/videos/ann/v1.mp4: a PUT of TIME got no answer: resolved 25 min later")
    change(linked.world, operations, sent_at=LONG_AGO)
    assert [outcome.action for outcome in linked.settle()] == ["failed"]
    linked.assert_as_it_was()


@pytest.mark.long
def test_a_lost_reply_is_no_lost_put(linked: Linked) -> None:
    linked.world.double.faults.after("CopyObject", lambda _: linked.world.double.faults.drop_reply("PutObject"))
    assert linked.swap().action == "compressed"
    assert linked.shows() == linked.smaller
    linked.world.check()


def taken_over(linked: Linked) -> None:
    linked.world.expire_leases()
    acquire(linked.workspace.engine, ["test"], "another")


def ended(linked: Linked) -> None:
    change(linked.world, operations, state="abandoned")


def frozen(linked: Linked) -> None:
    freeze(linked.workspace.engine, by="test", reason="an alarm")


@pytest.mark.parametrize(("meanwhile", "error"), [(taken_over, LeaseLost), (ended, LeaseLost), (frozen, Frozen)])
def test_a_run_that_slept_puts_nothing(
    linked: Linked, at_failpoint: AtFailpoint, meanwhile: Callable[[Linked], None], error: type[Exception]
) -> None:
    at_failpoint("in_place.put.before", lambda: meanwhile(linked))
    with pytest.raises(error):
        linked.swap()
    assert linked.shows() == linked.original


@pytest.mark.long
def test_a_body_is_not_sent_to_its_end_long_after_the_last_look(
    linked: Linked, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = replacing.FreshBody(linked.world.clip, lambda: None)
    assert len(body.read(10)) == 10  # its MD5 is taken before
    monkeypatch.setattr(replacing, "BODY_SECONDS", -1)
    body.look()
    with body, pytest.raises(StorageError) as refused:
        body.read(10)
    assert str(refused.value) == snapshot("the last look of the put is over -1 s ago: its body is not sent to its end")


@pytest.mark.long
@pytest.mark.parametrize("damage", [b"damaged", None])
def test_an_original_with_a_corrupt_copy_is_not_overwritten(linked: Linked, damage: bytes | None) -> None:
    client = linked.world.double.client

    def spoil(request: Request) -> None:
        if damage is None:
            client.delete_object(Bucket=BUCKET, Key=request.key)
        else:
            client.put_object(Bucket=BUCKET, Key=request.key, Body=damage)

    linked.world.double.faults.after("CopyObject", spoil)
    with pytest.raises(IntegrityDoubt) as doubt:
        linked.swap()
    assert marked(doubt.value) == snapshot(
        "ID/videos/ann/v1/g1-ID.mp4: the copy of ID/videos/ann/v1.mp4 is missing, or does not match it"
    )
    assert linked.shows() == linked.original
    assert [outcome.action for outcome in linked.settle()] == ["failed"]


@pytest.mark.long
def test_a_copy_that_changed_is_not_put_back(linked: Linked) -> None:
    linked.swap()
    (aside,) = linked.asides()
    other = bytes(reversed(linked.original))
    linked.world.double.client.put_object(Bucket=BUCKET, Key=aside.key, Body=other)
    assert linked.restore().action == "failed"
    change(linked.world, blobs, etag=hashlib.md5(other, usedforsecurity=False).hexdigest())
    outcome = linked.restore()
    assert (outcome.action, marked(outcome.reason)) == (
        "failed",
        snapshot("ID/videos/ann/v1/g1-ID.mp4: stored sha256 ID, recorded ID: not restored"),
    )
    assert linked.shows() == linked.smaller


@pytest.mark.long
def test_a_copy_that_changed_before_the_result_is_undone_is_not_put_back(
    linked: Linked, at_failpoint: AtFailpoint
) -> None:
    def spoil() -> None:
        (aside,) = linked.asides()
        linked.world.double.client.put_object(Bucket=BUCKET, Key=aside.key, Body=NEWER)
        md5 = hashlib.md5(NEWER, usedforsecurity=False).hexdigest()
        with transaction(linked.workspace.engine, "test") as session:
            session.execute(sa.update(blobs).where(blobs.c.id == aside.id).values(etag=md5))

    at_failpoint("swap.readback.before", spoil)
    with pytest.raises(StorageError):
        linked.swap(shrinker(linked.result, tamper=True))
    with pytest.raises(IntegrityDoubt) as refused:
        linked.settle()
    assert marked(refused.value) == snapshot("ID/videos/ann/v1/g1-ID.mp4: stored sha256 ID, recorded ID: not restored")
    assert linked.shows() != NEWER


@pytest.mark.long
def test_a_video_that_changed_meanwhile_is_not_put_back_over(linked: Linked, at_failpoint: AtFailpoint) -> None:
    linked.swap()
    at_failpoint("restore.fetch.after", lambda: change(linked.world, videos, generation=9))
    assert linked.restore().action == "skipped"
    assert linked.shows() == linked.smaller


@pytest.mark.long
def test_a_copy_that_a_purge_has_claimed_is_not_put_back(linked: Linked, at_failpoint: AtFailpoint) -> None:
    linked.swap()
    (aside,) = linked.asides()

    def claim() -> None:
        with transaction(linked.workspace.engine, "test") as session:
            session.execute(sa.update(blobs).where(blobs.c.id == aside.id).values(state=BlobState.DELETING))

    at_failpoint("restore.fetch.after", claim)
    assert linked.restore().action == "skipped"
    assert linked.shows() == linked.smaller


@pytest.mark.long
def test_a_restore_does_not_wait_for_the_videos_lease_and_is_skipped_without_it(
    linked: Linked, at_failpoint: AtFailpoint
) -> None:
    linked.swap()
    acquire(linked.workspace.engine, ["video/v1"], "another")
    assert linked.restore().action == "skipped"
    linked.world.expire_leases()

    def take_over() -> None:
        linked.world.expire_leases()
        acquire(linked.workspace.engine, ["video/v1"], "another")

    at_failpoint("restore.fetch.after", take_over)
    with pytest.raises(LeaseLost):
        linked.restore()
    assert linked.shows() == linked.smaller
    assert intents.open_intents(linked.workspace) == []


@pytest.mark.long
@pytest.mark.parametrize("point", ["in_place.put.before", "in_place.put.after"])
def test_a_takedown_in_the_middle_leaves_nothing_stored(linked: Linked, at_failpoint: AtFailpoint, point: str) -> None:
    at_failpoint(point, die)
    with pytest.raises(KeyboardInterrupt):
        linked.swap()
    wanted = takedown.TakedownOrder("counsel", "order 17", "t1")
    down = takedown.take_down(linked.workspace, "v1", wanted, scratch=linked.scratch)
    assert [item.key for item in down.left] == []
    assert [item.key for page in linked.workspace.bucket.pages() for item in page] == []
    sync_once(linked.world, linked.lease)
    with reading(linked.workspace.engine) as session:
        assert session.execute(sa.select(videos.c.state)).scalar_one() != VideoState.LIVE
    linked.world.check()


@pytest.mark.parametrize("placement", ["in_place", "new_key"])
def test_without_a_passed_contract_nothing_is_swapped_whose_original_could_not_be_purged(
    linked: Linked, placement: Placement
) -> None:
    outcome = linked.swap(workspace=replace(linked.workspace, keeps_contract=False), placement=placement)
    assert (outcome.action, marked(outcome.reason)) == (
        "skipped",
        snapshot(
            "but it is at the service's key, in a bucket that has not passed the contract test (reelkeeper doctor --contract)"
        ),
    )
    assert not linked.world.double.sent("CopyObject")
    linked.assert_as_it_was()


def test_an_original_under_a_bucket_lock_stays_and_the_refusal_is_recorded(linked: Linked) -> None:
    linked.world.double.faults.fail("PutObject", 403, code=LOCKED)
    outcome = linked.swap()
    assert (outcome.action, LOCKED in outcome.reason) == ("refused", True)
    assert linked.is_kept(linked.original)
    linked.assert_as_it_was()
    with reading(linked.workspace.engine) as session:
        known = session.execute(
            sa.select(videos.c.refused_recipe, operations.c.state).join(
                operations, operations.c.video_id == videos.c.id
            )
        ).all()
        assert known == [(mark_of_month(BUCKET_LOCK, now(session)), "abandoned")]


@pytest.mark.long
@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"suffix": "mov"}, snapshot("h264 in QuickTime, and only H.264 in MP4 is put over H.264 in MP4")),
        ({"codec": "mpeg4"}, snapshot("mpeg4 in mp4, and only H.264 in MP4 is put over H.264 in MP4")),
    ],
)
def test_only_h264_in_mp4_is_put_over(linked: Linked, make_clip: MakeClip, options: dict[str, Any], told: str) -> None:
    linked.world.clip = make_clip(**options)
    linked.original = linked.world.clip.read_bytes()
    linked.put(linked.original)
    linked.world.video("v2", key=f"{linked.world.address.prefix}ann/v2.mp4")
    found = linked.workspace.bucket.head(linked.key)
    assert found is not None
    with transaction(linked.workspace.engine, "test") as session:
        session.execute(
            sa.update(blobs)
            .where(blobs.c.id == linked.blob)
            .values(
                etag=found.etag,
                size_bytes=found.size_bytes,
                sha256=None,
                frames=None,
                codec=None,
                stored_at=found.last_modified,
            )
        )
    outcome = linked.swap()
    assert (outcome.action, outcome.reason) == ("refused", told)
    with reading(linked.workspace.engine) as session:
        assert session.execute(sa.select(videos.c.refused_recipe).where(videos.c.id == "v1")).scalar() == "not_in_place"
    assert linked.shows() == linked.original


@pytest.mark.parametrize("broken", ["cut", "no video"])
def test_what_is_no_video_at_the_services_key_is_refused_for_good(linked: Linked, tmp_path: Path, broken: str) -> None:
    data = linked.original[: len(linked.original) // 2] if broken == "cut" else b"<html>an error page</html>"
    (clip := tmp_path / "broken.mp4").write_bytes(data)
    linked.put(data)
    found = linked.workspace.bucket.head(linked.key)
    assert found
    stored = {"etag": found.etag, "size_bytes": found.size_bytes, "stored_at": found.last_modified}
    change(linked.world, blobs, **stored, sha256=hashlib.sha256(data).hexdigest())
    assert isinstance(refusal := shrink(clip, tmp_path), Refusal)
    assert linked.swap(shrink).action == "refused"
    with reading(linked.workspace.engine) as session:
        known = session.execute(sa.select(videos.c.refused_recipe, videos.c.refused_reason)).one()
    assert tuple(known) == (refusal.recipe, refusal.reason)
    assert linked.shows() == data


@pytest.mark.long
def test_a_key_of_ours_gets_a_successor_as_ever(world: World, lease: Lease, tiny_transcode: Transcode) -> None:
    blob = world.video("v1")
    run = Run("run", lease, Grace(), Path(world.address.folder) / "scratch")
    outcome = swap(world.workspace, "v1", blob, shrinker(tiny_transcode), run, "in_place")
    assert outcome.action == "compressed"
    assert not world.double.sent("CopyObject")
    world.check()


@pytest.mark.long
def test_the_original_plays_within_its_grace_and_no_older_one_does(linked: Linked) -> None:
    linked.swap()
    (aside,) = linked.asides()
    change(linked.world, blobs, codec="h264")
    with transaction(linked.workspace.engine, "test") as session:
        session.execute(sa.update(blobs).where(blobs.c.key == linked.key).values(codec="av1"))
    shown = show(linked.workspace, "v1", plays=["h264"], url_seconds=60)
    assert aside.key in shown.url
    linked.put(linked.original + os.urandom(8))
    sync_once(linked.world, linked.lease)
    with transaction(linked.workspace.engine, "test") as session:
        newest = sa.select(sa.func.max(blobs.c.id)).scalar_subquery()
        session.execute(sa.update(blobs).where(blobs.c.id == newest).values(codec="av1", recipe="another"))
    with pytest.raises(NotPlayable):
        show(linked.workspace, "v1", plays=["h264"], url_seconds=60)


@pytest.mark.parametrize("placement", ["auto", "in_place", "new_key"])
def test_a_plan_says_what_becomes_of_links(linked: Linked, placement: Placement) -> None:
    recipe, policy = Recipe(placement=placement), LifecyclePolicy()
    video = Video("v1", "ann", "free", datetime(2026, 1, 1, tzinfo=UTC), 0, False, 9_000, "h264", None, linked.blob, 1)
    engine = linked.workspace.engine
    terms = terms_in(Policies(recipe=recipe), ("recipe", "acceptance", "policy"))
    plan_id = begin_plan(engine, "tier_storage", terms, LONG_AGO, "run")
    add_verdicts(engine, plan_id, [Verdict(video, Action.COMPRESS, "cold")], str, lambda _: (0, None), lambda _: None)
    told = list(plans.remarks(engine, plans.load(engine, plan_id).plan))
    assert told[0].endswith(links(recipe.place, policy.grace))
    assert ("14 days" in told[0]) == (placement == "new_key")
