"""The store as it is configured, ready to work with."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.engine import Engine

from reelkeeper.settings import Settings
from reelkeeper.store import schema
from reelkeeper.store.engine import open_engine


@contextmanager
def open_store(settings: Settings) -> Iterator[Engine]:
    """Open the store alone; the embedded one is made and upgraded on the way. Raises SchemaError."""
    engine = open_engine(settings.store_url)
    try:
        if settings.database_url is None:
            schema.upgrade(engine)
        schema.require_current(engine)
        yield engine
    finally:
        engine.dispose()
