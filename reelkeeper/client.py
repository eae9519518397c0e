"""A thin client of the HTTP API for a video service in Python. It needs httpx and nothing else of Reelkeeper.

    with Client("http://127.0.0.1:8787", token) as reelkeeper:
        answer = reelkeeper.ask("ann", {"model": "sketch-1", "prompt": "A fox in the snow"}, key=request_id)
        if answer["status"] in ("queued", "joined"):
            for job in reelkeeper.follow(answer["job_id"]): ...
        url = reelkeeper.video_url(answer["video_id"])

Answers are the JSON of the API as dictionaries; `reelkeeper api --schema` describes them. Passing errors (429, 502,
503, a busy video, a broken connection) are retried after the wait that the server asks for: every request can be
repeated.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import httpx

ATTEMPTS: Final = 5
_MAX_WAIT_SECONDS: Final = 30.0
_PASSING: Final = frozenset({429, 502, 503})
_LASTING: Final = frozenset({"urn:reelkeeper:budget", "urn:reelkeeper:spend-limit"})  # until tomorrow, or next month
_BUSY: Final = "urn:reelkeeper:busy"
_NOT_OURS: Final = "about:blank"  # the kind of what a proxy or the bucket answers
_VERIFY_SECONDS: Final = 600.0  # for all of a video to be decoded, and others before it
_CHUNK_BYTES: Final = 1 << 20
_QUIET_SECONDS: Final = 60.0  # without a sign of life from the server's event stream, which sends one each 15 s
Json = dict[str, Any]
_T = TypeVar("_T")


class RequestRefused(Exception):  # noqa: N818  named for what happened, as all errors here are
    """The API said no. `kind` is for programs, such as urn:reelkeeper:quota; the message is its sentence."""

    def __init__(self, status: int, kind: str, detail: str, wait_seconds: float | None = None) -> None:
        super().__init__(f"{status} {kind}: {detail}")
        self.status = status
        self.kind = kind
        self.detail = detail
        self.wait_seconds = wait_seconds

    @property
    def passes(self) -> bool:
        """Check whether the same request may be answered within a minute."""
        is_passing = self.status in _PASSING or self.kind == _BUSY
        is_passing |= self.kind == _NOT_OURS and self.status >= httpx.codes.INTERNAL_SERVER_ERROR
        # guard client.lasting: a service waits minutes for a refusal that lasts a month, and it is counted five times
        return is_passing and self.kind not in _LASTING


class Client:
    """One server and one token. Safe to share between threads."""

    def __init__(self, base_url: str, token: str, *, timeout_seconds: float = 30) -> None:
        self._http = httpx.Client(
            base_url=base_url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=timeout_seconds,
            trust_env=_may_use_proxy(base_url),
        )

    def __enter__(self) -> Self:
        """Use it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close its connections."""
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def ask(
        self,
        user_id: str,
        request: Mapping[str, Any],
        *,
        key: str,
        tag: str | None = None,
        metadata: Mapping[str, str] | None = None,
        webhook_url: str | None = None,
    ) -> Json:
        """Ask for a video; a new one gets the tag, and the job the metadata, and a URL for its event.

        `status` of the answer is cached, joined or queued, or dead or cancelled for an old key.

        Raises RequestRefused with kind urn:reelkeeper:quota, :credits, :budget, :frozen, :invalid or :input.
        """
        body = {
            "user_id": user_id,
            "request": dict(request),
            **_tagged(tag),
            "metadata": dict(metadata or {}),
            "webhook_url": webhook_url,
        }
        return self._json("POST", "/v1/jobs", body, key=key)

    def quote(self, user_id: str, request: Mapping[str, Any], *, tag: str | None = None) -> Json:
        """Return the price and the answer that `ask` would give now; nothing is charged, held or reserved."""
        return self._json("POST", "/v1/quotes", {"user_id": user_id, "request": dict(request), **_tagged(tag)})

    def keep_image(self, path: Path) -> str:
        """Keep a PNG or JPEG for jobs to start from; returns its SHA-256, which is `image_sha256` of a request."""
        return str(self._send("POST", "/v1/images", content=path.read_bytes()).json()["sha256"])

    def job(self, job_id: str) -> Json:
        """Tell where a job stands."""
        return self._json("GET", _path("jobs", job_id))

    def follow(self, job_id: str) -> Iterator[Json]:
        """Yield the job whenever it has changed, last in its final state. A broken connection is opened again."""
        path, failed = _path("jobs", job_id, "events"), 0
        while True:
            try:
                with self._http.stream("GET", path, timeout=_QUIET_SECONDS) as answer:
                    if answer.is_error:
                        answer.read()
                        raise _refused(answer)
                    for name, job in _events(_lines(answer.iter_text())):
                        yield job
                        failed = 0
                        if name == "end":
                            return
            except (httpx.TransportError, RequestRefused) as error:
                failed += 1
                if failed >= ATTEMPTS or (isinstance(error, RequestRefused) and not error.passes):
                    raise
                time.sleep(min(_MAX_WAIT_SECONDS, 2.0 ** (failed - 1)))

    def jobs(self, **wanted: str) -> Iterator[Json]:
        """List jobs, the newest first: of a `user_id`, in a `state`, `since` or `until` a time, or all."""
        return self._pages(f"/v1/jobs?{urlencode(wanted)}", "jobs")

    def cancel(self, job_id: str) -> Json:
        """Cancel a job; the answer's `state` is its state after that."""
        return self._json("DELETE", _path("jobs", job_id))

    def video_url(self, video_id: str, *, plays: Sequence[str] = ()) -> str:
        """Return a temporary URL of the video's bytes, and count a view.

        `plays` lists the codecs that the client plays, such as h264; raises RequestRefused (406) where no stored bytes
        are in one of them. Empty: any codec.
        """
        query = f"?plays={','.join(plays)}" if plays else ""
        return self._send("GET", _path("videos", video_id) + query).headers["location"]

    def report_views(self, views: Mapping[str, int]) -> int:
        """Add views; returns how many of the ids are known."""
        counts = [{"video_id": video_id, "views": count} for video_id, count in views.items()]
        return int(self._json("POST", "/v1/views", {"views": counts})["counted"])

    def user(self, user_id: str) -> Json:
        """Tell what a user stores and may spend."""
        return self._json("GET", _path("users", user_id))

    def users(self) -> Iterator[Json]:
        """List all users with their bytes and credits, in order of their ids."""
        return self._pages("/v1/users", "users")

    def ledger(self, user_id: str, **wanted: str) -> Iterator[Json]:
        """List the moves of a user's credits, the newest first: of a `kind`, `since` or `until` a time, or all."""
        return self._pages(f"{_path('users', user_id, 'ledger')}?{urlencode(wanted)}", "moves")

    def put_user(self, user_id: str, tier: str) -> Json:
        """Make a user at sign-up, or set the tier, which must be one of the policies in force."""
        return self._json("PUT", _path("users", user_id), {"tier": tier})

    def give_credits(self, user_id: str, amount_microusd: int, *, key: str, reason: str = "") -> Json:
        """Grant credits, once for each key; the answer says what the user may spend now."""
        wanted = {"amount_microusd": amount_microusd, "reason": reason}
        return self._json("POST", _path("users", user_id, "credits"), wanted, key=key)

    def videos(self, user_id: str) -> Iterator[Json]:
        """List a user's videos, page by page: state, size, views, when each will go and why."""
        return self._pages(_path("users", user_id, "videos"), "videos")

    def costs(self, user_id: str) -> Iterator[Json]:
        """List what a user cost the service, month by month, at each provider."""
        return self._pages(_path("users", user_id, "costs"), "months")

    def delete_video(self, video_id: str, *, user_id: str) -> Json:
        """Delete a video of this user's. Support can bring it back until `restorable_until`."""
        return self._json("DELETE", f"{_path('videos', video_id)}?user_id={quote(user_id, safe='')}")

    def keep_video(self, video_id: str, *, user_id: str, key: str) -> Json:
        """Prolong the life of a video of this user's, once for each key; `until` of the answer says until when.

        Raises RequestRefused with kind urn:reelkeeper:not-kept where the policy does not offer it, or not again.
        """
        return self._json("POST", f"{_path('videos', video_id, 'keep')}?user_id={quote(user_id, safe='')}", key=key)

    def erase_user(self, user_id: str, *, with_files: bool = False) -> Json:
        """Erase a user, for good. `state` of the answer is erased, or under way: ask again, as `left` says.

        `files` are the service's own in the bucket, which stay; `with_files` deletes those in the user's folder.

        Once it is complete, RequestRefused has status 404: the user is no longer known.
        """
        return self._json("DELETE", _path("users", user_id) + ("?with_files=true" if with_files else ""))

    def export_user(self, user_id: str, path: Path) -> None:
        """Write all data of a user to `path`, a ZIP; it appears when it is whole."""
        partial = path.with_name(f"{path.name}.partial")
        try:
            _retried(lambda: self._download(_path("users", user_id, "export"), partial))
            partial.replace(path)
        finally:
            # guard client.partial: a part of a user's data stays on the disk where an export breaks off
            partial.unlink(missing_ok=True)

    def _download(self, path: str, to: Path) -> None:
        with self._http.stream("GET", path, timeout=None) as answer:
            if answer.is_error:
                answer.read()
                raise _refused(answer)
            with to.open("wb") as file:
                for chunk in answer.iter_bytes(_CHUNK_BYTES):
                    file.write(chunk)

    def add_webhook(self, url: str, events: Sequence[str] = (), *, key: str) -> Json:
        """Tell a server of these events, or of all; the answer's `secret` is shown this once."""
        return self._json("POST", "/v1/webhooks", {"url": url, "events": list(events)}, key=key)

    def webhooks(self) -> list[Json]:
        """List the servers with webhooks, how their deliveries go, and how many messages wait for them."""
        return list(self._json("GET", "/v1/webhooks")["webhooks"])

    def choose_events(self, webhook_id: str, events: Sequence[str], *, enabled: bool = True) -> Json:
        """Tell a server of these events from now on, or of all; or send it nothing for a while."""
        return self._json("PUT", _path("webhooks", webhook_id), {"events": list(events), "enabled": enabled})

    def rotate_webhook(self, webhook_id: str) -> str:
        """Replace a webhook's secret and return the new one; for a day the old one signs beside it."""
        return str(self._json("POST", _path("webhooks", webhook_id, "secret"))["secret"])

    def replay_webhook(self, webhook_id: str, since: str | None = None) -> int:
        """Send again messages that were given up and, from `since` on, those delivered; returns how many."""
        return int(self._json("POST", _path("webhooks", webhook_id, "replay"), {"since": since})["replayed"])

    def remove_webhook(self, webhook_id: str) -> None:
        """Remove a webhook: its server gets no more messages."""
        self._json("DELETE", _path("webhooks", webhook_id))

    def take_down(self, video_id: str, reason: str, *, same_bytes: bool = False) -> Json:
        """Take a video down. `left` counts what is still stored, `others_kept` videos of the same bytes that stay."""
        wanted = {"video_id": video_id, "reason": reason, "same_bytes": same_bytes}
        return self._json("POST", "/v1/takedowns", wanted)

    def hold(self, scope: str, subject: str, reason: str, *, key: str) -> str:
        """Keep a "video", or all of a "user", whatever the rules say; returns the id that `release` takes."""
        wanted = {"scope": scope, "subject": subject, "reason": reason}
        return str(self._json("POST", "/v1/holds", wanted, key=key)["id"])

    def release(self, hold_id: str) -> None:
        """End a hold."""
        self._json("DELETE", _path("holds", hold_id))

    def check_quota(self, user_id: str, incoming_bytes: int) -> Json:
        """Tell whether this many more bytes would fit; `reason` is for the user to read."""
        return self._json("POST", "/v1/quota/check", {"user_id": user_id, "incoming_bytes": incoming_bytes})

    def upload(self, path: Path, *, user_id: str, video_id: str, key: str, tag: str | None = None) -> Json:
        """Store a video that was made elsewhere: reserve, put, verify. Safe to repeat with the same key.

        A video keeps the tag that its upload began with.
        """
        with path.open("rb") as file:
            md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        wanted = {
            "user_id": user_id,
            "video_id": video_id,
            "size_bytes": path.stat().st_size,
            "md5": md5,
            "extension": path.suffix.lstrip(".").lower(),
            **_tagged(tag),
        }
        upload = self._json("POST", "/v1/uploads", wanted, key=key)
        if upload["state"] == "open" and upload["url"]:
            _retried(lambda: _put(upload["url"], upload["headers"], path))
        return self._complete(f"/v1/uploads/{upload['id']}/complete")

    def _complete(self, path: str) -> Json:
        ends = time.monotonic() + _VERIFY_SECONDS
        while True:
            try:
                return self._json("POST", path)
            except RequestRefused as refused:
                # guard client.verified: an upload fails for its caller while all of a long video is decoded
                if refused.kind != _BUSY or time.monotonic() > ends:
                    raise

    def _pages(self, path: str, name: str) -> Iterator[Json]:
        after = ""
        while True:
            separator = "&" if "?" in path else "?"
            page = self._json("GET", f"{path}{separator}after={quote(after, safe='')}" if after else path)
            yield from page[name]
            if not page["after"]:
                return
            after = page["after"]

    def _json(self, method: str, path: str, body: object = None, *, key: str | None = None) -> Json:
        answer: Json = self._send(method, path, body, key=key).json()
        return answer

    def _send(
        self, method: str, path: str, body: object = None, *, key: str | None = None, content: bytes | None = None
    ) -> httpx.Response:
        headers = {"Idempotency-Key": key} if key else {}

        def send() -> httpx.Response:
            answer = self._http.request(method, path, json=body, content=content, headers=headers)
            if answer.is_error:
                raise _refused(answer)
            return answer

        return _retried(send)


def _retried(act: Callable[[], _T]) -> _T:
    """Return what `act` does, after passing errors at a later attempt."""
    for attempt in range(1, ATTEMPTS + 1):
        wait = 2.0 ** (attempt - 1)
        try:
            return act()
        except httpx.TransportError:
            if attempt == ATTEMPTS:
                raise
        except RequestRefused as refused:
            if not refused.passes or attempt == ATTEMPTS:
                raise
            wait = wait if refused.wait_seconds is None else refused.wait_seconds
        time.sleep(min(_MAX_WAIT_SECONDS, wait))
    raise AssertionError  # the loop returns or raises


def _tagged(tag: str | None) -> dict[str, str]:
    """Leave the field out where there is no tag: an earlier server does not know it."""
    return {} if tag is None else {"tag": tag}


def _path(*parts: str) -> str:
    """Join the parts of a path. Dots alone are encoded, too, as clients and proxies take such segments out."""
    dots = {".": "%2E", "..": "%2E%2E"}
    return "/v1/" + "/".join(dots.get(part) or quote(part, safe="") for part in parts)


def _refused(answer: httpx.Response) -> RequestRefused:
    retry_after = answer.headers.get("retry-after", "")
    wait_seconds = float(retry_after) if retry_after.isdigit() else None
    try:
        problem = answer.json()
        return RequestRefused(answer.status_code, problem["type"], problem["detail"], wait_seconds)
    except (ValueError, KeyError, TypeError):  # not the API's own words: a proxy's
        return RequestRefused(answer.status_code, _NOT_OURS, answer.text[:500], wait_seconds)


def _put(url: str, headers: Mapping[str, str], path: Path) -> None:
    with path.open("rb") as file:
        answer = httpx.put(
            url,
            content=iter(lambda: file.read(_CHUNK_BYTES), b""),
            headers=dict(headers),
            timeout=_QUIET_SECONDS,
            trust_env=_may_use_proxy(url),
        )
    if answer.is_error and answer.status_code != httpx.codes.PRECONDITION_FAILED:  # those bytes stand there already
        raise _refused(answer)


def _may_use_proxy(url: str) -> bool:
    return urlsplit(url).hostname not in {"127.0.0.1", "localhost", "::1"}


def _lines(chunks: Iterator[str]) -> Iterator[str]:
    """Split a stream at line feeds alone: httpx does so at U+2028 and others, too, which JSON has in its texts."""
    rest = ""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split("\n")
        yield from (line.removesuffix("\r") for line in lines)


def _events(lines: Iterator[str]) -> Iterator[tuple[str, Json]]:
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))
