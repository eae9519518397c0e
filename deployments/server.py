"""Run Prefect's server on SQLite with IMMEDIATE transactions, and fewer wake-ups: `python -m deployments.server`.

Prefect begins most of its transactions as DEFERRED. One that reads first, and finds when it writes that another has
written meanwhile, cannot wait: SQLite refuses it at once whatever its busy timeout, and the API answers 503. Begun as
IMMEDIATE, it waits its turn before it reads.
"""

import runpy
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction

from deployments import prefect_internals

if TYPE_CHECKING:
    from prefect.server.database.configurations import AioSqliteConfiguration

_sqlite = prefect_internals.sqlite()
_begin = _sqlite.begin_transaction


@asynccontextmanager
async def begin_immediate(
    configuration: "AioSqliteConfiguration",
    session: AsyncSession,
    with_for_update: bool = False,  # noqa: ARG001  Prefect asks for it here and there: it is always so
) -> AsyncGenerator[AsyncSessionTransaction, None]:
    """Begin a transaction that holds the write lock from its first statement on."""
    async with _begin(configuration, session, with_for_update=True) as transaction:
        yield transaction


if __name__ == "__main__":
    _sqlite.begin_transaction = begin_immediate  # type: ignore[assignment]  # no setting says so
    prefect_internals.wake_less()
    sys.argv = ["prefect", "server", "start", *sys.argv[1:]]
    runpy.run_module("prefect", run_name="__main__", alter_sys=True)
