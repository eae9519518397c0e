"""Prometheus metrics of this process's requests. Metrics of the whole service are in `collector`."""

import re
import time
from typing import Final
from uuid import uuid4

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reelkeeper.logs import bound

REQUEST_ID: Final = "x-request-id"  # header of requests and answers
_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Requests:
    """The outermost middleware: counts and times every answer, labelled by route pattern instead of path."""

    def __init__(self, app: ASGIApp, registry: CollectorRegistry) -> None:
        self._app = app
        self._answers = Counter(
            "reelkeeper_http_answers", "Answers by route and status", ("method", "route", "status"), registry=registry
        )
        self._seconds = Histogram(
            "reelkeeper_http_seconds",
            "Seconds until the answer was sent",
            ("method", "route"),
            buckets=_SECONDS,
            registry=registry,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, began, request_id = 500, time.perf_counter(), _request_id(scope)

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        try:
            with bound(request_id=request_id):
                await self._app(scope, receive, noting)
        finally:
            route = getattr(scope.get("route"), "path_format", "other")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._answers.labels(method, route, str(status)).inc()
            self._seconds.labels(method, route).observe(time.perf_counter() - began)


def _request_id(scope: Scope) -> str:
    """Return the request id sent by the caller, if it is safe to log, or else a new one."""
    given = Headers(scope=scope).get(REQUEST_ID, "")
    return given if re.fullmatch(r"[\w.:/+=-]{1,128}", given, re.ASCII) else uuid4().hex


_METHODS: Final = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
