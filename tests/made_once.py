"""Make once for a test process what each engine, S3 client or command would make again.

Each test opens engines of its own, each with a dialect of its own. What a statement is compiled to depends on the
dialect's class and on the server's version alone, where engines differ by their address only, as those of
`open_engine` do: shared, that saves a fifth of the suite's CPU. For each client, botocore reads its 400 rules of
endpoints anew, in 3 of 8 ms; and Typer makes all 100 commands whenever one of them is run, in 18 ms.
"""

from functools import cache
from typing import Any, Final

import sqlalchemy as sa
from botocore import regions
from botocore.endpoint_provider import EndpointProvider
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.util import LRUCache
from typer import testing

_ALIKE: Final = (PGDialect_psycopg, SQLiteDialect_pysqlite)


class _Compiled(LRUCache[Any, Any]):
    """SQLAlchemy's cache; its keys begin with the dialect, which is replaced by its kind."""

    def get(self, key: Any, default: Any = None) -> Any:  # noqa: ANN401  as SQLAlchemy has it
        return super().get(_general(key), default)

    def __setitem__(self, key: Any, value: Any) -> None:  # noqa: ANN401  as SQLAlchemy has it
        super().__setitem__(_general(key), value)


def _general(key: tuple[Any, ...]) -> tuple[Any, ...]:
    dialect, *others = key
    return (type(dialect), dialect.server_version_info, *others)


_COMPILED: Final = _Compiled(5_000)


@sa.event.listens_for(sa.Engine, "engine_connect")
def _share(connection: sa.Connection) -> None:
    if type(connection.engine.dialect) in _ALIKE:
        connection.engine._compiled_cache = _COMPILED


_ENDPOINTS: Final = dict[int, tuple[object, EndpointProvider]]()  # by the id of the rules, which are kept for that


def _provider(ruleset_data: Any, **more: Any) -> EndpointProvider:  # noqa: ANN401  as botocore has it
    """Make a provider, which has no state but its cache, once for all clients of boto3's one session."""
    if id(ruleset_data) not in _ENDPOINTS:
        _ENDPOINTS[id(ruleset_data)] = ruleset_data, EndpointProvider(ruleset_data, **more)
    return _ENDPOINTS[id(ruleset_data)][1]


setattr(regions, "EndpointProvider", _provider)  # noqa: B010  no checker knows these two names in their modules
setattr(testing, "_get_command", cache(testing._get_command))  # type: ignore[attr-defined]  # noqa: B010  the same
