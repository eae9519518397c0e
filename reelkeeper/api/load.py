"""Limit the requests in progress, per token and in total; requests beyond a limit are refused at once.

Requests that use the store wait for a place, for a limited time. Health checks are exempt.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from random import choice
from time import monotonic
from typing import Annotated, Any, Final

from anyio.to_thread import run_sync
from fastapi import Depends, Request
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from reelkeeper.errors import SchemaError
from reelkeeper.operations import Engine
from reelkeeper.operations.core.machine import require_schema
from reelkeeper.operations.core.policies import current
from reelkeeper.rules.core.request_limits import WAIT_SECONDS, AccessPolicy

# Together with tokens, streams, health checks and dispatching, within the 15 connections of SQLAlchemy's pool.
_PLACES: Final = 10
_SQLITE_PLACES: Final = 4  # it runs in this process: more threads than cores only slow down the event loop
_TICK_SECONDS: Final = 0.25
_LIMITS_SECONDS: Final = 1.0
OTHER_SCHEMA: Final = "The store has another schema than this version of the API: it waits to be updated."
_log = logging.getLogger(__name__)
_RETRY_SECONDS: Final = range(2, 9)  # random, so that callers do not all return at once


class Shed(HTTPException):
    """A request is refused before its route runs. `kind` ends the problem's type; 429 and 503 get a `Retry-After`."""

    def __init__(self, status: int, kind: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        if headers is None and status in (429, 503):
            headers = {"Retry-After": str(choice(_RETRY_SECONDS))}  # noqa: S311  no secret
        super().__init__(status, detail, headers)
        self.kind = kind


class Cap:
    """A limit on concurrent items of one kind, per token and in total."""

    def __init__(self, noun: str, of_token: int, at_once: int) -> None:
        self._noun = noun
        self.limit(of_token, at_once)
        self._taken: Counter[str] = Counter()
        self._total = 0

    def limit(self, of_token: int, at_once: int) -> None:
        """Set the limit from now on."""
        self._of_token, self._at_once = of_token, at_once

    @contextmanager
    def taken(self, token_id: str) -> Iterator[None]:
        """Count one item within the block. Raises Shed: 429 at the token's limit, 503 at the total limit."""
        # guard load.of_token: one token occupies all places of the API
        if self._taken[token_id] >= self._of_token:
            detail = f"token {token_id} has {self._of_token} {self._noun}, the limit for one token"
            raise Shed(429, "too-many", detail)
        # guard load.at_once: more is accepted than fits into memory, and the process is killed
        if self._total >= self._at_once:
            raise Shed(503, "overload", f"{self._total} {self._noun}, the limit of this process")
        self._taken[token_id] += 1
        self._total += 1
        try:
            yield
        finally:
            self._total -= 1
            self._taken[token_id] -= 1
            if not self._taken[token_id]:
                del self._taken[token_id]


class Turns:
    """A fixed number of places, and a limited wait for one."""

    def __init__(self, places: int) -> None:
        self._places = asyncio.Semaphore(places)
        self._waited_seconds = 0.0  # by the last one that got a place

    def is_long(self) -> bool:
        """Tell whether a new request would wait for most of the allowed time."""
        return self._places.locked() and self._waited_seconds > WAIT_SECONDS / 2

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Hold a place within the block, in order of arrival. Raises Shed (503) after waiting too long."""
        came = monotonic()
        try:
            # guard load.turn: requests wait for a hanging store until no request is answered
            async with asyncio.timeout(WAIT_SECONDS if self._places.locked() else None):
                await self._places.acquire()
        except TimeoutError:
            raise Shed(503, "overload", f"no place became free within {WAIT_SECONDS:g} s") from None
        self._waited_seconds = monotonic() - came
        try:
            yield
        finally:
            self._places.release()


class Load:
    """The current load of one process, and its limits."""

    def __init__(self, engine: Engine, policy: AccessPolicy) -> None:
        self._engine, self._late_seconds = engine, 0.0
        self.policy = policy
        self.schema_problem = ""  # why this version may not work on the store, if it may not
        self.requests = Cap("requests in progress", policy.requests_of_token, policy.requests_at_once)
        self.streams = Cap("event streams", policy.streams_of_token, policy.streams_at_once)
        self.uploads = Cap("uploads in progress", policy.uploads_of_token, policy.uploads_at_once)
        is_sqlite = engine.dialect.name == "sqlite"
        places = _SQLITE_PLACES if is_sqlite else _PLACES
        self.work = Turns(places)
        # What takes minutes, and a connection for milliseconds, so it may exceed the pool; exports hold up no takedown
        self.exports, self.removals = Turns(2), Turns(places // 2)
        # SQLite allows one writer at a time, and a waiting writer polls only now and then
        self.writing = Turns(1 if is_sqlite else _PLACES)
        self.images = Turns(4)  # held in memory
        self.known, self.unknown = Turns(1), Turns(1)  # guessed tokens delay no known caller

    async def keep_limits(self) -> None:
        """Read the limits in force each second, in a loop. A failed read is repeated a second later."""
        while True:
            await asyncio.sleep(_LIMITS_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Read the limits in force, and whether this version still knows the store's schema and policies."""
        try:
            policy = await run_sync(self._read)
        except SQLAlchemyError as error:
            _log.warning("the limits in force could not be read: %s", type(error).__name__)
            return
        except SchemaError as error:
            if not self.schema_problem:
                _log.error("no request is answered: %s", error)
            self.schema_problem = str(error)
            return
        self.schema_problem = ""
        if policy is not self.policy:
            self.limit(policy)

    def _read(self) -> AccessPolicy:
        require_schema(self._engine)
        return current(self._engine).policies.access

    def require_schema(self) -> None:
        """Raise Shed (503) while this version does not know the store's schema or policies."""
        # guard machines.api: a running API of another version changes a store that it does not understand
        if self.schema_problem:
            raise Shed(503, "schema", OTHER_SCHEMA)

    def limit(self, policy: AccessPolicy) -> None:
        """Apply these limits from now on; running requests are not affected."""
        self.policy = policy
        self.requests.limit(policy.requests_of_token, policy.requests_at_once)
        self.streams.limit(policy.streams_of_token, policy.streams_at_once)
        self.uploads.limit(policy.uploads_of_token, policy.uploads_at_once)

    async def keep_time(self) -> None:
        """Measure in a loop how late the event loop runs its callbacks."""
        while True:
            due = monotonic() + _TICK_SECONDS
            await asyncio.sleep(_TICK_SECONDS)
            self._late_seconds = monotonic() - due

    def check(self) -> None:
        """Raise Shed (503) if requests wait too long already: refusing one here costs least."""
        if self._late_seconds > WAIT_SECONDS / 2:
            raise Shed(503, "overload", f"this process is {self._late_seconds:.1f} s behind")
        if self.work.is_long():
            raise Shed(503, "overload", "too many requests are waiting for a place")


def _turn(of_load: Callable[[Load], Turns]) -> Callable[[Request], AsyncIterator[None]]:
    """Make a dependency that waits for a turn of these, and holds it while the request is handled."""

    async def turn(request: Request) -> AsyncIterator[None]:
        async with of_load(request.app.state.load).turn():
            yield

    return turn


async def _write(request: Request) -> AsyncIterator[None]:
    load: Load = request.app.state.load
    async with load.writing.turn(), load.work.turn():
        yield


async def _upload(request: Request) -> AsyncIterator[None]:
    with request.app.state.load.uploads.taken(request.state.caller.token_id):
        yield


async def _stream(request: Request) -> AsyncIterator[None]:
    with request.app.state.load.streams.taken(request.state.caller.token_id):
        yield


async def of(request: Request) -> Load:
    """Return the load of the request's app."""
    load: Load = request.app.state.load
    return load


Loaded = Annotated[Load, Depends(of)]
# FastAPI reads the body before it resolves these, so a slow body holds no place; those of the scope "function" are
# released before the answer is sent, which may take long.
WORK: Final[Any] = Depends(_turn(lambda load: load.work), scope="function")
WRITE: Final[Any] = Depends(_write, scope="function")  # for short writes
# guard load.exports: exports of a few users with many videos take all places, and nobody is answered for minutes
EXPORT: Final[Any] = Depends(_turn(lambda load: load.exports), scope="function")
# guard load.removals: erasures and takedowns of large videos take all places, and nobody is answered for minutes
REMOVAL: Final[Any] = Depends(_turn(lambda load: load.removals), scope="function")
UPLOAD: Final[Any] = Depends(_upload)
STREAM: Final[Any] = Depends(_stream)
