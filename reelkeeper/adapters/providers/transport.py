"""Call a provider: one request without retries, and the meaning of each outcome for a new job.

not connected, 425           certainly not accepted, may be sent again
429, a 4xx about too many    the same, and it holds for all jobs of the provider
another 4xx, not 408/409/499  certainly not accepted, and never will be
everything else              possibly accepted: sending it again may mean paying twice
"""

import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urljoin, urlsplit

import httpx

from reelkeeper.adapters import public
from reelkeeper.adapters.http_clients import retry_after_seconds
from reelkeeper.adapters.providers.contract import Order, Standing, Status
from reelkeeper.errors import (
    AccountLocked,
    AddressRefused,
    ContentRefused,
    GenerationLost,
    GenerationRefused,
    GenerationUnknown,
    ProviderBusy,
    ProviderDown,
    ProviderFull,
    ResultUnreadable,
)
from reelkeeper.model.alerts import one_line
from reelkeeper.model.jobs import VendorErasure
from reelkeeper.model.money import MICRO

GONE: Final = {404, 410}
CLOCKS_DIFFER: Final = timedelta(minutes=5)  # at most, of the store and a provider
_NO_CALL: Final = {405, 501}
_TOO_EARLY: Final = 425  # sent before a request is processed
_REFUSED: Final = {400, 403, 422}  # which say it in words
_NOT_LET_IN: Final = {401, 402}  # concerns the account, not the job
_BUSY_SECONDS: Final = 30.0  # until the next attempt, if the provider gives no time
_MAX_USD: Final = Decimal(10_000)
_LARGEST: Final = 10**12
_MAX_NAME: Final = 300  # characters of a provider's id of a job
_MAX_WORDS: Final = 300  # characters of a provider's error message
_MAX_ANSWER: Final = 8 * 1024 * 1024  # bytes: a page of a list holds a hundred prompts and more
_ABOUT_CONTENT: Final = re.compile(
    r"content.?policy|policy.violation|moderat|safety|nsfw|sensitive|prohibited|not.allowed.content", re.IGNORECASE
)
# Replicate: "Request was throttled. Your rate limit resets in ~30s."; DashScope: Throttling.RateQuota; others speak of
# requests per minute, or of too many concurrent tasks (their pages on errors, November 2026).
_ABOUT_RATE: Final = re.compile(r"rate.?(limit|quota|exceeded)|throttl|per.?(second|minute|hour|day)", re.IGNORECASE)
_ABOUT_NUMBER: Final = re.compile(
    r"concurren|parallel|simultaneous|in.?progress|at (once|the same time)|too many \w*\s?(tasks|jobs|generations)",
    re.IGNORECASE,
)
_TOO_MANY: Final = re.compile(
    r"too many (\w+ )?(requests|tasks|jobs|generations|predictions)|(concurren\w+|rate).{0,10} limit", re.IGNORECASE
)
_ABOUT_MONEY: Final = re.compile(r"locked|balance|billing|credit|quota|suspended", re.IGNORECASE)


class Answer(NamedTuple):
    """A provider's answer: `body` is its JSON, or None if it is not JSON."""

    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def is_success(self) -> bool:
        """Check whether the status is 2xx."""
        return 200 <= self.status < 300  # noqa: PLR2004  "success"

    @property
    def fields(self) -> dict[str, Any]:
        """The body's fields; empty if it is not an object."""
        return self.body if isinstance(self.body, dict) else {}


class Transport:
    """Calls of one provider, to public addresses only, unless `allow_private`.

    A video is fetched from the provider's own host and from `hosts`, with their subdomains; None: from any host.
    `headers` contain the key, and are sent only to the provider's own host.
    """

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str],
        *,
        hosts: tuple[str, ...] | None = None,
        allow_private: bool = False,
        timeout_seconds: float = 30.0,
        download_seconds: float = 600.0,
    ) -> None:
        self.url, self._headers, self._hosts = url.rstrip("/"), dict(headers), hosts
        self._allow_private, self._timeout_seconds = allow_private, timeout_seconds
        self._download_seconds = download_seconds

    def submit(self, path: str, body: Mapping[str, Any] | bytes, headers: Mapping[str, str] | None = None) -> Answer:
        """Send a new job, once. Raises errors by the table above."""
        try:
            answer = self._call("POST", path, body, headers)
        # guard provider.not_reached: a job whose answer was lost counts as never sent, and is paid twice
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, AddressRefused) as error:
            raise ProviderDown(f"the provider could not be reached: {public.cause(error)}", _BUSY_SECONDS) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise GenerationUnknown(f"the provider gave no complete answer: {public.cause(error)}") from None
        status, reason = answer.status, words(answer.body)
        seconds = retry_after_seconds(answer.headers, _BUSY_SECONDS)
        if status == _TOO_EARLY:
            raise ProviderBusy(f"the provider accepts no jobs at the moment: it answered {status}", seconds)
        # guard provider.too_many: a job is given up for good since its provider has enough of others at the moment
        if status == httpx.codes.TOO_MANY_REQUESTS or (status in _REFUSED and _TOO_MANY.search(reason)):
            told = f"the provider takes no more jobs at the moment: it answered {status}, {reason}"
            raise ProviderFull(told, seconds, is_rate=_is_rate(reason))
        if status in _NOT_LET_IN or (status == httpx.codes.FORBIDDEN and _ABOUT_MONEY.search(reason)):
            raise AccountLocked(f"the provider refuses this account: {status}, {reason}", _BUSY_SECONDS)
        # guard provider.conflict: a job that was sent twice counts as refused, although it is made and paid
        if 400 <= status < 500 and status not in (408, 409, 499):  # noqa: PLR2004  "client error", but for timeouts and a conflict
            kind = ContentRefused if is_about_content(answer.body) else GenerationRefused
            raise kind(f"the provider answered {status}: {reason}")
        if not answer.is_success:
            # guard provider.in_doubt: a provider's error counts as a refusal, and the job is paid twice
            raise GenerationUnknown(f"the provider answered {status} to a new job, and may or may not have it")
        return answer

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Answer:
        """Send a repeatable request. Raises GenerationUnknown if there was no answer."""
        try:
            return self._call(method, path, body)
        except AddressRefused as refused:
            raise GenerationUnknown(f"a URL of the provider is refused: {refused}") from refused
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise GenerationUnknown(f"the provider gave no complete answer: {public.cause(error)}") from None

    def get(self, path: str, what: str) -> Answer | None:
        """GET a resource; None if the provider does not have it. Raises GenerationUnknown for every other failure."""
        answer = self.ask("GET", path)
        if answer.status in GONE:
            return None
        if not answer.is_success:
            raise GenerationUnknown(f"the provider answered {answer.status} when asked for {what}")
        return answer

    def tell(self, method: str, path: str) -> None:
        """Send a request whose answer does not matter."""
        try:
            self.ask(method, path)
        except GenerationUnknown:
            return

    def fetch(self, video_url: str, target: Path, most_bytes: int) -> None:
        """Store a video. Raises GenerationLost if it no longer exists, ResultUnreadable if it was not received."""
        try:
            url = urljoin(f"{self.url}/", video_url)
        # guard provider.no_address: a paid video is given up within minutes, since its address is malformed
        except ValueError:
            raise ResultUnreadable("the video is at no valid URL") from None
        is_same_host = urlsplit(url)[:2] == urlsplit(self.url)[:2]
        # guard provider.hosts: a forged answer makes us download a video from any host
        if not is_same_host and not self._is_listed(url):
            host = (urlsplit(url).hostname or "")[:100]
            raise ResultUnreadable(
                f"the video is at {host!r}, not a host of the provider. To allow it: REELKEEPER_GENERATOR_HOSTS"
            )
        ends = time.monotonic() + self._download_seconds
        try:
            # guard provider.token_at_home: our token is sent to any address that an answer names
            with self._streamed("GET", url, self._headers if is_same_host else {}) as answer, target.open("wb") as file:
                if answer.status_code in GONE or (answer.status_code == httpx.codes.FORBIDDEN and not is_same_host):
                    raise GenerationLost(f"the provider no longer has the video: it answered {answer.status_code}")
                if not answer.is_success:
                    raise ResultUnreadable(f"the provider answered {answer.status_code} when asked for a video")
                # guard provider.video_size: an endless video fills the disk
                for chunk in public.chunks(answer, most_bytes):
                    file.write(chunk)
                    if time.monotonic() > ends:
                        raise ResultUnreadable(f"the video was not received within {self._download_seconds:.0f} s")
        except (httpx.HTTPError, httpx.InvalidURL, AddressRefused) as error:
            raise ResultUnreadable(f"the video was not received: {public.cause(error)}") from None

    @property
    def sources(self) -> tuple[str, ...] | None:
        """The hosts that videos are fetched from, with the subdomains of all but the first; None: any."""
        return None if self._hosts is None else (urlsplit(self.url).hostname or "", *self._hosts)

    def _is_listed(self, url: str) -> bool:
        host = urlsplit(url).hostname or ""
        return self._hosts is None or any(host == name or host.endswith(f".{name}") for name in self._hosts)

    def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        is_json = body is not None and not isinstance(body, bytes)
        content = json.dumps(body).encode() if is_json else body
        kind = {"Content-Type": "application/json"} if is_json else {}
        all_headers = {**self._headers, **kind, **(headers or {})}
        with self._streamed(method, f"{self.url}{path}", all_headers, content) as answer:  # type: ignore[arg-type]  # bytes by now
            text = public.read(answer, _MAX_ANSWER)
            try:
                return Answer(answer.status_code, answer.headers, json.loads(text))
            # guard provider.nested: an answer that is nested too deeply ends the job, although it may be made and paid
            except (ValueError, RecursionError):
                return Answer(answer.status_code, answer.headers, None)

    @contextmanager
    def _streamed(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes | None = None
    ) -> Iterator[httpx.Response]:
        with public.streamed(
            method,
            url,
            # guard provider.public: the video's address in an answer leads into our network
            allow_private=self._allow_private,
            headers=dict(headers),
            content=content,
            timeout_seconds=self._timeout_seconds,
        ) as answer:
            yield answer


class OverHttp:
    """The common part of providers that are called over HTTP. Each sets `_calls`."""

    _calls: Transport

    @property
    def url(self) -> str:
        """The address of its API."""
        return self._calls.url

    @property
    def sources(self) -> tuple[str, ...] | None:
        """As those of its Transport."""
        return self._calls.sources

    def unit_usd(self, order: Order) -> Decimal | None:  # noqa: ARG002  as in Provider
        """Return None: it bills no units."""
        return None

    def find(self, order: Order) -> Standing | None:
        """Raise GenerationUnknown, since the provider guarantees no way."""
        raise GenerationUnknown(f"the provider cannot look up {order.provider_key!r}")

    def fetch(self, video_url: str, target: Path, most_bytes: int) -> None:
        """Store the video; its URL may be relative to the provider's."""
        self._calls.fetch(video_url, target, most_bytes)

    def erase(self, job_id: str) -> VendorErasure:  # noqa: ARG002  as in Provider
        """Delete nothing: it has no such call."""
        return VendorErasure.KEPT


def erased(answer: Answer, *, says_so: bool = True) -> VendorErasure:
    """Read the answer to a deletion, where a success `says_so` as documented. Raises GenerationUnknown for others."""
    if answer.status in _NO_CALL:
        return VendorErasure.KEPT
    if answer.status in GONE:
        return VendorErasure.ABSENT
    # guard provider.erased: a gateway's answer, or a file that was not deleted, is certified as a deletion
    if not (answer.is_success and says_so):
        raise GenerationUnknown(f"the provider answered {answer.status} when asked to delete a job, and has not")
    return VendorErasure.DELETED


def status_of(known: Mapping[str, Status], state: object) -> Status:
    """Translate a provider's word for a job's state; an undocumented one says nothing, and is waited for."""
    # guard provider.unknown_word: a paid job is given up since its provider has a new word for its state
    return known.get(str(state), Status.RUNNING)


def job_name(value: object) -> str:
    """Return a provider's id of a job. Raises GenerationUnknown if it is malformed, which is not a refusal."""
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_NAME or not value.isprintable():
        raise GenerationUnknown("the provider's answer has no id of a job")
    return value


def fraction(value: object, whole: int = 1) -> float:
    """Return a job's progress, as a part of the `whole`, from 0 to 1; 0 if it is missing, or no number."""
    # of NaN, in this order, max makes 0; SQLite refuses NaN, and then no claim of the worker is renewed
    return min(max(0.0, value), whole) / whole if isinstance(value, int | float) else 0.0


def cost_microusd(value: object) -> int | None:
    """Convert dollars to micro-dollars, rounded up, at most $10,000; None if it is not an amount of money."""
    if value is None or isinstance(value, bool):
        return None
    dollars = decimal(value)
    # guard provider.cost: an impossible cost is counted, or fails its job in the store
    if dollars is None or dollars < 0:
        return None
    return int((min(dollars, _MAX_USD) * MICRO).to_integral_value(ROUND_CEILING))


def decimal(value: object) -> Decimal | None:
    """Read a number of a provider's answer; None if it is none, or so large that it cannot be multiplied."""
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        return None
    return number if number.is_finite() and abs(number) <= _LARGEST else None


def words(body: object) -> str:
    """Find a provider's error message anywhere in its answer, and return it in one line."""
    found = body
    for name in ("error", "detail", "message", "msg", "title"):
        if isinstance(found, dict) and found.get(name):
            found = found[name]
    if isinstance(found, list):
        found = "; ".join(words(item) for item in found[:3])
    if not found or isinstance(found, dict):
        return "no reason given"
    return one_line(str(found))[:_MAX_WORDS]  # without NULs and halves of surrogates, which the store refuses


def _is_rate(reason: str) -> bool | None:
    """Return whether a refusal is about the rate of requests, not the number of jobs; None: it does not say."""
    if _ABOUT_NUMBER.search(reason):
        return False
    return True if _ABOUT_RATE.search(reason) else None


def is_about_content(body: object) -> bool:
    """Check whether a refusal concerns the content, by its words or code, and never by an echo of the input."""
    return bool(_ABOUT_CONTENT.search(" ".join([words(body), *_codes(body)])))


def _codes(body: object) -> Iterator[str]:
    for item in body if isinstance(body, list) else [body]:
        if isinstance(item, dict):
            yield from (str(item[name])[:100] for name in ("code", "type", "error_type") if item.get(name))
            yield from (code for name in ("error", "detail") for code in _codes(item.get(name)))
