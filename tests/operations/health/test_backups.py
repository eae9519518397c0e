"""Nightly backups: whole, private, tried out once a week, kept for the stated days, and never without a good one."""

import os
import re
import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import ValidationError

from reelkeeper import disk
from reelkeeper.adapters.backups import backup_place
from reelkeeper.errors import DiskFull, IntegrityDoubt, LeaseLost, Misconfigured, Refused, StorageError
from reelkeeper.operations.core.freeze import freeze, why_frozen
from reelkeeper.operations.core.lease import alone
from reelkeeper.operations.health.backups import back_up, found, look
from reelkeeper.rules.health.backups import BackupReport
from reelkeeper.settings import Settings
from reelkeeper.store.core import backup as store
from reelkeeper.store.core.audit import Event, append, verify
from reelkeeper.store.core.engine import open_engine, reading, transaction
from reelkeeper.store.core.schema import deployment
from reelkeeper.store.tables import controls, storage_accounts, users
from tests.buckets import BUCKET, bare_boto3
from tests.disks import small_disk
from tests.doubles.r2 import R2Double
from tests.operations.books import DOLLAR, make_user, store_video

DAYS = 14
NIGHT = datetime(2026, 11, 24, 5, 30, tzinfo=UTC)


@pytest.fixture
def busy(engine: sa.Engine) -> sa.Engine:
    """A store with a user, credits, a video and a record."""
    make_user(engine, "ann", DOLLAR)
    with transaction(engine, "test") as session:
        store_video(session, "ann", "v1", 1_000)
        append(session, [Event("upload", "run", video_id="v1")])
    return engine


def settings(double: R2Double, state: Path, **more: Any) -> Settings:  # noqa: ANN401  values of any setting
    at = double.endpoint
    more |= {"s3_access_key_id": at.access_key_id, "s3_secret_access_key": at.secret_access_key}
    return Settings(_env_file=None, state_dir=state, s3_endpoint_url=at.endpoint_url, bucket=BUCKET, **more)


@pytest.fixture(params=["folder", "bucket"])
def kept(request: pytest.FixtureRequest, double: R2Double, tmp_path: Path) -> Settings:
    """Settings with the default place beside the store, or with a bucket of its own."""
    if request.param == "folder":
        return settings(double, tmp_path / "state")
    name = f"backups-{secrets.token_hex(6)}"
    bare_boto3(double.upstream).create_bucket(Bucket=name)
    return settings(double, tmp_path / "state", backups=f"s3://{name}/store")


@pytest.fixture
def here(double: R2Double, tmp_path: Path) -> Settings:
    return settings(double, tmp_path / "state")


def tonight(engine: sa.Engine, at: Settings) -> BackupReport:
    return back_up(engine, at, days=DAYS, run_id="run")


def names(at: Settings) -> list[str]:
    return sorted(backup_place(at, at.state_dir).names())


def put_earlier(at: Settings, made: str, *ages_days: float) -> list[str]:
    """Put copies of a backup into its place, as earlier nights would have made them."""
    owner, suffix = made.split("-")[1], made.rpartition(".")[2]
    place, put = backup_place(at, at.state_dir), list[str]()
    for age in ages_days:
        path = place.folder / f"reelkeeper-{owner}-{datetime.now(UTC) - timedelta(days=age):%Y%m%dT%H%M%S.%fZ}.{suffix}"
        path.write_bytes(b"as it was")
        path.with_name(f"{path.name}.sha256").write_bytes(b"its sum")
        place.keep(path.name)
        put.append(path.name)
    return put


def age_the_test(engine: sa.Engine, days: float) -> None:
    with transaction(engine, "test") as session:
        was = sa.update(controls).where(controls.c.name == "backup.restored")
        session.execute(was.values(updated_at=datetime.now(UTC) - timedelta(days=days)))


def test_a_night_makes_one_whole_private_backup_and_restores_it_once_a_week(busy: sa.Engine, kept: Settings) -> None:
    reports = [tonight(busy, kept), tonight(busy, kept)]
    age_the_test(busy, 6)
    reports.append(tonight(busy, kept))
    age_the_test(busy, 6.99)
    reports.append(tonight(busy, kept))
    assert [report.restored for report in reports] == [True, False, False, True]
    assert [report.kept for report in reports] == [1, 2, 3, 4]
    assert look(kept, "run").kept == 4
    assert names(kept) == sorted(name for made in reports for name in (made.backup, f"{made.backup}.sha256"))
    assert list(kept.scratch.iterdir()) == []
    if kept.backup_bucket is None:
        assert kept.backup_folder.stat().st_mode & 0o777 == 0o700
        assert (kept.backup_folder / reports[0].backup).stat().st_mode & 0o777 == 0o600


def test_the_newest_comes_back_by_itself_and_another_by_its_name(
    busy: sa.Engine, kept: Settings, empty_url: Callable[[str], str]
) -> None:
    first = tonight(busy, kept).backup
    make_user(busy, "bob")
    tonight(busy, kept)
    for name, expected in ((None, {"ann", "bob"}), (first, {"ann"})):
        url = empty_url(busy.dialect.name)
        with found(kept, name) as path:
            store.restore(url, path)
        restored = open_engine(url)
        with reading(restored) as session:
            assert set(session.execute(sa.select(users.c.id)).scalars()) == expected
            assert verify(session) > 0
            assert deployment(session).frozen_at is not None
        restored.dispose()


def test_one_that_was_made_while_the_clock_was_ahead_does_not_come_back_by_itself(
    sqlite_engine: sa.Engine, here: Settings
) -> None:
    old, present = tonight(sqlite_engine, here).backup, tonight(sqlite_engine, here).backup
    ahead = re.sub(r"-\d{8}T", "-20990101T", old)
    for part in ("", ".sha256"):
        (here.backup_folder / f"{old}{part}").rename(here.backup_folder / f"{ahead}{part}")
    with found(here, None) as path:
        assert path.name == present
    (here.backup_folder / present).unlink()
    with found(here, None) as path:  # the clock may be behind now
        assert path.name == ahead


def test_backups_end_before_the_stated_age_and_nothing_else_is_deleted(
    busy: sa.Engine, kept: Settings, tmp_path: Path
) -> None:
    made = tonight(busy, kept).backup
    earlier = put_earlier(kept, made, 1, DAYS - 1.2, DAYS - 1.1, DAYS + 3)
    (others,) = put_earlier(kept, made.replace(made.split("-")[1], "deadbeef"), DAYS + 3)
    (stray,) = put_earlier(kept, made, DAYS + 4)
    backup_place(kept, tmp_path).delete([f"{stray}.sha256"])  # as a run that was killed leaves it
    report = tonight(busy, kept)
    assert (report.deleted, report.kept) == (2, 5)
    assert {*earlier[2:], stray}.isdisjoint(names(kept))
    assert {made, *earlier[:2], others, f"{others}.sha256"} <= set(names(kept))


def test_a_night_with_the_clock_weeks_ahead_deletes_what_is_old_without_it(busy: sa.Engine, kept: Settings) -> None:
    made = tonight(busy, kept).backup
    earlier = put_earlier(kept, made, DAYS + 1, DAYS + 2, 2 * DAYS + 1)
    backup_place(kept, kept.scratch).delete([made, f"{made}.sha256"])
    assert tonight(busy, kept).deleted == 1
    assert set(earlier[:2]) == set(earlier) & set(names(kept))
    assert tonight(busy, kept).deleted == 2


def test_a_frozen_store_is_backed_up_and_the_test_of_it_freezes_nothing(busy: sa.Engine, here: Settings) -> None:
    assert tonight(busy, here).restored
    assert why_frozen(busy) is None
    freeze(busy, by="ann", reason="a look")
    assert tonight(busy, here).kept == 2


def leftovers(engine: sa.Engine) -> list[str]:
    return [name for name in sa.inspect(engine).get_schema_names() if name.startswith("reelkeeper")]


@pytest.fixture
def an_old_one(busy: sa.Engine, here: Settings) -> str:
    """A backup that tonight's would end, if that were good; a restore is due."""
    (old,) = put_earlier(here, tonight(busy, here).backup, DAYS + 1)
    age_the_test(busy, 8)
    return old


def test_a_backup_that_lost_rows_ends_no_earlier_one(
    busy: sa.Engine, here: Settings, an_old_one: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = store.restore

    def lose(url: str, source: Path) -> None:
        whole(url, source)
        restored = open_engine(url)
        with transaction(restored, "test") as session:
            session.execute(sa.delete(users).where(users.c.id == "bob"))
        restored.dispose()

    make_user(busy, "bob")
    monkeypatch.setattr(store, "restore", lose)
    with pytest.raises(IntegrityDoubt, match="users"):
        tonight(busy, here)
    assert an_old_one in names(here)
    assert leftovers(busy) == []
    monkeypatch.setattr(store, "restore", whole)
    assert tonight(busy, here).restored  # the next night does it again
    assert an_old_one not in names(here)


def test_a_store_whose_sums_are_wrong_ends_no_earlier_backup(busy: sa.Engine, here: Settings, an_old_one: str) -> None:
    with transaction(busy, "test") as session:
        session.execute(sa.update(storage_accounts).values(used_bytes=storage_accounts.c.used_bytes + 1))
    with pytest.raises(IntegrityDoubt, match="used_bytes"):
        tonight(busy, here)
    assert an_old_one in names(here)


def test_a_record_that_was_changed_ends_no_earlier_backup(busy: sa.Engine, here: Settings, an_old_one: str) -> None:
    with transaction(busy, "test") as session:
        session.execute(sa.text("UPDATE deployment SET audit_events = audit_events + 1"))
    with pytest.raises(IntegrityDoubt, match="audit"):
        tonight(busy, here)
    assert an_old_one in names(here)


def test_a_full_disk_is_named_and_earlier_backups_stay(
    sqlite_engine: sa.Engine, tmp_path: Path, double: R2Double
) -> None:
    with small_disk(tmp_path / "small", 64) as small:
        at = settings(double, tmp_path / "state", backups=str(small))
        first = tonight(sqlite_engine, at).backup
        filler = small / "filler"
        filler.write_bytes(bytes(40_000_000))
        with pytest.raises(DiskFull) as refused:
            tonight(sqlite_engine, at)
        assert names(at) == sorted(["filler", first, f"{first}.sha256"])
        filler.unlink()
        assert tonight(sqlite_engine, at).kept == 2
    assert str(tmp_path / "small") in str(refused.value)


def test_a_disk_that_fills_up_meanwhile_leaves_no_part(
    engine: sa.Engine, tmp_path: Path, double: R2Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    with transaction(engine, "test") as session:
        rows = [{"id": f"{number}-{os.urandom(900).hex()}", "tier": "free"} for number in range(9_000)]
        session.execute(sa.insert(users), rows)
    monkeypatch.setattr(disk, "require", lambda *_: None)  # somebody else takes the space later
    with small_disk(tmp_path / "small", 4) as small:
        with pytest.raises(DiskFull):
            tonight(engine, settings(double, tmp_path / "state", backups=str(small)))
        assert list(small.iterdir()) == []


def test_a_bucket_that_refuses_or_cuts_is_named_and_earlier_backups_stay(
    sqlite_engine: sa.Engine, double: R2Double, tmp_path: Path
) -> None:
    name = f"backups-{secrets.token_hex(6)}"
    bare_boto3(double.upstream).create_bucket(Bucket=name)
    at = settings(double, tmp_path / "state", backups=f"s3://{name}")
    first = tonight(sqlite_engine, at).backup
    double.faults.fail("PutObject", 403)
    with pytest.raises(StorageError, match="AccessDenied"):
        tonight(sqlite_engine, at)
    double.faults.after("PutObject", lambda _: double.faults.fail("PutObject", 403))  # the sum is there, and no backup
    with pytest.raises(StorageError, match="AccessDenied"):
        tonight(sqlite_engine, at)
    assert look(at, "run").kept == 1
    with found(at, None) as path:
        assert path.name == first
    (old,) = put_earlier(at, first, DAYS + 1)
    double.faults.refuse_deletes([old, f"{old}.sha256"])
    with pytest.raises(StorageError, match=old):
        tonight(sqlite_engine, at)
    assert old in names(at)
    gone = settings(double, tmp_path / "state", backups="s3://no-such-bucket")
    with pytest.raises(StorageError, match="NoSuchBucket"):
        tonight(sqlite_engine, gone)


def test_two_runs_at_once_make_one_backup(sqlite_engine: sa.Engine, here: Settings) -> None:
    with alone(sqlite_engine, "flow/back_up_store"), pytest.raises(LeaseLost):
        tonight(sqlite_engine, here)


def test_backups_are_never_among_the_videos(double: R2Double, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="videos"):
        settings(double, tmp_path, backups=f"s3://{BUCKET}/apart")
    with pytest.raises(ValidationError, match="r2_account_id"):
        Settings(_env_file=None, state_dir=tmp_path, backups="s3://other")


def test_the_newest_of_several_deployments_is_not_guessed(sqlite_engine: sa.Engine, here: Settings) -> None:
    with pytest.raises(Refused), found(here, None):
        pass
    made = tonight(sqlite_engine, here).backup
    put_earlier(here, made.replace(made.split("-")[1], "deadbeef"), 1)
    with pytest.raises(Refused) as refused, found(here, None):
        pass
    assert made in str(refused.value)


@pytest.fixture
def behind_a_pooler(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pooler that drops the options with which a client connects."""
    monkeypatch.setattr(store, "_SCRATCH_OPTION", "-c timezone=UTC")


@pytest.mark.usefixtures("behind_a_pooler")
def test_an_empty_store_behind_a_pooler_is_not_filled(postgresql_engine: sa.Engine, here: Settings) -> None:
    with pytest.raises(Misconfigured, match="pooler"):
        tonight(postgresql_engine, here)
    assert why_frozen(postgresql_engine) is None
    assert leftovers(postgresql_engine) == []
