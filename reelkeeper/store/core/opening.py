"""The store as it is configured, ready to work with."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from reelkeeper.private_files import tighten
from reelkeeper.settings import Settings
from reelkeeper.store.core.engine import open_engine, reading
from reelkeeper.store.core.failures import explained

_VERSIONS = Path(__file__).parents[1] / "migrations" / "versions"


@contextmanager
def open_store(settings: Settings) -> Iterator[Engine]:
    """Open the store alone; the embedded one is made and upgraded on the way. Raises SchemaError.

    A store that does not answer, now or in the work done with it, is Unavailable, Misconfigured or DiskFull.
    """
    tighten(settings.state_dir)
    engine = open_engine(settings.store_url)
    try:
        if not _is_current(engine):
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


def _is_current(engine: Engine) -> bool:
    """Whether the store has the newest schema, as far as can be told without Alembic: a no may be wrong."""
    if not sa.inspect(engine).has_table("alembic_version"):
        return False
    newest = max(path.name for path in _VERSIONS.glob("[0-9]*.py"))
    with reading(engine) as session:
        known = session.execute(sa.select(sa.column("version_num")).select_from(sa.table("alembic_version"))).scalars()
        return list(known) == [newest.partition("_")[0]]
