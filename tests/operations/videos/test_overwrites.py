"""The service overwrites its own keys, in any state of their rows: the new bytes are live, and never purged."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import sleep

import pytest
import sqlalchemy as sa
from botocore import auth
from inline_snapshot import snapshot
from prefect.exceptions import ParameterTypeError
from pydantic import ValidationError

from flows.purge_retired import purge_retired
from flows.sync_catalog import sync_catalog
from reelkeeper.adapters.s3.r2 import Bucket
from reelkeeper.errors import Frozen, LeaseLost, StorageError
from reelkeeper.model import BlobState, Grace, Outcome, Recorded, StoredObject, Transcode, VideoState
from reelkeeper.operations.core.freeze import freeze, why_frozen
from reelkeeper.operations.lifecycle import purge
from reelkeeper.operations.lifecycle.restore import find_restorable, restore
from reelkeeper.operations.lifecycle.swap import Run
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.core.leases import Lease, acquire
from reelkeeper.store.lifecycle.plan_writer import begin_plan
from reelkeeper.store.lifecycle.purge_plan import add_due
from reelkeeper.store.tables import audit_events, blobs, videos
from reelkeeper.store.videos.conditions import retired
from tests.buckets import BUCKET
from tests.faults.world import LONG_AGO, World
from tests.marks import marked
from tests.operations.changes import sync_once
from tests.swapping import shrinker, swap
from tests.worlds import AtFailpoint

GRACE = Grace()
NEW = b"another video altogether"
ALLOWED = timedelta(minutes=4)  # between the clocks of host and bucket, within the limit at start


class Service:
    """The video service, with a client of its own: it stores and deletes at the key of its video v1."""

    def __init__(self, world: World) -> None:
        self.world, self.key = world, f"{world.address.prefix}ann/v1.mp4"

    def put(self, data: bytes = NEW) -> None:
        self.world.double.client.put_object(Bucket=BUCKET, Key=self.key, Body=data)

    def delete(self) -> None:
        self.world.double.client.delete_object(Bucket=BUCKET, Key=self.key)

    def stored(self) -> bytes | None:
        if self.world.workspace.bucket.head(self.key) is None:
            return None
        return self.world.workspace.bucket.read_bytes(self.key)


@pytest.fixture
def service(world: World) -> Service:
    return Service(world)


def make(
    service: Service,
    *,
    state: VideoState = VideoState.LIVE,
    blob_state: BlobState = BlobState.LIVE,
    due: bool = False,
    current: bool = True,
) -> int:
    """Store an old video at the service's key and adopt it, in the state wanted; return its blob."""
    service.put(service.world.clip.read_bytes())
    return service.world.video(
        "v1", key=service.key, stored=False, state=state, blob_state=blob_state, due=due, current=current
    )


def purge_all(world: World, lease: Lease) -> list[Outcome]:
    """End every grace, and purge all retired blobs."""
    with transaction(world.workspace.engine, "test") as session:
        session.execute(sa.update(blobs).where(blobs.c.state == BlobState.RETIRED).values(purge_after=LONG_AGO))
        chosen = list(session.execute(sa.select(blobs.c.id).where(blobs.c.state == BlobState.RETIRED)).scalars())
    plan = world.plan("purge_retired", "purge", chosen)
    return purge.purge(world.workspace, plan, chosen, lease=lease, run_id="purge", grace=GRACE)


def assert_live(service: Service) -> None:
    """The video v1 is live on what the service has stored, whose row says so."""
    with reading(service.world.workspace.engine) as session:
        row = session.execute(
            sa.select(videos.c.state, videos.c.created_at, blobs.c.key, blobs.c.state.label("blob_state"), *_RECORDED)
            .join(blobs, blobs.c.id == videos.c.blob_id)
            .where(videos.c.id == "v1")
        ).one()
    assert (row.state, row.blob_state, row.key) == ("live", "live", service.key)
    found = service.world.workspace.bucket.head(service.key)
    assert found is not None
    assert Recorded(*row[4:]).matches(found)
    assert abs(row.created_at - found.last_modified) < timedelta(seconds=1)  # a new video's life begins anew


_RECORDED = tuple(blobs.c[name] for name in Recorded._fields)
RETIRED = {"state": VideoState.RETIRED, "blob_state": BlobState.RETIRED, "due": True}
STATES: dict[str, dict[str, object]] = {
    "live": {},
    "retired": {**RETIRED, "due": False},
    "due": RETIRED,
    "gone": {"state": VideoState.GONE, "blob_state": BlobState.GONE},
    "lost": {"state": VideoState.LOST, "blob_state": BlobState.LOST},
    "swapped away": {"blob_state": BlobState.RETIRED, "due": True, "current": False},
    "swapped away and gone": {"blob_state": BlobState.GONE, "current": False},
}


@pytest.mark.long
@pytest.mark.parametrize("state", STATES)
def test_an_upload_at_a_known_key_is_live_after_one_sync_and_never_purged(
    state: str, service: Service, lease: Lease
) -> None:
    make(service, **STATES[state])  # type: ignore[arg-type]  # a table of arguments
    if state.startswith("swapped"):
        service.world.video("v1", generation=2)
    service.put()
    assert sync_once(service.world, lease) == []
    assert_live(service)
    purge_all(service.world, lease)
    assert service.stored() == NEW
    assert_live(service)
    service.world.check()


@pytest.mark.parametrize(
    ("found_by", "state"),
    [("sync", "live"), ("sync", "due"), ("sync", "swapped away"), ("sync", "gone"), ("purge", "due")],
)
def test_an_upload_that_was_cut_to_0_bytes_loses_the_video_until_its_bytes_come(
    found_by: str, state: str, service: Service, lease: Lease
) -> None:
    blob = make(service, **STATES[state])  # type: ignore[arg-type]  # a table of arguments
    world, swapped = service.world, state.startswith("swapped")
    if swapped:
        world.video("v1", generation=2)
    service.put(b"")
    if found_by == "purge":
        assert not [outcome for outcome in purge_all(world, lease) if outcome.action != "skipped"]
    for _ in range(2):  # and each later run leaves it at that
        assert sync_once(world, lease) == []
    assert _state(world, blob) == (BlobState.GONE if state == "gone" else BlobState.LOST)
    with reading(world.workspace.engine) as session:
        standing = session.execute(sa.select(videos.c.state, videos.c.generation).where(videos.c.id == "v1")).one()
        events = list(session.execute(sa.select(audit_events.c.event)).scalars())
    assert standing == (("live", 2) if swapped else ("gone" if state == "gone" else "lost", 1))
    assert (events.count("lose"), events.count("overwritten")) == (0 if state == "gone" else 1, 0)
    purge_all(world, lease)
    assert service.stored() == b""
    service.put()
    sync_once(world, lease)
    assert_live(service)
    world.check()


@pytest.mark.long
@pytest.mark.parametrize("state", ["due", "swapped away", "gone"])
def test_the_same_bytes_stored_again_are_an_upload(state: str, service: Service, lease: Lease) -> None:
    blob = make(service, **STATES[state])  # type: ignore[arg-type]  # a table of arguments
    if state == "swapped away":
        service.world.video("v1", generation=2)
    with transaction(
        service.world.workspace.engine, "test"
    ) as session:  # as if it were stored long after what is known
        session.execute(sa.update(blobs).where(blobs.c.id == blob).values(stored_at=LONG_AGO))
    sync_once(service.world, lease)
    assert_live(service)
    purge_all(service.world, lease)
    assert service.stored() == service.world.clip.read_bytes()


@pytest.mark.long
@pytest.mark.parametrize("state", ["due", "swapped away"])
def test_a_purge_without_a_sync_before_it_finds_the_upload_itself(state: str, service: Service, lease: Lease) -> None:
    make(service, **STATES[state])  # type: ignore[arg-type]  # a table of arguments
    if state == "swapped away":
        service.world.video("v1", generation=2)
    service.put()
    (outcome,) = [item for item in purge_all(service.world, lease) if item.video_id == "v1"]
    assert (outcome.action, marked(outcome.reason)) == (
        "skipped",
        snapshot("the service has stored another video at its key, which is now live"),
    )
    assert service.stored() == NEW
    assert_live(service)
    assert why_frozen(service.world.workspace.engine) is None  # what the service may do is no alarm
    service.world.check()


def test_an_object_that_the_service_has_not_overwritten_is_purged(service: Service, lease: Lease) -> None:
    make(service, **RETIRED)  # type: ignore[arg-type]  # a table of arguments
    assert sync_once(service.world, lease) == []
    assert [outcome.action for outcome in purge_all(service.world, lease)] == ["purged"]
    assert service.stored() is None
    service.world.check()


def test_without_a_bucket_that_keeps_the_contract_bytes_of_the_services_stay(service: Service, lease: Lease) -> None:
    theirs, ours = make(service, **RETIRED), service.world.video("v2", **RETIRED)  # type: ignore[arg-type]  # a table of arguments
    workspace = replace(service.world.workspace, keeps_contract=False)
    plan_id = begin_plan(workspace.engine, "purge_retired", {}, datetime.now(UTC), "test")
    plan = add_due(
        workspace.engine,
        plan_id,
        datetime.now(UTC),
        grace=GRACE,
        service_keys=workspace.keeps_contract,
        max_videos=100,
        microusd_per_gb=15_000,
    )
    assert (plan.retire.objects, plan.kept) == (1, {"contract_not_tried": 1})
    both = service.world.plan("purge_retired", "purge", [theirs, ours])
    purge.purge(workspace, both, [theirs, ours], lease=lease, run_id="purge", grace=GRACE)
    assert (_state(service.world, theirs), _state(service.world, ours)) == (BlobState.RETIRED, BlobState.GONE)


def test_an_object_that_is_as_recorded_after_its_purge_is_no_upload(service: Service, lease: Lease) -> None:
    blob = make(service, state=VideoState.GONE, blob_state=BlobState.GONE)
    sync_once(service.world, lease)
    assert _state(service.world, blob) == BlobState.RETIRED


def test_bytes_of_the_services_wait_longer(service: Service) -> None:
    theirs, ours = make(service), service.world.video("v2")
    with transaction(service.world.workspace.engine, "test") as session:
        at = now(session)
        session.execute(sa.update(blobs).values(**retired(at, GRACE, "a test")))
        waits = dict(session.execute(sa.select(blobs.c.id, blobs.c.purge_after)).all())
    assert (waits[theirs] - at, waits[ours] - at) == (timedelta(days=14), timedelta(days=7))


@pytest.fixture
def claimed(service: Service, lease: Lease) -> int:
    """A blob at the service's key that a purge of another lease has claimed a moment ago."""
    blob = make(service, **RETIRED)  # type: ignore[arg-type]  # a table of arguments
    _claim(service.world, blob, lease.token + 1)
    return blob


def _claim(world: World, blob: int, token: int) -> None:
    with transaction(world.workspace.engine, "test") as session:
        claim = {"state": BlobState.DELETING, "claimed_at": now(session), "claim_token": token}
        session.execute(sa.update(blobs).where(blobs.c.id == blob).values(**claim))


def _state(world: World, blob: int) -> str:
    with reading(world.workspace.engine) as session:
        return str(session.execute(sa.select(blobs.c.state).where(blobs.c.id == blob)).scalar_one())


def test_an_upload_at_a_claimed_key_is_in_doubt_until_the_claim_has_timed_out(
    service: Service, claimed: int, lease: Lease
) -> None:
    service.put()
    assert sync_once(service.world, lease) == [service.key]
    assert _state(service.world, claimed) == BlobState.DELETING
    service.world.expire_leases()
    assert sync_once(service.world, lease) == []
    assert_live(service)
    service.world.check()


def test_a_claimed_blob_is_neither_purged_taken_back_nor_restored_by_others(
    service: Service, claimed: int, lease: Lease
) -> None:
    plan = service.world.plan("purge_retired", "purge", [claimed])
    (outcome,) = purge.purge(service.world.workspace, plan, [claimed], lease=lease, run_id="other", grace=GRACE)
    assert outcome.action == "skipped"
    assert purge.settle_claims(service.world.workspace, run_id="other", grace=GRACE) == 0
    assert _state(service.world, claimed) == BlobState.DELETING
    service.world.expire_leases()
    assert purge.settle_claims(service.world.workspace, run_id="other", grace=GRACE) == 1
    found = find_restorable(service.world.workspace, video_id="v1")
    (restored,) = restore(service.world.workspace, found, run_id="p", author="p", grace=GRACE, hold_days=0)
    assert restored.action == "restored"
    assert_recorded_live(service)


def assert_recorded_live(service: Service) -> None:
    with reading(service.world.workspace.engine) as session:
        assert session.execute(sa.select(videos.c.state).where(videos.c.id == "v1")).scalar_one() == VideoState.LIVE
    service.world.check()


def test_a_claim_that_timed_out_is_purged_only_where_its_object_is_gone(
    service: Service, claimed: int, lease: Lease
) -> None:
    service.delete()
    service.world.expire_leases()
    assert purge.settle_claims(service.world.workspace, run_id="next", grace=GRACE, lease=lease) == 1
    assert _state(service.world, claimed) == BlobState.GONE
    with reading(service.world.workspace.engine) as session:
        assert session.execute(sa.select(audit_events.c.event)).scalars().all()[-1] == "purge"


def test_a_restore_does_not_bring_back_bytes_that_the_service_has_overwritten(service: Service) -> None:
    make(service, **RETIRED)  # type: ignore[arg-type]  # a table of arguments
    found = find_restorable(service.world.workspace, video_id="v1")
    service.put()
    (outcome,) = restore(service.world.workspace, found, run_id="p", author="p", grace=GRACE, hold_days=0)
    assert outcome.action == "failed"


OWNERS = pytest.mark.parametrize("ours", [True, False], ids=["ours", "theirs"])


def make_due(service: Service, *, ours: bool) -> int:
    """Make a video whose bytes may be purged, at a key of ours or of the service's."""
    return service.world.video("v1", **RETIRED) if ours else make(service, **RETIRED)  # type: ignore[arg-type]  # a table of arguments


@OWNERS
def test_a_freeze_between_claim_and_delete_stops_the_delete(
    service: Service, lease: Lease, at_failpoint: AtFailpoint, ours: bool
) -> None:
    world, blob = service.world, make_due(service, ours=ours)
    at_failpoint("purge.claim.after_commit", lambda: freeze(world.workspace.engine, by="person", reason="stop"))
    with pytest.raises(Frozen):
        purge_all(world, lease)
    assert not world.double.deleted()
    assert _state(world, blob) == BlobState.RETIRED  # nothing was sent for it, so it can be restored at once


@OWNERS
def test_a_lease_that_passed_to_another_between_claim_and_delete_stops_the_delete(
    service: Service, lease: Lease, at_failpoint: AtFailpoint, ours: bool
) -> None:
    world = service.world
    make_due(service, ours=ours)

    def pass_on() -> None:
        world.expire_leases()
        assert acquire(world.workspace.engine, [lease.name], "another")

    at_failpoint("purge.claim.after_commit", pass_on)
    with pytest.raises(LeaseLost):
        purge_all(world, lease)
    assert not world.double.deleted()


@OWNERS
def test_a_claim_that_another_run_has_settled_stops_the_delete(
    service: Service, lease: Lease, at_failpoint: AtFailpoint, ours: bool
) -> None:
    """A purge sleeps after its claim; its claim times out, a person restores the video; then it wakes."""
    world = service.world
    make_due(service, ours=ours)

    def restore_meanwhile() -> None:
        world.expire_leases()
        assert purge.settle_claims(world.workspace, run_id="person", grace=GRACE) == 1
        found = find_restorable(world.workspace, video_id="v1")
        restore(world.workspace, found, run_id="person", author="p", grace=GRACE, hold_days=0)

    at_failpoint("purge.claim.after_commit", restore_meanwhile)
    with pytest.raises(LeaseLost) as refused:
        purge_all(world, lease)
    assert marked(refused.value) == snapshot(
        "another run has taken over the objects that this run had claimed: nothing more is deleted"
    )
    assert not world.double.deleted()
    assert_recorded_live(service)


@OWNERS
def test_nothing_is_deleted_on_an_old_head(
    service: Service, lease: Lease, monkeypatch: pytest.MonkeyPatch, ours: bool
) -> None:
    world, blob = service.world, make_due(service, ours=ours)
    monkeypatch.setattr(purge, "LOOK_SECONDS", 0 if ours else 1)
    if not ours:
        head = world.workspace.bucket.head

        def slow(_: Bucket, key: str) -> StoredObject | None:
            sleep(1.1)
            return head(key)

        monkeypatch.setattr(Bucket, "head", slow)
    (outcome,) = purge_all(world, lease)
    assert outcome.action in ("failed", "skipped")
    assert not world.double.deleted()
    assert _state(world, blob) in (BlobState.DELETING, BlobState.RETIRED)


def test_the_server_refuses_a_delete_that_was_signed_long_ago(
    service: Service, lease: Lease, at_failpoint: AtFailpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process falls asleep after its look, in which time the service uploads; then it sends its delete."""
    make(service, **RETIRED)  # type: ignore[arg-type]  # a table of arguments
    monkeypatch.setattr(purge, "LOOK_SECONDS", 1)

    def sleep_while_the_service_uploads() -> None:
        service.put()
        sleep(2.5)

    at_failpoint("purge.delete_signed.before", sleep_while_the_service_uploads)
    (outcome,) = purge_all(service.world, lease)
    assert (outcome.action, "403" in outcome.reason) == ("failed", True)
    assert service.stored() == NEW
    assert sync_once(service.world, lease) == []  # the server has said no, so the claim is over
    assert_live(service)


def test_a_purge_by_a_host_whose_clock_is_behind_deletes(
    service: Service, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "get_current_datetime", lambda: datetime.now(UTC) - ALLOWED)
    make(service, **RETIRED)  # type: ignore[arg-type]  # a table of arguments
    assert [outcome.action for outcome in purge_all(service.world, lease)] == ["purged"]


def test_a_delete_signed_long_ago_by_a_host_whose_clock_is_ahead_is_refused(
    service: Service, lease: Lease, monkeypatch: pytest.MonkeyPatch, at_failpoint: AtFailpoint
) -> None:
    monkeypatch.setattr(auth, "get_current_datetime", lambda: datetime.now(UTC) + ALLOWED)
    make(service, **RETIRED)  # type: ignore[arg-type]  # a table of arguments
    monkeypatch.setattr(purge, "LOOK_SECONDS", 1)

    def sleep_while_the_service_uploads() -> None:
        service.put()
        sleep(2.5)

    at_failpoint("purge.delete_signed.before", sleep_while_the_service_uploads)
    (outcome,) = purge_all(service.world, lease)
    assert (outcome.action, "403" in outcome.reason) == ("failed", True)
    assert service.stored() == NEW


def test_nothing_of_the_services_is_deleted_while_the_buckets_clock_is_unknown(
    service: Service, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = make(service, **RETIRED)  # type: ignore[arg-type]  # a table of arguments

    def silent(_: Bucket) -> datetime:
        raise StorageError("no Date header")

    monkeypatch.setattr(Bucket, "server_time", silent)
    assert [outcome.action for outcome in purge_all(service.world, lease)] == ["skipped"]
    assert _state(service.world, blob) == BlobState.RETIRED


def test_a_delete_at_a_key_of_the_services_whose_answer_is_lost_is_not_sent_again(
    service: Service, lease: Lease
) -> None:
    make(service, **RETIRED)  # type: ignore[arg-type]  # a table of arguments
    service.world.double.faults.drop_reply("DeleteObject")
    (outcome,) = purge_all(service.world, lease)
    assert outcome.action == "purged"  # a look says so
    assert len(service.world.double.sent("DeleteObject")) == 1
    service.put()
    sync_once(service.world, lease)
    assert_live(service)


@pytest.mark.long
def test_a_swap_whose_source_the_service_overwrites_is_abandoned(
    service: Service, lease: Lease, at_failpoint: AtFailpoint, tiny_transcode: Transcode
) -> None:
    world, blob = service.world, make(service)
    at_failpoint("swap.readback.after", service.put)
    outcome = swap(
        world.workspace,
        "v1",
        blob,
        shrinker(tiny_transcode),
        Run("swap", lease, GRACE, Path(world.address.folder) / "scratch"),
    )
    assert (outcome.action, "overwritten" in outcome.reason) == ("failed", True)
    sync_once(world, lease)
    assert_live(service)
    purge_all(world, lease)
    assert service.stored() == NEW
    world.check()


@pytest.mark.parametrize("days", [0, -1])
@pytest.mark.parametrize("parameter", ["grace_days", "grace_days_service_keys"])
def test_a_grace_of_no_days_is_refused(days: int, parameter: str) -> None:
    for flow in (purge_retired, sync_catalog):
        with pytest.raises(ParameterTypeError, match=parameter):
            flow.validate_parameters({parameter: days})
    with pytest.raises(ValidationError):
        LifecyclePolicy.model_validate({parameter: days})
