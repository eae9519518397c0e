"""Access to the store: SQLite or PostgreSQL, the same transactions on both, and the database's own clock.

engine = open_engine("sqlite:////var/lib/reelkeeper/store.sqlite3")
with transaction(engine, "retire.mark") as session: ...   # writes; two failpoints around the commit
with reading(engine) as session: ...                      # one snapshot; never blocks a writer
"""

import gc
import json
import logging
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Engine
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session as AnySession
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlmodel import Session

from reelkeeper.disk import make_file, make_folder, tighten, tighten_state
from reelkeeper.errors import Misconfigured, SchemaError, Unavailable
from reelkeeper.failpoints import failpoint
from reelkeeper.model.ids import Span
from reelkeeper.settings import Settings
from reelkeeper.store.core.failures import explained, safe_to_repeat, take_as_away, unconnected
from reelkeeper.store.tables.columns import UtcDateTime

BUSY_TIMEOUT_SECONDS = 30
_AGAIN_SECONDS = 1.0  # between two attempts to connect to a store that does not answer
# PostgreSQL: the time for a connection (psycopg's default is 130 s), and when a silent one is given up:
# after 30 s, by three keepalives 10 s apart (libpq, "Parameter Key Words"). The URL may override them.
_PATIENCE = {"connect_timeout": 10, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
_OPTIONS = "-c timezone=UTC -c datestyle=ISO"  # of times as text: psycopg reads no others
_UNHURRIED = sa.text("SET LOCAL synchronous_commit = off")
_FLUSH = sa.text("SELECT pg_logical_emit_message(true, 'flush', '')")  # the smallest record that a commit waits for
_FLUSHED_AFTER = "flushed after"
_FIRST_TABLES = {"deployment", "videos", "blobs"}  # some of those that every store has had, and no other program has
_log = logging.getLogger(__name__)
_READING = {"sqlite": {"sqlite_begin": "DEFERRED"}, "postgresql": {"isolation_level": "REPEATABLE READ"}}


def open_engine(url: str) -> sa.Engine:
    """Make the engine for a SQLAlchemy `url` of SQLite or PostgreSQL, and a SQLite file's folder, but no schema.

    SQLite begins with BEGIN IMMEDIATE: a deferred BEGIN that turns into a write fails at once with "database is
    locked" when another writer came first, whatever the timeout (SQLite, "The Write-Ahead Log", SQLITE_BUSY_SNAPSHOT).
    """
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):  # its message may contain the password, if that is not quoted
        raise Misconfigured(
            "database_url is not a valid URL; write sqlite:///FILE or "
            "postgresql+psycopg://USER:PASSWORD@HOST/DATABASE, and %40 for an @ in a password"
        ) from None
    _spare_what_is_loaded()
    backend = parsed.get_backend_name()
    if backend in {"postgresql", "postgres"}:  # hosts write either
        _require_readable(parsed)
        engine = sa.create_engine(
            parsed.set(drivername="postgresql+psycopg"),
            pool_pre_ping=True,
            # guard identity.isolation: on a server of another default, two writers of one row end with an error
            isolation_level="READ COMMITTED",
            connect_args={name: value for name, value in _PATIENCE.items() if name not in parsed.query}
            | {"options": f"{parsed.query.get('options', '')} {_OPTIONS}", "client_encoding": "utf8"},
        )
        sa.event.listen(engine, "handle_error", take_as_away)
        return engine
    if backend != "sqlite":
        raise Misconfigured(f"database_url names {backend!r}; use sqlite:///FILE or postgresql+psycopg://HOST/DATABASE")
    if not parsed.database or parsed.database == ":memory:":
        raise Misconfigured(
            f"database_url {parsed.render_as_string()!r} names no file; an in-memory store is lost when the process "
            "ends"
        )
    file = Path(parsed.database)
    make_folder(file.parent)
    engine = sa.create_engine(parsed, connect_args={"isolation_level": None, "timeout": BUSY_TIMEOUT_SECONDS})
    sa.event.listen(engine, "do_connect", lambda *_: _keep_private(file))
    sa.event.listen(engine, "connect", _prepare_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _require_readable(url: sa.URL) -> None:
    """Raise Misconfigured where PostgreSQL's client would not understand a URL, or connect to a part of a password."""
    from psycopg import pq  # noqa: PLC0415  not where the store is SQLite

    # guard secrets.host: the end of a password with an @ in it is named as the host, in messages and logs
    if "@" in (url.host or ""):
        raise Misconfigured("database_url has two @; write %40 for an @ in a password")
    if unknown := sorted(url.query.keys() - {option.keyword.decode() for option in pq.Conninfo.get_defaults()}):
        raise Misconfigured(
            f"database_url has {', '.join(unknown)}, which PostgreSQL's client does not know: leave out what another "
            "client needs, and write options=-csearch_path=NAME for a schema"
        )


@cache
def _spare_what_is_loaded() -> None:
    """Leave modules and classes out of garbage collections from now on: with Prefect, 150 ms of CPU each time."""
    gc.freeze()


def require_own(tables: set[str], database: str) -> None:
    """Require a database of the store's own, or an empty one: two programs cannot share `alembic_version`."""
    # guard identity.database: the tables of a store are made among those of the service, whose migrations then fail
    if tables and not tables >= _FIRST_TABLES:
        named = ", ".join(sorted(tables)[:3])
        raise SchemaError(
            f"the database {database!r} has tables of another program, among them {named}; "
            "nothing was changed. Give the store a database of its own: REELKEEPER_DATABASE_URL"
        )


def _keep_private(file: Path) -> None:
    """Make the database for its owner alone; SQLite gives the files beside it the same mode.

    Raises SchemaError, before mode or journal change, for a file that another program uses. What is no database at all
    is left as it is: SQLite refuses it.
    """
    try:
        # guard identity.file: another program cannot read its database any more, as a mistaken setting has made it ours
        require_own(_tables_of(file), str(file))
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
            return
    make_file(file)
    tighten(file, *(file.with_name(f"{file.name}{beside}") for beside in ("-wal", "-shm")))


def _tables_of(file: Path) -> set[str]:
    """Read the names of a file's tables, with neither a lock nor the log beside it."""
    with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as look:
        found = look.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT GLOB 'sqlite_*'")
        return {name for (name,) in found}


def _prepare_sqlite(connection: DBAPIConnection, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "trusted_schema=OFF"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    mode = connection.get_execution_options().get("sqlite_begin", "IMMEDIATE")
    connection.exec_driver_sql(f"BEGIN {mode}")  # DEFERRED or IMMEDIATE, from this module


def limit_lock_waits(engine: sa.Engine, seconds: float) -> None:
    """Limit how long a statement of this engine waits for locks; then it fails as if the store did not answer.

    On PostgreSQL it is said in each transaction: PgBouncer lends a connection to other clients after each.
    """
    milliseconds = int(seconds * 1_000)

    def limit(connection: DBAPIConnection, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {milliseconds}")
        cursor.close()

    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", limit)
        engine.dispose()  # drops connections opened before
    else:
        limit_here = f"SET LOCAL lock_timeout = {milliseconds}"
        sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(limit_here))


def outlast(engine: sa.Engine, seconds: float) -> None:
    """Let a connection to a PostgreSQL that does not answer, as while it restarts, be tried for up to `seconds`.

    Only connecting is tried again: what a lost session had not committed is undone, and its work fails.
    """

    def connect(dialect: Any, _record: object, places: list[Any], options: dict[str, Any]) -> DBAPIConnection:  # noqa: ANN401  SQLAlchemy's signature
        until, is_told = time.monotonic() + seconds, False
        while True:
            try:
                return cast("DBAPIConnection", dialect.connect(*places, **options))
            except dialect.loaded_dbapi.OperationalError as error:
                cause = unconnected(error, engine.url)
                # guard outages.connect: a run ends because PostgreSQL restarts
                if not isinstance(cause, Unavailable) or time.monotonic() > until:
                    raise
                if not is_told:
                    _log.warning("trying again for up to %.0f s: %s", seconds, cause)
                is_told = True
            time.sleep(_AGAIN_SECONDS)

    if engine.dialect.name == "postgresql":
        sa.event.listen(engine, "do_connect", connect)


@contextmanager
def transaction(engine: sa.Engine, name: str) -> Iterator[Session]:
    """Run one write transaction, committed at the end and rolled back on any error.

    Passes the failpoints `{name}.before_commit` and `{name}.after_commit`.
    """
    with Session(engine, expire_on_commit=False) as session:
        yield session
        session.flush()
        failpoint(f"{name}.before_commit")
        session.commit()
        if session.info.pop(_FLUSHED_AFTER, False):
            session.execute(_FLUSH)
            session.commit()
        failpoint(f"{name}.after_commit")


def group_commit(session: AnySession) -> None:
    """On PostgreSQL, have this transaction's commit release its locks before it waits for the disk.

    Otherwise transactions wait for the disk one after the other; now many wait at once. `transaction` ends only when
    this one and all before it are on disk: a synchronous commit, such as the empty one here, waits for the whole log so
    far ("Asynchronous Commit"). Changes by others that saw this one come later in the log, and never survive without
    it.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(_UNHURRIED)
        session.info[_FLUSHED_AFTER] = True


def async_commit(session: AnySession) -> None:
    """On PostgreSQL, have this transaction's commit not wait for the disk: for data that may be lost in a crash.

    It is then lost as a whole, with later asynchronous commits, and nothing else is ("Asynchronous Commit").
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(_UNHURRIED)


@contextmanager
def reading(engine: sa.Engine) -> Iterator[Session]:
    """Read from one consistent snapshot. It never blocks a writer, and anything written in it is rolled back."""
    with Session(engine.execution_options(**_READING[engine.dialect.name])) as session:
        yield session


def changed(session: AnySession, statement: sa.Update | sa.Delete, **parameters: Any) -> int:  # noqa: ANN401  the statement's own
    """Execute an UPDATE or DELETE, such as a compare-and-set; return how many rows it changed."""
    return cast("sa.CursorResult[Any]", session.execute(statement, parameters)).rowcount


def insert_into(session: AnySession, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
    """Begin an INSERT with ON CONFLICT, which both databases have and SQLAlchemy's generic INSERT does not."""
    return sqlite.insert(table) if session.get_bind().dialect.name == "sqlite" else postgresql.insert(table)


def one_of(
    session: AnySession, column: sa.Column[Any], values: Sequence[int] | Sequence[str]
) -> sa.ColumnElement[bool]:
    """Build the condition `column IN values` with one parameter: a thousand parameters take 2 ms of CPU."""
    if session.get_bind().dialect.name == "sqlite":
        given = json.dumps(list(values), ensure_ascii=False)
        return column.in_(sa.select(sa.column("value")).select_from(sa.func.json_each(given)))
    return column == sa.any_(sa.literal(list(values), postgresql.ARRAY(column.type)))


def checked(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    """Wrap a condition so that no index is used for it: the rows are found by id.

    Otherwise SQLite prefers the index of a state, and reads all rows of that state.
    """
    return condition.is_(sa.true())


def newest(
    session: AnySession, parts: Sequence[sa.Select[Any]], at: sa.Column[datetime], span: Span, limit: int
) -> list[sa.Row[Any]]:
    """Read the newest `limit` rows of some selections together; each has the columns `at` and id of its table.

    Each selection has an index that ends with `at`, so at most `limit` of its rows are read, however many there are.
    """
    row_id = at.table.c.id
    conditions = [
        *([at >= span.since] if span.since else []),
        *([at < span.until] if span.until else []),
        *(
            [sa.tuple_(at, row_id) < sa.tuple_(*map(sa.literal, span.place, (at.type, row_id.type)))]
            if span.place
            else []
        ),
    ]
    first = [part.where(*conditions).order_by(at.desc(), row_id.desc()).limit(limit).subquery() for part in parts]
    merged = sa.union_all(*(sa.select(part) for part in first)).subquery()
    order = (merged.c[at.name].desc(), merged.c.id.desc())
    return list(session.execute(sa.select(merged).order_by(*order).limit(limit)))


class Clock(FunctionElement[datetime]):
    """The database's clock as an SQL expression, plus some seconds: `LeaseRow.expires_at < Clock()`, `Clock(60)`.

    The seconds may be a parameter of the statement. On SQLite it is text in the format of the columns (six decimals,
    the last three always 0), so that text compares as time.
    """

    type = UtcDateTime()
    inherit_cache = True

    def __init__(self, seconds: float | sa.BindParameter[float] = 0) -> None:
        value = seconds if isinstance(seconds, sa.BindParameter) else sa.literal(float(seconds), sa.Float)
        super().__init__(value)


@compiles(Clock, "sqlite")
def _clock_sqlite(element: Clock, compiler: SQLCompiler, **options: Any) -> str:  # noqa: ANN401  SQLAlchemy's signature
    seconds = compiler.process(element.clauses, **options)
    return f"(strftime('%Y-%m-%d %H:%M:%f', 'now', {seconds} || ' seconds') || '000')"


@compiles(Clock, "postgresql")
def _clock_postgresql(element: Clock, compiler: SQLCompiler, **options: Any) -> str:  # noqa: ANN401  SQLAlchemy's signature
    return f"(clock_timestamp() + make_interval(secs => {compiler.process(element.clauses, **options)}))"


def now(session: AnySession) -> datetime:
    """Read the database's clock: aware UTC, to the millisecond on SQLite."""
    return session.execute(sa.select(Clock())).scalar_one()


_VERSIONS = Path(__file__).parents[1] / "migrations" / "versions"


@contextmanager
def open_store(
    settings: Settings, *, may_make: bool = True, as_it_is: bool = False, patience_seconds: float = 0.0
) -> Iterator[Engine]:
    """Open the store without a bucket; the embedded one is upgraded first, and made if it `may_make` it.

    Raises SchemaError; if the store does not answer, now or within the block, Unavailable, Misconfigured or DiskFull,
    after up to `patience_seconds`. `as_it_is` opens a store of any schema, and changes nothing.
    """
    # guard watchdog.made_store: where the state folder is wrong, a watchdog finds a new, empty store in good health
    if not may_make and settings.database_url is None and not settings.store_file.exists():
        raise SchemaError(
            f"there is no store yet at {settings.store_file}: the first run makes it, or `reelkeeper db upgrade`. If "
            "you have a store, it is elsewhere, or was deleted: check REELKEEPER_STATE_DIR and REELKEEPER_DATABASE_URL"
        )
    tighten_state(settings.state_dir)
    engine = open_engine(settings.store_url)
    if patience_seconds:
        outlast(engine, patience_seconds)
    try:
        if not (as_it_is or _is_current(engine)):
            from reelkeeper.store.core import schema  # noqa: PLC0415  Alembic costs a look-up a third of its time

            if settings.database_url is None:
                schema.upgrade(engine)
            schema.require_current(engine)
        yield engine
    except sa.exc.DBAPIError as error:
        if (ours := explained(error, engine.url)) is None:
            raise
        raise ours from error
    finally:
        engine.dispose()


@safe_to_repeat
def _is_current(engine: Engine) -> bool:
    """Check whether the store has the newest schema, without loading Alembic: a False may be wrong."""
    if not sa.inspect(engine).has_table("alembic_version"):
        return False
    with reading(engine) as session:
        return schema_of(session) == [newest_schema()]


def schema_of(session: AnySession) -> list[str]:
    """Read the revision of a store that has one, by one small query."""
    return list(session.execute(sa.select(sa.column("version_num")).select_from(sa.table("alembic_version"))).scalars())


@cache
def newest_schema() -> str:
    """Return the revision that this version of Reelkeeper works with, as it was when this process first asked."""
    return max(path.name for path in _VERSIONS.glob("[0-9]*.py")).partition("_")[0]
