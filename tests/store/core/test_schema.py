"""Migrations produce exactly the models, lose nothing, and refuse unknown versions."""

import ast
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from inline_snapshot import snapshot
from sqlmodel import SQLModel

from reelkeeper.errors import IntegrityDoubt, SchemaError
from reelkeeper.model.money import Metric
from reelkeeper.store.billing.recount import mismatches
from reelkeeper.store.core import schema
from reelkeeper.store.core.audit import erase, events, verify
from reelkeeper.store.core.engine import open_engine, reading, transaction
from reelkeeper.store.core.former_ids import known_user
from reelkeeper.store.core.schema import VERSIONS, deployment, require_current, upgrade
from reelkeeper.store.core.snapshots import verify_checksum
from reelkeeper.store.tables import charges, former_ids, job_totals, usage_days, users, videos
from tests import jobs as queue
from tests.databases import create_database, drop_database
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


@pytest.fixture(params=["sqlite", "postgresql"])
def older(request: pytest.FixtureRequest, empty_url: NewUrl) -> Iterator[Older]:
    """Make a store with the schema of a revision."""
    engine = open_engine(empty_url(request.param))

    def make(revision: str) -> sa.Engine:
        config = schema._config([VERSIONS])
        with schema._alone(engine) as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
        return engine

    yield make
    engine.dispose()


def put(engine: sa.Engine, name: str, *rows: dict[str, Any]) -> None:
    """Insert rows into a table as it is there, whatever its columns are called today."""
    with engine.begin() as connection:
        table = sa.Table(name, sa.MetaData(), autoload_with=connection)
        connection.execute(sa.insert(table), [{k: v for k, v in row.items() if k in table.c} for row in rows])


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
    inspector = sa.inspect(engine)
    asked = ("columns", "pk_constraint", "foreign_keys", "indexes", "unique_constraints", "check_constraints")
    return {
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


def test_jobs_in_flight_at_the_migration_of_totals_are_counted(older: Older) -> None:
    engine = older("0012")
    rows = [queue.waiting("a", price_microusd=5), queue.waiting("b", tier=None, quoted_cost_microusd=7)]
    rows += [queue.dead("c", queue.NOON), queue.waiting("d", leader_id="a", price_microusd=9)]
    put(engine, "users", {"id": "ann", "tier": "pro"})
    put(engine, "jobs", *({"quoted_cost_microusd": None, **row} for row in rows))
    upgrade(engine)
    with reading(engine) as session:
        kept = {row.scope: row.microusd for row in session.execute(sa.select(job_totals))}
        assert kept == {"all:jobs": 12, "model:svd": 12, "tier:free": 5, "user:ann": 12}
        assert mismatches(session) == []


def test_a_video_whose_job_is_known_has_its_model_from_the_beginning(older: Older) -> None:
    engine = older("0015")
    put(engine, "users", {"id": "ann"})
    put(engine, "videos", *({"id": f"v{n}", "user_id": "ann", "state": "live", "generation": 1} for n in range(3)))
    put(engine, "jobs", queue.dead("j0", queue.NOON) | {"video_id": "v0", "model": "sketch-1"})
    upgrade(engine)
    with reading(engine) as session:
        rows = session.execute(sa.select(videos.c.id, videos.c.model, videos.c.tag).order_by(videos.c.id))
        assert [tuple(row) for row in rows] == [("v0", "sketch-1", None), ("v1", None, None), ("v2", None, None)]


def test_days_with_clips_are_charged_after_the_migration_as_before(older: Older) -> None:
    """Then no job of the model had a flat price on a day with a clip; on the others all had. R2's charges name it."""
    day, before = date(2026, 11, 4), date(2026, 11, 3)
    counted = ((before, "jobs", 3), (day, "jobs", 2), (day, "job_microusd", 5))
    rest = {"source": "store", "resource": "veo", "storage_class": "", "sampled": False}
    used = [dict(zip(("day", "metric", "quantity"), row, strict=True)) | rest for row in counted]
    cost = {"consumed_quantity": 1, "consumed_unit": "u", "list_nanousd": 1, "billed_nanousd": 1, "price_book": "b"}
    cost |= {"day": day, "user_id": "", "estimated": False, "policy_version": 0}
    engine = older("0020")
    put(engine, "usage_days", *(row | {"user_id": user} for row in used for user in ("", "ann")))
    put(engine, "charges", *({"service": name, "sku": name, **cost} for name in ("r2-storage", "api")))
    upgrade(engine)
    with reading(engine) as session:
        found = sa.select(usage_days.c.day, usage_days.c.user_id, usage_days.c.quantity)
        rows = session.execute(found.where(usage_days.c.metric == Metric.CLIP_JOBS).order_by(usage_days.c.user_id))
        assert [tuple(row) for row in rows] == [(day, "", 2), (day, "ann", 2)]
        of = {row.service: row.provider for row in session.execute(sa.select(charges))}
        assert of == {"api": "", "r2-storage": "Cloudflare"}


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


def recorded_before_seals(engine: sa.Engine, count: int = 5) -> str:
    """Give a store a record as it was before revision 0017; return the head of its chain."""
    head, rows = "", []
    for n in range(count):
        said = {"event": "tier", "run_id": "ada", "video_id": None, "blob_id": n, "user_id": f"user{n}"}
        event = {"id": n + 1, "at": queue.NOON, **said, "detail": {"was": "free", "n": n}}
        at = queue.NOON.isoformat(timespec="microseconds")
        whole = json.dumps({**event, "at": at}, sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(f"{head}{whole}".encode()).hexdigest()
        rows.append({**event, "previous": head, "digest": digest})
        head = digest
    put(engine, "audit_events", *rows)
    put(engine, "deployment", {"id": "d", "created_at": queue.NOON, "audit_events": count, "audit_head": head})
    return head


def test_records_from_before_seals_are_chained_again_with_an_event(older: Older) -> None:
    engine = older("0016")
    old_head = recorded_before_seals(engine)
    upgrade(engine)
    with reading(engine) as session:
        assert verify(session) == 6
        last, *rest = events(session)
        assert (last.event.event, last.event.detail) == ("rechain", {"events": 5, "old_head": old_head})
        assert [item.event.user_id for item in rest] == [f"user{n}" for n in reversed(range(5))]
        assert deployment(session).audit_head != old_head
    with transaction(engine, "test") as session:
        assert erase(session, [1, 2], "erased-1", run_id="test") == 2
    with reading(engine) as session:
        assert verify(session) == 7


def test_a_tampered_record_is_not_chained_again(older: Older) -> None:
    engine = older("0016")
    recorded_before_seals(engine)
    trigger = "no_update" if engine.dialect.name == "sqlite" else "append_only ON audit_events"
    with engine.begin() as connection:
        connection.execute(sa.text(f"DROP TRIGGER audit_events_{trigger}"))
        connection.execute(sa.text("UPDATE audit_events SET event = 'x' WHERE id = 3"))
    with pytest.raises(IntegrityDoubt) as refused:
        upgrade(engine)
    assert marked(refused.value) == snapshot("audit event 3 is not what was written; nothing was changed")


def test_users_whose_ids_were_made_of_names_are_known_by_either(older: Older) -> None:
    made = "gina-example-com-599d34717b71"
    others = ("ann", "6f1c1c1e-8a0e-4b7c-9d51-2f1f6a1f0c11", "x-12345678901", "x-1234567890aB")
    engine = older("0025")
    put(engine, "users", *({"id": user_id} for user_id in (made, *others)))
    upgrade(engine)
    with reading(engine) as session:
        assert [tuple(row) for row in session.execute(sa.select(former_ids))] == [(made, made)]
        assert known_user(session, "gina@example.com") == made
