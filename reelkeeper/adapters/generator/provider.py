"""The HTTP API that a provider of videos offers, one call each. What is not known is not guessed.

    POST   /jobs            Idempotency-Key: KEY    {"key", "model", "request", "webhook_url"?, "image_url"?} -> {"id"}
    GET    /jobs?key=KEY                            {"jobs": [{"id", ...}]}: none, if it never came
    GET    /jobs/ID                                 {"id", "status", "progress"?, "cost_usd"?, "video_url"?, "error"?}
    DELETE /jobs/ID                                 it is wanted no more

`status` is queued, running, succeeded, failed (it may work another time), refused (it never will) or cancelled.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urljoin, urlsplit

import httpx

from reelkeeper.adapters import public
from reelkeeper.errors import AddressRefused, GenerationFailed, GenerationRefused, GenerationUnknown

_MICROUSD: Final = 10**6
_MAX_USD: Final = 10_000
_NOT_TAKEN: Final = {425, 429}  # said before anything is done with a request
_MAX_NAME: Final = 200  # characters of a provider's name for a job
_MAX_WORDS: Final = 300  # characters of what a provider says is wrong
_OVER: Final = {"succeeded", "failed", "refused", "cancelled"}


class Standing(NamedTuple):
    """How a job stands at its provider."""

    id: str
    status: str
    progress: float
    cost_microusd: int | None
    video_url: str | None
    error: str

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come of it."""
        return self.status in _OVER


class Provider:
    """One provider. Every call goes to public addresses only, unless `allow_private`."""

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        webhook_url: str | None = None,
        allow_private: bool = False,
        timeout_seconds: float = 30.0,
        download_seconds: float = 600.0,
    ) -> None:
        self._url, self._token, self._webhook_url = url.rstrip("/"), token, webhook_url
        self._allow_private, self._timeout_seconds = allow_private, timeout_seconds
        self._download_seconds = download_seconds

    def submit(self, key: str, model: str, request: dict[str, Any], image_url: str | None = None) -> str:
        """Send a job, and where the image can be read that it starts from; give the provider's name of it.

        Raises GenerationRefused or GenerationFailed when it was certainly not taken, GenerationUnknown otherwise.
        """
        body = {"key": key, "model": model, "request": request}
        if self._webhook_url:
            body["webhook_url"] = self._webhook_url
        if image_url:
            body["image_url"] = image_url
        status, answer = self._call("POST", "/jobs", body, {"Idempotency-Key": key})
        if status in _NOT_TAKEN:
            raise GenerationFailed(f"the provider takes nothing at the moment: it answered {status}")
        # guard provider.conflict: a job that came twice is taken for refused, though it is made and paid for
        if 400 <= status < 500 and status not in (408, 409):  # noqa: PLR2004  "client error", but for a timeout and a conflict
            raise GenerationRefused(f"the provider answered {status}: {_words(answer)}")
        if not 200 <= status < 300:  # noqa: PLR2004  "success"
            # guard provider.in_doubt: an error of the provider's is taken for a refusal, and the job is paid twice
            raise GenerationUnknown(f"the provider answered {status} to a new job; whether it has it is not known")
        return _standing(answer).id

    def find(self, key: str) -> Standing | None:
        """Look up the job that was sent under `key`; None if the provider says that it has none. GenerationUnknown."""
        status, answer = self._call("GET", f"/jobs?key={quote(key, safe='')}")
        self._require(status, "jobs by their key")
        found = answer.get("jobs") if isinstance(answer, dict) else None
        if not isinstance(found, list):
            raise GenerationUnknown("the provider's answer lists no jobs")
        return _standing(found[0]) if found else None

    def look(self, job_id: str) -> Standing | None:
        """Ask how a job stands; None if the provider does not know it. GenerationUnknown."""
        status, answer = self._call("GET", f"/jobs/{quote(job_id, safe='')}")
        if status in (404, 410):
            return None
        self._require(status, "a job")
        return _standing(answer)

    def cancel(self, job_id: str) -> None:
        """Tell that a job is wanted no more; no answer is no matter."""
        try:
            self._call("DELETE", f"/jobs/{quote(job_id, safe='')}")
        except GenerationUnknown:
            return

    def fetch(self, video_url: str, target: Path, most_bytes: int) -> None:
        """Store the video in `target`. The token goes to the provider's own address only.

        Raises GenerationFailed for one that cannot be had, GenerationUnknown when there was no answer.
        """
        url = urljoin(f"{self._url}/", video_url)
        ours = urlsplit(url)[:2] == urlsplit(self._url)[:2]
        ends = time.monotonic() + self._download_seconds
        # guard provider.token_at_home: our token is sent to whatever address an answer names
        with self._streamed("GET", url, headers=self._headers() if ours else {}) as answer, target.open("wb") as file:
            if answer.status_code in (404, 410):
                raise GenerationFailed("the provider has no video any more at the address that it gave")
            self._require(answer.status_code, "a video")
            # guard provider.video_size: a video without an end fills the disk
            for chunk in public.chunks(answer, most_bytes):
                file.write(chunk)
                if time.monotonic() > ends:
                    raise GenerationUnknown(f"the video did not come within {self._download_seconds:.0f} s")

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    def _call(
        self, method: str, path: str, body: dict[str, Any] | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        sent = {"Content-Type": "application/json"} if body is not None else {}
        content = json.dumps(body).encode() if body is not None else None
        whole = {**self._headers(), **sent, **(headers or {})}
        with self._streamed(method, f"{self._url}{path}", headers=whole, content=content) as answer:
            text = public.read(answer)
            try:
                return answer.status_code, json.loads(text)
            except ValueError:
                return answer.status_code, None

    @contextmanager
    def _streamed(
        self, method: str, url: str, *, headers: dict[str, str], content: bytes | None = None
    ) -> Iterator[httpx.Response]:
        try:
            with public.streamed(
                method,
                url,
                # guard provider.public: the address of a video, which an answer names, leads into our network
                allow_private=self._allow_private,
                headers=headers,
                content=content,
                timeout_seconds=self._timeout_seconds,
            ) as answer:
                yield answer
        except AddressRefused as refused:
            raise GenerationUnknown(f"an address of the provider's is refused: {refused}") from refused
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise GenerationUnknown(f"the provider gave no whole answer: {type(error).__name__}") from None

    @staticmethod
    def _require(status: int, what: str) -> None:
        if not 200 <= status < 300:  # noqa: PLR2004  "success"
            raise GenerationUnknown(f"the provider answered {status} when asked for {what}")


def _standing(answer: Any) -> Standing:  # noqa: ANN401  what JSON can say
    """Read how a job stands; whatever is not as it should be is GenerationUnknown, and never taken for a failure."""
    said = answer if isinstance(answer, dict) else {}
    job_id, status, progress = said.get("id"), said.get("status", "queued"), said.get("progress")
    if not isinstance(job_id, str) or not 0 < len(job_id) <= _MAX_NAME:
        raise GenerationUnknown("the provider's answer names no job")
    if status not in {"queued", "running"} | _OVER:
        raise GenerationUnknown(f"the provider says that a job is {str(status)[:50]!r}, which is no status")
    url = said.get("video_url")
    return Standing(
        job_id,
        status,
        min(max(float(progress), 0.0), 1.0) if isinstance(progress, int | float) else 0.0,
        _cost(said.get("cost_usd")),
        url if isinstance(url, str) else None,
        _words(said),
    )


def _cost(said: Any) -> int | None:  # noqa: ANN401  what JSON can say
    """Read dollars as micro-dollars, rounded up; None for what is no sum of money."""
    if said is None or isinstance(said, bool):
        return None
    try:
        dollars = Decimal(str(said))
    except InvalidOperation:
        return None
    # guard provider.cost: a cost that cannot be is counted, and shuts the budget
    if not dollars.is_finite() or not 0 <= dollars <= _MAX_USD:
        return None
    return int((dollars * _MICROUSD).to_integral_value(ROUND_CEILING))


def _words(answer: Any) -> str:  # noqa: ANN401  what JSON can say
    said = answer.get("error") if isinstance(answer, dict) else None
    return " ".join(str(said).split())[:_MAX_WORDS] if said else "no reason given"
