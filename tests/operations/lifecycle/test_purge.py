"""Retire, purge, restore: deletion takes two steps, and can be undone until the second."""

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from reelkeeper.adapters.s3.r2 import Bucket
from reelkeeper.adapters.s3.transport import LOCKED
from reelkeeper.errors import Frozen, LeaseLost, NotFound, StorageError
from reelkeeper.model import BlobState, Grace, Outcome, VideoState
from reelkeeper.operations.core.freeze import freeze, why_frozen
from reelkeeper.operations.health import accounts
from reelkeeper.operations.lifecycle import outcomes, plans
from reelkeeper.operations.lifecycle.purge import purge, settle_claims
from reelkeeper.operations.lifecycle.restore import find_restorable, restore
from reelkeeper.operations.lifecycle.retire import retire
from reelkeeper.operations.removals.delete import delete
from reelkeeper.operations.videos import receive
from reelkeeper.operations.videos.hold import hold, release
from reelkeeper.rules.lifecycle.guard import BlastRadius
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.lifecycle.plan_results import by_outcome
from reelkeeper.store.tables import blobs, holds, reservations, uploads, videos
from reelkeeper.store.videos.holds import HoldTerms
from tests.buckets import BUCKET
from tests.faults.world import LONG_AGO, World
from tests.marks import marked
from tests.operations.changes import change, sync_once


def state_of(world: World, video_id: str = "v1") -> str:
    with reading(world.workspace.engine) as session:
        return str(session.execute(sa.select(videos.c.state).where(videos.c.id == video_id)).scalar_one())


def states(outcomes: list[Outcome]) -> dict[str, str]:
    return {outcome.video_id: outcome.action for outcome in outcomes}


def purge_due(world: World, chosen: list[int], lease: Lease) -> list[Outcome]:
    plan = world.plan("purge_retired", "purge", chosen)
    return purge(world.workspace, plan, chosen, lease=lease, run_id="run", grace=Grace())


def due(world: World, video_id: str = "v1") -> int:
    return world.video(video_id, state=VideoState.RETIRED, blob_state=BlobState.RETIRED, due=True)


def test_retiring_changes_the_store_alone_and_can_be_taken_back(world: World, lease: Lease) -> None:
    plan = world.plan("expire_videos", "retire", [world.video("v1")])
    outcomes = retire(world.workspace, plan, ["v1", "unplanned"], lease=lease, run_id="night", grace=Grace())
    assert states(outcomes) == {"v1": "retired"}
    assert state_of(world) == VideoState.RETIRED
    assert not world.double.deleted()
    found = find_restorable(world.workspace, run_id="night")
    assert states(restore(world.workspace, found, run_id="p", author="p", grace=Grace(), hold_days=30)) == {
        "v1": "restored"
    }
    assert state_of(world) == VideoState.LIVE
    world.check()


def test_a_restored_video_is_held_so_that_the_next_night_leaves_it(world: World, lease: Lease) -> None:
    world.video("v1", state=VideoState.RETIRED, blob_state=BlobState.RETIRED)
    found = find_restorable(world.workspace, user_id="ann")
    restore(world.workspace, found, run_id="p", author="p", grace=Grace(), hold_days=30)
    with reading(world.workspace.engine) as session:
        blob = session.execute(sa.select(videos.c.blob_id)).scalar_one()
        hold_id = session.execute(sa.select(holds.c.id)).scalar_one()
    plan = world.plan("expire_videos", "retire", [blob])
    assert states(retire(world.workspace, plan, ["v1"], lease=lease, run_id="r", grace=Grace())) == {"v1": "skipped"}
    release(world.workspace.engine, hold_id, author="p")
    assert states(retire(world.workspace, plan, ["v1"], lease=lease, run_id="r", grace=Grace())) == {"v1": "retired"}


def test_a_swap_is_taken_back_by_its_run(world: World) -> None:
    world.swapped("v1", run_id="night")
    found = find_restorable(world.workspace, run_id="night")
    assert states(restore(world.workspace, found, run_id="p", author="p", grace=Grace(), hold_days=0)) == {
        "v1": "restored"
    }
    with reading(world.workspace.engine) as session:
        row = session.execute(
            sa.select(blobs.c.generation, videos.c.generation, videos.c.refused_recipe).join(
                blobs, blobs.c.id == videos.c.blob_id
            )
        ).one()
    assert tuple(row) == (1, 3, "a recipe")  # the first bytes, and no second try by the same recipe
    world.check()


def test_a_purge_deletes_what_is_due_and_nothing_else(world: World, lease: Lease) -> None:
    replaced = world.video("v1", blob_state=BlobState.RETIRED, due=True, current=False)
    world.video("v1", generation=2)
    waiting = world.video("v2", state=VideoState.RETIRED, blob_state=BlobState.RETIRED)
    outcomes = purge_due(world, [replaced, waiting, due(world, "v3")], lease)
    assert sorted(outcome.action for outcome in outcomes) == ["purged", "purged", "skipped"]
    assert (state_of(world, "v1"), state_of(world, "v2"), state_of(world, "v3")) == ("live", "retired", "gone")
    assert len(world.double.deleted()) == 2
    with pytest.raises(NotFound) as refused:
        find_restorable(world.workspace, video_id="v3")
    assert marked(refused.value) == snapshot(
        "nothing to restore for video v3: no video is retired, or its bytes are already purged"
    )
    world.check()


def test_an_object_that_is_gone_already_counts_as_purged(world: World, lease: Lease) -> None:
    gone = [due(world, name) for name in ("v1", "v2")]
    keys = [
        item["Key"]
        for item in world.double.client.list_objects_v2(Bucket=BUCKET, Prefix=world.address.prefix)["Contents"]
    ]
    world.double.client.delete_object(Bucket=BUCKET, Key=next(key for key in keys if "/v1/" in key))
    assert {(outcome.action, outcome.reason) for outcome in purge_due(world, gone, lease)} == {
        ("purged", snapshot("its grace is over")),
        ("purged", snapshot("its object was already gone")),
    }
    assert (state_of(world, "v1"), state_of(world, "v2")) == ("gone", "gone")
    world.check()


def test_a_purge_without_a_plan_for_it_deletes_nothing(world: World, lease: Lease) -> None:
    blob = due(world)
    world.plan("purge_retired", "purge", [])
    assert [
        outcome.action for outcome in purge(world.workspace, "other", [blob], lease=lease, run_id="r", grace=Grace())
    ] == ["skipped"]
    assert not world.double.deleted()


def test_old_bytes_stay_while_the_new_ones_are_not_stored(world: World, lease: Lease) -> None:
    replaced = world.video("v1", blob_state=BlobState.RETIRED, due=True, current=False)
    world.video("v1", generation=2, stored=False)
    (outcome,) = purge_due(world, [replaced], lease)
    assert outcome.action == "failed"
    assert not world.double.deleted()
    assert marked(why_frozen(world.workspace.engine)) == snapshot(
        "frozen since DAY TIME by run: blobs in doubt: 1, first ID/videos/ann/v1/g1-ID.mp4: the video's current bytes, ID/videos/ann/v1/g2-ID.mp4, are not stored as recorded. 1 object in doubt, each with the command that settles it: reelkeeper doubts. When the cause is resolved: reelkeeper thaw"
    )


def test_an_object_that_is_not_the_recorded_one_stays_and_freezes_everything(world: World, lease: Lease) -> None:
    blob = due(world)
    with transaction(world.workspace.engine, "test") as session:
        session.execute(sa.update(blobs).values(etag="0" * 32, sha256="0" * 64))
    assert [outcome.action for outcome in purge_due(world, [blob], lease)] == ["failed"]
    assert not world.double.deleted()
    with pytest.raises(Frozen) as refused:
        purge(world.workspace, "any", [blob], lease=lease, run_id="r", grace=Grace())
    assert marked(refused.value, SIZE=world.clip.stat().st_size) == snapshot(
        "frozen since DAY TIME by run: blobs in doubt: 1, first ID/videos/ann/v1/g1-ID.mp4: stored SIZE bytes, ETag ID; recorded SIZE, ID. 1 object in doubt, each with the command that settles it: reelkeeper doubts. When the cause is resolved: reelkeeper thaw"
    )


def test_a_key_that_the_bucket_will_not_delete_fails_alone_and_is_finished_next_time(
    world: World, lease: Lease
) -> None:
    first, second = due(world, "v1"), due(world, "v2")
    with reading(world.workspace.engine) as session:
        key = session.execute(sa.select(blobs.c.key).where(blobs.c.id == first)).scalar_one()
    world.double.faults.refuse_deletes([key], code="AccessDenied")
    plan = world.plan("purge_retired", "purge", [first, second])
    outcomes = purge(world.workspace, plan, [first, second], lease=lease, run_id="r", grace=Grace())
    assert states(outcomes) == {"v1": "failed", "v2": "purged"}
    world.double.faults.clear()
    with reading(world.workspace.engine) as session:
        assert session.execute(sa.select(blobs.c.state).where(blobs.c.id == first)).scalar_one() == BlobState.RETIRED
    assert states(purge(world.workspace, plan, [first], lease=lease, run_id="r", grace=Grace())) == {"v1": "purged"}


def test_a_restore_whose_bytes_are_not_there_says_so(world: World) -> None:
    world.video("v1", state=VideoState.RETIRED, blob_state=BlobState.RETIRED, stored=False)
    found = find_restorable(world.workspace, video_id="v1")
    (outcome,) = restore(world.workspace, found, run_id="p", author="p", grace=Grace(), hold_days=0)
    assert outcome.action == "failed"
    assert marked(outcome.reason, SIZE=world.clip.stat().st_size) == snapshot(
        "nothing is stored at ID/videos/ann/v1/g1-ID.mp4; recorded: SIZE bytes, ETag ID"
    )


def test_frozen_or_fenced_off_nothing_is_retired_or_purged_but_restoring_works(world: World, lease: Lease) -> None:
    blob, plan = due(world, "v2"), world.plan("expire_videos", "retire", [world.video("v1")])
    fenced = lease._replace(token=lease.token - 1)
    with pytest.raises(LeaseLost):
        retire(world.workspace, plan, ["v1"], lease=fenced, run_id="r", grace=Grace())
    with pytest.raises(LeaseLost):
        purge_due(world, [blob], fenced)
    freeze(world.workspace.engine, by="test", reason="an alarm")
    with pytest.raises(Frozen):
        retire(world.workspace, plan, ["v1"], lease=lease, run_id="r", grace=Grace())
    found = find_restorable(world.workspace, video_id="v2")
    assert states(restore(world.workspace, found, run_id="p", author="p", grace=Grace(), hold_days=1)) == {
        "v2": "restored"
    }
    assert not world.double.deleted()


def test_a_hold_says_when_it_comes_too_late(world: World) -> None:
    blob = due(world)
    with transaction(world.workspace.engine, "test") as session:
        session.execute(sa.update(blobs).where(blobs.c.id == blob).values(state=BlobState.DELETING))
    assert hold(world.workspace.engine, HoldTerms("video", "v1", "r", "a")).too_late == 1
    with transaction(world.workspace.engine, "test") as session:
        session.execute(sa.update(blobs).where(blobs.c.id == blob).values(state=BlobState.GONE))
        session.execute(sa.update(videos).values(state=VideoState.GONE))
    assert hold(world.workspace.engine, HoldTerms("video", "v1", "r", "a")).too_late == 1
    assert hold(world.workspace.engine, HoldTerms("user", "ann", "r", "a")).too_late == 0  # it keeps the others
    with pytest.raises(NotFound, match="nobody"):
        hold(world.workspace.engine, HoldTerms("user", "nobody", "r", "a"))


def purge_as_planned(world: World, lease: Lease, *, max_videos: int = 500) -> None:
    """Plan and carry out what one night purges, with the grace of all that waits over."""
    engine = world.workspace.engine
    with reading(engine) as session:
        at = now(session)
    under = plans.purge_terms(Grace(), BlastRadius(max_objects=max_videos))
    plan = plans.make_purge(engine, under, as_of=at, run_id="night", service_keys=True)
    for batch in outcomes.planned(engine, plan, "purge", 1_000):
        chosen = [item.blob_id for item in batch]
        purge(world.workspace, plan, chosen, lease=lease, run_id="night", grace=Grace())


def end_graces(world: World) -> None:
    with transaction(world.workspace.engine, "test") as session:
        session.execute(sa.update(blobs).where(blobs.c.purge_after.is_not(None)).values(purge_after=LONG_AGO))


def done(world: World, plan: str) -> dict[str, int]:
    with reading(world.workspace.engine) as session:
        return {item.outcome: item.objects for item in by_outcome(session, plan)}


def test_what_the_bucket_refuses_to_delete_keeps_nothing_else_from_its_turn(world: World, lease: Lease) -> None:
    locked = [due(world, f"v{number}") for number in range(4)]
    with transaction(world.workspace.engine, "test") as session:
        keys = list(session.execute(sa.select(blobs.c.key).where(blobs.c.id.in_(locked))).scalars())
    due(world, "other")
    with transaction(world.workspace.engine, "test") as session:
        later = sa.update(blobs).where(blobs.c.video_id == "other").values(purge_after=LONG_AGO.replace(day=2))
        session.execute(later)
    world.double.faults.refuse_deletes(keys, code=LOCKED)
    for _ in range(3):
        purge_as_planned(world, lease, max_videos=2)
    assert state_of(world, "other") == VideoState.GONE


def test_what_was_purged_before_the_bucket_failed_stays_purged_when_the_batch_is_repeated(
    world: World, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = world.video(
        "v2", state=VideoState.RETIRED, blob_state=BlobState.RETIRED, due=True, key=f"{world.address.prefix}clips/2.mp4"
    )
    chosen = [due(world, "v1"), theirs]
    look = Bucket.epochs

    def away(bucket: Bucket, since: int) -> list[str]:
        if world.double.deleted():  # ours are deleted; it is asked again before those of the service
            monkeypatch.undo()
            raise StorageError("the bucket does not answer")
        return look(bucket, since)

    monkeypatch.setattr(Bucket, "epochs", away)
    with pytest.raises(StorageError):
        purge_due(world, chosen, lease)
    purge(world.workspace, "purge2", chosen, lease=lease, run_id="run", grace=Grace())  # as its task is tried again
    assert done(world, "purge2") == {"purged": 2}
    world.check()


def test_a_delete_without_an_answer_counts_as_purged_once_that_is_known(
    world: World, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = world.video(
        "v1", state=VideoState.RETIRED, blob_state=BlobState.RETIRED, due=True, key=f"{world.address.prefix}clips/1.mp4"
    )
    send = Bucket.delete_signed

    def unanswered(bucket: Bucket, key: str, url: str) -> str | None:
        send(bucket, key, url)
        monkeypatch.setattr(Bucket, "head", unreachable)
        raise StorageError("no answer")

    def unreachable(_bucket: Bucket, _key: str) -> None:
        raise StorageError("no answer")

    monkeypatch.setattr(Bucket, "delete_signed", unanswered)
    assert states(purge_due(world, [theirs], lease)) == {"v1": "failed"}
    monkeypatch.undo()
    world.expire_leases()
    settle_claims(world.workspace, run_id="next", grace=Grace())
    assert done(world, "purge1") == {"purged": 1}
    world.check()


@pytest.mark.parametrize("is_legal", [False, True])
def test_a_hold_on_a_user_keeps_an_upload_that_was_never_completed(
    world: World, lease: Lease, *, is_legal: bool
) -> None:
    engine, data = world.workspace.engine, b"it was never completed"
    announced = receive.Announced("ann", "v9", len(data), "0" * 32, "mp4")
    upload, _ = receive.begin(world.workspace, announced, "upload", url_seconds=60)
    put = world.workspace.bucket.put_bytes_once(upload.key, data, "video/mp4")
    change(world, blobs, etag=put.etag)
    change(world, reservations, expires_at=LONG_AGO)
    change(world, uploads, url_until=LONG_AGO)
    placed = hold(engine, HoldTerms("user", "ann", "evidence", "counsel", is_legal=is_legal))
    accounts.void_reservations(engine, lease=lease)
    sync_once(world, lease)  # finds what was put, which waits out a grace from now on
    end_graces(world)
    purge_as_planned(world, lease)
    assert world.workspace.bucket.head(upload.key)
    release(engine, placed.id, author="counsel")
    purge_as_planned(world, lease)
    assert not world.workspace.bucket.head(upload.key)


def test_what_a_user_deleted_is_purged_although_its_present_bytes_are_lost(world: World, lease: Lease) -> None:
    key = f"{world.address.prefix}clips/1.mp4"
    world.video("v1", blob_state=BlobState.RETIRED, current=False)  # the original's copy, after a swap in place
    world.video("v1", generation=2, key=key)
    delete(world.workspace.engine, "v1", by="ann", run_id="deletion")
    world.double.client.delete_object(Bucket=BUCKET, Key=key)  # by the service, which deletes its own
    sync_once(world, lease)
    assert state_of(world) == VideoState.LOST
    end_graces(world)
    purge_as_planned(world, lease)
    assert not [item for page in world.workspace.bucket.pages() for item in page]
    world.check()
