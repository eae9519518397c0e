"""Migrations produce exactly the models, lose nothing, and refuse unknown versions."""

import ast
import sqlite3
import stat
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from inline_snapshot import snapshot
from sqlmodel import SQLModel

from reelkeeper.errors import SchemaError, Unavailable
from reelkeeper.store.core.engine import open_engine, reading, transaction
from reelkeeper.store.core.failures import explained
from reelkeeper.store.core.schema import VERSIONS, deployment, require_current, upgrade
from reelkeeper.store.core.snapshots import verify_checksum
from reelkeeper.store.tables import users, videos
from tests.databases import Server, create_database, drop_database
from tests.marks import marked

LATER = (VERSIONS, Path(__file__).parent / "later_versions")
BACKENDS = pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
NewUrl = Callable[[str], str]
Older = Callable[[str], sa.Engine]
REVISIONS = [
    f"{path.name[:4]} {(ast.get_docstring(ast.parse(path.read_text())) or '').splitlines()[0]}"
    for path in sorted(VERSIONS.glob("0*.py"))
]
LATEST = REVISIONS[-1][:4]


def fill(engine: sa.Engine, count: int = 100) -> None:
    with transaction(engine, "test.fill") as session:
        session.execute(sa.insert(users), [{"id": f"u{n}", "tier": "free"} for n in range(count)])
        session.execute(
            sa.insert(videos),
            [{"id": f"v{n}", "user_id": f"u{n}", "state": "live", "generation": 1} for n in range(count)],
        )


def counts(engine: sa.Engine) -> tuple[int, int]:
    with reading(engine) as session:
        return tuple(session.scalar(sa.select(sa.func.count()).select_from(table)) for table in (users, videos))  # type: ignore[return-value]  # two tables, two counts


def shape(engine: sa.Engine) -> dict[str, Any]:
    """Everything that the database says of its tables, in an order of our own."""
    inspector, by_key = sa.inspect(engine), set[str]()
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection:
            by_key = {row.name for row in connection.execute(sa.text("PRAGMA table_list")) if row.wr}
    asked = ("columns", "pk_constraint", "foreign_keys", "indexes", "unique_constraints", "check_constraints")
    return {"kept by key": by_key} | {
        f"{table}.{what}": sorted(repr(sorted(part.items(), key=repr)) for part in _parts(inspector, what, table))
        for table in inspector.get_table_names()
        if table != "alembic_version"
        for what in asked
    }


def _parts(inspector: sa.Inspector, what: str, table: str) -> list[dict[str, Any]]:
    found = getattr(inspector, f"get_{what}")(table)
    parts = [found] if isinstance(found, dict) else found
    return [{key: _plain(value) for key, value in part.items() if key != "comment"} for part in parts]


def _plain(value: object) -> str:
    return str({key: str(part) for key, part in value.items()} if isinstance(value, dict) else value)


def models() -> sa.MetaData:
    """A copy of the models, since PostgreSQL's `create_all` leaves a mark on them that SQLite's obeys."""
    copy = sa.MetaData()
    for table in SQLModel.metadata.tables.values():
        table.to_metadata(copy)
    return copy


@pytest.mark.long
@BACKENDS
def test_the_migrations_make_exactly_the_models(backend: str, empty_url: NewUrl) -> None:
    migrated, made = open_engine(empty_url(backend)), open_engine(empty_url(backend))
    upgrade(migrated)
    models().create_all(made)
    assert shape(migrated) == shape(made)
    with migrated.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), SQLModel.metadata) == []
    migrated.dispose()
    made.dispose()


@BACKENDS
def test_a_new_store_is_upgraded_once_and_gets_an_identity(backend: str, empty_url: NewUrl) -> None:
    engine = open_engine(empty_url(backend))
    with pytest.raises(SchemaError) as refused:
        require_current(engine)
    assert marked(refused.value, STORE=repr(engine.url), LATEST=LATEST) == snapshot(
        "the store at STORE has schema none, this version needs LATEST: run `reelkeeper db upgrade`"
    )
    assert upgrade(engine) == REVISIONS
    require_current(engine)
    with reading(engine) as session:
        identity = deployment(session).id
    assert len(identity) == 32
    assert upgrade(engine) == []
    with reading(engine) as session:
        assert deployment(session).id == identity
    engine.dispose()


@BACKENDS
def test_migrators_at_the_same_time_do_it_once(backend: str, empty_url: NewUrl) -> None:
    url, applied = empty_url(backend), list[str]()

    def migrate() -> None:
        engine = open_engine(url)
        applied.extend(upgrade(engine))
        engine.dispose()

    migrators = [threading.Thread(target=migrate) for _ in range(4)]
    for migrator in migrators:
        migrator.start()
    for migrator in migrators:
        migrator.join()
    assert applied == REVISIONS


@pytest.mark.parametrize("revision", ["0006", "0035"])
def test_a_store_between_0_1_0_and_0_2_0_is_told_which_commit_upgrades_it(engine: sa.Engine, revision: str) -> None:
    fill(engine)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
    for opened in (require_current, upgrade):
        with pytest.raises(SchemaError) as refused:
            opened(engine)
        assert (revision in str(refused.value), "07f135f3" in str(refused.value)) == (True, True)
    assert counts(engine) == (100, 100)


def test_a_newer_schema_is_refused_and_left_alone(engine: sa.Engine) -> None:
    fill(engine)
    upgrade(engine, LATER)
    for opened in (require_current, upgrade):
        with pytest.raises(SchemaError) as refused:
            opened(engine)
        assert marked(refused.value, LATEST=LATEST) == snapshot(
            "the store has schema later, which this version does not know (it knows LATEST): run the newer version that made it"
        )
    assert counts(engine) == (100, 100)


@BACKENDS
@pytest.mark.parametrize("revision", [None, "a1b2c3d4"])
@pytest.mark.parametrize("table", ["users", "deployment"])  # of a service; Prefect's has the second
def test_a_database_of_another_program_is_refused_and_left_alone(
    backend: str, empty_url: NewUrl, revision: str | None, table: str
) -> None:
    engine = open_engine(empty_url(backend))
    with engine.begin() as connection:
        connection.execute(sa.text(f"CREATE TABLE {table} (id integer)"))
        if revision:
            connection.execute(sa.text("CREATE TABLE alembic_version (version_num varchar(32) NOT NULL)"))
            connection.execute(sa.text("INSERT INTO alembic_version VALUES (:it)"), {"it": revision})
    before = sa.inspect(engine).get_table_names()
    for opened in (require_current, upgrade):
        with pytest.raises(SchemaError, match=table):
            opened(engine)
    assert sa.inspect(engine).get_table_names() == before
    engine.dispose()


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_a_file_of_another_program_keeps_its_mode_and_its_journal(tmp_path: Path, journal: str) -> None:
    file = tmp_path / "shop.sqlite3"
    with closing(sqlite3.connect(file)) as theirs:
        theirs.execute(f"PRAGMA journal_mode = {journal}")
        theirs.execute("CREATE TABLE users (id)")
        theirs.commit()
    file.chmod(0o664)
    before = file.read_bytes()
    engine = open_engine(f"sqlite:///{file}")
    for opened in (require_current, upgrade):
        with pytest.raises(SchemaError, match="users"):
            opened(engine)
    engine.dispose()
    assert (file.read_bytes(), stat.S_IMODE(file.stat().st_mode)) == (before, 0o664)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_a_file_that_is_no_database_keeps_its_mode(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text("127.0.0.1 localhost\n" * 9)
    file.chmod(0o644)
    engine = open_engine(f"sqlite:///{file}")
    with pytest.raises(sa.exc.DatabaseError):
        upgrade(engine)
    assert stat.S_IMODE(file.stat().st_mode) == 0o644


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_that_cannot_hold_any_script_is_refused_with_the_way_out(postgresql: sa.URL, encoding: str) -> None:
    url = create_database(postgresql, "another", "template0", f"ENCODING '{encoding}' LOCALE 'C'")
    engine = open_engine(url)
    with pytest.raises(SchemaError) as refused:
        upgrade(engine)
    assert marked(refused.value, ENCODING=encoding) == snapshot(
        "the database 'another' has the encoding ENCODING, which cannot store all characters: create it with CREATE DATABASE … TEMPLATE template0 ENCODING 'UTF8'"
    )
    assert sa.inspect(engine).get_table_names() == []
    engine.dispose()
    drop_database(postgresql, "another")


def test_remaking_a_table_that_others_refer_to_loses_no_row(engine: sa.Engine) -> None:
    fill(engine)
    assert len(upgrade(engine, LATER)) == 1
    assert counts(engine) == (100, 100)
    with reading(engine) as session:
        unknown = session.scalar(sa.text("SELECT count(*) FROM users WHERE country = 'unknown'"))
    assert unknown == 100
    with pytest.raises(sa.exc.IntegrityError), engine.begin() as connection:
        connection.execute(sa.insert(videos).values(id="x", user_id="nobody", state="live", generation=1))


def test_a_sqlite_file_is_copied_beside_itself_before_it_changes(sqlite_engine: sa.Engine) -> None:
    fill(sqlite_engine)
    path = Path(str(sqlite_engine.url.database))
    assert list(path.parent.glob("*.backup")) == []
    upgrade(sqlite_engine, LATER)
    (copy,) = path.parent.glob(f"store.sqlite3.{LATEST}.20*Z.backup")
    assert copy.stat().st_mode & 0o777 == 0o600
    verify_checksum(copy)
    copied = open_engine(f"sqlite:///{copy}")
    require_current(copied)
    assert counts(copied) == (100, 100)
    copied.dispose()


BAD_REVISION = """
from alembic import op
revision, down_revision, branch_labels, depends_on = "bad", "{latest}", None, None
{declared}
def upgrade():
    for statement in {statements!r}:
        op.execute(statement)
"""


@pytest.mark.parametrize(
    ("statements", "complaint"),
    [
        (
            ["DELETE FROM videos WHERE id = 'v7'"],
            snapshot(
                "migration rolled back: videos had 100 rows and has 99, but no revision declares that in changes_rows"
            ),
        ),
        (
            ["INSERT INTO users (id) VALUES ('new')"],
            snapshot(
                "migration rolled back: users had 100 rows and has 101, but no revision declares that in changes_rows"
            ),
        ),
        (
            ["DROP TABLE daily_views", "DELETE FROM videos", "DROP TABLE scans"],
            snapshot(
                "migration rolled back: videos had 100 rows and has 0, but no revision declares that in changes_rows"
            ),
        ),
        (
            ["UPDATE users SET tier = 'pro' WHERE id = 'u7'"],
            snapshot(
                "migration rolled back: users has other values than before, but no revision declares that in changes_rows"
            ),
        ),
        (
            [
                "UPDATE videos SET user_id = CASE id WHEN 'v7' THEN 'u8' ELSE 'u7' END WHERE id IN ('v7', 'v8')",
                "ALTER TABLE users ADD COLUMN country VARCHAR",
            ],
            snapshot(
                "migration rolled back: videos has other values than before, but no revision declares that in changes_rows"
            ),
        ),
        (
            ["ALTER TABLE videos DROP COLUMN refused_reason"],
            snapshot(
                "migration rolled back: videos has no refused_reason any more, but no revision declares that in changes_rows"
            ),
        ),
    ],
)
def test_a_migration_that_loses_or_changes_rows_is_rolled_back(
    engine: sa.Engine, tmp_path: Path, statements: list[str], complaint: str
) -> None:
    fill(engine)
    (tmp_path / "bad.py").write_text(BAD_REVISION.format(latest=LATEST, declared="", statements=statements))
    with pytest.raises(SchemaError) as refused:
        upgrade(engine, (VERSIONS, tmp_path))
    assert marked(refused.value, LATEST=LATEST) == complaint
    assert counts(engine) == (100, 100)
    require_current(engine)


def test_a_migration_may_change_the_rows_that_it_declares(engine: sa.Engine, tmp_path: Path) -> None:
    fill(engine)
    statements = ["DELETE FROM videos WHERE id = 'v7'"]
    (tmp_path / "bad.py").write_text(
        BAD_REVISION.format(latest=LATEST, declared="changes_rows = {'videos'}", statements=statements)
    )
    upgrade(engine, (VERSIONS, tmp_path))
    assert counts(engine) == (100, 99)


def test_a_migration_that_a_lock_holds_up_is_an_outage_that_says_so(
    postgresql_engine: sa.Engine, tmp_path: Path
) -> None:
    written = BAD_REVISION.format(
        latest=LATEST, declared="", statements=["ALTER TABLE users ADD COLUMN country VARCHAR"]
    )
    (tmp_path / "bad.py").write_text(written)
    with reading(postgresql_engine) as report:
        report.execute(sa.select(users))
        with pytest.raises(sa.exc.OperationalError) as held_up:
            upgrade(postgresql_engine, (VERSIONS, tmp_path))
    told = explained(held_up.value, postgresql_engine.url)
    assert isinstance(told, Unavailable)
    assert "pg_stat_activity" in str(told)
    require_current(postgresql_engine)


def test_a_migration_beside_writers_keeps_them_waiting(postgresql_engine: sa.Engine, tmp_path: Path) -> None:
    """Those of a service at work write each second, and its rows are summed before and after."""
    fill(postgresql_engine)
    (tmp_path / "slow.py").write_text(
        BAD_REVISION.format(latest=LATEST, declared="", statements=["SELECT pg_sleep(1)"])
    )
    begun, over, written = threading.Event(), threading.Event(), list[str]()

    def write() -> None:
        while not over.is_set():
            written.append(tier := f"tier {len(written)}")
            with transaction(postgresql_engine, "test.write") as session:
                session.execute(sa.update(users).where(users.c.id == "u7").values(tier=tier))
            begun.set()

    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(write)
        try:
            assert begun.wait(60)
            upgrade(postgresql_engine, (VERSIONS, tmp_path))
        finally:
            over.set()
        writer.result()
    with reading(postgresql_engine) as session:
        assert session.scalar(sa.select(users.c.tier).where(users.c.id == "u7")) == written[-1]


@pytest.mark.long("a server of its own, which looks each second what to vacuum")
def test_a_migration_ends_an_autovacuum_that_is_in_its_way(tmp_path: Path) -> None:
    """That of a large table takes minutes, and begins again by itself."""
    with tempfile.TemporaryDirectory(prefix="reelkeeper-vacuum-", ignore_cleanup_errors=True) as folder:
        server = Server(Path(folder))
        engine = open_engine(server.url())
        try:
            upgrade(engine)
            fill(engine, 20_000)
            slow = "autovacuum_vacuum_cost_delay=100, autovacuum_vacuum_cost_limit=1, autovacuum_vacuum_threshold=0"
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                for statement in (
                    "ALTER SYSTEM SET autovacuum_naptime = '1s'",
                    f"ALTER TABLE users SET ({slow}, autovacuum_vacuum_scale_factor=0)",
                    "UPDATE users SET tier = 'pro'",
                    "SELECT pg_reload_conf()",
                ):
                    connection.exec_driver_sql(statement)
                deadline = time.monotonic() + 60
                while _vacuumed(connection) != ["users"]:
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
            (tmp_path / "slow.py").write_text(BAD_REVISION.format(latest=LATEST, declared="", statements=[]))
            assert upgrade(engine, (VERSIONS, tmp_path)) == ["bad "]
        finally:
            engine.dispose()
            server.stop()


def _vacuumed(connection: sa.Connection) -> list[str]:
    query = "SELECT relid::regclass::text FROM pg_stat_progress_vacuum"
    return list(connection.exec_driver_sql(query).scalars())


def test_a_migration_that_leaves_a_dangling_reference_is_rolled_back(sqlite_engine: sa.Engine, tmp_path: Path) -> None:
    fill(sqlite_engine)
    statements = ["UPDATE videos SET user_id = 'nobody' WHERE id = 'v7'"]
    (tmp_path / "bad.py").write_text(
        BAD_REVISION.format(latest=LATEST, declared="changes_rows = {'videos'}", statements=statements)
    )
    with pytest.raises(SchemaError) as refused:
        upgrade(sqlite_engine, (VERSIONS, tmp_path))
    assert marked(refused.value) == snapshot(
        "migration rolled back: rows that refer to missing rows: 1, first ('videos', 8, 'users', 0)"
    )
    require_current(sqlite_engine)
    with reading(sqlite_engine) as session:
        assert session.execute(sa.text("PRAGMA foreign_keys")).scalar() == 1
