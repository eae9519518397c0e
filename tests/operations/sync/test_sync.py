"""The catalogue follows the bucket: it adopts, marks lost, recovers, and never deletes."""

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from reelkeeper.adapters.s3 import r2
from reelkeeper.errors import GuardRefused, IdentityMismatch, TruncatedListing
from reelkeeper.model import BlobState, Grace, Transcode, VideoState
from reelkeeper.operations.core.workspace import check_identity
from reelkeeper.operations.health import accounts
from reelkeeper.operations.lifecycle import previews
from reelkeeper.operations.lifecycle.previews import Planning
from reelkeeper.operations.lifecycle.purge import purge
from reelkeeper.operations.sync import adoption, orphans, sync
from reelkeeper.operations.sync.survey import Survey, confirm_missing, survey
from reelkeeper.rules.lifecycle.guard import BlastRadius, listing_within
from reelkeeper.rules.sync.adoption import AdoptionLimits
from reelkeeper.store import tables
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.videos.conditions import DELETED, TAKEN_DOWN
from tests.clips import MakeClip
from tests.faults.world import LONG_AGO, World
from tests.marks import marked
from tests.operations.changes import change
from tests.operations.lifecycle.test_swap import run as swap
from tests.swapping import shrinker


def run(world: World, lease: Lease) -> tuple[Survey, dict[str, object]]:
    found = survey(world.workspace, run_id="run", note=True)
    listing_within(BlastRadius(), found.seen, found.expected)
    confirm_missing(world.workspace, found)
    adoption.judge(world.workspace, found.scan_id, AdoptionLimits())
    done: dict[str, object] = {"adopted": orphans.adopt(world.workspace, found, lease=lease, run_id="run")}
    done["lost"] = sync.lose(world.workspace, found, lease=lease, run_id="run")
    done["doubtful"] = sync.mend(world.workspace, found, lease=lease, run_id="run", grace=Grace())
    done["swept"] = orphans.sweep(world.workspace, found, lease=lease, run_id="run", grace=Grace())
    done["left"] = sync.finish(world.workspace, found, "done")
    return found, done


def video(world: World, video_id: str) -> sa.Row[tuple[object, ...]]:
    with reading(world.workspace.engine) as session:
        return session.execute(sa.select(tables.videos).where(tables.videos.c.id == video_id)).one()


@pytest.mark.long
def test_an_object_whose_key_names_its_owner_becomes_a_video(world: World, lease: Lease) -> None:
    prefix, bucket = world.address.prefix, world.workspace.bucket
    for key in ("bob/clip.mp4", "bob/film/final.mp4", "notes.txt", "ann/v1/second.mp4"):
        bucket.put_once(prefix + key, world.clip, "video/mp4")
    world.video("v1")
    _, done = run(world, lease)
    assert done["adopted"] == (2, 0)
    assert (video(world, "clip").user_id, video(world, "film").state) == ("bob", "live")
    assert done["left"] == (2, [prefix + "ann/v1/second.mp4", prefix + "notes.txt"])
    world.check()
    assert run(world, lease)[1]["adopted"] == (0, 0)


@pytest.mark.long
def test_a_row_without_its_object_is_lost_and_its_object_found_again_brings_it_back(world: World, lease: Lease) -> None:
    for number in range(8):
        world.video(f"other{number}")
    key = f"{world.address.prefix}ann/v1/g1-0123456789abcdef.mp4"
    world.video("v1", key=key, stored=False)
    assert run(world, lease)[1]["lost"] == 1
    assert video(world, "v1").state == VideoState.LOST
    world.workspace.bucket.put_once(key, world.clip, "video/mp4")
    run(world, lease)
    assert video(world, "v1").state == VideoState.LIVE
    world.check()


@pytest.mark.parametrize("name", ["ann/v1.mp4", "ann/v1/g1-0123456789abcdef.mp4"])
def test_a_video_whose_first_upload_failed_is_adopted_once_its_bytes_are_stored(
    world: World, lease: Lease, name: str
) -> None:
    blob = world.video("v1", state=VideoState.GONE, blob_state=BlobState.RETIRED, current=False)  # a refused upload
    world.workspace.bucket.put_once(world.address.prefix + name, world.clip, "video/mp4")
    assert run(world, lease)[1]["adopted"] == (1, 0)
    known = video(world, "v1")
    assert (known.state, known.created_at > LONG_AGO) == (VideoState.LIVE, True)
    assert known.blob_id != blob
    assert accounts.recount(world.workspace.engine) == []
    assert run(world, lease)[1]["adopted"] == (0, 0)


def test_a_video_that_was_taken_down_before_its_bytes_came_is_not_adopted(world: World, lease: Lease) -> None:
    world.video("v1", state=VideoState.GONE, blob_state=BlobState.RETIRED, current=False)
    change(world, tables.videos, retire_reason=TAKEN_DOWN)
    world.workspace.bucket.put_once(f"{world.address.prefix}ann/v1.mp4", world.clip, "video/mp4")
    assert run(world, lease)[1]["adopted"] == (0, 0)
    assert video(world, "v1").state == VideoState.GONE


def test_half_a_listing_changes_nothing(world: World, lease: Lease) -> None:
    for number in range(4):
        world.video(f"there{number}")
    for number in range(4):
        world.video(f"away{number}", stored=False)
    with pytest.raises(GuardRefused, match="80"):
        run(world, lease)
    world.double.faults.spoil_listing("no_token")
    with pytest.raises(TruncatedListing):
        run(world, lease)
    assert {video(world, f"away{number}").state for number in range(4)} == {VideoState.LIVE}


def test_a_dry_run_writes_down_the_scan_alone(world: World) -> None:
    world.workspace.bucket.put_once(world.address.prefix + "bob/clip.mp4", world.clip, "video/mp4")
    assert survey(world.workspace, run_id="run", note=False).unexplained == 1
    with reading(world.workspace.engine) as session:
        assert not session.execute(sa.select(tables.orphans)).all()


@pytest.mark.long
def test_a_key_of_the_services_may_be_written_over_ours_may_not(
    world: World, lease: Lease, make_clip: MakeClip
) -> None:
    theirs = f"{world.address.prefix}ann/v1.mp4"
    world.workspace.bucket.put_once(theirs, make_clip(seconds=0.4), "video/mp4")
    world.video("v1", key=theirs, stored=False)
    ours = f"{world.address.prefix}ann/v2/g1-0123456789abcdef.mp4"
    world.workspace.bucket.put_once(ours, make_clip(seconds=0.4), "video/mp4")
    world.video("v2", key=ours, stored=False)
    assert run(world, lease)[1]["doubtful"] == [ours]
    assert video(world, "v1").generation == 2
    with reading(world.workspace.engine) as session:
        blobs = sa.select(tables.blobs.c.state, tables.blobs.c.sha256).where(tables.blobs.c.key == theirs)
        before, new = session.execute(blobs.order_by(tables.blobs.c.id)).all()
    assert before.state == BlobState.GONE
    assert tuple(new) == (BlobState.LIVE, None)  # what is not known is not claimed
    assert accounts.recount(world.workspace.engine) == []  # and ann's bytes are those of the new object


@pytest.mark.usefixtures("no_waiting")
def test_debris_beside_a_healthy_newer_generation_is_retired_not_deleted(world: World, lease: Lease) -> None:
    key = f"{world.address.prefix}ann/v1/g1-00000000deadbeef.mp4"
    world.workspace.bucket.put_once(key, world.clip, "video/mp4")
    world.video("v1", generation=2)
    assert run(world, lease)[1]["swept"] == 1
    with reading(world.workspace.engine) as session:
        assert (
            session.execute(sa.select(tables.blobs.c.state).where(tables.blobs.c.key == key)).scalar_one() == "retired"
        )
    assert not world.double.deleted()


@pytest.mark.long
@pytest.mark.usefixtures("no_waiting")
def test_an_old_catalogue_takes_a_newer_generation_back_and_never_sweeps_it(world: World, lease: Lease) -> None:
    for number in range(8):
        world.video(f"other{number}")
    world.video("v1", stored=False)
    newer = f"{world.address.prefix}ann/v1/g2-00000000deadbeef.mp4"
    world.workspace.bucket.put_once(newer, world.clip, "video/mp4")
    run(world, lease)  # finds the old bytes missing
    _, done = run(world, lease)
    assert (done["adopted"], done["swept"]) == ((0, 1), 0)
    assert (video(world, "v1").state, video(world, "v1").generation) == (VideoState.LIVE, 2)
    world.check()


@pytest.mark.usefixtures("no_waiting")
def test_an_old_catalogue_never_sweeps_an_upload_whose_generation_it_has_reached_since(
    world: World, lease: Lease, make_clip: MakeClip, tiny_transcode: Transcode
) -> None:
    known = world.video("v1")
    newer = f"{world.address.prefix}ann/v1/g2-00000000deadbeef.mp4"  # uploaded after the backup of this store
    world.workspace.bucket.put_once(newer, make_clip(seconds=1), "video/mp4")
    assert run(world, lease)[1]["swept"] == 0
    assert swap(world, known, lease, shrinker(tiny_transcode)).action == "compressed"
    is_new = tables.blobs.c.generation == 2
    with transaction(world.workspace.engine, "test") as session:  # the swap is of a later night
        later = sa.update(tables.blobs).where(is_new).values(stored_at=datetime.now(UTC) + timedelta(days=1))
        session.execute(later)
    assert run(world, lease)[1]["swept"] == 0
    with reading(world.workspace.engine) as session:
        assert session.execute(sa.select(tables.orphans.c.key)).scalars().all() == [newer]


def test_debris_that_has_not_been_watched_for_a_day_stays_noted(world: World, lease: Lease) -> None:
    world.workspace.bucket.put_once(f"{world.address.prefix}ann/v1/g1-00000000deadbeef.mp4", world.clip, "video/mp4")
    world.video("v1", generation=2)
    assert run(world, lease)[1]["swept"] == 0


@pytest.mark.parametrize("reason", [None, DELETED, TAKEN_DOWN])
def test_an_object_that_came_after_its_purge_is_retired_and_purged_again(
    world: World, lease: Lease, reason: str | None
) -> None:
    blob = world.video("v1", state=VideoState.GONE, blob_state=BlobState.GONE)
    change(world, tables.videos, retire_reason=reason, last_viewed_at=datetime.now(UTC))
    run(world, lease)
    assert state_of(world, blob) == BlobState.RETIRED
    change(world, tables.blobs, purge_after=LONG_AGO)
    plan = previews.purge_retired(Planning(world.workspace.engine, datetime.now(UTC), "night")).plan
    (outcome,) = purge(world.workspace, plan.id, [blob], lease=lease, run_id="night", grace=Grace())
    assert outcome.action == "purged"
    assert (state_of(world, blob), video(world, "v1").state) == (BlobState.GONE, VideoState.GONE)


def state_of(world: World, blob_id: int) -> str:
    with reading(world.workspace.engine) as session:
        return str(session.execute(sa.select(tables.blobs.c.state).where(tables.blobs.c.id == blob_id)).scalar_one())


def test_another_deployments_bucket_is_refused(world: World) -> None:
    with pytest.raises(IdentityMismatch) as refused:
        check_identity(world.workspace.bucket, "another", may_claim=True)
    assert marked(refused.value) == snapshot(
        "bucket 'reelkeeper' under 'ID/videos/' belongs to deployment ID, but this store to another. Nothing was changed. Check REELKEEPER_BUCKET, _PREFIX, _DATABASE_URL and _STATE_DIR"
    )


def test_a_bucket_without_identity_is_claimed_only_by_a_store_that_knows_no_objects(world: World) -> None:
    world.video("v1")
    with pytest.raises(IdentityMismatch) as refused:
        check_identity(_elsewhere(world), world.workspace.deployment_id, may_claim=False)
    assert marked(refused.value) == snapshot(
        "bucket 'reelkeeper' has no identity object 'ID/videos/elsewhere/.reelkeeper-identity.json', but this store has records of objects: probably the wrong bucket. If it is the right one, write it again: reelkeeper doctor --claim"
    )
    check_identity(_elsewhere(world), world.workspace.deployment_id, may_claim=True)


def test_a_folder_of_another_stores_prefix_is_not_claimed(world: World) -> None:
    with pytest.raises(IdentityMismatch) as refused:
        check_identity(_elsewhere(world), "another", may_claim=True)
    assert marked(refused.value, DEPLOYMENT=world.workspace.deployment_id) == snapshot(
        "bucket 'reelkeeper' under 'ID/videos/' belongs to deployment DEPLOYMENT, and 'ID/videos/elsewhere/' lies in that wider prefix; this store is another. Nothing was changed. Use a prefix outside it, or that deployment's store"
    )
    assert _elsewhere(world).head(_elsewhere(world).identity_key) is None
    check_identity(_elsewhere(world), world.workspace.deployment_id, may_claim=True)  # our own prefix may be narrowed


def test_keys_that_may_read_only_their_prefix_claim_it(world: World) -> None:
    faults = world.double.faults
    faults.after("GetObject", lambda _: faults.fail("GetObject", 403, times=9))
    check_identity(_elsewhere(world), "another", may_claim=True)
    assert _elsewhere(world).head(_elsewhere(world).identity_key)


def _elsewhere(world: World) -> r2.Bucket:
    """The same bucket, under a prefix that nobody has claimed."""
    at = world.address
    return r2.connect(at.endpoint_url, at.access_key_id, at.secret_access_key, "reelkeeper", at.prefix + "elsewhere/")


@pytest.mark.long
def test_in_shards_it_sees_what_one_pass_sees(world: World, lease: Lease) -> None:
    for number in range(12):
        world.video(f"v{number}")
    world.workspace.bucket.put_once(f"{world.address.prefix}bob/new.mp4", world.clip, "video/mp4")
    world.video("away", stored=False)
    world.double.listings.page_keys = 2
    item, several = (survey(world.workspace, run_id="run", note=False, shards=shards) for shards in (1, 4))
    asked = {request.query.get("start-after") for request in world.double.sent("ListObjectsV2")}
    assert len(asked) >= 4
    for found in (item, several):
        assert (found.expected, found.seen, found.listed.objects, found.unexplained) == (13, 12, 13, 1)
    assert (item.missing, item.listed) == (several.missing, several.listed)
    assert run(world, lease)[1]["lost"] == 1


@pytest.mark.long
def test_a_shard_that_is_cut_short_is_judged_with_the_others(world: World) -> None:
    for number in range(12):
        world.video(f"v{number}")
    world.double.listings.page_keys = 4
    world.double.faults.spoil_listing("half", times=3)
    found = survey(world.workspace, run_id="run", note=False, shards=3)
    with pytest.raises(GuardRefused) as refused:
        listing_within(BlastRadius(), found.seen, found.expected)
    assert str(refused.value) == snapshot("""\
refused, and nothing was changed: the listing shows 4 objects where the catalogue expects 12; limits.min_population_percent=80 allows no fewer.
  Look first at REELKEEPER_BUCKET, REELKEEPER_PREFIX and `reelkeeper doctor`.
  override: reelkeeper run sync_catalog --apply --param limits.min_population_percent=33.33\
""")
    world.double.faults.spoil_listing("no_token")
    with pytest.raises(TruncatedListing):
        survey(world.workspace, run_id="run", note=False, shards=3)
