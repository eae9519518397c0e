"""Before any route: whose token is it, has the caller asked too often, is the body too large.

It stands before routing, so a path that is not there looks the same to somebody without a token as one that is.
A token that was found is trusted for a few seconds, so that a request does not cost a look-up; so long does one that
was revoked still work. What a caller has left is known to this process alone.
"""

import time
from collections.abc import Callable
from typing import Final

from anyio.to_thread import run_sync
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reelkeeper.api.problems import problem
from reelkeeper.api.routes import hooks, images
from reelkeeper.model.access import Caller
from reelkeeper.operations.images import MOST_BYTES
from reelkeeper.operations.tokens import authenticate
from reelkeeper.rules.access import AccessPolicy, Allowance, take

OPEN: Final = frozenset({"/healthz", "/readyz", "/openapi.json", hooks.PATH})
TRUSTED_SECONDS: Final = 5.0
_MOST_TRUSTED: Final = 10_000  # tokens; all are forgotten beyond it


class Gate:
    """The middleware."""

    def __init__(
        self, app: ASGIApp, engine: Engine, policy: AccessPolicy, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._app = app
        self._engine = engine
        self._policy = policy
        self._clock = clock
        self._trusted: dict[str, tuple[Caller, float]] = {}  # token -> its caller, and until when
        self._left: dict[str, Allowance] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if scope["path"] not in OPEN:
            try:
                caller = await self._caller(headers)
            except SQLAlchemyError:
                answer = problem(503, "store", "The store does not answer.", headers={"Retry-After": "1"})
                await answer(scope, receive, send)
                return
            if caller is None:
                detail = "Send Authorization: Bearer TOKEN, of a token that is known, not over and not revoked."
                answer = problem(401, "token", detail, headers={"WWW-Authenticate": "Bearer"})
                await answer(scope, receive, send)
                return
            wait = self._wait(caller)
            if wait:
                detail = f"token {caller.token_id} may ask {self._policy.requests_a_second:g} times a second"
                answer = problem(429, "rate", detail, headers={"Retry-After": str(int(wait) + 1)})
                await answer(scope, receive, send)
                return
            scope.setdefault("state", {})["caller"] = caller
        length = headers.get("content-length", "0")
        most_bytes = MOST_BYTES if scope["path"] == images.PATH else self._policy.body_bytes
        if not length.isascii() or not length.isdigit() or int(length) > most_bytes:
            await problem(413, "too-large", _limit(most_bytes))(scope, receive, send)
            return
        await self._app(scope, _limited(receive, most_bytes), send)

    async def _caller(self, headers: Headers) -> Caller | None:
        kind, _, text = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer":
            return None
        text = text.strip()
        at = self._clock()
        found = self._trusted.get(text)
        if found and found[1] > at:
            return found[0]
        caller = await run_sync(authenticate, self._engine, text)
        if caller is None:
            self._trusted.pop(text, None)
            return None
        if len(self._trusted) >= _MOST_TRUSTED:
            self._trusted.clear()
        self._trusted[text] = (caller, at + TRUSTED_SECONDS)
        return caller

    def _wait(self, caller: Caller) -> float:
        left, wait = take(self._left.get(caller.token_id), self._policy, self._clock())
        self._left[caller.token_id] = left
        return wait


def _limit(most_bytes: int) -> str:
    return f"a body has at most {most_bytes:,} bytes"


def _limited(receive: Receive, most_bytes: int) -> Receive:
    taken = 0

    async def limited() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > most_bytes:
            raise HTTPException(413, _limit(most_bytes))
        return message

    return limited
