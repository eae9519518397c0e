"""Reuse PostgreSQL databases between tests, emptied: creating and dropping one costs five times the CPU.

Each test gets a name of its own, so that a thread which another left behind finds no database. One whose tables,
functions or triggers a test has changed is dropped, and so is one that cannot be emptied.
"""

from contextlib import closing
from typing import Final
from uuid import uuid4
from weakref import WeakKeyDictionary

import psycopg
import sqlalchemy as sa
from psycopg import sql

_CATALOGS: Final = ("class", "attribute", "attrdef", "constraint", "index", "namespace", "proc", "trigger", "type")
_ROWS: Final = sql.SQL("(SELECT (count(*), max(xmin::text::bigint))::text FROM {})")
_SCHEMA: Final = sql.SQL("SELECT concat_ws(' ', {})").format(
    sql.SQL(", ").join(_ROWS.format(sql.Identifier(f"pg_{name}")) for name in _CATALOGS)
)
_RESTART: Final = sql.SQL(
    "SELECT setval(format('%I.%I', schemaname, sequencename)::regclass, start_value, false) FROM pg_sequences"
)

_databases: WeakKeyDictionary[psycopg.Connection, str] = WeakKeyDictionary()  # of all connections of this process


@sa.event.listens_for(sa.Pool, "connect")
def _remember(connection: object, _record: sa.pool.ConnectionPoolEntry) -> None:
    if isinstance(connection, psycopg.Connection):
        _databases[connection] = connection.info.dbname


def close_connections(name: str) -> None:
    """Close what engines that a test forgot keep open here: as garbage, it would fail whichever test comes later.

    psycopg warns of it then, and Hypothesis makes errors of all warnings as it looks for the strategy of a type.
    """
    for reference in _databases.keyrefs():
        if (connection := reference()) and _databases.get(connection) == name:
            connection.close()


class Stock:
    """Copies of one template database on one server, lent to a test at a time."""

    def __init__(self, server: sa.URL, template: str) -> None:
        self._server, self._template = server, template
        self._admin = self._open("postgres")
        self._free: list[str] = []
        self._schema = ""
        self._empty = sql.Composed([])
        self._kept: dict[str, bytes] = {}  # what the template holds: rows of a table as COPY writes them

    def lend(self) -> str:
        """Return the name of a database as the template is."""
        name = f"store_{uuid4().hex}"
        if self._free:
            self._tell("ALTER DATABASE {} RENAME TO {}", self._free.pop(), name)
        else:
            self._tell("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY", name, self._template)
        if not self._schema:
            with closing(self._open(name)) as database:
                self._look(database)
        return name

    def take_back(self, name: str) -> None:
        """End all connections, and restore the template's state, or drop it."""
        close_connections(name)
        self._admin.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", [name])
        try:
            with closing(self._open(name)) as database:
                same = self._schema == _text(database, _SCHEMA)
                if same:
                    self._restore(database)
        except psycopg.Error:  # a test may have shut it
            same = False
        if same:
            self._free.append(name)
        else:
            self._tell("DROP DATABASE {} WITH (FORCE)", name)

    def close(self) -> None:
        """Leave the databases to the end of the server."""
        self._admin.close()

    def _open(self, database: str) -> psycopg.Connection:
        url = self._server.set(drivername="postgresql", database=database)
        return psycopg.connect(url.render_as_string(hide_password=False), autocommit=True)

    def _tell(self, words: str, *names: str) -> None:
        self._admin.execute(sql.SQL(words).format(*(sql.Identifier(name) for name in names)))

    def _look(self, database: psycopg.Connection) -> None:
        """Read the template's schema and rows."""
        self._schema = _text(database, _SCHEMA)
        names = [row[0] for row in database.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
        self._empty = sql.SQL("; ").join(sql.SQL("DELETE FROM {}").format(sql.Identifier(name)) for name in names)
        for name in names:
            with database.cursor().copy(sql.SQL("COPY {} TO STDOUT").format(sql.Identifier(name))) as rows:
                if found := b"".join(bytes(row) for row in rows):
                    self._kept[name] = found

    def _restore(self, database: psycopg.Connection) -> None:
        database.execute("SET session_replication_role = replica")  # no trigger: the records may only grow
        database.execute(self._empty)
        for name, rows in self._kept.items():
            with database.cursor().copy(sql.SQL("COPY {} FROM STDIN").format(sql.Identifier(name))) as into:
                into.write(rows)
        database.execute(_RESTART)


def _text(database: psycopg.Connection, asked: sql.Composed) -> str:
    (found,) = database.execute(asked).fetchone() or ("",)
    return str(found)
