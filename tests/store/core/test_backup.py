"""A backup is complete and private; a restore is verified first and ends frozen."""

import os
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot
from sqlmodel import Session

from reelkeeper.errors import IntegrityDoubt, Refused, Unavailable
from reelkeeper.rules.health.backups import whole
from reelkeeper.store.core import backup as backups
from reelkeeper.store.core import snapshots
from reelkeeper.store.core.audit import Event, append, verify
from reelkeeper.store.core.backup import backup, restore
from reelkeeper.store.core.engine import open_engine, reading, transaction
from reelkeeper.store.core.epochs import RESTORED
from reelkeeper.store.core.schema import deployment, upgrade_at
from reelkeeper.store.core.snapshots import new_file, verify_checksum
from reelkeeper.store.tables import audit_events, blobs, crf_searches, policy_versions, users
from reelkeeper.store.tables import deployment as deployments
from tests.databases import is_held_up
from tests.full_store import SEARCH, contents, fill
from tests.marks import marked


@pytest.fixture
def empty(engine: sa.Engine, empty_url: Callable[[str], str]) -> str:
    return empty_url(engine.dialect.name)


@pytest.mark.long
def test_a_store_comes_back_as_it_was_and_frozen(engine: sa.Engine, empty: str, tmp_path: Path) -> None:
    fill(engine)
    saved = backup(engine, tmp_path / "saved")
    assert [path.stat().st_mode & 0o777 for path in tmp_path.glob("saved*")] == [0o600, 0o600]  # with its checksum
    restore(empty, saved)
    restored = open_engine(empty)
    came_back = contents(restored)
    assert [name for name, *_ in came_back.pop("controls")] == [RESTORED]  # nothing is deleted until it is adopted
    assert came_back == {name: rows for name, rows in contents(engine).items() if name != "controls"}
    with reading(engine) as session:
        original = deployment(session).id
    with transaction(restored, "test.check") as session:
        here = deployment(session)
        assert here.id == original
        assert here.frozen_at is not None
        assert marked(here.frozen_reason) == snapshot(
            "restored from backup saved; run sync_catalog, then reelkeeper db adopt"
        )
        assert verify(session) == 2
        session.execute(sa.insert(blobs).values(generation=1, key="next", state="pending", size_bytes=1))
        assert session.scalar(sa.select(blobs.c.id).where(blobs.c.key == "next")) == 42
        session.execute(sa.insert(crf_searches).values(at=datetime.now(UTC), run_id="next", video_id="v", **SEARCH))
        assert session.scalar(sa.select(sa.func.max(crf_searches.c.id))) == 8
    with pytest.raises(sa.exc.DatabaseError, match="append-only"), restored.begin() as connection:
        connection.execute(sa.delete(audit_events))
    restored.dispose()


def test_a_folder_gets_a_file_named_after_deployment_and_time(engine: sa.Engine, tmp_path: Path) -> None:
    saved = backup(engine, tmp_path)
    with reading(engine) as session:
        assert saved.name.startswith(f"reelkeeper-{deployment(session).id[:8]}-20")
    assert whole(path.name for path in tmp_path.iterdir()) == [saved.name]  # as the rule for old ones reads it
    assert saved.with_name(f"{saved.name}.sha256").exists()
    with pytest.raises(FileExistsError):
        backup(engine, saved)


def test_of_two_that_write_one_backup_the_first_is_whole_and_the_second_fails(tmp_path: Path) -> None:
    target, second = tmp_path / "saved", ExitStack()
    with new_file(target) as path:
        path.write_bytes(b"first")
        slow = second.enter_context(second.enter_context(new_file(target)).open("wb"))
        slow.write(b"the second")
        slow.flush()
    with pytest.raises(FileExistsError):
        second.close()
    verify_checksum(target)
    assert target.read_bytes() == b"first"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["saved", "saved.sha256"]


def test_a_changed_backup_is_refused_before_anything_is_made(engine: sa.Engine, empty: str, tmp_path: Path) -> None:
    saved = backup(engine, tmp_path / "saved")
    whole = saved.read_bytes()
    saved.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(IntegrityDoubt, match="sha256"):
        restore(empty, saved)
    saved.with_name("saved.sha256").unlink()
    with pytest.raises(IntegrityDoubt, match="missing"):
        restore(empty, saved)
    untouched = sa.create_engine(empty)
    assert sa.inspect(untouched).get_table_names() == []
    untouched.dispose()


def test_a_backup_of_the_other_database_is_refused_before_anything_is_made(
    engine: sa.Engine, empty_url: Callable[[str], str], tmp_path: Path
) -> None:
    other = empty_url("postgresql" if engine.dialect.name == "sqlite" else "sqlite")
    with pytest.raises(Refused):
        restore(other, backup(engine, tmp_path / "saved"))
    untouched = sa.create_engine(other)
    assert sa.inspect(untouched).get_table_names() == []
    untouched.dispose()


def test_a_store_that_holds_anything_is_not_overwritten(engine: sa.Engine, tmp_path: Path) -> None:
    fill(engine)
    before = contents(engine)
    saved = backup(engine, tmp_path / "saved")
    with pytest.raises(Refused) as refused:
        restore(engine.url.render_as_string(hide_password=False), saved)
    assert marked(refused.value, STORE=repr(engine.url)) == snapshot(
        "the store at STORE already has audit_events, and no store is overwritten. Nothing was changed. Move that store away, or name an empty one"
    )
    assert contents(engine) == before


@pytest.mark.long
def test_a_backup_with_a_tampered_record_is_refused(engine: sa.Engine, empty: str, tmp_path: Path) -> None:
    fill(engine)
    with transaction(engine, "test.tamper") as session:
        session.execute(sa.text("UPDATE deployment SET audit_events = 7"))
    with pytest.raises(IntegrityDoubt) as refused:
        restore(empty, backup(engine, tmp_path / "saved"))
    assert marked(refused.value) == snapshot(
        "the audit record has 1 events ending in ID, but the deployment row says 7 ending in ID: events were removed or added at the end"
    )
    emptied = open_engine(empty)
    assert contents(emptied)["users"] == []
    emptied.dispose()


def test_what_is_stored_while_a_backup_is_checked_is_not_overwritten(
    sqlite_engine: sa.Engine, empty_url: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = backup(sqlite_engine, tmp_path / "saved")
    url = empty_url("sqlite")
    meanwhile = sa.create_engine(url)

    def check(session: Session) -> int:
        with meanwhile.begin() as connection:
            connection.execute(sa.insert(users).values(id="eve"))
        return verify(session)

    monkeypatch.setattr(backups, "verify", check)
    with pytest.raises(Refused) as refused:
        restore(url, saved)
    assert marked(refused.value, STORE=url) == snapshot(
        "the store at STORE already has users, and no store is overwritten. Nothing was changed. Move that store away, or name an empty one"
    )
    with meanwhile.begin() as connection:
        assert connection.execute(sa.select(users.c.id)).scalar_one() == "eve"
    meanwhile.dispose()


def test_nobody_writes_to_a_store_that_a_backup_fills(
    postgresql_engine: sa.Engine, empty_url: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that had the database of a new store would write into the old one."""
    fill(postgresql_engine)
    saved = backup(postgresql_engine, tmp_path / "saved")
    url = empty_url("postgresql")
    meanwhile, held_up = open_engine(url), list[bool]()

    def check(session: Session) -> int:
        held_up.append(is_held_up(meanwhile, sa.insert(users).values(id="eve")))
        return verify(session)

    monkeypatch.setattr(backups, "verify", check)
    restore(url, saved)
    assert held_up == [True]
    meanwhile.dispose()


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[tuple[sqlite3.Connection, sqlite3.Connection]]:
    """A database, and one that cannot be written over, as a third connection writes to it."""
    source, target, writer = (
        sqlite3.connect(tmp_path / name, timeout=0, isolation_level=None) for name in ("source", "target", "target")
    )
    writer.execute("BEGIN IMMEDIATE")
    yield source, target
    for connection in (source, target, writer):
        connection.close()


def test_a_store_that_stays_locked_is_named(
    locked: tuple[sqlite3.Connection, sqlite3.Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "_LOCKED_SECONDS", 0.1)
    with pytest.raises(Unavailable) as refused:
        snapshots.copy_pages(*locked, Path("the.sqlite3"))
    assert marked(refused.value) == snapshot(
        "the.sqlite3 was locked by another process for 0 s; nothing was changed. Stop what works on this store, then try again"
    )


def test_ctrl_c_ends_the_wait_for_a_locked_store(locked: tuple[sqlite3.Connection, sqlite3.Connection]) -> None:
    """Without our callback, Python waits in C, where it does not look at signals."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            snapshots.copy_pages(*locked, Path("the.sqlite3"))
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.long
def test_backups_under_write_load_are_whole(engine: sa.Engine, empty_url: Callable[[str], str], tmp_path: Path) -> None:
    stop = threading.Event()

    def write() -> None:
        count = 0
        while not stop.is_set():
            count += 1
            with transaction(engine, "test.load") as session:
                session.execute(sa.insert(users), [{"id": f"a{count}"}, {"id": f"b{count}"}])
                append(session, [Event("retire", "run", detail={"count": count})])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        saved = [
            backup(engine, tmp_path / f"saved{n}") for n in range({"sqlite": 20, "postgresql": 5}[engine.dialect.name])
        ]
    finally:
        stop.set()
        writer.join()
    for path in saved:
        url = empty_url(engine.dialect.name)
        restore(url, path)
        restored = open_engine(url)
        with reading(restored) as session:
            pairs = session.scalar(sa.select(sa.func.count()).select_from(users))
            assert pairs == 2 * (verify(session) - 1)
        restored.dispose()


def test_a_backup_is_restored_into_a_store_that_was_just_made(
    engine: sa.Engine, empty_url: Callable[[str], str], tmp_path: Path
) -> None:
    """It has a deployment and policies as shipped, which the backup's replace: those of an older store stay its own."""
    with transaction(engine, "test") as session:
        session.execute(sa.delete(policy_versions))
        session.execute(sa.update(deployments).values(policy_digest=""))
    url = empty_url(engine.dialect.name)
    upgrade_at(url)
    restore(url, backup(engine, tmp_path / "saved"))
    restored = open_engine(url)
    with reading(restored) as session:
        assert session.execute(sa.select(sa.func.count()).select_from(policy_versions)).scalar_one() == 0
        assert session.execute(sa.select(deployments.c.policy_digest)).scalar_one() == ""
    restored.dispose()
