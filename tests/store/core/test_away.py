"""An unreachable store: reported with host, port and setting, in bounded time, never with its password."""

import socket
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import NoneType

import psycopg
import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot
from pydantic import SecretStr

from reelkeeper.errors import DiskFull, Misconfigured, ReelkeeperError, Unavailable
from reelkeeper.settings import Settings
from reelkeeper.store.core.engine import open_engine, open_store, transaction
from reelkeeper.store.core.schema import upgrade
from reelkeeper.store.tables import users
from tests.databases import PASSWORD, Server
from tests.disks import fill, small_disk
from tests.marks import marked
from tests.ports import free_port


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="reelkeeper-away-", ignore_cleanup_errors=True) as folder:
        made = Server(Path(folder))
        yield made
        made.stop()


def refusal(url: str, kind: type[ReelkeeperError], within: float = 15) -> str:
    """Open the store there as a command does, and give what it says."""
    began = time.monotonic()
    with pytest.raises(kind) as told, open_store(Settings(database_url=SecretStr(url))):
        pass
    assert time.monotonic() - began < within
    said = str(told.value)
    assert PASSWORD not in said
    assert "REELKEEPER_DATABASE_URL" in said
    return said


def ours(said: str, port: int) -> str:
    """Cut off what the driver said, which differs by its version and the system."""
    return marked(said.partition(" The driver said: ")[0], PORT=port)


def test_wrong_password_user_and_database_are_settings_that_are_wrong(server: Server) -> None:
    said = refusal(server.url(password="wrong-one"), Misconfigured)  # noqa: S106  it is wrong
    assert ours(said, server.port) == snapshot(
        "PostgreSQL at 127.0.0.1, port PORT, database 'postgres', user 'reel': it refuses the user. Check REELKEEPER_DATABASE_URL."
    )
    assert "wrong-one" not in said
    assert ours(refusal(server.url(username="stranger"), Misconfigured), server.port) == snapshot(
        "PostgreSQL at 127.0.0.1, port PORT, database 'postgres', user 'stranger': it refuses the user. Check REELKEEPER_DATABASE_URL."
    )
    assert ours(refusal(server.url(database="nowhere"), Misconfigured), server.port) == snapshot(
        "PostgreSQL at 127.0.0.1, port PORT, database 'nowhere', user 'reel': it has no such database: create it, then reelkeeper db upgrade. Check REELKEEPER_DATABASE_URL."
    )


def test_a_tls_mismatch_is_explained(server: Server) -> None:
    assert ours(refusal(server.url(query={"sslmode": "require"}), Misconfigured), server.port) == snapshot(
        "PostgreSQL at 127.0.0.1, port PORT, database 'postgres', user 'reel': the two do not agree on TLS: look at sslmode and sslrootcert in the URL. Check REELKEEPER_DATABASE_URL."
    )


def test_a_refused_connection_is_explained(server: Server) -> None:
    closed = free_port()
    said = refusal(server.url(port=closed), Unavailable)
    assert ours(said, closed) == snapshot(
        "PostgreSQL at 127.0.0.1, port PORT, database 'postgres', user 'reel': nothing listens there, so look whether PostgreSQL runs. Check REELKEEPER_DATABASE_URL."
    )


def test_an_unknown_host_is_explained(server: Server) -> None:
    said = refusal(server.url(host="store.invalid"), Unavailable)
    assert ours(said, server.port) == snapshot(
        "PostgreSQL at store.invalid, port PORT, database 'postgres', user 'reel': no address is known for that name. Check REELKEEPER_DATABASE_URL."
    )


def test_a_socket_that_never_answers_is_given_up(server: Server) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        said = refusal(server.url(port=port), Unavailable)
        assert ours(said, port) == snapshot(
            "PostgreSQL at 127.0.0.1, port PORT, database 'postgres', user 'reel': nothing answers within the time: a firewall, or a wrong port. Check REELKEEPER_DATABASE_URL."
        )
        assert "within" in refusal(server.url(port=port, query={"connect_timeout": "2"}), Unavailable, within=5)


def work(url: str, *statements: str, between: Callable[[], None] = lambda: None) -> None:
    """Execute each of these in a transaction of its own, in a store opened as commands and flows open it."""
    with open_store(Settings(database_url=SecretStr(url))) as opened:
        for statement in statements:
            with transaction(opened, "test") as session:
                session.execute(sa.text(statement))
            between()


def made(url: str) -> str:
    engine = open_engine(url)
    upgrade(engine)
    engine.dispose()
    return url


@pytest.mark.long("a PostgreSQL server of its own")
def test_a_server_that_stops_during_the_work_is_reported_and_is_no_unexpected_error() -> None:
    with tempfile.TemporaryDirectory(prefix="reelkeeper-away-", ignore_cleanup_errors=True) as folder:
        stopping = Server(Path(folder))
        url = made(stopping.url())
        with pytest.raises(Unavailable, match=rf"port {stopping.port}"):
            work(url, "SELECT 1", "SELECT 2", between=stopping.stop)


@pytest.fixture
def set_for(server: Server) -> Iterator[Callable[[str], object]]:
    """Set a parameter for all later sessions of the store's database, until the test ends."""
    made(server.url())
    with psycopg.connect(server.url(), autocommit=True) as admin:
        yield lambda setting: admin.execute(f"ALTER DATABASE postgres {setting}".encode())
        admin.execute("ALTER DATABASE postgres RESET ALL")


def test_a_server_that_takes_no_writes_is_away_and_is_written_to_as_soon_as_it_takes_some(
    server: Server, set_for: Callable[[str], object]
) -> None:
    write = "UPDATE deployment SET created_at = created_at"
    set_for("SET default_transaction_read_only = on")  # as a standby is, and some hosts do where the disk is full
    with pytest.raises(Unavailable):
        work(server.url(), "SELECT 1", write)
    with open_store(Settings(database_url=SecretStr(server.url()))) as opened:
        with pytest.raises(sa.exc.OperationalError), transaction(opened, "test") as session:
            session.execute(sa.text(write))
        set_for("RESET default_transaction_read_only")
        with transaction(opened, "test") as session:
            session.execute(sa.text(write))


@pytest.mark.parametrize(
    ("setting", "rest", "statement"),
    [("idle_in_transaction_session_timeout", 1.0, "SELECT 1"), ("statement_timeout", 0.0, "SELECT pg_sleep(10)")],
)
def test_a_server_that_ends_what_lasts_is_away(
    server: Server, set_for: Callable[[str], object], setting: str, rest: float, statement: str
) -> None:
    set_for(f"SET {setting} = 100")
    with pytest.raises(Unavailable, match=setting):
        rest_within(server.url(), rest, statement)


def rest_within(url: str, seconds: float, statement: str) -> None:
    """Open a transaction, rest, and execute a statement in it."""
    with open_store(Settings(database_url=SecretStr(url))) as opened, transaction(opened, "test") as session:
        session.execute(sa.text("SELECT 1"))
        time.sleep(seconds)
        session.execute(sa.text(statement))


def test_of_two_who_wait_for_each_other_one_is_told_to_try_again(postgresql_engine: sa.Engine) -> None:
    url = postgresql_engine.url.render_as_string(hide_password=False)
    with transaction(postgresql_engine, "test") as session:
        session.execute(sa.insert(users), [{"id": "ann"}, {"id": "bob"}])

    def take(*names: str) -> None:
        with open_store(Settings(database_url=SecretStr(url))) as opened, transaction(opened, "test") as session:
            for name in names:
                session.execute(sa.update(users).where(users.c.id == name).values(tier="pro"))
                if name == names[0]:
                    both.wait(60)

    both = threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        errors = [take.exception() for take in (pool.submit(take, "ann", "bob"), pool.submit(take, "bob", "ann"))]
    assert sorted(map(type, errors), key=str) == [NoneType, Unavailable]


def test_a_user_who_may_not_make_tables_is_a_setting_that_is_wrong(server: Server) -> None:
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute(f"CREATE ROLE plain LOGIN PASSWORD '{PASSWORD}'")
        admin.execute("CREATE DATABASE of_another")
    with (
        pytest.raises(Misconfigured, match="GRANT"),
        open_store(
            Settings(database_url=SecretStr(server.url(username="plain", database="of_another"))), as_it_is=True
        ) as opened,
    ):
        upgrade(opened)


def test_an_error_in_the_work_that_is_not_the_stores_stays_what_it_is(server: Server) -> None:
    url, row = made(server.url()), "INSERT INTO controls VALUES ('a', '{}', now())"
    with pytest.raises(sa.exc.IntegrityError):
        work(url, row, row)
    with pytest.raises(sa.exc.ProgrammingError):
        work(url, "SELECT nonsense")


# --- SQLite


def test_a_file_that_is_no_database_and_one_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database " * 1000)
    assert marked(refusal(f"sqlite:///{tmp_path / 'text'}", Misconfigured), FOLDER=tmp_path) == snapshot(
        "the store FOLDER/text: it is no SQLite database: look at REELKEEPER_DATABASE_URL and REELKEEPER_STATE_DIR. SQLite said: file is not a database (SQLITE_NOTADB)"
    )
    (tmp_path / "folder").mkdir()
    with pytest.raises(Misconfigured) as refused:
        work(f"sqlite:///{tmp_path / 'folder'}")
    assert marked(refused.value, FOLDER=tmp_path) == snapshot(
        "the store FOLDER/folder: it cannot be opened: look at the rights of the file and its folder. SQLite said: unable to open database file (SQLITE_CANTOPEN)"
    )


def test_a_full_disk_under_the_file_is_reported_with_its_figures_and_loses_nothing(
    tmp_path: Path, migrated_file: Path
) -> None:
    with small_disk(tmp_path / "small", 64) as small:
        file = small / "store.sqlite3"
        file.write_bytes(migrated_file.read_bytes())
        fill(small, 100_000)
        much = "INSERT INTO controls VALUES ('a', printf('%.1000000c', 'x'), '2026-01-01')"
        with pytest.raises(DiskFull, match=f"{file}.*tmpfs.*{small}"):
            work(f"sqlite:///{file}", much)
        with sqlite3.connect(file) as store:
            assert store.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
