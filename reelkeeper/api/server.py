"""Serve the app on connections with deadlines, so that idle callers cannot occupy them.

uvicorn has no timeout before the first byte, for headers or for a client that reads nothing, and its
`limit_concurrency` answers 503 to all, health checks too. Here a connection has a deadline whenever no request is under
way on it, and when there are too many, the one that has been idle for longest is closed. Only asyncio's methods of a
protocol, and those that uvicorn's server calls, are extended; `tests/api/test_doors.py` shows what breaks if uvicorn
changes.
"""

import asyncio
import ctypes
import logging
import os
import resource
from collections.abc import Callable
from socket import fromfd, socket
from typing import Any, Final

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from reelkeeper.api.load import Load
from reelkeeper.rules.core.access import AccessPolicy

_OTHER_FILES: Final = 200  # the store's, the bucket's and logs; the API itself opens about 60
LET_IN: Final = 64  # connections in one turn of the loop; asyncio has one number for this and for the queue
_QUEUE: Final = 4_096  # connections that wait to be let in; Linux allows no more by default
_LAST_SECONDS: Final = 3.0  # for a body that is still arriving when the server is told to stop
_M_ARENA_MAX: Final = -8  # mallopt(3)
_ARENAS: Final = 2  # where glibc makes eight a core, in which free pieces add up for hours: 40 MB more, and no faster
_log = logging.getLogger(__name__)


class Connections(ServerState):
    """All connections of a server, and those without a request under way, the longest first."""

    def __init__(self, load: Load) -> None:
        super().__init__()
        self._load = load
        self._asked = load.policy
        self._policy = with_files(self._asked)
        self.idle: dict[Connection, None] = {}

    @property
    def policy(self) -> AccessPolicy:
        """The limits in force, as far as this process may open files."""
        if self._load.policy is not self._asked:
            self._asked = self._load.policy
            self._policy = with_files(self._asked)
        return self._policy


class Connection(H11Protocol):
    """One connection, which is closed when its client is too slow to send a request, or to read the answer."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: Connections,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._all = server_state
        self._deadline: asyncio.TimerHandle | None = None  # to ask
        self._stuck: asyncio.TimerHandle | None = None  # to take what is sent

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Wait for a request, and close the longest idle connection where there are too many."""
        super().connection_made(transport)
        self._wait()
        # guard load.connections: a crowd of idle callers takes all open files of the process
        if len(self.connections) > self._all.policy.connections:
            next(iter(self._all.idle)).cut()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        super().connection_lost(exc)
        self._stop_waiting()
        self._unstick()

    def data_received(self, data: bytes) -> None:
        """Process received data; once the headers are complete, a request is under way."""
        super().data_received(data)
        if self._is_at_work():
            self._stop_waiting()

    def on_response_complete(self) -> None:
        """Wait for the next request, unless it has come already."""
        super().on_response_complete()
        if not self._is_at_work():
            self._wait()

    def pause_writing(self) -> None:
        """Start a deadline for a client that reads nothing."""
        super().pause_writing()
        # guard load.stuck: callers who take no answer hold connections for ever
        self._stuck = self.loop.call_later(self._all.policy.send_seconds, self.cut)

    def resume_writing(self) -> None:
        """End that deadline."""
        super().resume_writing()
        self._unstick()

    def shutdown(self) -> None:
        """Close after the answer is sent; an incomplete body is given up."""
        super().shutdown()
        if self._is_at_work() and self.conn.their_state is h11.SEND_BODY:
            self.loop.call_later(_LAST_SECONDS, self._give_body_up)

    def cut(self) -> None:
        """Close at once, whatever is left to send."""
        self._stop_waiting()
        self.transport.abort()

    def _is_at_work(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait(self) -> None:
        self._stop_waiting()
        # guard load.silent: callers who never ask hold every connection
        self._deadline = self.loop.call_later(self._all.policy.head_seconds, self.cut)
        self._all.idle[self] = None

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
            self._all.idle.pop(self, None)

    def _unstick(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def _give_body_up(self) -> None:
        if self.conn.their_state is h11.SEND_BODY:
            self.cut()


class Server(uvicorn.Server):
    """uvicorn's server with our connections; `on_stop` is called when it is told to stop."""

    def __init__(self, config: uvicorn.Config, load: Load, on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self.server_state = Connections(load)
        self._on_stop = on_stop

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Listen with a long backlog, and accept a few connections at a time, so that the others are served."""
        await super().startup(sockets)
        for sock in (listening for server in self.servers for listening in server.sockets):
            with fromfd(sock.fileno(), sock.family, sock.type) as queue:
                queue.listen(_QUEUE)

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """End what would run on by itself, then wait for requests under way."""
        self._on_stop()
        await super().shutdown(sockets)


def limit_arenas() -> None:
    """Make all threads allocate from a few malloc arenas; call it before there are threads.

    Changes nothing where MALLOC_ARENA_MAX is set, and without glibc, which alone has arenas.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # guard load.arenas: the memory of the API grows for as long as it is asked
    if mallopt is not None and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(_M_ARENA_MAX, _ARENAS)


def with_files(policy: AccessPolicy) -> AccessPolicy:
    """Raise this process's limit of open files to what its connections need, or lower their number to the limit."""
    wanted = policy.connections + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        _log.info("raised the limit of open files to %d", soft)
        if soft < wanted:
            fewer = max(10, soft - _OTHER_FILES)
            _log.warning(
                "access.connections is %d, and this process may open %d files: at most %d connections. Raise the hard "
                "limit (ulimit -Hn, LimitNOFILE=)",
                policy.connections,
                soft,
                fewer,
            )
            return policy.model_copy(update={"connections": fewer})
    return policy
