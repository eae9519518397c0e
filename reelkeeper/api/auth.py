"""Check each request before its route: the token, the caller's rate, and the size and pace of the body.

It runs before routing, so that an unknown path looks like a known one to somebody without a token. A valid token is
cached for a few seconds, so that not every request costs a look-up; a revoked one still works for that long. Each
process counts a caller's rate by itself.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Final

from anyio.to_thread import run_sync
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reelkeeper.api.load import Load, Shed
from reelkeeper.api.problems import problem
from reelkeeper.api.routes import hooks, images, jobs
from reelkeeper.model.access import Caller
from reelkeeper.operations.core.tokens import authenticate
from reelkeeper.operations.videos.images import MAX_BYTES
from reelkeeper.rules.core.access import Allowance, body_deadline, take

HEALTH: Final = frozenset({"/healthz", "/readyz"})
OPEN: Final = HEALTH | {"/openapi.json", hooks.PATH, hooks.SLACK_PATH}
TRUSTED_SECONDS: Final = 5.0
_MAX_TRUSTED: Final = 10_000  # tokens; all are forgotten beyond it


class AuthMiddleware:
    """Checks token, rate and body of each request before its route is called."""

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
        self._trusted: dict[str, tuple[Caller, float]] = {}  # token -> its caller, and until when
        self._left: dict[str, Allowance] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, headers, token_id = scope["path"], Headers(scope=scope), "none"
        try:
            if path not in HEALTH:
                self._load.check()
            # guard auth.every_path: a caller without a token is let in
            if path not in OPEN:
                caller = await self._admitted(headers)
                scope.setdefault("state", {})["caller"] = caller
                token_id = caller.token_id
            most_bytes = MAX_BYTES if path == images.PATH else self._load.policy.body_bytes
            # guard auth.length: a body of any size is read into memory
            _check_length(headers.get("content-length", "0"), most_bytes)
            counted = path not in HEALTH and not path.endswith(jobs.EVENTS)
            with self._load.requests.taken(token_id) if counted else nullcontext():
                await self._app(scope, self._limited(receive, most_bytes), send)
        except Shed as refused:  # before the app: it answers its own
            answer = problem(refused.status_code, refused.kind, refused.detail, headers=refused.headers)
            await answer(scope, receive, send)

    async def _admitted(self, headers: Headers) -> Caller:
        """Identify the caller. Raises Shed for an unknown one, and for one with too many requests."""
        try:
            caller = await self._caller(headers)
        except SQLAlchemyError:
            raise Shed(503, "store", "The store does not answer.") from None
        # guard auth.known: a caller with an unknown token is let in
        if caller is None:
            detail = "Send Authorization: Bearer TOKEN, of a token that is known, not over and not revoked."
            raise Shed(401, "token", detail, {"WWW-Authenticate": "Bearer"})
        wait = self._wait(caller)
        # guard auth.rate: one caller takes the API from all others
        if wait:
            detail = f"token {caller.token_id} may ask {self._load.policy.requests_a_second:g} times a second"
            raise Shed(429, "rate", detail, {"Retry-After": str(int(wait) + 1)})
        return caller

    async def _caller(self, headers: Headers) -> Caller | None:
        kind, _, text = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer":
            return None
        text = text.strip()
        at = self._clock()
        found = self._trusted.get(text)
        # guard auth.trusted_for_seconds: a token that was revoked works as long as the process lives
        if found and found[1] > at:
            return found[0]
        if found:  # one request looks it up again, and the others go on meanwhile
            self._trusted[text] = found[0], at + self._load.policy.wait_seconds
        async with (self._load.known if found else self._load.unknown).turn():
            caller = await run_sync(authenticate, self._engine, text)
        if caller is None:
            self._trusted.pop(text, None)
            return None
        if len(self._trusted) >= _MAX_TRUSTED:
            self._trusted.clear()
        self._trusted[text] = (caller, at + TRUSTED_SECONDS)
        return caller

    def _wait(self, caller: Caller) -> float:
        left, wait = take(self._left.get(caller.token_id), self._load.policy, self._clock())
        self._left[caller.token_id] = left
        return wait

    def _limited(self, receive: Receive, most_bytes: int) -> Receive:
        """Raise Shed, within the app, for a body that is too large or too slow. The rest of it is still read."""
        taken, began, is_whole = 0, self._clock(), False

        async def limited() -> Message:
            nonlocal taken, is_whole
            if is_whole:
                return await receive()
            left = began + body_deadline(self._load.policy, taken) - self._clock()
            try:
                # guard auth.slow_body: bodies that dribble hold every place of the API
                async with asyncio.timeout(left):
                    message = await receive()
            except TimeoutError:
                raise Shed(408, "too-slow", f"{taken:,} bytes of the body came in time") from None
            taken += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            # guard auth.body: a body that does not say its size fills the memory
            if taken > most_bytes:
                raise Shed(413, "too-large", _limit(most_bytes))
            return message

        return limited


def _check_length(text: str, most_bytes: int) -> None:
    if not text.isascii() or not text.isdigit() or int(text) > most_bytes:
        raise Shed(413, "too-large", _limit(most_bytes))


def _limit(most_bytes: int) -> str:
    return f"a body has at most {most_bytes:,} bytes"
