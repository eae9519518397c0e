"""Call Cloudflare's API within its rate limit, retry transient errors, and explain every refusal.

The token is sent in one header and appears nowhere else: not in a URL, an error or a log.
"""

import json
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from http import HTTPStatus
from typing import Any

import httpx

from reelkeeper.adapters.http_clients import is_loopback, retry_after_seconds
from reelkeeper.errors import Misconfigured, TokenRefused, UsageUnknown

ANALYTICS, BILLING, R2 = "Account Analytics: Read", "Billing: Read", "Workers R2 Storage: Read"
QUEUES = "Queues: Edit"
CACHE_PURGE = "Cache Purge: Purge"  # of a zone

WINDOW_SECONDS = 300  # "Rate limits": GraphQL allows 300 queries in 5 minutes, REST 1,200; one limit serves both
QUERIES_PER_WINDOW = 280  # the dashboard and other tools of the same user share the 300
ATTEMPTS = 4  # of one request that the server could not serve; the waits add up to about 7 s
MAX_WAIT_SECONDS = 330  # for one request, if Cloudflare asks for it: its window and a margin
SILENCE_SECONDS = 60
_SHOWN = 300  # characters of Cloudflare's message
_PASSING = frozenset({500, 502, 503, 504, 520, 522, 524})  # 52x: of Cloudflare's edge
_NOT_OFFERED = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED})
_BAD_TOKEN = frozenset({1000, 6003, 6103, 6111, 9109})  # codes: invalid, or malformed
_NO_PERMISSION = 10000  # code: "Authentication error", of a valid token without the permission
_TOKEN_WORDS = ("not authorized", "does not have access", "authentication error")
_BUSY_WORDS = ("rate limiter budget depleted", "too many queries in progress", "please try again later")


class Api:
    """An account, and the token that may read it. Safe to share between threads.

    `setting` names the token in an error. Without `has_limit`, requests are not subject to the API's rate limit. Raises
    TokenRefused if the token is expired, mistyped or lacks a permission, which the message names; UsageUnknown if
    Cloudflare gave no complete answer, since an incomplete one is never used.
    """

    def __init__(
        self,
        url: str,
        account_id: str,
        token: str,
        *,
        setting: str = "REELKEEPER_CLOUDFLARE_API_TOKEN",
        has_limit: bool = True,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.account_id = account_id
        self._http = httpx.Client(
            base_url=url.rstrip("/"),
            headers={"Authorization": f"Bearer {token}", "User-Agent": "reelkeeper"},
            timeout=SILENCE_SECONDS,
            trust_env=not is_loopback(url),
        )
        self._clock, self._sleep = clock, sleep
        self._setting, self._has_limit = setting, has_limit
        self._lock = threading.Lock()
        self._sent: deque[float] = deque(maxlen=QUERIES_PER_WINDOW)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def graphql(self, query: str, variables: Mapping[str, object]) -> dict[str, Any]:
        """Query the account's data, its `viewer.accounts[0]`. An incomplete answer is an error."""
        body = {"query": query, "variables": {"account": self.account_id, **variables}}
        answer = self._ask("POST", "/graphql", ANALYTICS, json=body)
        with documented("answer"):
            accounts = ((answer.get("data") or {}).get("viewer") or {}).get("accounts")
        if not accounts:
            raise TokenRefused(
                f"Cloudflare gives this token no data of account {self.account_id}: check REELKEEPER_R2_ACCOUNT_ID, "
                f"and that the token has {ANALYTICS!r} on this account"
            )
        with documented("answer"):
            return dict(accounts[0])

    def get(self, path: str, permission: str, *, jurisdiction: str | None = None, **params: str) -> Any:  # noqa: ANN401  the `result` of any resource
        """Read a resource of the account: its `result`, with decimals as Decimal. None if it does not exist."""
        headers = {"cf-r2-jurisdiction": jurisdiction} if jurisdiction else {}
        answer = self._ask("GET", f"/accounts/{self.account_id}{path}", permission, params=params, headers=headers)
        found = answer.get("result")
        with documented("count of rows"):
            rows = int((answer.get("result_info") or {}).get("total_count") or 0)
        if isinstance(found, list) and rows > len(found):
            raise UsageUnknown(
                f"Cloudflare {path}: only {len(found):,} of {rows:,} rows were received, so they are not used"
            )
        return found

    def post(self, path: str, permission: str, body: Mapping[str, object]) -> Any:  # noqa: ANN401  any `result`
        """POST a repeatable request to the account; return the `result`, with decimals as Decimal."""
        return self._ask("POST", f"/accounts/{self.account_id}{path}", permission, json=body).get("result")

    def post_to_zone(self, zone_id: str, path: str, permission: str, body: Mapping[str, object]) -> None:
        """POST a repeatable request to a zone."""
        self._ask("POST", f"/zones/{zone_id}{path}", permission, json=body)

    def _ask(self, method: str, path: str, permission: str, **content: Any) -> dict[str, Any]:  # noqa: ANN401  httpx's
        waited, attempt = 0.0, 1
        problem: str | None
        while True:
            self._keep_to_the_limit()
            try:
                response = self._http.request(method, path, **content)
                answer = _parsed(response)
            except httpx.UnsupportedProtocol as error:
                raise Misconfigured(f"REELKEEPER_CLOUDFLARE_API_URL: {error}") from None
            except httpx.HTTPError as error:
                problem, wait = f"{type(error).__name__}: {error}", None
            else:
                problem, wait = self._problem(response, answer, permission)
                if problem is None:
                    return answer
            if wait is None:  # without a given time
                if attempt == ATTEMPTS:
                    raise UsageUnknown(f"Cloudflare {path}: {problem}, {ATTEMPTS} times; try again later")
                wait = random.uniform(0.5, 1) * (1 << attempt)  # noqa: S311  jitter, not a secret
                attempt += 1
            waited += wait
            if waited > MAX_WAIT_SECONDS:
                raise UsageUnknown(
                    f"Cloudflare {path}: {problem}; it asks to wait {waited:,.0f} s, and at most "
                    f"{MAX_WAIT_SECONDS} s are allowed here. The next run tries again"
                )
            self._sleep(wait)

    def _problem(
        self, response: httpx.Response, answer: Mapping[str, Any], permission: str
    ) -> tuple[str | None, float | None]:
        """Return why Cloudflare did not answer, and how long to wait; None if it answered. Raises final refusals."""
        errors = _errors(answer)
        message = _message(errors) or f"HTTP {response.status_code}"
        if response.status_code == HTTPStatus.OK and not errors and answer.get("success", True):
            return None, None
        if response.status_code in _NOT_OFFERED and response.request.method == "GET":
            return None, None
        if response.status_code == HTTPStatus.TOO_MANY_REQUESTS:
            return message, retry_after_seconds(response.headers, WINDOW_SECONDS)
        if any(word in message.lower() for word in _BUSY_WORDS):
            return message, WINDOW_SECONDS if "budget" in message.lower() else None
        if response.status_code in _PASSING:
            return message, None
        codes = {error["code"] for error in errors if isinstance(error.get("code"), int)}
        if response.status_code == HTTPStatus.UNAUTHORIZED or codes & _BAD_TOKEN or message.lower() == "unauthorized":
            raise TokenRefused(
                f"Cloudflare does not accept {self._setting} ({message}): it is expired, revoked or mistyped. Make a "
                f"new one with {self._needed(permission)}"
            )
        if (
            response.status_code == HTTPStatus.FORBIDDEN
            or _NO_PERMISSION in codes
            or any(word in message.lower() for word in _TOKEN_WORDS)
        ):
            raise TokenRefused(
                f"{self._setting} lacks the permission {permission!r} on account {self.account_id} "
                f"({message}); add it under My Profile, API Tokens"
            )
        raise UsageUnknown(f"Cloudflare {response.url.path} answered {response.status_code}: {message}")

    def _needed(self, permission: str) -> str:
        return f"{ANALYTICS!r} and, for the billed amounts, {BILLING!r}" if self._has_limit else repr(permission)

    def _keep_to_the_limit(self) -> None:
        if not self._has_limit:
            return
        with self._lock:
            while len(self._sent) == QUERIES_PER_WINDOW and (
                (early := self._sent[0] + WINDOW_SECONDS - self._clock()) > 0
            ):
                self._sleep(early)
            self._sent.append(self._clock())


@contextmanager
def documented(what: str) -> Iterator[None]:
    """Parse an answer of the documented shape; raise UsageUnknown for any other, which must not be read as zero."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise UsageUnknown(f"Cloudflare's {what} is not as documented: {type(error).__name__}: {error}") from error


def _parsed(response: httpx.Response) -> dict[str, Any]:
    try:
        answer = json.loads(response.text, parse_float=Decimal)
    except ValueError:
        answer = None
    if isinstance(answer, dict):
        return answer
    if response.status_code == HTTPStatus.OK:
        raise httpx.DecodingError("status 200, but the body is not a JSON object", request=response.request)
    return {}


def _errors(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = answer.get("errors") or []
    listed = found if isinstance(found, list) else [found]
    return [item if isinstance(item, dict) else {"message": str(item)} for item in listed]


def _message(errors: list[dict[str, Any]]) -> str:
    words = []
    for error in errors:
        code = f" [{error['code']}]" if error.get("code") else ""
        words.append(f"{error.get('message', 'no message')}{code}")
    return "; ".join(words)[:_SHOWN]
