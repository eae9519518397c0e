"""Check each request before routing: its token, the caller's rate, and the size and speed of its body.

Because this runs before routing, callers without a token cannot tell known paths from unknown ones. A valid token is
cached for a second to save look-ups, so a revoked token still works for that long. Each process counts the callers'
rates separately, and every answer to a caller says what is left of its rate.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Final

from anyio.to_thread import run_sync
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reelkeeper.api.load import Load, Shed
from reelkeeper.api.problems import REPLAYED, problem
from reelkeeper.api.routes import hooks, images, jobs
from reelkeeper.model.token_scopes import Caller
from reelkeeper.operations import Engine
from reelkeeper.operations.core.tokens import authenticate
from reelkeeper.operations.videos.images import MAX_BYTES
from reelkeeper.rules.core.request_limits import (
    BODY_BYTES,
    AccessPolicy,
    Allowance,
    body_deadline,
    next_seconds,
    take,
    window,
)

HEALTH: Final = frozenset({"/healthz", "/readyz"})
OPEN: Final = HEALTH | hooks.PATHS | {"/openapi.json", hooks.SLACK_PATH}
TRUSTED_SECONDS: Final = 1.0  # counted from before the look-up
_DUE_SECONDS: Final = 0.5  # until one request looks the token up again, so that others need not wait for it
_MAX_TRUSTED: Final = 10_000  # cached tokens; when it is reached, the cache is emptied


@dataclass
class _Trusted:
    """The caller of a cached token, when it is due to be looked up again, and until when it is trusted."""

    caller: Caller
    due: float
    until: float


class AuthMiddleware:
    """Checks the token, rate and body of each request before its route is called."""

    def __init__(
        self,
        app: ASGIApp,
        engine: Engine,
        load: Load,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._engine = engine
        self._load = load
        self._clock = clock
        self._trusted: dict[str, _Trusted] = {}
        self._left: dict[str, Allowance] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it with a problem."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, headers, token_id = scope["path"], Headers(scope=scope), "none"
        try:
            if path not in HEALTH:
                self._load.check()
                self._load.require_schema()
            # guard auth.every_path: callers without a token are admitted
            if path not in OPEN:
                caller, rate = await self._admitted(headers)
                state = scope.setdefault("state", {})
                state.update(caller=caller, is_known=partial(self._is_known, headers))
                send = _stating(send, rate, state)
                token_id = caller.token_id
            most_bytes = MAX_BYTES if path == images.PATH else BODY_BYTES
            # guard auth.length: a body of any size is read into memory
            _check_length(headers.get("content-length", "0"), most_bytes)
            counted = path not in HEALTH and not path.endswith(jobs.EVENTS)
            with self._load.requests.taken(token_id) if counted else nullcontext():
                await self._app(scope, self._limited(receive, most_bytes), send)
        except Shed as refused:  # raised before the app, which answers its own errors
            answer = problem(refused.status_code, refused.kind, refused.detail, headers=refused.headers)
            await answer(scope, receive, send)

    async def _admitted(self, headers: Headers) -> tuple[Caller, dict[str, str]]:
        """Identify the caller, and say what is left of its rate.

        Raises Shed for an unknown caller, or one that exceeds its rate.
        """
        try:
            caller = await self._caller(headers)
        except SQLAlchemyError:
            raise Shed(503, "store", "The store does not answer; try again.") from None
        # guard auth.known: callers with an unknown token are admitted
        if caller is None:
            detail = "Send `Authorization: Bearer TOKEN`, with a token that is known, not expired and not revoked."
            raise Shed(401, "token", detail, {"WWW-Authenticate": "Bearer"})
        policy = self._load.policy
        left, wait = take(self._left.get(caller.token_id), policy, self._clock())
        self._left[caller.token_id] = left
        rate = _rate(policy, left)
        # guard auth.rate: one caller's requests block all others
        if wait:
            detail = f"token {caller.token_id} is limited to {policy.requests_a_second:g} requests per second"
            raise Shed(429, "rate", detail, {"Retry-After": str(next_seconds(left, policy)), **rate})
        return caller, rate

    async def _caller(self, headers: Headers) -> Caller | None:
        kind, _, text = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer":
            return None
        text = text.strip()
        at = self._clock()
        found = self._trusted.get(text)
        # guard auth.trusted_for_seconds: a revoked token works until the process ends
        if found and found.due > at:
            return found.caller
        if found:  # this request looks it up again; others use the entry for the rest of its second
            found.due = found.until
        async with (self._load.known if found else self._load.unknown).turn():
            caller = await run_sync(authenticate, self._engine, text)
        if caller is None:
            # guard auth.dropped: others go on with a token that one request has found to be revoked
            self._trusted.pop(text, None)
            return None
        if len(self._trusted) >= _MAX_TRUSTED:
            self._trusted.clear()
        self._trusted[text] = _Trusted(caller, at + _DUE_SECONDS, at + TRUSTED_SECONDS)
        return caller

    async def _is_known(self, headers: Headers) -> bool:
        """Check the caller again, between the events of a long answer; False too if the store does not answer."""
        try:
            return await self._caller(headers) is not None
        except (SQLAlchemyError, Shed):
            return False

    def _limited(self, receive: Receive, most_bytes: int) -> Receive:
        """Wrap `receive`: a body that is too large or too slow raises Shed in the app. The rest of it is still read."""
        taken, began, is_whole = 0, self._clock(), False

        async def limited() -> Message:
            nonlocal taken, is_whole
            if is_whole:
                return await receive()
            left = began + body_deadline(taken) - self._clock()
            try:
                # guard auth.slow_body: slow bodies occupy all places of the API
                async with asyncio.timeout(left):
                    message = await receive()
            except TimeoutError:
                raise Shed(408, "too-slow", f"only {taken:,} bytes of the body arrived in time") from None
            taken += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            # guard auth.body: a body without a declared size fills the memory
            if taken > most_bytes:
                raise Shed(413, "too-large", _limit(most_bytes))
            return message

        return limited


def _rate(policy: AccessPolicy, left: Allowance) -> dict[str, str]:
    """Format a caller's rate as the headers of draft-ietf-httpapi-ratelimit-headers-11."""
    requests, seconds = window(policy)
    return {
        "RateLimit-Policy": f'"token";q={requests};w={seconds}',
        "RateLimit": f'"token";r={int(left.requests)};t={next_seconds(left, policy)}',
    }


def _stating(send: Send, rate: Mapping[str, str], state: Mapping[str, object]) -> Send:
    """Wrap `send`: each answer says the rate, and one that an idempotency key has brought back says so."""

    async def stating(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.update(rate)
            if state.get("replays"):
                headers[REPLAYED] = "true"
        await send(message)

    return stating


def _check_length(text: str, most_bytes: int) -> None:
    if not text.isascii() or not text.isdigit() or int(text) > most_bytes:
        raise Shed(413, "too-large", _limit(most_bytes))


def _limit(most_bytes: int) -> str:
    return f"the body may have at most {most_bytes:,} bytes"
