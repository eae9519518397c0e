"""Bring a store's schema up to date, and refuse to work with an unknown one.

An upgrade is one transaction, checks included: if it is killed, nothing is changed.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from uuid import uuid4

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from alembic.util import CommandError
from sqlalchemy.orm import Session
from sqlmodel import SQLModel

from reelkeeper.errors import SchemaError
from reelkeeper.store.core.engine import Clock, open_engine, reading, require_own
from reelkeeper.store.core.snapshots import Contents, changes, contents, copy_sqlite
from reelkeeper.store.tables import policy_versions
from reelkeeper.store.tables.work import Deployment

MIGRATIONS = Path(__file__).parents[1] / "migrations"
VERSIONS = MIGRATIONS / "versions"
NEW_STORE = "new store"  # the digest of its version 0
# What a new store has in place of the shipped policies: an older one keeps what it had when these change.
_VERSION_0 = {
    "version": 0,
    "digest": NEW_STORE,
    "document": {"recipe": {"placement": "auto"}},
    "author": "reelkeeper",
    "reason": "as shipped, for a new store",
}
_MERGED = frozenset(f"{number:04}" for number in range(6, 36))  # steps on the way to 0.2.0, which 0036 has as one
_LAST_WITH_ALL_STEPS = "07f135f3"  # the commit before they were merged
_LOCK_TRIES, _LOCKED = 3, "55P03"  # the SQLSTATE lock_not_available
_ADVISORY_LOCK = 0x7265656C  # "reel": one migrator at a time on PostgreSQL


def upgrade(engine: sa.Engine, versions: Sequence[Path] = (VERSIONS,)) -> list[str]:
    """Apply the missing revisions and list them, as "0001 The first tables."; insert a missing deployment row.

    Writers wait. A SQLite file that holds a schema is first copied to `FILE.REVISION.TIME.backup` beside it.
    Raises SchemaError, with the store as it was, when a new database is not in UTF-8 or is another program's, the
    schema is newer than this code, or a revision loses or changes rows that it does not declare, breaks a reference or
    corrupts the file.
    """
    config = _config(versions)
    scripts = ScriptDirectory.from_config(config)
    with _alone(engine) as connection:
        current = _revisions(connection)
        _require_own(connection)
        pending = _pending(scripts, current)
        if not pending:
            return []
        if current and engine.dialect.name == "sqlite":
            _copy_beside(connection, current)
        if not current:
            _require_utf8(connection)
        hold_up_writers(connection)  # as its rows are summed before and after
        before = contents(connection)
        config.attributes["connection"] = connection
        command.upgrade(config, "heads")
        _check_rows(before, contents(connection, before), pending)
        _check_file(connection)
        if connection.scalar(sa.select(sa.func.count()).select_from(Deployment)) == 0:
            row = {"id": uuid4().hex, "created_at": Clock(), "audit_events": 0, "audit_head": ""}
            connection.execute(sa.insert(Deployment).values(row | {"policy_digest": NEW_STORE}))
            connection.execute(sa.insert(policy_versions).values(_VERSION_0 | {"created_at": Clock()}))
    return [f"{script.revision} {script.doc}" for script in pending]


def upgrade_at(url: str) -> list[str]:
    """Open the store at `url` as it is, and upgrade it."""
    engine = open_engine(url)
    try:
        return upgrade(engine)
    finally:
        engine.dispose()


def require_current(engine: sa.Engine) -> None:
    """Raise SchemaError unless the store has exactly the schema of this version."""
    with reading(engine) as session:
        current = _revisions(connection := session.connection())
        if current != (head(),):
            _require_own(connection)
    pending = _pending(ScriptDirectory.from_config(_config((VERSIONS,))), current)
    if pending:
        raise SchemaError(
            f"the store at {engine.url!r} has schema {', '.join(current) or 'none'}, this version needs "
            f"{pending[-1].revision}: run `reelkeeper db upgrade`"
        )


@cache
def head() -> str:
    """Return the newest revision of this version: read once, as each look at the metrics asks for it."""
    return ScriptDirectory.from_config(_config((VERSIONS,))).get_current_head() or ""


def deployment(session: Session) -> Deployment:
    """Read the deployment row. Raises SchemaError when it is missing."""
    row = session.scalars(sa.select(Deployment).execution_options(populate_existing=True)).one_or_none()
    if row is None:
        raise SchemaError("the store has no deployment row: run `reelkeeper db upgrade`")
    return row


def _config(versions: Iterable[Path]) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", "\n".join(str(folder).replace("%", "%%") for folder in versions))
    return config


@contextmanager
def _alone(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Open a transaction that excludes other migrators, and on SQLite other writers.

    If SQLite enforced foreign keys, Alembic's batch mode (create, copy, drop, rename) would cascade into child
    rows; they can be switched off only outside a transaction.
    """
    with engine.connect() as connection:
        if engine.dialect.name != "sqlite":
            with connection.begin():
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
                yield connection
            return
        driver = connection.connection.cursor()
        driver.execute("PRAGMA foreign_keys=OFF")
        try:
            with connection.begin():
                yield connection
        finally:
            driver.execute("PRAGMA foreign_keys=ON")
            driver.close()


def hold_up_writers(connection: sa.Connection) -> None:
    """Let others only read until the transaction ends; one of SQLite has begun so.

    Each table is waited for alone first: PostgreSQL ends an autovacuum that is waited for longer than its
    deadlock_timeout, 1 s. With all of them nobody waits as long, so of two who wait for each other none is ended.
    Rows that others have locked are waited for, too: who holds one may write to another table next, and wait for us.
    Raises OperationalError where a writer holds on for longer.
    """
    if connection.dialect.name == "sqlite":
        return
    names = [connection.dialect.identifier_preparer.quote(name) for name in sa.inspect(connection).get_table_names()]
    for left in reversed(range(_LOCK_TRIES)) if names else ():
        try:
            for name in names:
                with connection.begin_nested() as alone:
                    # guard machines.autovacuum: a migration gives up as long as a large table is vacuumed
                    _lock(connection, name, "5s")
                    alone.rollback()
            with connection.begin_nested():
                # guard machines.writers: beside a service at work no migration succeeds, as its rows change meanwhile
                _lock(connection, ", ".join(names), "500ms")
                connection.execute(sa.text("SET LOCAL lock_timeout = '5s'"))
        except sa.exc.OperationalError as error:
            if not left or getattr(error.orig, "sqlstate", None) != _LOCKED:
                raise
        else:
            return


def _lock(connection: sa.Connection, tables: str, patience: str) -> None:
    connection.execute(sa.text(f"SET LOCAL lock_timeout = '{patience}'"))  # both are our own text
    connection.execute(sa.text(f"LOCK TABLE {tables} IN EXCLUSIVE MODE"))  # quoted names of our tables


def _revisions(connection: sa.Connection) -> tuple[str, ...]:
    return MigrationContext.configure(connection).get_current_heads()


def _pending(scripts: ScriptDirectory, current: tuple[str, ...]) -> list[Script]:
    """List the revisions above `current`, oldest first."""
    try:
        scripts.get_revisions(current)
        return list(scripts.iterate_revisions("heads", current or "base"))[::-1]
    except CommandError as error:
        if _MERGED.intersection(current):
            raise SchemaError(
                f"the store has schema {', '.join(current)}, of a development version between 0.1.0 and 0.2.0: run "
                f"`reelkeeper db upgrade` of commit {_LAST_WITH_ALL_STEPS} first, or make a new store"
            ) from error
        raise SchemaError(
            f"the store has schema {', '.join(current)}, which this version does not know "
            f"(it knows {', '.join(scripts.get_heads())}): run the newer version that made it"
        ) from error


def _require_own(connection: sa.Connection) -> None:
    require_own(set(sa.inspect(connection).get_table_names()), str(connection.engine.url.database))


def _require_utf8(connection: sa.Connection) -> None:
    """Require UTF-8: names and prompts are in any script, and a database's encoding cannot be changed later."""
    if connection.dialect.name != "postgresql":
        return
    if (encoding := connection.exec_driver_sql("SHOW server_encoding").scalar()) != "UTF8":
        raise SchemaError(
            f"the database {connection.engine.url.database!r} has the encoding {encoding}, which cannot store all "
            "characters: create it with CREATE DATABASE … TEMPLATE template0 ENCODING 'UTF8'"
        )


def _copy_beside(connection: sa.Connection, current: tuple[str, ...]) -> None:
    taken = connection.execute(sa.select(Clock())).scalar_one()
    source = Path(str(connection.engine.url.database))
    copy_sqlite(source, source.with_name(f"{source.name}.{'+'.join(current)}.{taken:%Y%m%dT%H%M%S.%fZ}.backup"))


def _check_rows(before: dict[str, Contents], after: dict[str, Contents], applied: list[Script]) -> None:
    declared: set[str] = set().union(*(getattr(script.module, "changes_rows", ()) for script in applied))
    if undeclared := [what for name, what in changes(before, after).items() if name not in declared]:
        listed = ", ".join(undeclared)
        raise SchemaError(f"migration rolled back: {listed}, but no revision declares that in changes_rows")


def _check_file(connection: sa.Connection) -> None:
    if connection.dialect.name != "sqlite":
        return
    if broken := connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall():
        raise SchemaError(
            f"migration rolled back: rows that refer to missing rows: {len(broken)}, first {tuple(broken[0])}"
        )
    if (verdict := connection.exec_driver_sql("PRAGMA integrity_check").scalar()) != "ok":
        raise SchemaError(f"migration rolled back: the integrity check reports {verdict!r}")


def rows(session: Session) -> dict[str, int]:
    """Count the rows of each table; on PostgreSQL from its statistics, since a count would read everything."""
    tables = sorted(SQLModel.metadata.tables)
    if session.get_bind().dialect.name == "postgresql":
        ours = "SELECT relname, n_live_tup FROM pg_stat_user_tables WHERE schemaname = current_schema()"
        counted = session.execute(sa.text(ours))
        known = {name: int(count) for name, count in counted}
        return {name: known.get(name, 0) for name in tables}
    counts = [
        sa.select(sa.literal(name), sa.func.count()).select_from(SQLModel.metadata.tables[name]) for name in tables
    ]
    return {name: int(count) for name, count in session.execute(sa.union_all(*counts))}


def size_bytes(session: Session) -> int:
    """Measure the store's bytes on disk: SQLite's file without its log, PostgreSQL's database."""
    if session.get_bind().dialect.name == "postgresql":
        return int(session.execute(sa.text("SELECT pg_database_size(current_database())")).scalar_one())
    pragmas = ("PRAGMA page_count", "PRAGMA page_size")
    pages, page = (int(session.execute(sa.text(text)).scalar_one()) for text in pragmas)
    return pages * page
