"""`sync_catalog`: the catalogue follows the bucket, and an incomplete listing changes nothing."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot
from prefect.artifacts import Artifact

from flows.sync_catalog import sync_catalog
from reelkeeper.errors import GuardRefused, IntegrityDoubt, LeaseLost, NotFound, PartialFailure
from reelkeeper.model import BlobState, Grace, VideoState
from reelkeeper.model.requests import Incoming
from reelkeeper.operations.alerts.alerts import acknowledge
from reelkeeper.operations.core.lease import LeaseManager, alone
from reelkeeper.operations.sync import following, sync
from reelkeeper.operations.videos import intents
from reelkeeper.operations.videos.upload import upload
from reelkeeper.rules.lifecycle.guard import BlastRadius
from reelkeeper.settings import settings
from reelkeeper.store.alerts import alerts, outbox
from reelkeeper.store.core import controls
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.sync.scans import BUCKET_EVENTS
from reelkeeper.store.tables import audit_events, blobs, daily_views, orphans, videos, view_days
from tests.buckets import BUCKET
from tests.disks import small_disk
from tests.doubles.analytics import Operation
from tests.doubles.cloudflare import ACCOUNT, TOKEN, CloudflareDouble
from tests.flows.scenes import Scene
from tests.reading import DRAWN, as_read

LIMIT = re.compile(r"(?<=min_population_percent=)[\d.]+")


@pytest.fixture
def uploaded(scene: Scene) -> Scene:
    """Two videos that the catalogue knows, and one object that it does not."""
    scene.video("v0", age_days=1)
    scene.video("v1", age_days=1)
    scene.world.workspace.bucket.put_once(
        f"{scene.world.address.prefix}bob/new/clip.mp4", scene.world.clip, "video/mp4"
    )
    return scene


def test_a_dry_run_only_looks(uploaded: Scene) -> None:
    before = uploaded.everything()
    report = sync_catalog()
    assert uploaded.everything() == before
    assert (report.expected, report.seen, report.missing, report.unexplained, report.adopted) == (2, 2, 0, 1, 1)
    with reading(uploaded.engine) as session:  # a note of what it has seen is no change to a video
        assert session.execute(sa.select(orphans.c.video_id, orphans.c.verdict)).all() == [("new", "adopt")]


def test_a_dry_run_writes_nothing_into_a_bucket_without_an_owner(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who tries a wrong prefix first leaves nothing there, and learns where the videos are."""
    monkeypatch.setenv("REELKEEPER_PREFIX", f"mistyped/{scene.world.address.prefix}")
    settings.cache_clear()
    sent = len(scene.double.requests)
    with pytest.raises(NotFound):
        sync_catalog()
    assert not [request.key for request in scene.double.requests[sent:] if request.writes]
    with pytest.raises(NotFound):
        sync_catalog(dry_run=False)
    assert [request.operation for request in scene.double.requests[sent:] if request.writes] == ["PutObject"]


@pytest.mark.long
def test_new_objects_are_adopted(uploaded: Scene) -> None:
    report = sync_catalog(dry_run=False)
    assert (report.adopted, report.orphans, report.event_gaps) == (1, 0, None)
    assert uploaded.states() == {"v0": "live", "v1": "live", "new": "live"}


def test_open_work_for_which_the_disk_has_no_room_keeps_no_new_object_from_being_adopted(
    uploaded: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upload that was killed on a machine with a larger disk ended each hour's run on this one."""
    workspace = uploaded.world.workspace
    with LeaseManager(uploaded.engine) as manager, monkeypatch.context() as killed:
        killed.setattr(intents, "settle", lambda *_, **__: None)
        (lease,) = manager.take(["video/late"])
        late = Incoming("ann", "late", datetime.now(UTC))
        upload(workspace, uploaded.world.clip, late, scratch=tmp_path, lease=lease, run_id="r", grace=Grace())
        manager.release([lease])
    with small_disk(tmp_path / "scratch", 100) as scratch:
        monkeypatch.setenv("REELKEEPER_SCRATCH_DIR", str(scratch))
        settings.cache_clear()
        with transaction(uploaded.engine, "test") as session:
            session.execute(sa.update(blobs).where(blobs.c.state == BlobState.PENDING).values(size_bytes=100_000_000))
        with pytest.raises(PartialFailure):
            sync_catalog(dry_run=False)
    assert uploaded.states()["new"] == "live"


@pytest.mark.long
def test_a_listing_reports_differences_that_followed_events_missed(
    uploaded: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reelkeeper.rules.sync.events.SETTLING", timedelta(minutes=-5))
    with transaction(uploaded.engine, "test") as session:
        at = now(session)
        since, caught_up_at = (at - timedelta(days=1)).isoformat(), (at + timedelta(hours=1)).isoformat()
        controls.write(
            session, BUCKET_EVENTS, {"since": since, "caught_up_at": caught_up_at, "backlog": 0, "counts": {}}
        )
    assert sync_catalog(dry_run=False).event_gaps == 1


@pytest.mark.long
def test_a_video_whose_bytes_are_missing_is_marked_and_named(uploaded: Scene) -> None:
    uploaded.video("lost", age_days=1, stored=False)
    with pytest.raises(IntegrityDoubt) as refused:
        sync_catalog(dry_run=False)
    assert as_read(refused.value, **DRAWN) == snapshot("""\
1 video lost the stored bytes: lost. They are marked, nothing is deleted; run <run>: reelkeeper
  audit\
""")
    assert uploaded.states() == {"v0": "live", "v1": "live", "new": "live", "lost": "lost"}
    with reading(uploaded.engine) as session:
        assert "lose" in set(session.execute(sa.select(audit_events.c.event)).scalars())


def test_a_video_that_the_service_overwrote_with_0_bytes_is_lost_and_named_by_each_run(scene: Scene) -> None:
    """Its upload was cut: the bytes before it are gone, and nobody can watch what is there now."""
    scene.video("v1", age_days=1)
    with transaction(scene.engine, "test") as session:
        session.execute(sa.update(blobs).values(is_ours=False))
        (key,) = session.execute(sa.select(blobs.c.key)).scalars()
    scene.double.client.put_object(Bucket=BUCKET, Key=key, Body=b"")
    foreseen = sync_catalog()
    assert (foreseen.emptied, foreseen.changed_keys) == ((key,), (key,))
    with pytest.raises(IntegrityDoubt) as lost:
        sync_catalog(dry_run=False)
    assert as_read(lost.value, **DRAWN) == snapshot("""\
1 video lost the stored bytes: v1. They are marked, nothing is deleted; run <run>: reelkeeper
  audit. The service has stored 0 bytes over <key>: upload it again\
""")
    assert scene.states() == {"v1": "lost"}
    again = sync_catalog(dry_run=False)
    assert (again.lost_videos, again.emptied) == (0, (key,))


def test_an_upload_that_the_service_has_deleted_while_the_listing_ran_is_not_live(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob_id = scene.video("v1", age_days=1)
    with transaction(scene.engine, "test") as session:
        session.execute(sa.update(blobs).values(is_ours=False, etag="0" * 32))
        (key,) = session.execute(sa.select(blobs.c.key)).scalars()

    def delete_meanwhile(*_: object) -> None:
        scene.double.client.delete_object(Bucket=BUCKET, Key=key)
        with alone(scene.engine, following.LEASE) as held:  # its event
            sync.record_deletions(scene.world.workspace, [blob_id], lease=held.lease, run_id="follow_bucket")

    monkeypatch.setattr(following, "let_settle", delete_meanwhile)
    sync_catalog(dry_run=False)
    assert scene.states() == {"v1": "gone"}


@pytest.mark.long
def test_an_upload_over_bytes_that_a_purge_has_claimed_waits_and_is_no_doubt(scene: Scene) -> None:
    scene.video("v1", age_days=1)
    with transaction(scene.engine, "test") as session:
        claim = {"state": BlobState.DELETING, "claimed_at": now(session), "is_ours": False, "etag": "0" * 32}
        session.execute(sa.update(blobs).values(**claim))
        session.execute(sa.update(videos).values(state=VideoState.RETIRED))
    with pytest.raises(PartialFailure) as refused:
        sync_catalog(dry_run=False)
    assert as_read(refused.value, **DRAWN) == snapshot("""\
the service has stored other bytes at 1 key whose old bytes a purge has claimed, and a
  sync_catalog after the end of its claim takes them in: <key>. The rest is done\
""")


def firing(scene: Scene) -> list[alerts.ListedAlert]:
    with reading(scene.engine) as session:
        return [alert for alert in alerts.listed(session, everything=False, limit=9) if alert.rule == "doubt"]


def test_a_doubt_is_told_of_once_and_again_when_other_bytes_come(scene: Scene) -> None:
    """Until a person settles it, each run is complete: purges stay frozen, and status shows it."""
    scene.video("v1", age_days=1)
    with transaction(scene.engine, "test") as session:
        session.execute(sa.update(blobs).values(etag="0" * 32, sha256="0" * 64))
        (key,) = session.execute(sa.select(blobs.c.key)).scalars()
    assert sync_catalog(dry_run=False).doubtful == (key,)
    (alert,) = firing(scene)
    acknowledge(scene.engine, alert.id, author="ann")
    after = sync_catalog(dry_run=False)
    assert (after.doubtful, after.known_doubts) == ((), (key,))
    assert [(known.id, known.acknowledged_by) for known in firing(scene)] == [(alert.id, "ann")]
    scene.double.client.put_object(Bucket=BUCKET, Key=key, Body=b"others")
    assert sync_catalog(dry_run=False).doubtful == (key,)
    (other,) = firing(scene)
    assert (other.id == alert.id, other.acknowledged_by) == (False, None)


@pytest.mark.long
def test_half_a_listing_is_refused_and_nothing_is_marked(uploaded: Scene) -> None:
    for number in range(8):
        uploaded.video(f"lost{number}", age_days=1, stored=False)
    before = uploaded.everything()
    for limits in (BlastRadius(), BlastRadius(min_population_percent=21)):
        with pytest.raises(GuardRefused) as refused:
            sync_catalog(limits, dry_run=False)
        assert as_read(refused.value, limit=LIMIT) == snapshot("""\
refused, and nothing was changed: the listing shows 2 objects where the catalogue expects 10;
  limits.min_population_percent=<limit> allows no fewer.
Look first at REELKEEPER_BUCKET, REELKEEPER_PREFIX and `reelkeeper doctor`.
override: reelkeeper run sync_catalog --apply --param limits.min_population_percent=<limit>\
""")
    assert uploaded.everything() == before


def test_a_second_run_finds_the_lease_taken(uploaded: Scene) -> None:
    before = uploaded.everything()
    with alone(uploaded.engine, "flow/sync_catalog") as other, pytest.raises(LeaseLost, match=other.lease.holder):
        sync_catalog(dry_run=False)
    assert uploaded.everything() == before


@pytest.mark.long
def test_reads_that_cloudflare_counts_become_the_views_of_past_days(
    uploaded: Scene, cloudflare: CloudflareDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"ACCOUNT_ID": ACCOUNT, "API_TOKEN": TOKEN, "API_URL": cloudflare.url}.items():
        monkeypatch.setenv(f"REELKEEPER_CLOUDFLARE_{name}", value)
    settings.cache_clear()
    with transaction(uploaded.engine, "test") as session:
        session.execute(sa.delete(view_days))
        key = session.execute(sa.select(blobs.c.key).where(blobs.c.video_id == "v0")).scalar_one()
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0) - timedelta(days=2)
    cloudflare.operations = [Operation(midnight + timedelta(hours=n), "ListObjects") for n in range(24)]
    cloudflare.operations.append(Operation(midnight, "GetObject", key, 5))
    sync_catalog(dry_run=False, reads_are_views=True)
    with reading(uploaded.engine) as session:
        assert session.execute(sa.select(daily_views.c.video_id, daily_views.c.views)).all() == [("v0", 5)]
        assert list(session.scalars(sa.select(view_days.c.day))) == [midnight.date()]
    cloudflare.permissions = frozenset()
    assert sync_catalog(dry_run=False, reads_are_views=True).lost_videos == 0  # what it cannot ask stays unknown


def put(scene: Scene, *keys: str, size: int = 3) -> None:
    for key in keys:
        scene.world.workspace.bucket.put_bytes_once(f"{scene.world.address.prefix}{key}", b"x" * size, "video/mp4")


@pytest.mark.long
def test_a_dry_run_predicts_the_run_and_doubtful_objects_are_reported_once(uploaded: Scene) -> None:
    put(uploaded, "u1/intro.mp4", "u2/intro.mp4", "cy/v.mp4", "cy/v/x.mp4", "notes.txt", "flat.mp4")
    put(uploaded, "cy/empty.mp4", size=0)
    foretold = sync_catalog()
    told = sync_catalog(dry_run=False)
    assert told.unclear == len(told.unclear_keys) == 2
    with reading(uploaded.engine) as session:
        (message,) = [
            waiting for waiting in outbox.listed(session, everything=True, limit=9) if "unclear" in waiting.title
        ]
    assert as_read(message.title) == snapshot("2 unclear objects stayed out of the catalogue")
    assert foretold.adopted == 4
    assert {omission.verdict: omission.objects for omission in foretold.adoption.left_out} == {
        "another_file": 1,
        "empty": 1,
        "not_a_video": 1,
        "no_pattern": 1,
    }
    after = sync_catalog(dry_run=False)
    assert after.unclear == 0
    assert (after.adopted, after.orphans, after.adoption.left_out) == (0, 4, foretold.adoption.left_out)
    assert sum(name.startswith("intro-") for name in uploaded.states()) == 2


@pytest.mark.long
def test_the_report_of_both_has_the_same_table(uploaded: Scene) -> None:
    put(uploaded, "u1/intro.mp4", "flat|`.mp4")
    foretold = sync_catalog()
    first: Any = Artifact.get("sync-catalog-report")
    done = sync_catalog(dry_run=False)
    second: Any = Artifact.get("sync-catalog-report")
    assert done.adoption == foretold.adoption
    assert (done.adopted, done.taken_back, done.orphans) == (foretold.adopted, foretold.taken_back, foretold.orphans)
    table = second.data[second.data.index("### Adopted") :]
    assert first.data.endswith(table.removeprefix("### Adopted"))
    assert as_read(table, **DRAWN) == snapshot("""\
### Adopted
| by | objects | bytes |
| :-- | --: | --: |
| \\{user\\}\\/\\{video\\}\\.\\{ext\\} | 1 | 3 B |
| \\{user\\}\\/\\{video\\}\\/\\{any\\}\\.\\{ext\\} | 1 | <size> |
### For example
| user | video | key |
| :-- | :-- | :-- |
| *** | intro | \\*\\*\\*\\/intro\\.mp4 |
| *** | new | \\*\\*\\*\\/clip\\.mp4 |
### Stays out, and is kept
| objects | why, and the way out | for example |
| --: | :-- | :-- |
| 1 | no pattern matches\\: add one to REELKEEPER\\_KEY\\_PATTERN\\, without the prefix\\, or name
  its user with reelkeeper videos import \\-\\-keys | \\*\\*\\*\\/flat\\|\\`\\.mp4 |\
""")
    assert "u1" not in table, "nothing of Prefect's names a user"


@pytest.mark.long
def test_a_pattern_that_does_not_fit_is_refused_and_the_rest_is_done(uploaded: Scene) -> None:
    uploaded.video("lost", age_days=1, stored=False)
    put(uploaded, *(f"2026/{month}/{n}.mp4" for month in (9, 10) for n in range(3)))
    refused = sync_catalog()
    assert as_read(refused.adoption.refusal) == snapshot("""\
4 of 7 objects (57 %) would be further files of videos, such as '10' with 3, where at most 50 %
  may. The patterns do not fit this bucket: see REELKEEPER_KEY_PATTERN, or name owners with
  reelkeeper videos import --keys. If it is right: --param adoption.max_further_files_percent=100\
""")
    with pytest.raises(IntegrityDoubt):  # what was lost is marked, and comes first
        sync_catalog(dry_run=False)
    with pytest.raises(GuardRefused) as told:
        sync_catalog(dry_run=False)
    assert as_read(told.value, **DRAWN) == snapshot("""\
nothing was adopted by a pattern, and the rest is done: 4 of 7 objects (57 %) would be further
  files of videos, such as '10' with 3, where at most 50 % may. The patterns do not fit this
  bucket: see REELKEEPER_KEY_PATTERN, or name owners with reelkeeper videos import --keys. If it
  is right: --param adoption.max_further_files_percent=100\
""")
    assert uploaded.states() == {"v0": "live", "v1": "live", "lost": "lost"}
