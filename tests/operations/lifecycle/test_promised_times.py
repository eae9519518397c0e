"""Times that docs/safety.md promises, at their boundaries: in its own figures, whatever the constants are."""

import time
from datetime import timedelta

import pytest
import sqlalchemy as sa

from reelkeeper.adapters.s3.r2 import Bucket
from reelkeeper.model import BlobState, Grace, StoredObject, VideoState
from reelkeeper.operations.lifecycle.purge import purge, settle_claims
from reelkeeper.store.core.engine import now, transaction
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.lifecycle import restorable
from reelkeeper.store.tables import blobs
from reelkeeper.store.videos.in_place import may_come
from tests.buckets import BUCKET
from tests.faults.world import LONG_AGO, World


@pytest.fixture
def engine(sqlite_engine: sa.Engine) -> sa.Engine:
    """One database: times are compared by the same SQL on both."""
    return sqlite_engine


def due(world: World, *, ours: bool = True) -> int:
    key = None if ours else f"{world.address.prefix}ann/v1.mp4"
    if key:
        world.double.client.put_object(Bucket=BUCKET, Key=key, Body=world.clip.read_bytes())
    return world.video("v1", key=key, stored=ours, state=VideoState.RETIRED, blob_state=BlobState.RETIRED, due=True)


@pytest.mark.parametrize(("minutes", "is_over"), [(24, False), (26, True)])
def test_for_25_minutes_nobody_else_settles_what_a_purge_has_claimed(world: World, minutes: int, is_over: bool) -> None:
    due(world)
    with transaction(world.workspace.engine, "test") as session:
        at = now(session)
        claim = {"state": BlobState.DELETING, "claimed_at": at - timedelta(minutes=minutes), "claim_token": 7}
        session.execute(sa.update(blobs).values(**claim))
        until = restorable.claimed(session, run_id=None, video_id="v1", user_id=None)["v1"]
    assert abs(until - at - timedelta(minutes=25 - minutes)) < timedelta(seconds=1)
    assert settle_claims(world.workspace, run_id="other", grace=Grace()) == is_over


@pytest.mark.parametrize(("minutes", "may"), [(24, True), (26, False)])
def test_for_25_minutes_a_put_that_was_sent_may_still_come(minutes: int, may: bool) -> None:
    assert may_come(LONG_AGO, LONG_AGO + timedelta(minutes=minutes)) is may


@pytest.mark.parametrize("ours", [True, False], ids=["ours", "theirs"])
@pytest.mark.parametrize(("seconds", "deleted"), [(29, 1), (31, 0)])
def test_nothing_is_deleted_on_a_look_more_than_30_seconds_old(
    world: World, lease: Lease, monkeypatch: pytest.MonkeyPatch, ours: bool, seconds: float, deleted: int
) -> None:
    clock = [1_000.0]
    head = Bucket.head

    def slow_head(bucket: Bucket, key: str) -> StoredObject | None:
        clock[0] += seconds
        return head(bucket, key)

    blob = due(world, ours=ours)
    plan = world.plan("purge_retired", "purge", [blob])
    monkeypatch.setattr(time, "clock_gettime", lambda _: clock[0])
    monkeypatch.setattr(Bucket, "head", slow_head)
    purge(world.workspace, plan, [blob], lease=lease, run_id="run", grace=Grace())
    assert len(world.double.deleted()) == deleted
    assert {request.query.get("X-Amz-Expires") for request in world.double.sent("DeleteObject")} <= {"30"}
