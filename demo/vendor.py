"""A vendor for the demo: a queue in fal's format, on this machine, with ffmpeg as its model.

As at fal, every request is a paid job, even a repeated one. The answer to the second request is lost on purpose.
"""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from reelkeeper.adapters import ffmpeg

MODEL: Final = "fal-ai/wan/v2.7/text-to-video"  # a model with a seed parameter, by which a request is found again
KEY: Final = "the-demo's:key"
CLIP_NANOUSD: Final = 10_000_000  # one cent for each, whatever its length
_LOST: Final = 2  # of all requests, counted from 1
_AT_ONCE: Final = 2
_FPS: Final = 24
_HELD_SECONDS: Final = 10.0  # for which an answer waits for the video, to save a further poll
_FILES: Final = "/files/"


@dataclass(slots=True)
class Request:
    """A request in the vendor's book."""

    id: str
    endpoint: str
    input: dict[str, Any]
    made: Future[None]
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    was_lost: bool = False

    @property
    def path(self) -> str:
        """The path of its status, which is also our name for it: the endpoint's owner and alias, and its id."""
        return f"{'/'.join(self.endpoint.split('/')[:2])}/requests/{self.id}"


class Vendor(ThreadingHTTPServer):
    """The vendor's server, and its book of received requests."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.folder, self.book = folder, list[Request]()
        self.is_locked = False  # for our account, as its balance is used up
        self._lock, self._pool = threading.Lock(), ThreadPoolExecutor(_AT_ONCE)

    def take(self, endpoint: str, asked: dict[str, Any]) -> Request:
        """Record a request, and start it."""
        with self._lock:
            number = len(self.book) + 1
            made = self._pool.submit(self._make, f"r{number}", asked)
            self.book.append(Request(f"r{number}", endpoint, asked, made, was_lost=number == _LOST))
            return self.book[-1]

    def file(self, request_id: str) -> Path:
        """Return the path of a request's video."""
        return self.folder / f"{request_id}.mp4"

    def _make(self, request_id: str, asked: dict[str, Any]) -> None:
        wide, high = map(int, str(asked["aspect_ratio"]).split(":"))
        height = int(str(asked["resolution"]).removesuffix("p"))
        scene = ffmpeg.Scene(
            width=height * wide // high,
            height=height,
            seconds=float(asked["duration"]),
            fps=_FPS,
            seed=f"{asked['seed']} {asked['prompt']}",
        )
        ffmpeg.animate(scene, self.file(request_id), watch=lambda _: False)

    def answer(self, method: str, path: str, query: dict[str, str], body: bytes) -> tuple[int, object]:
        """Answer a call in fal's format."""
        if path == "v1/models/requests/by-endpoint":
            listed = [entry for entry in self.book if entry.endpoint == query["endpoint_id"]]
            shown = [{"request_id": entry.id, "json_input": entry.input} for entry in listed]
            return 200, {"items": shown, "next_cursor": None, "has_more": False}
        if path == "v1/models/billing-events":
            events = [
                {"request_id": entry.id, "endpoint_id": entry.endpoint, "timestamp": entry.at.isoformat()}
                | {"output_units": 1, "unit_price": CLIP_NANOUSD / 10**9, "cost_estimate_nano_usd": CLIP_NANOUSD}
                for entry in self.book
            ]
            return 200, {"billing_events": events, "next_cursor": None, "has_more": False}
        found = next((entry for entry in self.book if path.startswith(entry.path)), None)
        if method == "POST" and found is None:
            return self._begin(path, body)
        if found is None:
            return 404, {"detail": "Request not found"}
        if path.endswith("/status"):
            return self._status(found)
        video = {"url": f"{self.url}{_FILES}{found.id}.mp4", "content_type": "video/mp4"}
        return 200, {"video": video, "seed": found.input["seed"]}

    def _begin(self, endpoint: str, body: bytes) -> tuple[int, object]:
        if self.is_locked:
            return 403, {"detail": "User is locked. Reason: Exhausted balance."}
        taken = self.take(endpoint, json.loads(body))
        place = f"{self.url}/{taken.path}"
        urls = {"response_url": place, "status_url": f"{place}/status", "cancel_url": f"{place}/cancel"}
        said = {"status": "IN_QUEUE", "queue_position": 0, "request_id": taken.id, **urls}
        return (0, None) if taken.was_lost else (200, said)

    def _status(self, entry: Request) -> tuple[int, object]:
        try:
            entry.made.result(_HELD_SECONDS)
        except TimeoutError:
            return 202, {"status": "IN_PROGRESS", "logs": None}
        except Exception as error:  # noqa: BLE001  it is what the vendor says of the request
            return 200, {"status": "COMPLETED", "logs": None, "error": str(error), "error_type": "runner_disconnected"}
        return 200, {"status": "COMPLETED", "logs": None}


class _Handler(BaseHTTPRequestHandler):
    server: Vendor

    def _handle(self) -> None:
        split = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Authorization") != f"Key {KEY}":
            return self._send(401, json.dumps({"detail": "Authentication is required."}).encode())
        if split.path.startswith(_FILES):
            return self._send(200, (self.server.folder / Path(split.path).name).read_bytes())
        query = {name: values[0] for name, values in parse_qs(split.query).items()}
        status, said = self.server.answer(self.command, split.path.strip("/"), query, body)
        if not status:
            self.close_connection = True  # accepted, but the caller gets no answer
            return None
        return self._send(status, json.dumps(said).encode())

    def _send(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = _handle  # noqa: N815  the names that http.server calls

    def log_message(self, *_: object) -> None:
        """Log no request."""


@contextmanager
def serving(folder: Path) -> Iterator[Vendor]:
    """Run a vendor that writes its videos into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with Vendor(folder) as vendor:
        thread = threading.Thread(target=vendor.serve_forever, args=(0.05,), name="demo-vendor", daemon=True)
        thread.start()
        try:
            yield vendor
        finally:
            vendor.shutdown()
            thread.join()
