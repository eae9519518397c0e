"""Changes between plan and action: each one keeps the video unchanged, with a reason."""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from reelkeeper.adapters import ffmpeg
from reelkeeper.errors import Frozen, IntegrityDoubt, NotAVideo, ObjectMissing
from reelkeeper.model import BlobState, Grace, Refusal, Transcode, VideoState
from reelkeeper.operations.billing import users
from reelkeeper.operations.core.freeze import freeze, require_permission, thaw, why_frozen
from reelkeeper.operations.lifecycle import previews
from reelkeeper.operations.lifecycle.previews import Planning
from reelkeeper.operations.lifecycle.purge import purge, settle_claims
from reelkeeper.operations.lifecycle.restore import find_claimed, find_restorable, restore
from reelkeeper.operations.lifecycle.retire import retire
from reelkeeper.operations.videos import intents
from reelkeeper.operations.videos.hold import hold
from reelkeeper.rules.jobs.admission import AdmissionPolicy
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.tables import blobs, cache_entries, operations, verdicts, videos
from reelkeeper.store.videos import cache, imports
from reelkeeper.store.videos.holds import HoldTerms
from reelkeeper.store.videos.intents import Intent
from tests.buckets import BUCKET
from tests.faults.world import LONG_AGO, World
from tests.marks import marked
from tests.operations.changes import change, rows
from tests.operations.lifecycle.test_swap import run as swap
from tests.policies import put_in_force
from tests.swapping import shrinker
from tests.tiers import tiers
from tests.worlds import AtFailpoint

Change = Callable[[World], object]


def view(world: World) -> None:
    change(world, videos, last_viewed_at=datetime.now(UTC) + timedelta(seconds=1))


def hold_for_a_day(world: World, scope: str = "video", subject: str = "v1") -> None:
    until = datetime.now(UTC) + timedelta(days=1)
    hold(
        world.workspace.engine,
        HoldTerms(scope, subject, "a dispute", "test", until),
    )


def hold_its_user(world: World) -> None:
    hold_for_a_day(world, "user", "ann")


def begin_operation(world: World) -> None:
    with transaction(world.workspace.engine, "test") as session:
        blob_id = session.execute(sa.select(videos.c.blob_id)).scalar_one()
        row = {"id": "open", "kind": "swap", "state": "open", "video_id": "v1", "old_blob_id": blob_id, "generation": 1}
        moments = {"created_at": LONG_AGO, "updated_at": LONG_AGO}
        session.execute(sa.insert(operations).values(**row, **moments, run_id="other", lease_token=1, detail={}))


def move_to_other_bytes(world: World) -> None:
    world.video("v1", current=False)
    with transaction(world.workspace.engine, "test") as session:
        session.execute(sa.update(videos).values(blob_id=sa.select(sa.func.max(blobs.c.id)).scalar_subquery()))


def swap_and_take_back(world: World) -> None:
    change(world, videos, generation=3)


def lose(world: World) -> None:
    change(world, videos, state=VideoState.LOST)


def make_live_again(world: World) -> None:
    change(world, videos, state=VideoState.LIVE)


def claim_its_bytes(world: World) -> None:
    change(world, blobs, state=BlobState.DELETING)


def begin_grace_anew(world: World) -> None:
    change(world, blobs, purge_after=datetime.now(UTC) + timedelta(days=1))


def revive_its_bytes(world: World) -> None:
    change(world, blobs, state=BlobState.LIVE)


SPARED_FROM_RETIRING = [
    view,
    hold_for_a_day,
    hold_its_user,
    begin_operation,
    move_to_other_bytes,
    swap_and_take_back,
    lose,
]


def test_a_plan_of_before_an_upgrade_retires_nothing_of_the_services_without_a_passed_contract(
    world: World, lease: Lease
) -> None:
    blobs = [world.video("v1", key=f"{world.address.prefix}ann/v1.mp4"), world.video("v2")]
    plan = world.plan("expire_videos", "retire", blobs)
    workspace = replace(world.workspace, keeps_contract=False)
    outcomes = retire(workspace, plan, ["v1", "v2"], lease=lease, run_id="run", grace=Grace())
    assert {outcome.video_id: outcome.action for outcome in outcomes} == {"v1": "skipped", "v2": "retired"}
    (outcome,) = retire(world.workspace, plan, ["v1"], lease=lease, run_id="run", grace=Grace())
    assert outcome.action == "retired"


@pytest.mark.parametrize("meanwhile", SPARED_FROM_RETIRING)
def test_a_video_that_changed_since_the_plan_is_not_retired(world: World, lease: Lease, meanwhile: Change) -> None:
    plan = world.plan("expire_videos", "retire", [world.video("v1")])
    meanwhile(world)
    before = rows(world)
    (outcome,) = retire(world.workspace, plan, ["v1"], lease=lease, run_id="r", grace=Grace())
    assert outcome.action == "skipped"
    assert rows(world) == before


def upgrade_its_user(world: World) -> None:
    users.put(world.workspace.engine, "ann", "pro", by="shop")


def correct_its_age(world: World) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    imports.import_videos(world.workspace.engine, ["id,user_id,created_at", f"v1,ann,{yesterday.isoformat()}"])


def import_views_of_yesterday(world: World) -> None:
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    imports.import_views(world.workspace.engine, ["video_id,day,views", f"v1,{yesterday},50"], complete=True)


@pytest.mark.parametrize(
    ("flow", "age_days", "meanwhile"),
    [
        ("expire_videos", 60, None),
        ("expire_videos", 60, upgrade_its_user),
        ("expire_videos", 60, correct_its_age),
        ("tier_storage", 29.5, None),
        ("tier_storage", 29.5, import_views_of_yesterday),
        ("tier_storage", 29.5, correct_its_age),
    ],
)
def test_a_video_that_its_plan_would_keep_by_now_is_not_retired(
    world: World, lease: Lease, flow: str, age_days: float, meanwhile: Change | None
) -> None:
    engine = world.workspace.engine
    world.video("v1")
    change(world, videos, created_at=datetime.now(UTC) - timedelta(days=age_days))
    with reading(engine) as session:
        as_of = now(session)
    imports.mark_complete(engine, [as_of.date() - timedelta(days=days) for days in range(1, 40)])
    night = Planning(engine, as_of, "night")
    if flow == "tier_storage":
        report = previews.tier_storage(night, policy=LifecyclePolicy(retire_after_days=20))
    else:
        report = previews.expire_videos(night)
    assert report.plan.retire.objects == 1
    if meanwhile:
        meanwhile(world)
    before = rows(world)
    (outcome,) = retire(world.workspace, report.plan.id, ["v1"], lease=lease, run_id="r", grace=Grace())
    assert outcome.action == ("skipped" if meanwhile else "retired")
    assert (rows(world) == before) == bool(meanwhile)


@pytest.mark.parametrize(("applied", "action"), [({"free": {"retention_days": 80}}, "skipped"), ({}, "retired")])
def test_a_run_retires_no_more_once_other_policies_are_applied(
    world: World, lease: Lease, applied: dict[str, Any], action: str
) -> None:
    engine = world.workspace.engine
    world.video("v1")
    change(world, videos, created_at=datetime.now(UTC) - timedelta(days=60))
    with reading(engine) as session:
        plan_id = previews.expire_videos(Planning(engine, now(session), "night")).plan.id
    put_in_force(engine, tiers=tiers(**applied), admission=AdmissionPolicy(slots=3))
    (outcome,) = retire(world.workspace, plan_id, ["v1"], lease=lease, run_id="r", grace=Grace())
    assert outcome.action == action


def test_a_video_that_the_plan_only_compresses_is_not_retired(world: World, lease: Lease) -> None:
    plan = world.plan("tier_storage", "compress", [world.video("v1")])
    before = rows(world)
    assert retire(world.workspace, plan, ["v1"], lease=lease, run_id="r", grace=Grace()) == []
    assert rows(world) == before


SPARED_FROM_PURGING = [
    view,
    hold_for_a_day,
    hold_its_user,
    begin_operation,
    lose,
    make_live_again,
    begin_grace_anew,
    revive_its_bytes,
]


@pytest.mark.parametrize("meanwhile", SPARED_FROM_PURGING)
def test_a_video_that_changed_since_the_plan_is_not_purged(world: World, lease: Lease, meanwhile: Change) -> None:
    blob_id = world.video("v1", state=VideoState.RETIRED, blob_state=BlobState.RETIRED, due=True)
    plan = world.plan("purge_retired", "purge", [blob_id])
    meanwhile(world)
    before = rows(world)
    (outcome,) = purge(world.workspace, plan, [blob_id], lease=lease, run_id="r", grace=Grace())
    assert outcome.action == "skipped"
    assert rows(world) == before
    assert not world.double.deleted()


def test_the_remaining_bytes_of_a_lost_video_are_not_purged(world: World, lease: Lease) -> None:
    old = world.video("v1", blob_state=BlobState.RETIRED, due=True, current=False)
    world.video("v1", generation=2)
    plan = world.plan("purge_retired", "purge", [old])
    lose(world)
    (outcome,) = purge(world.workspace, plan, [old], lease=lease, run_id="r", grace=Grace())
    assert outcome.action == "skipped"
    assert not world.double.deleted()


SPARED_FROM_SWAPPING = [hold_for_a_day, hold_its_user, move_to_other_bytes, swap_and_take_back, lose]


@pytest.mark.parametrize("meanwhile", SPARED_FROM_SWAPPING)
@pytest.mark.parametrize("point", ["swap.download.after", "swap.readback.after"])
def test_a_video_that_changed_while_it_was_encoded_is_not_swapped(
    world: World,
    lease: Lease,
    tiny_transcode: Transcode,
    at_failpoint: AtFailpoint,
    point: str,
    meanwhile: Change,
) -> None:
    blob_id = world.video("v1")
    seen: list[Any] = []

    def act() -> None:
        meanwhile(world)
        seen.extend(standing(world))

    at_failpoint(point, act)
    outcome = swap(world, blob_id, lease, shrinker(tiny_transcode))
    assert outcome.action == "skipped"
    assert standing(world) == seen
    announced = any("/g2-" in request.key for request in world.double.sent("PutObject"))
    assert announced == (point == "swap.readback.after")


def standing(world: World) -> list[Any]:
    """What each video stands on."""
    with reading(world.workspace.engine) as session:
        return list(session.execute(sa.select(videos.c.id, videos.c.state, videos.c.blob_id, videos.c.generation)))


def test_a_freeze_while_a_video_is_encoded_stops_what_would_be_written(
    world: World, lease: Lease, tiny_transcode: Transcode, at_failpoint: AtFailpoint
) -> None:
    blob_id = world.video("v1")
    at_failpoint("swap.readback.after", lambda: freeze(world.workspace.engine, by="test", reason="an alarm"))
    before = standing(world)
    with pytest.raises(Frozen):
        swap(world, blob_id, lease, shrinker(tiny_transcode))
    assert standing(world) == before
    thaw(world.workspace.engine, by="test")
    at_failpoint("swap.download.after", lambda: freeze(world.workspace.engine, by="test", reason="an alarm"))
    with pytest.raises(Frozen):
        swap(world, world.video("v2"), lease, shrinker(Refusal("low_quality", "VMAF 91", "r1")), "v2")
    with reading(world.workspace.engine) as session:
        assert not session.execute(sa.select(videos.c.id).where(videos.c.refused_recipe.is_not(None))).all()


def test_an_intent_ends_once(
    world: World, lease: Lease, tiny_transcode: Transcode, at_failpoint: AtFailpoint, tmp_path: Path
) -> None:
    blob_id = world.video("v1")
    found: list[Intent] = []
    at_failpoint("swap.readback.after", lambda: found.extend(intents.open_intents(world.workspace)))
    swap(world, blob_id, lease, shrinker(tiny_transcode))
    before = standing(world)
    again = intents.settle(world.workspace, found[0], scratch=tmp_path, lease=lease, grace=Grace())
    assert (again.action, again.reason) == ("skipped", snapshot("another run has settled it"))
    assert standing(world) == before
    world.check()


def test_an_intent_that_ends_leaves_bytes_that_are_gone_as_they_are(
    world: World, lease: Lease, tiny_transcode: Transcode, at_failpoint: AtFailpoint
) -> None:
    blob_id = world.video("v1")

    def act() -> None:
        hold_for_a_day(world)
        with transaction(world.workspace.engine, "test") as session:
            session.execute(sa.update(blobs).where(blobs.c.generation == 2).values(state=BlobState.GONE))

    at_failpoint("swap.readback.after", act)
    swap(world, blob_id, lease, shrinker(tiny_transcode))
    with reading(world.workspace.engine) as session:
        assert session.execute(sa.select(blobs.c.state).where(blobs.c.generation == 2)).scalar_one() == BlobState.GONE


def test_a_source_that_the_service_overwrites_before_it_is_read_is_not_compressed(
    world: World, lease: Lease, at_failpoint: AtFailpoint
) -> None:
    key = f"{world.address.prefix}ann/v1.mp4"
    world.workspace.bucket.put_once(key, world.clip, "video/mp4")
    blob_id = world.video("v1", key=key, stored=False)
    change(world, blobs, sha256=None)  # as of what was adopted

    def shrink(_: Path, __: Path) -> Refusal:
        pytest.fail("the service's new bytes were encoded")

    def put_back() -> None:
        world.double.client.put_object(Bucket=BUCKET, Key=key, Body=world.clip.read_bytes())

    at_failpoint("swap.download.after", put_back)
    why = snapshot("the service has overwritten or deleted KEY: run sync_catalog")
    world.double.client.put_object(Bucket=BUCKET, Key=key, Body=b"another video")
    outcome = swap(world, blob_id, lease, shrink)
    assert (outcome.action, marked(outcome.reason, KEY=key)) == ("skipped", why)
    world.double.client.delete_object(Bucket=BUCKET, Key=key)
    outcome = swap(world, blob_id, lease, shrink)
    assert (outcome.action, marked(outcome.reason, KEY=key)) == ("skipped", why)


def test_a_missing_source_at_a_key_of_ours_fails(world: World, lease: Lease) -> None:
    blob_id = world.video("v1", stored=False)
    with pytest.raises(ObjectMissing):
        swap(world, blob_id, lease, lambda *_: pytest.fail("nothing was read"))


@dataclass
class Announced:
    """What an intent says of an object: here of a file as it is, or of what it should be."""

    size_bytes: int
    sha256: str
    codec: str
    frames: int
    duration_seconds: float

    @classmethod
    def of(cls, path: Path, **other: Any) -> "Announced":  # noqa: ANN401  a field of any type
        media, digest = ffmpeg.inspect(path), hashlib.sha256(path.read_bytes()).hexdigest()
        said = cls(path.stat().st_size, digest, media.codec or "", media.frames, media.duration_seconds)
        return replace(said, **other)


@pytest.mark.parametrize("other", [{"frames": 3}, {"duration_seconds": 9.0}, {"codec": "av1"}, {"sha256": "0" * 64}])
def test_the_stored_object_is_checked_against_the_announced_properties(tiny_clip: Path, other: dict[str, Any]) -> None:
    intents.verify_stored(tiny_clip, Announced.of(tiny_clip))
    with pytest.raises(IntegrityDoubt):
        intents.verify_stored(tiny_clip, Announced.of(tiny_clip, **other))


def test_a_video_that_does_not_decode_to_its_end_is_not_what_was_announced(tiny_clip: Path, tmp_path: Path) -> None:
    whole, broken = tiny_clip.read_bytes(), tmp_path / "broken.mp4"
    start = whole.index(b"mdat") + len(whole) // 8
    broken.write_bytes(whole[:start] + bytes(len(whole) // 8) + whole[start + len(whole) // 8 :])
    with pytest.raises((IntegrityDoubt, NotAVideo)):
        intents.verify_stored(broken, Announced.of(broken))


def test_the_old_bytes_of_a_swap_wait_out_a_whole_grace(world: World, lease: Lease, tiny_transcode: Transcode) -> None:
    old = world.video("v1")
    swap(world, old, lease, shrinker(tiny_transcode))
    with reading(world.workspace.engine) as session:
        waits = session.execute(sa.select(blobs.c.retired_at, blobs.c.purge_after).where(blobs.c.id == old)).one()
    assert waits.purge_after - waits.retired_at == timedelta(days=7)


SPARED_FROM_RESTORING = [claim_its_bytes, swap_and_take_back, move_to_other_bytes, make_live_again]


@pytest.mark.parametrize("meanwhile", SPARED_FROM_RESTORING)
def test_a_video_that_changed_since_it_was_found_is_not_restored(world: World, meanwhile: Change) -> None:
    world.video("v1", state=VideoState.RETIRED, blob_state=BlobState.RETIRED)
    found = find_restorable(world.workspace, video_id="v1")
    meanwhile(world)
    before = standing(world)
    (outcome,) = restore(world.workspace, found, run_id="p", author="p", grace=Grace(), hold_days=0)
    assert outcome.action == "skipped"
    assert standing(world) == before
    with reading(world.workspace.engine) as session:
        assert BlobState.LIVE not in session.execute(sa.select(blobs.c.state).where(blobs.c.id == 1)).scalars()


def test_a_blob_that_a_purge_has_claimed_is_not_offered_for_restoring(world: World) -> None:
    world.video("v1", state=VideoState.RETIRED, blob_state=BlobState.RETIRED)
    world.video("v2", state=VideoState.RETIRED, blob_state=BlobState.RETIRED)
    with transaction(world.workspace.engine, "test") as session:
        session.execute(sa.update(blobs).where(blobs.c.video_id == "v1").values(state=BlobState.DELETING))
    assert [blob.video_id for blob in find_restorable(world.workspace, user_id="ann")] == ["v2"]
    (waiting,) = find_claimed(world.workspace, user_id="ann")
    assert (waiting.video_id, waiting.action) == ("v1", "skipped")
    assert marked(waiting.reason) == snapshot(
        "a purge has claimed its bytes; if they are still stored, they can be restored after TIME UTC"
    )
    assert find_restorable(world.workspace, video_id="v1") == []  # and no word of bytes that are purged


def test_bytes_that_were_never_shown_are_not_offered_for_restoring(world: World) -> None:
    shown = world.video("v1", state=VideoState.RETIRED, blob_state=BlobState.RETIRED)
    world.video("v1", generation=2, blob_state=BlobState.RETIRED, current=False)  # a swap that was abandoned
    (found,) = find_restorable(world.workspace, video_id="v1")
    assert found.wanted_blob_id == shown


def claim_long_ago(world: World) -> None:
    change(world, blobs, state=BlobState.DELETING, claimed_at=LONG_AGO, claim_token=1)


def test_a_claim_of_a_dead_run_is_settled_by_whoever_may(world: World, lease: Lease) -> None:
    world.video("v1", state=VideoState.RETIRED, blob_state=BlobState.RETIRED)
    claim_long_ago(world)
    freeze(world.workspace.engine, by="test", reason="an alarm")
    before = rows(world)
    with pytest.raises(Frozen):
        settle_claims(world.workspace, run_id="r", grace=Grace(), lease=lease)
    assert rows(world) == before
    assert settle_claims(world.workspace, run_id="r", grace=Grace()) == 1  # as a restore does


def test_other_bytes_under_the_claim_of_a_dead_run_stop_everything(world: World, lease: Lease) -> None:
    world.video("v1", state=VideoState.RETIRED, blob_state=BlobState.RETIRED)
    change(world, blobs, etag="0" * 32, sha256="0" * 64)
    claim_long_ago(world)
    settle_claims(world.workspace, run_id="r", grace=Grace(), lease=lease)
    assert marked(why_frozen(world.workspace.engine)) == snapshot(
        "frozen since DAY TIME by r: blobs in doubt: 1, first ID/videos/ann/v1/g1-ID.mp4: not as recorded. 1 object in doubt, each with the command that settles it: reelkeeper doubts. When the cause is resolved: reelkeeper thaw"
    )


@pytest.mark.parametrize(("table", "state"), [(blobs, BlobState.LIVE), (videos, VideoState.LOST)])
def test_a_purge_settles_only_what_is_as_it_has_left_it(
    world: World, lease: Lease, at_failpoint: AtFailpoint, table: sa.Table, state: str
) -> None:
    blob_id = world.video("v1", state=VideoState.RETIRED, blob_state=BlobState.RETIRED, due=True)
    plan = world.plan("purge_retired", "purge", [blob_id])
    at_failpoint("purge.delete.after", lambda: change(world, table, state=state))
    purge(world.workspace, plan, [blob_id], lease=lease, run_id="r", grace=Grace())
    with reading(world.workspace.engine) as session:
        assert session.execute(sa.select(table.c.state)).scalar_one() == state


def test_a_purge_gives_back_only_what_is_as_it_has_left_it(
    world: World, lease: Lease, at_failpoint: AtFailpoint
) -> None:
    blob_id = world.video("v1", state=VideoState.RETIRED, blob_state=BlobState.RETIRED, due=True)
    plan = world.plan("purge_retired", "purge", [blob_id])
    world.double.faults.fail("DeleteObjects", 403)
    at_failpoint("purge.delete.after", lambda: change(world, blobs, state=BlobState.GONE))
    purge(world.workspace, plan, [blob_id], lease=lease, run_id="r", grace=Grace())
    with reading(world.workspace.engine) as session:
        assert session.execute(sa.select(blobs.c.state)).scalar_one() == BlobState.GONE


def test_bytes_that_the_bucket_may_still_delete_are_not_retired_again(world: World, lease: Lease) -> None:
    blob_id = world.video("v1", state=VideoState.RETIRED, blob_state=BlobState.RETIRED, due=True)
    plan = world.plan("purge_retired", "purge", [blob_id])
    world.double.faults.fail("DeleteObjects", 400, code="InvalidRequest")  # no refusal that is known to be one
    purge(world.workspace, plan, [blob_id], lease=lease, run_id="r", grace=Grace())
    with reading(world.workspace.engine) as session:
        assert session.execute(sa.select(blobs.c.state)).scalar_one() == BlobState.DELETING


def test_a_batch_that_is_repeated_since_its_answer_was_lost_stays_recorded_as_done(world: World, lease: Lease) -> None:
    plan = world.plan("expire_videos", "retire", [world.video("v1")])
    for _ in range(2):
        retire(world.workspace, plan, ["v1"], lease=lease, run_id="r", grace=Grace())
    with reading(world.workspace.engine) as session:
        assert (
            session.execute(sa.select(verdicts.c.outcome).where(verdicts.c.plan_id == plan)).scalar_one() == "retired"
        )


def test_a_retired_video_answers_no_request_for_the_same(world: World, lease: Lease) -> None:
    plan = world.plan("expire_videos", "retire", [world.video("v1")])
    with transaction(world.workspace.engine, "test") as session:
        cache.insert(session, "key", "v1", user_id="ann", cost_microusd=1, ttl_seconds=None)
    retire(world.workspace, plan, ["v1"], lease=lease, run_id="r", grace=Grace())
    with reading(world.workspace.engine) as session:
        assert not session.execute(sa.select(cache_entries)).all()


def test_a_hold_waits_for_a_purge_that_claims_and_says_that_it_comes_too_late(world: World, lease: Lease) -> None:
    world.video("v1", state=VideoState.RETIRED, blob_state=BlobState.RETIRED)
    with ThreadPoolExecutor(1) as pool:
        with transaction(world.workspace.engine, "test") as session:
            require_permission(session, lease)
            session.execute(sa.update(blobs).values(state=BlobState.DELETING))
            terms = HoldTerms("video", "v1", "a dispute", "test")
            placed = pool.submit(hold, world.workspace.engine, terms)
            wait([placed], timeout=0.5)
        assert placed.result().too_late == 1


def test_a_freeze_waits_for_the_change_that_is_being_made(world: World, lease: Lease) -> None:
    with ThreadPoolExecutor(1) as pool:
        with transaction(world.workspace.engine, "test") as session:
            require_permission(session, lease)
            stopped = pool.submit(freeze, world.workspace.engine, by="test", reason="an alarm")
            wait([stopped], timeout=0.5)
            assert not stopped.done()
        stopped.result()
