"""Swaps and uploads of a video's bytes are published only if the stored object is the announced one."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from reelkeeper.errors import Frozen, IntegrityDoubt, LeaseLost, NotAVideo, NotFound
from reelkeeper.model import BlobState, Grace, Outcome, Refusal, Transcode, VideoState
from reelkeeper.model.requests import Incoming
from reelkeeper.operations.core import machine
from reelkeeper.operations.core.freeze import freeze
from reelkeeper.operations.lifecycle.swap import Run
from reelkeeper.operations.videos.hold import hold
from reelkeeper.operations.videos.upload import upload
from reelkeeper.rules.lifecycle.transcode import PAYBACK, mark_of_month
from reelkeeper.store.core import audit
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.tables import audit_events, blobs, operations, videos
from reelkeeper.store.videos.holds import HoldTerms
from tests.buckets import BUCKET
from tests.clips import MakeClip
from tests.faults.world import World
from tests.marks import marked
from tests.swapping import Shrinker, shrinker, swap


def run(world: World, blob: int, lease: Lease, shrink: Shrinker, video_id: str = "v1") -> Outcome:
    scratch = Path(world.address.folder) / "scratch"
    return swap(world.workspace, video_id, blob, shrink, Run("run", lease, Grace(), scratch))


def blob_states(world: World) -> dict[int, str]:
    with reading(world.workspace.engine) as session:
        return {row.generation: row.state for row in session.execute(sa.select(blobs.c.generation, blobs.c.state))}


def test_the_smaller_bytes_are_shown_and_the_old_ones_wait(
    world: World, lease: Lease, tiny_transcode: Transcode
) -> None:
    outcome = run(world, world.video("v1"), lease, shrinker(tiny_transcode))
    assert (outcome.action, outcome.after_bytes) == ("compressed", tiny_transcode.size_bytes)
    assert blob_states(world) == {1: BlobState.RETIRED, 2: BlobState.LIVE}
    world.check()


def test_the_record_names_the_machine_that_encoded(
    world: World, lease: Lease, tiny_transcode: Transcode, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = iter(["encoder-1", "encoder-2"])  # another may settle what one had announced
    monkeypatch.setattr(machine, "name", lambda: next(later))
    run(world, world.video("v1"), lease, shrinker(tiny_transcode))
    with reading(world.workspace.engine) as session:
        (detail,) = session.scalars(sa.select(audit_events.c.detail).where(audit_events.c.event == "swap"))
    assert detail["machine"] == "encoder-1"


def test_a_result_is_served_as_its_source_was(world: World, lease: Lease, tiny_transcode: Transcode) -> None:
    key = f"{world.address.prefix}ann/v1.mp4"
    served: Any = {
        "CacheControl": "public, max-age=86400",
        "ContentDisposition": 'attachment; filename="fox.mp4"',
        "ContentLanguage": "en",
        "Metadata": {"prompt-id": "p-17", "model": "sketch-1"},
    }
    body = world.clip.read_bytes()
    world.double.client.put_object(Bucket=BUCKET, Key=key, Body=body, ContentType="video/mp4", **served)
    blob_id = world.video("v1", key=key, stored=False)
    assert run(world, blob_id, lease, shrinker(tiny_transcode)).action == "compressed"
    (put,) = world.double.sent("PutObject")[-1:]
    answer: Any = world.double.client.head_object(Bucket=BUCKET, Key=put.key)
    marked = served | {"Metadata": served["Metadata"] | {"reelkeeper": "compressed"}}
    assert {name: answer[name] for name in served} == marked
    assert answer["ContentType"] == "video/mp4"


def test_a_result_adopted_by_a_new_store_is_not_compressed_again(
    world: World, lease: Lease, tiny_transcode: Transcode
) -> None:
    run(world, world.video("v1"), lease, shrinker(tiny_transcode))
    with transaction(world.workspace.engine, "test.adopt") as session:
        result = session.scalar(
            sa.update(blobs).where(blobs.c.generation == 2).values(recipe=None).returning(blobs.c.id)
        )
    assert result
    outcome = run(world, result, lease, lambda *_: pytest.fail("a result was encoded once more"))
    assert (outcome.action, outcome.reason) == (
        "refused",
        snapshot("it is the result of a swap that the store does not know: it stays as it is"),
    )
    world.check()


def test_a_run_killed_before_recording_the_outcome_returns_it_again(
    world: World, lease: Lease, tiny_transcode: Transcode
) -> None:
    blob = world.video("v1")
    first = run(world, blob, lease, shrinker(tiny_transcode))
    assert run(world, blob, lease, shrinker(tiny_transcode)) == first
    world.check()


def test_a_refusal_is_recorded_once_however_often_it_is_found(world: World, lease: Lease) -> None:
    blob, refusal = world.video("v1"), Refusal("low_quality", "VMAF 91, floor 93", "r1")
    assert run(world, blob, lease, shrinker(refusal)) == run(world, blob, lease, shrinker(refusal))
    with reading(world.workspace.engine) as session:
        (told,) = audit.events(session, event="refuse")
    detail = {"rule": "low_quality", "why": "VMAF 91, floor 93", "recipe": "r1"}
    assert (told.event.video_id, told.event.detail) == ("v1", detail)
    world.check()


def test_a_refusal_is_remembered_with_its_recipe(world: World, lease: Lease) -> None:
    outcome = run(world, world.video("v1"), lease, shrinker(Refusal("low_quality", "VMAF 91, floor 93", "r1")))
    assert (outcome.action, outcome.reason) == ("refused", snapshot("VMAF 91, floor 93"))
    with reading(world.workspace.engine) as session:
        row = session.execute(sa.select(videos.c.refused_recipe, videos.c.refused_reason)).one()
    assert tuple(row) == ("r1", snapshot("VMAF 91, floor 93"))
    world.check()


def test_a_refusal_that_does_not_pay_is_valid_for_the_month(world: World, lease: Lease) -> None:
    run(world, world.video("v1"), lease, shrinker(Refusal(PAYBACK, "it saves too little", "r1")))
    with reading(world.workspace.engine) as session:
        recorded, at = session.execute(sa.select(videos.c.refused_recipe, videos.c.refused_at)).one()
    assert recorded == mark_of_month("r1", at) != mark_of_month("r1", at + timedelta(days=31))
    world.check()


def test_the_codec_of_a_file_is_known_after_any_outcome(world: World, lease: Lease, tiny_transcode: Transcode) -> None:
    blob = world.video("v1")
    run(world, blob, lease, shrinker(Refusal("already_efficient", "it is av1 already", "r1", codec="av1")))
    assert codec(world, blob) == "av1"
    run(world, blob, lease, shrinker(tiny_transcode))
    assert codec(world, blob) == tiny_transcode.source_codec == "h264"


def codec(world: World, blob: int) -> str | None:
    with reading(world.workspace.engine) as session:
        return session.scalar(sa.select(blobs.c.codec).where(blobs.c.id == blob))


def test_a_passing_refusal_is_not_remembered(world: World, lease: Lease) -> None:
    run(world, world.video("v1"), lease, shrinker(Refusal("busy", "no room", "r1", permanent=False)))
    with reading(world.workspace.engine) as session:
        assert session.execute(sa.select(videos.c.refused_recipe)).scalar_one() is None


def test_bytes_that_are_not_those_judged_are_never_shown(world: World, lease: Lease, tiny_transcode: Transcode) -> None:
    outcome = run(world, world.video("v1"), lease, shrinker(tiny_transcode, tamper=True))
    assert outcome.action == "failed"
    assert "sha256" in outcome.reason
    assert blob_states(world) == {1: BlobState.LIVE, 2: BlobState.RETIRED}
    world.check(settled=False)  # what is stored instead is a doubt, for a person to settle


def test_a_source_that_is_not_what_the_catalogue_says_is_left_alone(
    world: World, lease: Lease, tiny_transcode: Transcode
) -> None:
    blob = world.video("v1")
    with transaction(world.workspace.engine, "test") as session:
        session.execute(sa.update(blobs).values(sha256="0" * 64))
    with pytest.raises(IntegrityDoubt, match="recorded 0000"):
        run(world, blob, lease, shrinker(tiny_transcode))
    assert blob_states(world) == {1: BlobState.LIVE}


def test_a_plan_for_other_bytes_is_skipped(world: World, lease: Lease, tiny_transcode: Transcode) -> None:
    blob = world.video("v1")
    assert run(world, blob + 1, lease, shrinker(tiny_transcode)).action == "skipped"
    assert not [read for read in world.double.sent("GetObject") if not read.key.endswith(".reelkeeper-identity.json")]


def test_a_held_video_is_not_swapped(world: World, lease: Lease, tiny_transcode: Transcode) -> None:
    blob = world.video("v1")
    hold(world.workspace.engine, HoldTerms("user", "ann", "a dispute", "test"))
    assert run(world, blob, lease, shrinker(tiny_transcode)).action == "skipped"
    assert blob_states(world) == {1: BlobState.LIVE}


def test_no_swap_is_announced_during_a_freeze_or_without_the_lease(
    world: World, lease: Lease, tiny_transcode: Transcode
) -> None:
    blob = world.video("v1")
    with pytest.raises(LeaseLost) as refused:
        run(world, blob, lease._replace(token=lease.token - 1), shrinker(tiny_transcode))
    assert marked(refused.value) == snapshot("lease 'test', token 0, has passed to another run; nothing was changed")
    freeze(world.workspace.engine, by="test", reason="an alarm")
    with pytest.raises(Frozen, match="an alarm"):
        run(world, blob, lease, shrinker(tiny_transcode))
    with reading(world.workspace.engine) as session:
        assert not session.execute(sa.select(operations)).all()
    assert blob_states(world) == {1: BlobState.LIVE}


def take_in(world: World, clip: Path, lease: Lease, *, user: str = "ann", video: str = "v1") -> Outcome:
    scratch = Path(world.address.folder) / "scratch"
    return upload(
        world.workspace,
        clip,
        Incoming(user, video, datetime(2026, 5, 1, tzinfo=UTC)),
        scratch=scratch,
        lease=lease,
        run_id="run",
        grace=Grace(),
    )


def test_an_upload_is_a_new_video_or_its_next_generation(world: World, lease: Lease, make_clip: MakeClip) -> None:
    assert take_in(world, world.clip, lease, user="eve").action == "uploaded"
    assert take_in(world, make_clip(seconds=0.4), lease, user="eve").action == "uploaded"
    assert blob_states(world) == {1: BlobState.RETIRED, 2: BlobState.LIVE}
    world.check()


def test_an_upload_onto_another_users_video_or_of_no_video_changes_nothing(
    world: World, lease: Lease, tmp_path: Path
) -> None:
    world.video("v1")
    with pytest.raises(NotFound, match="ann"):
        take_in(world, world.clip, lease, user="eve")
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    with pytest.raises(NotAVideo):
        take_in(world, text, lease, video="v2")
    assert blob_states(world) == {1: BlobState.LIVE}
    world.check()


def test_an_upload_does_not_restore_a_retired_video(world: World, lease: Lease) -> None:
    world.video("v1", state=VideoState.RETIRED, blob_state=BlobState.RETIRED)
    with pytest.raises(NotFound, match="retired"):
        take_in(world, world.clip, lease)
    assert blob_states(world) == {1: BlobState.RETIRED}
