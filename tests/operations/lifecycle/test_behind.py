"""A store that was restored or copied deletes nothing that its later state, or its original, has live or held.

Slow: each case takes two stores, and a backup is restored through all migrations.
"""

import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from reelkeeper.adapters.s3.transport import LOCKED
from reelkeeper.errors import StoreBehind
from reelkeeper.model import BlobState, Grace, Transcode, VideoState
from reelkeeper.model.money import ReservationState
from reelkeeper.operations.billing.users import rename
from reelkeeper.operations.core import epochs
from reelkeeper.operations.core.adopt_store import adopt, look
from reelkeeper.operations.core.lease import LeaseManager
from reelkeeper.operations.health import accounts
from reelkeeper.operations.health.status import gather
from reelkeeper.operations.lifecycle.purge import delete_loose
from reelkeeper.operations.lifecycle.swap import Run
from reelkeeper.operations.removals.erase import erase
from reelkeeper.operations.removals.takedown import TakedownOrder, take_down
from reelkeeper.operations.videos.complete import complete
from reelkeeper.operations.videos.hold import hold
from reelkeeper.operations.videos.intents import md5, open_intents, settle
from reelkeeper.operations.videos.receive import Announced, begin
from reelkeeper.rules.lifecycle.transcode import Placement
from reelkeeper.settings import Settings
from reelkeeper.store.core.audit import events
from reelkeeper.store.core.backup import backup
from reelkeeper.store.core.engine import now, reading
from reelkeeper.store.core.epochs import confirmed, obsolete, unconfirmed
from reelkeeper.store.tables import blobs, reservations, users, videos
from reelkeeper.store.videos.holds import HoldTerms, in_force
from reelkeeper.store.videos.videos import is_live
from tests.faults.world import LONG_AGO, World
from tests.operations.changes import change, sync_once
from tests.operations.lifecycle.copies import (
    bring_back,
    copied,
    end_graces,
    purge_all,
    restored,
    stored_keys,
    unmarked,
)
from tests.swapping import shrinker, swap
from tests.worlds import AtFailpoint

HELD = HoldTerms("video", "held", "a dispute", "p")
LEGAL = HoldTerms("user", "ann", "a court order", "p", is_legal=True)


def retired(world: World, video_id: str) -> int:
    return world.video(video_id, state=VideoState.RETIRED, blob_state=BlobState.RETIRED)


@pytest.fixture
def saved(world: World, tmp_path: Path) -> Path:
    """A backup with two retired videos, of which one was restored, and one held, since then."""
    retired(world, "back")
    retired(world, "held")
    saved = backup(world.workspace.engine, tmp_path / "saved")
    assert bring_back(world, "back")[0].action == "restored"
    hold(world.workspace.engine, HELD)
    return saved


NewUrl = Callable[[str], str]


@pytest.fixture
def url(world: World, empty_url: NewUrl) -> str:
    return empty_url(world.workspace.engine.dialect.name)


def test_a_restored_backup_purges_nothing_that_was_restored_or_held_since(world: World, saved: Path, url: str) -> None:
    old = restored(world, saved, url)
    with pytest.raises(StoreBehind):
        purge_all(old)
    assert stored_keys(old, ["back", "held"]) == {"back": True, "held": True}


def test_a_hold_on_a_user_who_was_renamed_since_the_backup_is_in_force_after_an_adoption(
    world: World, tmp_path: Path, url: str
) -> None:
    retired(world, "v1")
    saved = backup(world.workspace.engine, tmp_path / "saved")
    rename(world.workspace.engine, "ann", "bob", by="ops", apply=True)
    hold(world.workspace.engine, LEGAL._replace(subject="bob"))
    assert epochs.tell(world.workspace)
    old = restored(world, saved, url)
    adopt(old.workspace, look(old.workspace), by="ops")
    with reading(old.workspace.engine) as session:
        (found,) = in_force(session)
    assert (found.scope, found.subject, found.is_legal) == ("user", "ann", True)


def test_an_old_state_in_its_own_place_is_known_by_its_bucket(world: World, saved: Path, url: str) -> None:
    """As from a snapshot of the disk: the store does not know that it is old."""
    old = unmarked(restored(world, saved, url))
    with pytest.raises(StoreBehind):
        purge_all(old)
    assert stored_keys(old, ["back", "held"]) == {"back": True, "held": True}


def test_a_copied_database_purges_nothing_even_before_the_original_did_anything(world: World, url: str) -> None:
    retired(world, "first")
    purge_all(world)  # from then on it knows where it lives
    retired(world, "back")
    copy = copied(world, url)
    with pytest.raises(StoreBehind):
        purge_all(copy)
    bring_back(world, "back")
    hold(world.workspace.engine, LEGAL)
    with pytest.raises(StoreBehind):
        purge_all(copy)
    assert stored_keys(world, ["back"]) == {"back": True}
    purge_all(world)  # the original is not stopped by what the copy tried


@pytest.mark.parametrize("placement", ["in_place", "new_key"])
def test_a_copied_database_compresses_nothing_in_the_bucket_of_the_original(
    world: World, url: str, tiny_transcode: Transcode, placement: Placement
) -> None:
    key = f"{world.address.prefix}ann/v1.mp4"
    world.workspace.bucket.put_once(key, world.clip, "video/mp4")
    blob_id = world.video("v1", key=key, stored=False)
    purge_all(world)  # from then on it knows where it lives
    copy, before = copied(world, url), world.workspace.bucket.head(key)
    with LeaseManager(copy.workspace.engine) as manager:
        run = Run("run", manager.take(["video/v1"])[0], Grace(), Path(world.address.folder) / "scratch")
        with pytest.raises(StoreBehind):
            swap(copy.workspace, "v1", blob_id, shrinker(tiny_transcode), run, placement)
    assert world.workspace.bucket.head(key) == before
    assert [item.key for page in world.workspace.bucket.pages() for item in page] == [key]


def test_a_database_copied_during_a_swap_puts_nothing_back_over_what_the_original_published(
    world: World, url: str, tiny_transcode: Transcode, at_failpoint: AtFailpoint
) -> None:
    key = f"{world.address.prefix}ann/v1.mp4"
    world.workspace.bucket.put_once(key, world.clip, "video/mp4")
    blob_id = world.video("v1", key=key, stored=False)
    purge_all(world)  # from then on it knows where it lives
    copies, scratch = [], Path(world.address.folder) / "scratch"
    at_failpoint("in_place.put.after", lambda: copies.append(copied(world, url)))
    with LeaseManager(world.workspace.engine) as manager:
        run = Run("run", manager.take(["video/v1"])[0], Grace(), scratch)
        swap(world.workspace, "v1", blob_id, shrinker(tiny_transcode), run, "in_place")
    (copy,), published = copies, world.workspace.bucket.head(key)
    assert published
    assert published.size_bytes == tiny_transcode.size_bytes
    copy.expire_leases()
    hold(copy.workspace.engine, HoldTerms("video", "v1", "a dispute", "p"))
    (intent,) = open_intents(copy.workspace)
    with LeaseManager(copy.workspace.engine) as manager, pytest.raises(StoreBehind):
        settle(copy.workspace, intent, scratch=scratch, lease=manager.take(["video/v1"])[0], grace=Grace())
    assert world.workspace.bucket.head(key) == published


def test_of_two_copies_that_do_not_know_it_the_second_to_act_is_stopped(world: World, tmp_path: Path, url: str) -> None:
    retired(world, "v1")
    copy = unmarked(restored(world, backup(world.workspace.engine, tmp_path / "saved"), url))
    assert [outcome.action for outcome in purge_all(copy)] == ["purged"]
    with pytest.raises(StoreBehind):
        bring_back(world, "v1")
    retired(world, "v2")
    with pytest.raises(StoreBehind):
        purge_all(world)
    assert stored_keys(world, ["v2"]) == {"v2": True}


def test_two_machines_of_one_store_are_not_foreign_to_each_other(world: World) -> None:
    other = World(world.address, world.double, world.clip, world.address.workspace(), world.outside)
    retired(world, "back")
    retired(world, "gone")
    bring_back(other, "back")
    hold(world.workspace.engine, LEGAL)
    assert epochs.tell(other.workspace)
    assert {outcome.action for outcome in purge_all(world)} <= {"purged", "skipped"}
    retired(world, "more")
    assert purge_all(other)
    with reading(world.workspace.engine) as session:
        assert confirmed(session) == 4


def test_a_restored_backup_deletes_nothing_until_it_is_adopted_whatever_the_bucket_says(
    world: World, tmp_path: Path, url: str
) -> None:
    retired(world, "v1")
    old = restored(world, backup(world.workspace.engine, tmp_path / "saved"), url)
    with pytest.raises(StoreBehind):
        purge_all(old)
    order = TakedownOrder("p", "a court", "down")
    with pytest.raises(StoreBehind):
        take_down(old.workspace, "v1", order, scratch=tmp_path)
    with pytest.raises(StoreBehind):
        erase(old.workspace, "ann", by="p", run_id="erase", settings=Settings())
    with reading(old.workspace.engine) as session:
        assert session.execute(sa.select(users.c.erasing_at)).scalar_one() is None
        assert session.execute(sa.select(videos.c.retire_reason)).scalar_one() is None
    assert stored_keys(old, ["v1"]) == {"v1": True}
    assert gather(old.workspace.engine).behind


def test_a_hold_alone_is_told(world: World, tmp_path: Path, url: str) -> None:
    retired(world, "held")
    saved = backup(world.workspace.engine, tmp_path / "saved")
    hold(world.workspace.engine, HELD)
    assert epochs.tell(world.workspace)
    with pytest.raises(StoreBehind):
        purge_all(unmarked(restored(world, saved, url)))


def test_a_hold_is_in_force_while_the_bucket_is_away_and_is_told_by_the_next_run(world: World) -> None:
    retired(world, "held")
    retired(world, "back")
    world.double.faults.fail("PutObject", 503, times=7)
    hold(world.workspace.engine, HELD)
    assert not epochs.tell(world.workspace, seconds=0.2)
    world.double.faults.clear()
    for thread in threading.enumerate():
        if thread.name == "epochs":
            thread.join()
    bring_back(world, "back")
    with reading(world.workspace.engine) as session:
        assert not unconfirmed(session)
    assert len(world.workspace.bucket.epochs()) == 2


def test_a_lost_answer_of_the_put_is_recognized(world: World) -> None:
    retired(world, "back")
    world.double.faults.drop_reply("PutObject")
    assert [outcome.action for outcome in bring_back(world, "back")] == ["restored"]


@pytest.mark.parametrize("place", ["epoch.announce.after_commit", "epoch.put.before", "epoch.put.after"])
def test_a_run_killed_within_its_announcement_is_not_foreign_to_the_next(
    world: World, at_failpoint: AtFailpoint, place: str
) -> None:
    retired(world, "gone")

    def die() -> None:
        raise KeyboardInterrupt

    at_failpoint(place, die)
    with pytest.raises(KeyboardInterrupt):
        purge_all(world)
    assert [outcome.action for outcome in purge_all(world)] == ["purged"]
    with reading(world.workspace.engine) as session:
        assert not unconfirmed(session)


def test_of_two_copies_that_begin_at_once_one_at_least_is_stopped(
    world: World, tmp_path: Path, url: str, at_failpoint: AtFailpoint
) -> None:
    retired(world, "v1")
    copy = unmarked(restored(world, backup(world.workspace.engine, tmp_path / "saved"), url))
    at_failpoint("epoch.put.before", lambda: purge_all(copy))
    with pytest.raises(StoreBehind):
        bring_back(world, "v1")


def taken_over(world: World) -> None:
    """Adopt the original while the copy is at work."""
    adopt(world.workspace, look(world.workspace), by="p")


def test_a_run_under_way_is_stopped_before_its_next_batch_when_another_copy_is_adopted(
    world: World, tmp_path: Path, url: str, at_failpoint: AtFailpoint
) -> None:
    retired(world, "v1")
    copy = unmarked(restored(world, backup(world.workspace.engine, tmp_path / "saved"), url))
    at_failpoint("purge.claim.after_commit", lambda: taken_over(world))
    with pytest.raises(StoreBehind):
        purge_all(copy)
    assert stored_keys(world, ["v1"]) == {"v1": True}
    bring_back(world, "v1")


def test_an_erasure_under_way_is_stopped_before_its_next_request(
    world: World, tmp_path: Path, url: str, at_failpoint: AtFailpoint
) -> None:
    key = f"{world.address.prefix}ann/loose.bin"
    world.workspace.bucket.put_bytes_once(key, b"something", "text/plain")
    copy = unmarked(restored(world, backup(world.workspace.engine, tmp_path / "saved"), url))
    at_failpoint("erase.delete.before", lambda: taken_over(world))
    with pytest.raises(StoreBehind), LeaseManager(copy.workspace.engine) as manager:
        delete_loose(copy.workspace, [key], lease=manager.take(["erase/x"])[0])
    assert world.workspace.bucket.head(key)


def test_an_erasure_of_objects_without_a_video_announces_itself(world: World) -> None:
    key = f"{world.address.prefix}ann/loose.bin"
    world.workspace.bucket.put_bytes_once(key, b"something", "text/plain")
    before = set(world.workspace.bucket.epochs())
    with LeaseManager(world.workspace.engine) as manager:
        assert delete_loose(world.workspace, [key], lease=manager.take(["erase/x"])[0]) == {}
    assert len(set(world.workspace.bucket.epochs()) - before) == 1


def test_a_bucket_that_lacks_the_last_epoch_is_another(world: World) -> None:
    retired(world, "gone")
    purge_all(world)
    (name,) = world.workspace.bucket.epochs()
    world.workspace.bucket.delete([world.workspace.bucket.epoch_key(name)])
    retired(world, "v1")
    with pytest.raises(StoreBehind):
        purge_all(world)
    taken_over(world)
    assert {outcome.action for outcome in purge_all(world)} == {"purged"}


def test_adopted_it_starts_all_graces_anew_and_holds_what_the_bucket_tells(world: World, saved: Path, url: str) -> None:
    assert epochs.tell(world.workspace)
    old = restored(world, saved, url)
    end_graces(old)
    seen = look(old.workspace)
    assert {(told.kind, told.videos, told.unknown) for told in seen.told} == {
        ("restore", ("back",), 0),
        ("hold", ("held",), 0),
    }
    assert seen.due.objects == 2
    adopt(old.workspace, seen, by="p")
    with reading(old.workspace.engine) as session:
        assert session.execute(sa.select(sa.func.min(blobs.c.purge_after))).scalar_one() > now(session)
        lasting = {line.subject: line.expires_at and line.expires_at - now(session) for line in in_force(session)}
        month = timedelta(days=30)
        assert {
            subject: left and month - timedelta(minutes=1) < left <= month for subject, left in lasting.items()
        } == {
            "back": True,
            "held": True,
        }
        (told,) = events(session, event="adopt_store")
    assert told.event.detail["holds"] == 2
    assert {outcome.action for outcome in purge_all(old)} == {"skipped"}
    with pytest.raises(StoreBehind):
        purge_all(world)


@pytest.mark.parametrize("synced_first", [False, True])
def test_an_upload_that_was_open_when_its_store_was_backed_up_is_adopted_as_others_since(
    world: World, tmp_path: Path, url: str, synced_first: bool
) -> None:
    data = world.clip.read_bytes()
    announced = Announced("ann", "new", len(data), md5(world.clip), "mp4")
    upload, _ = begin(world.workspace, announced, "key", url_seconds=600)
    saved = backup(world.workspace.engine, tmp_path / "saved")
    world.workspace.bucket.put_once(upload.key, world.clip, "video/mp4")
    done = complete(world.workspace, upload.id, scratch=tmp_path / "scratch", run_id="api", grace=Grace())
    assert done.state == ReservationState.SETTLED
    old = restored(world, saved, url)
    if not synced_first:
        adopt(old.workspace, look(old.workspace), by="p")
    change(old, reservations, expires_at=LONG_AGO)
    with LeaseManager(old.workspace.engine) as manager:
        (lease,) = manager.take(["flow/settle_accounts"])
        assert len(accounts.void_reservations(old.workspace.engine, lease=lease)) == 1
        sync_once(old, lease)
    if synced_first:
        adopt(old.workspace, look(old.workspace), by="p")
    purge_all(old)
    assert stored_keys(old, ["new"]) == {"new": True}
    with reading(old.workspace.engine) as session:
        assert is_live(session, "new")
    assert accounts.recount(old.workspace.engine) == []


def test_an_upload_that_was_open_when_its_store_was_copied_is_adopted_too(
    world: World, tmp_path: Path, url: str
) -> None:
    retired(world, "first")
    purge_all(world)  # from then on it knows where it lives
    announced = Announced("ann", "new", world.clip.stat().st_size, md5(world.clip), "mp4")
    upload, _ = begin(world.workspace, announced, "key", url_seconds=600)
    copy = copied(world, url)
    world.workspace.bucket.put_once(upload.key, world.clip, "video/mp4")
    complete(world.workspace, upload.id, scratch=tmp_path / "scratch", run_id="api", grace=Grace())
    change(copy, reservations, expires_at=LONG_AGO)
    with LeaseManager(copy.workspace.engine) as manager:
        (lease,) = manager.take(["flow/settle_accounts"])
        accounts.void_reservations(copy.workspace.engine, lease=lease)
        sync_once(copy, lease)
    adopt(copy.workspace, look(copy.workspace), by="p")
    purge_all(copy)
    assert stored_keys(copy, ["new"]) == {"new": True}
    with reading(copy.workspace.engine) as session:
        assert is_live(session, "new")


def test_old_epochs_are_dropped_and_a_bucket_lock_on_them_harms_nothing(world: World) -> None:
    retired(world, "v1")
    purge_all(world)
    (first,) = world.workspace.bucket.epochs()
    world.double.faults.refuse_deletes([world.workspace.bucket.epoch_key(first)], LOCKED)
    retired(world, "v2")
    assert "purged" in {outcome.action for outcome in purge_all(world)}
    assert len(world.workspace.bucket.epochs()) == 2
    world.double.faults.clear()
    retired(world, "v3")
    assert "purged" in {outcome.action for outcome in purge_all(world)}
    assert len(world.workspace.bucket.epochs()) == 1
    with reading(world.workspace.engine) as session:
        assert obsolete(session, 9) == []  # none is asked for again
    assert not [name for name in world.workspace.bucket.epochs() if name == first]


def test_ids_are_not_in_the_bucket(world: World) -> None:
    retired(world, "back")
    bring_back(world, "back")
    (name,) = world.workspace.bucket.epochs()
    assert b"back" not in world.workspace.bucket.read_bytes(world.workspace.bucket.epoch_key(name))
