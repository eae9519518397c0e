"""Serve the app on connections with deadlines, so that idle callers cannot occupy them.

uvicorn has no timeout for the first byte, for headers or for a client that reads nothing, and its `limit_concurrency`
answers 503 to all, even to health checks. Here a connection without a request has a deadline, and when there are too
many connections, the one that has been idle longest is closed. Only methods of asyncio's protocol, and those that
uvicorn's server calls, are extended; `tests/api/test_doors.py` shows what breaks if uvicorn changes.
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
from reelkeeper.rules.core.request_limits import HEAD_SECONDS, SEND_SECONDS, AccessPolicy

_OTHER_FILES: Final = 200  # the store's, the bucket's and logs; the API itself opens about 60
LET_IN: Final = 64  # connections accepted per turn of the event loop; asyncio uses it as the backlog as well
_QUEUE: Final = 4_096  # backlog: connections that wait to be accepted; Linux's default maximum
_LAST_SECONDS: Final = 3.0  # for a body that is still arriving when the server stops
_M_ARENA_MAX: Final = -8  # mallopt(3)
_ARENAS: Final = 2  # glibc's default is eight per core, whose fragmentation grows for hours: 40 MB more, and no faster
_log = logging.getLogger(__name__)


class Connections(ServerState):
    """All connections of a server, and the idle ones, longest idle first."""

    def __init__(self, load: Load) -> None:
        super().__init__()
        self._load = load
        self._configured = load.policy
        self._policy = with_files(self._configured)
        self.idle: dict[Connection, None] = {}

    @property
    def policy(self) -> AccessPolicy:
        """The limits in force, reduced to the files that this process may open."""
        if self._load.policy is not self._configured:
            self._configured = self._load.policy
            self._policy = with_files(self._configured)
        return self._policy


class Connection(H11Protocol):
    """One connection, closed if its client is too slow to send a request or to read the answer."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: Connections,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._all = server_state
        self._deadline: asyncio.TimerHandle | None = None  # to send a request
        self._stuck: asyncio.TimerHandle | None = None  # to read the answer

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's signature
        """Wait for a request, and close the longest idle connection if there are too many."""
        super().connection_made(transport)
        self._wait()
        # guard load.connections: many idle callers use up all open files of the process
        if len(self.connections) > self._all.policy.connections:
            next(iter(self._all.idle)).cut()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        super().connection_lost(exc)
        self._stop_waiting()
        self._unstick()

    def data_received(self, data: bytes) -> None:
        """Process received data; the deadline ends once the headers are complete."""
        super().data_received(data)
        if self._is_at_work():
            self._stop_waiting()

    def on_response_complete(self) -> None:
        """Wait for the next request, unless it has already arrived."""
        super().on_response_complete()
        if not self._is_at_work():
            self._wait()

    def pause_writing(self) -> None:
        """Start a deadline for a client that does not read."""
        super().pause_writing()
        # guard load.stuck: callers that do not read their answer hold connections for ever
        self._stuck = self.loop.call_later(SEND_SECONDS, self.cut)

    def resume_writing(self) -> None:
        """End that deadline."""
        super().resume_writing()
        self._unstick()

    def shutdown(self) -> None:
        """Close once the answer is sent; an incomplete body is abandoned after some seconds."""
        super().shutdown()
        if self._is_at_work() and self.conn.their_state is h11.SEND_BODY:
            self.loop.call_later(_LAST_SECONDS, self._give_body_up)

    def cut(self) -> None:
        """Close at once, even if data is left to send."""
        self._stop_waiting()
        self.transport.abort()

    def _is_at_work(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait(self) -> None:
        self._stop_waiting()
        # guard load.silent: callers that send no request hold all connections
        self._deadline = self.loop.call_later(HEAD_SECONDS, self.cut)
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
    """uvicorn's server with these connections; it calls `on_stop` when it begins to stop."""

    def __init__(self, config: uvicorn.Config, load: Load, on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self.server_state = Connections(load)
        self._on_stop = on_stop

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Listen with a long backlog, and accept few connections at a time, so that open ones are served meanwhile."""
        await super().startup(sockets)
        for sock in (listening for server in self.servers for listening in server.sockets):
            with fromfd(sock.fileno(), sock.family, sock.type) as queue:
                queue.listen(_QUEUE)

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Call `on_stop`, then wait for running requests."""
        self._on_stop()
        await super().shutdown(sockets)


def limit_arenas() -> None:
    """Limit the malloc arenas that threads allocate from; call it before any thread starts.

    Changes nothing if MALLOC_ARENA_MAX is set, or on a libc other than glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # guard load.arenas: the memory of the API grows as long as it serves requests
    if mallopt is not None and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(_M_ARENA_MAX, _ARENAS)


def with_files(policy: AccessPolicy) -> AccessPolicy:
    """Raise this process's limit of open files to suit its connections, or else reduce their number."""
    wanted = policy.connections + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        _log.info("raised the limit of open files to %d", soft)
        if soft < wanted:
            fewer = max(10, soft - _OTHER_FILES)
            _log.warning(
                "access.connections is %d, but this process may open only %d files: it accepts %d connections. To "
                "allow more, raise the hard limit (ulimit -Hn, LimitNOFILE=)",
                policy.connections,
                soft,
                fewer,
            )
            return policy.model_copy(update={"connections": fewer})
    return policy
