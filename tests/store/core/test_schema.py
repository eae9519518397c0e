"""Migrations produce exactly the models, lose nothing, and refuse unknown versions."""

import threading
from collections.abc import Callable
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
from reelkeeper.model.money import Metric, Used
from reelkeeper.store.billing.recount import mismatches
from reelkeeper.store.billing.usage import record as record_usage
from reelkeeper.store.core import schema
from reelkeeper.store.core.audit import Event, append, erase, events, verify
from reelkeeper.store.core.engine import open_engine, reading, transaction
from reelkeeper.store.core.former_ids import known_user
from reelkeeper.store.core.schema import VERSIONS, deployment, require_current, upgrade
from reelkeeper.store.core.snapshots import verify_checksum
from reelkeeper.store.tables import former_ids, job_totals, jobs, usage_days, users, videos
from tests import jobs as queue
from tests.databases import create_database, drop_database
from tests.marks import marked

LATER = (VERSIONS, Path(__file__).parent / "later_versions")
BACKENDS = pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
NewUrl = Callable[[str], str]
REVISIONS = [
    "0001 Create the first tables.",
    "0002 Add credits, quotas, usage, charges and forecasts; alerts and the outbox.",
    "0003 Add jobs, their cache, API tokens, performance figures, and the state that steering keeps between runs.",
    "0004 Add the duration of each flow's last successful run.",
    "0005 Add a job's expected cost, and the spending of each day.",
    "0006 Allow keys that the service may overwrite: several rows a key, of which one is open; and claims of a purge.",
    "0007 Add owners of keys, and a scan's verdict on an object without a row.",
    "0008 Store the policies, and the version under which each plan, job and charge was made.",
    "0009 Add takedowns, and legal holds, which also prevent a takedown.",
    "0010 Add the results and costs of searches for a CRF, the job of each video, and the net saving of a plan's item.",
    "0011 Add the metric of what jobs cost whose vendors bill by the clip.",
    "0012 Add webhook endpoints, and their events in the outbox.",
    "0013 Add the provider of a job, and the costs of jobs, past and in flight, by provider, model, tier and user.",
    "0014 Remove the cache's queues, hit counters and ghost keys: it is pruned by the requests that jobs record.",
    "0015 Add notices of retirements, their deliveries, and requests to keep a video.",
    "0016 Add a person's approval of a refused plan, and the limits that it widens.",
    "0017 Seal the personal data of audit events apart, so that it can be erased and the chain still verifies.",
    "0018 Add the tag and the model of a video, and the segment of the policy that decided about it.",
    "0019 Add swaps in place: the copy of the old bytes, a late PUT, and rows of objects not yet stored.",
    "0020 Drop an index of jobs by size, unused since jobs are ranked by size and age.",
    "0021 Add the number of jobs billed by the clip: others of the same model and day have a flat price.",
    "0022 Add epochs: what a store announces in its bucket, so that an older or copied store notices it.",
    "0023 Add the jobs that providers made or may have made, each attempt with its name there and what counts for it.",
    "0024 Let an erasure replace the user's id in the reason of another user's transfer.",
    "0025 Add doubts: objects at keys of ours that are not as recorded, with what is stored and since when.",
    "0026 Add the ids that users had, with those that were made of names: a slug, and 12 hex digits of a hash.",
    "0027 Add an index of the jobs that vendors have, so that counting them costs the same however many wait.",
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
        assert session.scalar(sa.text("SELECT count(*) FROM users WHERE country = 'unknown'")) == 100
    with pytest.raises(sa.exc.IntegrityError), engine.begin() as connection:
        connection.execute(sa.insert(videos).values(id="x", user_id="nobody", state="live", generation=1))


@pytest.mark.long
def test_up_down_and_up_again(engine: sa.Engine) -> None:
    fill(engine)
    before = shape(engine)
    upgrade(engine, LATER)
    downgrade(engine, LATEST)
    assert (shape(engine), counts(engine)) == (before, (100, 100))
    downgrade(engine, "base")
    assert set(sa.inspect(engine).get_table_names()) == {"alembic_version"}
    upgrade(engine)
    assert shape(engine) == before


def test_jobs_in_flight_at_the_migration_of_totals_are_counted(engine: sa.Engine) -> None:
    with transaction(engine, "test") as session:
        session.execute(sa.insert(users).values(id="ann", tier="pro"))
        rows = [queue.waiting("a", price_microusd=5), queue.waiting("b", tier=None, quoted_cost_microusd=7)]
        rows += [queue.dead("c", queue.NOON), queue.waiting("d", leader_id="a", price_microusd=9)]
        session.execute(sa.insert(jobs), [{"quoted_cost_microusd": None, **row} for row in rows])
    downgrade(engine, "0012")
    upgrade(engine)
    with reading(engine) as session:
        kept = {row.scope: row.microusd for row in session.execute(sa.select(job_totals))}
        assert kept == {"model:svd": 12, "tier:free": 5, "user:ann": 12}
        assert mismatches(session) == []


def test_a_video_whose_job_is_known_has_its_model_from_the_beginning(engine: sa.Engine) -> None:
    fill(engine, 3)
    with transaction(engine, "test") as session:
        made = queue.dead("j0", queue.NOON) | {"user_id": "u0", "video_id": "v0", "model": "sketch-1"}
        session.execute(sa.insert(jobs), [made])
    downgrade(engine, "0015")
    upgrade(engine)
    with reading(engine) as session:
        rows = session.execute(sa.select(videos.c.id, videos.c.model, videos.c.tag).order_by(videos.c.id))
        assert [tuple(row) for row in rows] == [("v0", "sketch-1", None), ("v1", None, None), ("v2", None, None)]


def test_days_with_clips_are_charged_after_the_migration_as_before(engine: sa.Engine) -> None:
    """Then no job of the model had a flat price on a day with a clip; on the others all had."""
    day, before = date(2026, 11, 4), date(2026, 11, 3)
    counted = [
        Used(on, metric, quantity, "veo", user_id=user)
        for on, metric, quantity in ((before, Metric.JOBS, 3), (day, Metric.JOBS, 2), (day, Metric.JOB_MICROUSD, 5))
        for user in ("", "ann")
    ]
    with transaction(engine, "test") as session:
        record_usage(session, counted)
    downgrade(engine, "0020")
    upgrade(engine)
    with reading(engine) as session:
        found = sa.select(usage_days.c.day, usage_days.c.user_id, usage_days.c.quantity)
        rows = session.execute(found.where(usage_days.c.metric == Metric.CLIP_JOBS).order_by(usage_days.c.user_id))
        assert [tuple(row) for row in rows] == [(day, "", 2), (day, "ann", 2)]


def downgrade(engine: sa.Engine, revision: str) -> None:
    config = schema._config(LATER)
    with schema._alone(engine) as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, revision)


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
    with transaction(engine, "test") as session:
        append(session, [Event("tier", "ada", None, n, f"user{n}", {"was": "free", "n": n}) for n in range(count)])
    downgrade(engine, "0016")
    with engine.connect() as connection:
        return str(connection.execute(sa.text("SELECT audit_head FROM deployment")).scalar_one())


def test_records_from_before_seals_are_chained_again_with_an_event(engine: sa.Engine) -> None:
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


def test_a_tampered_record_is_not_chained_again(engine: sa.Engine) -> None:
    recorded_before_seals(engine)
    trigger = "no_update" if engine.dialect.name == "sqlite" else "append_only ON audit_events"
    with engine.begin() as connection:
        connection.execute(sa.text(f"DROP TRIGGER audit_events_{trigger}"))
        connection.execute(sa.text("UPDATE audit_events SET event = 'x' WHERE id = 3"))
    with pytest.raises(IntegrityDoubt) as refused:
        upgrade(engine)
    assert marked(refused.value) == snapshot("audit event 3 is not what was written; nothing was changed")


def test_users_whose_ids_were_made_of_names_are_known_by_either(engine: sa.Engine) -> None:
    upgrade(engine)
    downgrade(engine, "0025")
    made = "gina-example-com-599d34717b71"
    others = ("ann", "6f1c1c1e-8a0e-4b7c-9d51-2f1f6a1f0c11", "x-12345678901", "x-1234567890aB")
    with engine.begin() as connection:
        for user_id in (made, *others):
            connection.execute(sa.text("INSERT INTO users (id) VALUES (:id)"), {"id": user_id})
    for _ in range(2):
        upgrade(engine)
        with reading(engine) as session:
            assert [tuple(row) for row in session.execute(sa.select(former_ids))] == [(made, made)]
            assert known_user(session, "gina@example.com") == made
        downgrade(engine, "0025")
