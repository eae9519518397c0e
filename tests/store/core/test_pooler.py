"""A store behind PgBouncer, which lends a server's connection for one transaction at a time."""

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest
import sqlalchemy as sa

from reelkeeper.store.core.engine import limit_lock_waits, open_engine, outlast, reading, transaction
from reelkeeper.store.core.leases import acquire
from reelkeeper.store.core.schema import upgrade
from tests.ports import free_port
from tests.programs import program
from tests.stock import Stock

LENT = 2  # connections of the server for all clients
ABROAD = "America/New_York"


@pytest.fixture(scope="module")
def pooler(postgresql: sa.URL) -> Iterator[sa.URL]:
    """PgBouncer as docs/growing.md configures it, in front of this session's server."""
    port, socket = free_port(), Path(str(postgresql.query["host"]))
    with TemporaryDirectory(prefix="reelkeeper-pooler-") as folder:
        config = Path(folder) / "pgbouncer.ini"
        config.write_text(
            f"[databases]\n* = host={socket} user={postgresql.username}\n[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
            f"pool_mode = transaction\ndefault_pool_size = {LENT}\nmax_prepared_statements = 200\n"
        )
        Path(folder).chmod(0o755)
        config.chmod(0o644)
        command = [program("pgbouncer"), *(["-u", socket.owner()] if os.geteuid() == 0 else []), str(config)]
        server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        yield sa.URL.create("postgresql+psycopg", "any", None, "127.0.0.1", port)
        server.terminate()
        server.wait(30)


@pytest.fixture
def url(pooler: sa.URL, postgresql: sa.URL, stock: Stock) -> Iterator[str]:
    """A fresh store of a server whose own clock is set to another zone."""
    name = stock.lend()
    with closing(psycopg.connect(postgresql.set(drivername="postgresql").render_as_string(), autocommit=True)) as admin:
        admin.execute(f"ALTER DATABASE {name} SET timezone = '{ABROAD}'".encode())
    yield pooler.set(database=name).render_as_string()
    stock.take_back(name)


@pytest.fixture
def engines(url: str) -> Iterator[list[sa.Engine]]:
    """Five processes' engines on that store, more than there are connections of the server."""
    with ExitStack() as kept:
        made = [open_engine(url) for _ in range(5)]
        for engine in made:
            outlast(engine, 10)  # it may not listen yet
            kept.callback(engine.dispose)
        yield made


def test_more_clients_than_connections_take_each_lease_once(engines: list[sa.Engine]) -> None:
    names = [f"lease/{number}" for number in range(60)]

    def take(engine: sa.Engine) -> list[str]:
        return [lease.name for name in names for lease in acquire(engine, [name], str(id(engine)))]

    with ThreadPoolExecutor(len(engines)) as threads:
        taken = [name for found in threads.map(take, engines) for name in found]
    assert sorted(taken) == sorted(names)
    with reading(engines[0]) as session:
        others = session.execute(sa.text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"))
        assert others.scalar_one() <= LENT


def test_the_time_zone_is_utc_whichever_connection_is_lent(engines: list[sa.Engine]) -> None:
    for engine in engines * 3:
        with reading(engine) as session:
            assert session.execute(sa.text("SHOW timezone")).scalar_one() == "UTC"


def test_a_limit_on_lock_waits_holds_in_each_transaction_and_for_no_other_client(engines: list[sa.Engine]) -> None:
    hasty, *others = engines
    limit_lock_waits(hasty, 0.2)
    for _ in range(3):
        with reading(hasty) as session, transaction(hasty, "test") as second:
            for limited in (session, second):
                assert limited.execute(sa.text("SHOW lock_timeout")).scalar_one() == "200ms"
        for other in others:
            with reading(other) as session:
                assert session.execute(sa.text("SHOW lock_timeout")).scalar_one() == "0"


def test_a_store_is_upgraded_through_it(pooler: sa.URL, empty_database: str) -> None:
    engine = open_engine(pooler.set(database=empty_database).render_as_string())
    outlast(engine, 10)
    upgrade(engine)
    assert [lease.name for lease in acquire(engine, ["one"], "test")] == ["one"]
    engine.dispose()
