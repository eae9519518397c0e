"""The databases that tests are lent come back with nothing of them left open."""

import psycopg
import pytest
import sqlalchemy as sa

from reelkeeper.store.core.engine import open_engine
from tests.databases import create_database, drop_database
from tests.stock import Stock


def _forget_engine(url: str) -> psycopg.Connection:
    with open_engine(url).connect() as connection:
        kept = connection.connection.dbapi_connection
    assert isinstance(kept, psycopg.Connection)
    assert not kept.closed
    return kept


@pytest.mark.parametrize("own", [False, True])
def test_what_a_forgotten_engine_keeps_open_is_closed_with_its_database(
    postgresql: sa.URL, stock: Stock, own: bool
) -> None:
    if own:
        kept = _forget_engine(create_database(postgresql, "own", "template1"))
        drop_database(postgresql, "own")
    else:
        name = stock.lend()
        kept = _forget_engine(postgresql.set(database=name).render_as_string(hide_password=False))
        stock.take_back(name)
    assert kept.closed
