"""One broken or vanished item does not stop the others: it is reported, and the run ends with 6."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from flows.expire_videos import expire_videos
from flows.purge_retired import purge_retired
from flows.sync_catalog import sync_catalog
from flows.tier_storage import tier_storage
from reelkeeper.errors import PartialFailure, StorageError
from reelkeeper.model import BlobState, Grace, VideoState
from reelkeeper.model.requests import Incoming
from reelkeeper.operations.core.lease import LeaseManager
from reelkeeper.operations.videos.upload import upload
from reelkeeper.rules.lifecycle.guard import BlastRadius
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.tables import blobs, videos
from tests.flows.scenes import Scene
from tests.reading import as_read

WIDE = BlastRadius(max_percent=100, max_user_percent=100, max_percent_in_24h=100)


def change(scene: Scene, statement: sa.Update | sa.TextClause) -> None:
    with transaction(scene.engine, "test") as session:
        session.execute(statement)


def key_of(scene: Scene, video_id: str) -> str:
    with reading(scene.engine) as session:
        return str(
            session.execute(
                sa.select(blobs.c.key).join(videos, videos.c.blob_id == blobs.c.id).where(videos.c.id == video_id)
            ).scalar_one()
        )


def failures(scene: Scene) -> dict[str | None, str | None]:
    outcomes = scene.outcomes(str(scene.last_plan().id))
    return {video: outcome for video, outcome in outcomes.items() if outcome == "failed"}


def leave_open(scene: Scene, video_id: str, manager: LeaseManager) -> None:
    """Put a video whose bytes cannot be read back: its intent stays open."""
    scene.double.faults.fail("GetObject", 403)
    lease = manager.take([f"video/{video_id}"])[0]
    with pytest.raises(StorageError):
        upload(
            scene.world.workspace,
            scene.world.clip,
            Incoming("ann", video_id, datetime.now(UTC)),
            scratch=Path(scene.world.address.folder),
            lease=lease,
            run_id="test",
            grace=Grace(),
        )
    manager.release([lease])


@pytest.fixture
def old(scene: Scene) -> Scene:
    """Five videos whose retention is over."""
    for number in range(5):
        scene.video(f"v{number}", age_days=400)
    return scene


def test_a_video_whose_bytes_are_not_live_is_named_and_the_others_are_retired(old: Scene) -> None:
    of_v2 = sa.select(videos.c.blob_id).where(videos.c.id == "v2").scalar_subquery()
    change(old, sa.update(blobs).where(blobs.c.id == of_v2).values(state=BlobState.RETIRED))
    with pytest.raises(PartialFailure, match="1 "):
        expire_videos(limits=WIDE, dry_run=False)
    assert old.states() == dict.fromkeys(["v0", "v1", "v3", "v4"], "retired") | {"v2": "live"}
    assert failures(old) == {"v2": "failed"}


@pytest.mark.long
def test_a_row_that_breaks_the_change_is_found_and_the_others_are_retired(old: Scene) -> None:
    change(
        old,
        sa.text(
            "CREATE TRIGGER broken BEFORE UPDATE ON videos WHEN OLD.id = 'v3' AND NEW.state = 'retired' "
            "BEGIN SELECT RAISE(ABORT, 'this row cannot be written'); END"
        ),
    )
    with pytest.raises(PartialFailure):
        expire_videos(limits=WIDE, dry_run=False)
    assert old.states() == dict.fromkeys(["v0", "v1", "v2", "v4"], "retired") | {"v3": "live"}
    assert failures(old) == {"v3": "failed"}


@pytest.mark.long
def test_a_time_that_is_none_keeps_its_video_and_the_plan_is_made(old: Scene, caplog: pytest.LogCaptureFixture) -> None:
    change(old, sa.text("UPDATE videos SET created_at = 'last summer' WHERE id = 'v1'"))
    report = expire_videos(limits=WIDE, dry_run=False)
    assert old.states() == dict.fromkeys(["v0", "v2", "v3", "v4"], "retired") | {"v1": "live"}
    assert report.plan.kept["unknown_age"] == 1
    assert as_read("\n".join(caplog.messages), only="last summer") == snapshot(
        "video v1: created_at 'last summer' is not a time, so its age is unknown and it is kept"
    )


@pytest.mark.long
def test_videos_that_vanish_or_are_corrupt_are_named_and_the_others_are_compressed(scene: Scene) -> None:
    for number in range(4):
        scene.video(f"v{number}", age_days=10)
    scene.video("new", age_days=1)
    client, bucket = scene.double.client, scene.world.workspace.bucket
    client.delete_object(Bucket=bucket.name, Key=key_of(scene, "v0"))
    client.put_object(Bucket=bucket.name, Key=key_of(scene, "v1"), Body=b"these are other bytes")
    of_v2 = sa.select(videos.c.blob_id).where(videos.c.id == "v2").scalar_subquery()
    change(scene, sa.update(blobs).where(blobs.c.id == of_v2).values(sha256="0" * 64))
    with pytest.raises(PartialFailure):
        tier_storage(limits=WIDE, dry_run=False)
    assert failures(scene) == dict.fromkeys(["v0", "v1", "v2"], "failed")
    assert scene.outcomes(str(scene.last_plan().id))["v3"] == "compressed"
    assert set(scene.states().values()) == {"live"}


@pytest.mark.long
def test_a_blob_whose_key_is_refused_is_named_and_the_others_are_purged(old: Scene) -> None:
    expire_videos(limits=WIDE, dry_run=False)
    long_ago = datetime(2026, 1, 1, tzinfo=UTC)
    change(old, sa.update(blobs).values(purge_after=long_ago, retired_at=long_ago))
    of_v4 = sa.select(videos.c.blob_id).where(videos.c.id == "v4").scalar_subquery()
    change(old, sa.update(blobs).where(blobs.c.id == of_v4).values(key="elsewhere/v4.mp4"))
    with pytest.raises(PartialFailure):
        purge_retired(limits=WIDE, dry_run=False)
    assert {video: state for video, state in old.states().items() if state != VideoState.GONE} == {"v4": "retired"}
    assert failures(old) == {"v4": "failed"}
    assert not [key for key in old.double.deleted() if key.startswith("elsewhere")]


@pytest.mark.long
def test_an_intent_that_cannot_be_settled_leaves_the_others_to_be(scene: Scene) -> None:
    with LeaseManager(scene.engine) as manager:
        for number in range(3):
            leave_open(scene, f"v{number}", manager)
    of_v0 = sa.text("UPDATE blobs SET duration_seconds = NULL WHERE video_id = 'v0'")
    change(scene, of_v0)
    with pytest.raises(PartialFailure) as refused:
        sync_catalog(dry_run=False)
    assert as_read(refused.value) == snapshot(
        "1 operation that killed runs left open could not be settled. The rest is done"
    )
    assert scene.states() == {"v0": "pending", "v1": "live", "v2": "live"}
