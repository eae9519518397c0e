"""Changes between the listing and the actions of a sync are respected."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from reelkeeper.errors import Frozen, LeaseLost
from reelkeeper.model import BlobState, Grace, StoredObject, VideoState
from reelkeeper.operations.core.freeze import freeze
from reelkeeper.operations.sync import adoption, orphans, sync
from reelkeeper.operations.sync.survey import Survey, confirm_missing, survey
from reelkeeper.operations.videos.overwrites import take_uploads
from reelkeeper.rules.sync.adoption import AdoptionLimits
from reelkeeper.store.core import deployment
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.tables import blobs, cache_entries, users, videos
from reelkeeper.store.tables import orphans as noted
from reelkeeper.store.videos import cache
from tests.faults.world import World
from tests.operations.changes import change, rows
from tests.operations.sync.test_sync import video

GRACE = Grace()


def look(world: World) -> Survey:
    found = survey(world.workspace, run_id="run", note=True)
    adoption.judge(world.workspace, found.scan_id, AdoptionLimits())
    return found


def put(world: World, name: str) -> str:
    key = world.address.prefix + name
    world.workspace.bucket.put_once(key, world.clip, "video/mp4")
    return key


def leave_debris(world: World) -> str:
    """Leave bytes of an older generation beside a live video."""
    world.video("v1", generation=2)
    return put(world, "ann/v1/g1-00000000deadbeef.mp4")


def lose_and_find_newer(world: World) -> None:
    """Have a lost video of generation 2, and bytes of generation 3 that no row explains."""
    world.video("v1", generation=2, state=VideoState.LOST, blob_state=BlobState.LOST, stored=False)
    put(world, "ann/v1/g3-00000000deadbeef.mp4")


def make_missing(world: World) -> None:
    world.video("v1", stored=False)


def make_overwritten(world: World) -> None:
    world.video("v1", key=put(world, "ann/v1.mp4"), stored=False)
    change(world, blobs, etag="0" * 32)


def make_reappeared(world: World) -> None:
    world.video("v1", state=VideoState.GONE, blob_state=BlobState.GONE)


def make_new(world: World) -> None:
    put(world, "bob/new.mp4")


def make_debris(world: World) -> None:
    leave_debris(world)


def lose(world: World, found: Survey, lease: Lease) -> int:
    return sync.lose(world.workspace, found, lease=lease, run_id="r")


def adopt(world: World, found: Survey, lease: Lease) -> tuple[int, int]:
    return orphans.adopt(world.workspace, found, lease=lease, run_id="r")


def mend(world: World, found: Survey, lease: Lease) -> list[str]:
    return sync.mend(world.workspace, found, lease=lease, run_id="r", grace=GRACE)


def sweep(world: World, found: Survey, lease: Lease) -> int:
    return orphans.sweep(world.workspace, found, lease=lease, run_id="r", grace=GRACE)


STEPS: dict[str, tuple[Callable[[World], object], Callable[[World, Survey, Lease], object]]] = {
    "lose": (make_missing, lose),
    "take uploads": (make_overwritten, mend),
    "mend": (make_reappeared, mend),
    "adopt": (make_new, adopt),
    "sweep": (make_debris, sweep),
}


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("step", STEPS)
def test_frozen_or_fenced_off_a_sync_changes_nothing(world: World, lease: Lease, step: str) -> None:
    make, act = STEPS[step]
    make(world)
    found, before = look(world), rows(world)
    with pytest.raises(LeaseLost):
        act(world, found, lease._replace(token=lease.token - 1))
    assert rows(world) == before
    freeze(world.workspace.engine, by="test", reason="an alarm")
    with pytest.raises(Frozen):
        act(world, found, lease)
    assert rows(world) == before


def test_an_object_that_a_head_finds_is_not_missing(world: World) -> None:
    found = Survey("scan", datetime.now(UTC), missing=[world.video("v1"), world.video("v2", stored=False)])
    confirm_missing(world.workspace, found)
    assert len(found.missing) == 1


def test_an_object_stored_while_the_listing_runs_is_not_missing(world: World) -> None:
    world.video("v1", stored=False)
    change(world, blobs, stored_at=datetime.now(UTC) + timedelta(hours=1))
    found = survey(world.workspace, run_id="run", note=False)
    assert (found.expected, found.missing) == (0, [])


def test_an_object_purged_while_the_listing_runs_is_not_missing(world: World) -> None:
    found = Survey("scan", datetime.now(UTC), missing=[world.video("v1", stored=False)])
    change(world, blobs, state=BlobState.GONE)
    confirm_missing(world.workspace, found)
    assert found.missing == []


@pytest.mark.parametrize("state", [BlobState.DELETING, BlobState.GONE, BlobState.PENDING])
def test_bytes_that_another_has_settled_are_not_lost(world: World, lease: Lease, state: BlobState) -> None:
    found = Survey("scan", datetime.now(UTC), missing=[world.video("v1", stored=False)])
    change(world, blobs, state=state)
    before = rows(world)
    assert lose(world, found, lease) == 0
    assert rows(world) == before


def test_a_video_that_is_gone_is_not_lost(world: World, lease: Lease) -> None:
    found = Survey("scan", datetime.now(UTC), missing=[world.video("v1", stored=False)])
    change(world, videos, state=VideoState.GONE)
    assert lose(world, found, lease) == 0
    assert video(world, "v1").state == VideoState.GONE


def test_a_repeated_request_does_not_get_a_lost_video(world: World, lease: Lease) -> None:
    found = Survey("scan", datetime.now(UTC), missing=[world.video("v1", stored=False)])
    with transaction(world.workspace.engine, "test") as session:
        cache.insert(session, "key", "v1", user_id="ann", cost_microusd=1, ttl_seconds=None)
    lose(world, found, lease)
    with reading(world.workspace.engine) as session:
        assert not session.execute(sa.select(cache_entries)).all()


def test_other_bytes_at_a_key_of_ours_are_a_doubt_and_no_upload(world: World, lease: Lease) -> None:
    blob_id = world.video("v1")
    change(world, blobs, etag="0" * 32, sha256="0" * 64)
    found, before = look(world), rows(world)
    (page,) = world.workspace.bucket.pages()
    assert mend(world, found, lease) == [page[0].key]
    take(world, (blob_id, page[0]))
    assert rows(world) == before


def test_bytes_that_came_back_stay_as_another_has_left_them(world: World, lease: Lease) -> None:
    found = Survey("scan", datetime.now(UTC), reappeared=[world.video("v1")])
    before = rows(world)
    mend(world, found, lease)
    assert rows(world) == before


@pytest.fixture
def stored_anew(world: World) -> tuple[int, StoredObject]:
    """A row that is gone, and the service's new object at its key, of which another row says so."""
    key = put(world, "ann/v1.mp4")
    before = world.video("v1", key=key, stored=False, blob_state=BlobState.GONE, current=False)
    world.video("v1", key=key, stored=False, generation=2)
    found = world.workspace.bucket.head(key)
    assert found
    return before, found._replace(etag="0" * 32)


def test_a_new_upload_is_not_retired_as_one_that_came_back(
    world: World, lease: Lease, stored_anew: tuple[int, StoredObject]
) -> None:
    before = rows(world)
    mend(world, Survey("scan", datetime.now(UTC), reappeared=[stored_anew[0]]), lease)
    assert rows(world) == before


def take(world: World, found: tuple[int, StoredObject]) -> None:
    with transaction(world.workspace.engine, "test") as session:
        deployment.lock(session)
        take_uploads(session, [found], run_id="r", grace=GRACE)


def test_an_object_described_by_its_own_row_is_no_upload_for_another(
    world: World, stored_anew: tuple[int, StoredObject]
) -> None:
    before = rows(world)
    take(world, stored_anew)
    assert rows(world) == before


def test_a_videos_bytes_at_another_key_of_the_services_are_not_retired(world: World) -> None:
    older = world.video("v1", key=put(world, "ann/v1.mp4"), stored=False, blob_state=BlobState.GONE, current=False)
    present = world.video("v1", key=put(world, "ann/v1.mov"), stored=False, generation=2)
    found = world.workspace.bucket.head(f"{world.address.prefix}ann/v1.mp4")
    assert found
    take(world, (older, found._replace(etag="0" * 32)))
    with reading(world.workspace.engine) as session:
        kept = session.execute(sa.select(blobs.c.state, blobs.c.purge_after).where(blobs.c.id == present)).one()
    assert tuple(kept) == (BlobState.LIVE, None)
    assert video(world, "v1").generation == 3


@pytest.mark.parametrize("claimed", [False, True])
def test_an_unchanged_or_claimed_object_is_no_upload(world: World, claimed: bool) -> None:
    blob_id = world.video("v1", key=put(world, "ann/v1.mp4"), stored=False)
    found = world.workspace.bucket.head(f"{world.address.prefix}ann/v1.mp4")
    assert found
    if claimed:
        change(world, blobs, etag="0" * 32, state=BlobState.DELETING, claim_token=7)
    before = rows(world)
    take(world, (blob_id, found))
    assert rows(world) == before


def take_its_key(world: World) -> None:
    world.video("v9", key=f"{world.address.prefix}ann/v1/g3-00000000deadbeef.mp4", stored=False)


def find_still_newer(world: World) -> None:
    change(world, videos, generation=3)


def give_to_another_user(world: World) -> None:
    with transaction(world.workspace.engine, "test") as session:
        session.execute(sa.insert(users).values(id="eve"))
        session.execute(sa.update(videos).values(user_id="eve"))


def find_again(world: World) -> None:
    change(world, videos, state=VideoState.LIVE)


@pytest.mark.parametrize("meanwhile", [take_its_key, find_still_newer, give_to_another_user, find_again])
def test_a_lost_video_that_changed_meanwhile_is_not_taken_back(
    world: World, lease: Lease, meanwhile: Callable[[World], object]
) -> None:
    lose_and_find_newer(world)
    found = look(world)
    meanwhile(world)
    before = rows(world)
    assert adopt(world, found, lease) == (0, 0)
    assert rows(world) == before


@pytest.mark.parametrize("age", ["ORPHAN_MIN_AGE", "ORPHAN_MIN_WATCH"])
def test_debris_is_swept_only_when_old_and_watched(
    world: World, lease: Lease, monkeypatch: pytest.MonkeyPatch, age: str
) -> None:
    monkeypatch.setattr(orphans, age, timedelta())  # the other one alone keeps it
    leave_debris(world)
    assert sweep(world, look(world), lease) == 0


def take_the_debris(world: World) -> None:
    world.video("v9", key=f"{world.address.prefix}ann/v1/g1-00000000deadbeef.mp4", stored=False)


def lose_its_video(world: World) -> None:
    change(world, videos, state=VideoState.LOST)


def go_back_a_generation(world: World) -> None:
    """As an old copy of the store would have it, brought back."""
    change(world, videos, generation=0)


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("meanwhile", [take_the_debris, lose_its_video, give_to_another_user, go_back_a_generation])
def test_debris_that_may_be_wanted_meanwhile_is_not_swept(
    world: World, lease: Lease, meanwhile: Callable[[World], Any]
) -> None:
    leave_debris(world)
    found = look(world)
    meanwhile(world)
    before = rows(world)
    assert sweep(world, found, lease) == 0
    assert rows(world) == before


@pytest.mark.parametrize(("age_hours", "watched_hours", "swept"), [(49, 25, 1), (47, 25, 0), (49, 23, 0)])
def test_debris_is_swept_at_48_hours_of_age_after_a_day_of_watching(
    world: World, lease: Lease, age_hours: int, watched_hours: int, swept: int
) -> None:
    leave_debris(world)
    found = look(world)
    stored = found.started_at - timedelta(hours=age_hours)
    with transaction(world.workspace.engine, "test") as session:
        (last,) = session.execute(sa.select(noted.c.last_seen_at)).one()
        dated = {"last_modified": stored, "first_seen_at": last - timedelta(hours=watched_hours)}
        session.execute(sa.update(noted).values(**dated))
    assert sweep(world, found, lease) == swept
