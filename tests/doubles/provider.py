"""A double of a provider of videos, on a local port, which speaks the format of `adapters/providers/http`.

It makes a job per request, whatever the key, unless it `honours_keys`: what is sent twice is paid for twice, and shows.
"""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.doubles.serving import answering

TOKEN = "the-provider's-token"  # noqa: S105  of a double
LOST = "lost"  # the request is taken, and its answer never comes
Next = tuple[int, Any] | tuple[int, Any, dict[str, str]] | str


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, double: "ProviderDouble") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.double = double


class ProviderDouble:
    """Its controls: `queue` is what the next new jobs get, `looks` how often a job is asked after until it is over."""

    def __init__(self, video: bytes = b"a video") -> None:
        self.video, self.lock = video, threading.Lock()
        self.queue: list[Next] = []
        self.looks = 1
        self.honours_keys = False
        self.hides_jobs = False  # as if no request had come
        self.is_down = False
        self.fails: str | None = None  # jobs of this prompt fail
        self.most_at_once = 0
        self.ends_as: dict[str, Any] = {"status": "succeeded", "cost_usd": "0.0123456", "video_url": "/video.mp4"}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.submitted: list[str] = []  # keys, one for each job that was begun
        self.cancelled: list[str] = []
        self.tokens: list[str | None] = []
        self.connections = 0
        self._server = Server(self)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextmanager
    def serving(self) -> Iterator["ProviderDouble"]:
        """Answer requests until left."""
        with answering(self._server):
            yield self

    def sent_twice(self) -> list[str]:
        """Name the jobs that more than one request was made for; a key begins with the job's id."""
        return [job for job, times in Counter(key.rpartition("-")[0] for key in self.submitted).items() if times > 1]

    def answer(self, method: str, path: str, body: dict[str, Any]) -> Next:
        """Give the true answer."""
        split = urlsplit(path)
        with self.lock:
            if self.is_down:
                return 503, None
            if method == "POST":
                return self._begin(body)
            if split.path == "/jobs":
                (key,) = parse_qs(split.query)["key"]
                return 200, {"jobs": [job for job in self.jobs.values() if job["key"] == key and not self.hides_jobs]}
            if split.path == "/video.mp4":
                return 200, self.video
            job = self.jobs.get(split.path.removeprefix("/jobs/"))
            return self._stands(job, method) if job else (404, None)

    def _stands(self, job: dict[str, Any], method: str) -> Next:
        if method == "DELETE":
            self.cancelled.append(job["id"])
            job.update(status="cancelled")
            return 204, None
        job["looks"] += 1
        if job["looks"] >= self.looks and job["status"] == "running":
            failed = self.fails is not None and job["request"].get("prompt") == self.fails
            job.update({"status": "failed", "error": self.fails} if failed else self.ends_as)
        return 200, job

    def _begin(self, body: dict[str, Any]) -> Next:
        planned = self.queue.pop(0) if self.queue else None
        if isinstance(planned, tuple):
            return planned
        again = [job for job in self.jobs.values() if job["key"] == body["key"]] if self.honours_keys else []
        if not again:
            self.submitted.append(body["key"])
            job = {**body, "id": f"p{len(self.jobs) + 1}", "status": "running", "progress": 0.5, "looks": 0}
            self.jobs[job["id"]] = job
            at_once = sum(entry["status"] == "running" for entry in self.jobs.values())
            self.most_at_once = max(self.most_at_once, at_once)
            again = [job]
        return planned or (201, again[0])


class Handler(BaseHTTPRequestHandler):
    server: Server

    def _handle(self) -> None:
        double = self.server.double
        double.connections += 1
        double.tokens.append(self.headers.get("Authorization"))
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        answer = double.answer(self.command, self.path, body)
        if isinstance(answer, str):
            self.close_connection = True
            return
        status, said, *headers = answer
        content = said if isinstance(said, bytes) else b"" if said is None else json.dumps(said).encode()
        self.send_response(status)
        for name, value in (headers[0] if headers else {}).items():
            self.send_header(name, value)
        if 300 <= status < 400:
            self.send_header("Location", said)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_DELETE = _handle  # noqa: N815  the names that http.server calls

    def log_message(self, *_: object) -> None:
        """Say nothing."""
