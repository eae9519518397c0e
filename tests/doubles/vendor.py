"""What the doubles of providers have in common: a local port, faults to plan, and a book of the jobs that are paid for.

Each request for a new job is one that is paid for, whatever its key: what is sent twice shows in the book.
"""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qs, urlsplit

from tests.doubles.serving import answering

TOKEN = "the-provider's-token"  # noqa: S105  of a double
LOST = "lost"  # the request is taken, and its answer never comes
CUT = "cut"  # it is taken, and half of its answer comes
FAULT = "fault"  # it is taken, and answered with 500
HTML = 200, b"<!doctype html><title>Sign in</title>", {"Content-Type": "text/html"}  # for a video
SLOW = "slow"  # it is taken, and its answer comes once the caller has gone
Next = tuple[int, Any] | tuple[int, Any, dict[str, str]] | str
Job = dict[str, Any]
_FILES = "/files/"


class Request(NamedTuple):
    method: str
    path: str
    query: dict[str, str]
    headers: Message
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        said: dict[str, Any] = json.loads(self.body) if self.body else {}
        return said


class Call(NamedTuple):
    query: str  # of the address that was given
    headers: dict[str, str]
    body: bytes


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, vendor: "Vendor") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.vendor = vendor

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Vendor:
    """Its controls: `queue` and `reads` are what the next new jobs and the next reads get, `looks` how often a job is
    asked after until it is over, `ends_as` how it ends: succeeded, failed, moderated, or expired: succeeded, and what
    was made is deleted. `weather` is asked for a fault of each new job and each read, `fate` how a job ends."""

    def __init__(self, video: bytes = b"a video") -> None:
        self.video, self.lock, self.left = video, threading.Lock(), threading.Event()
        self.queue: list[Next] = []
        self.reads: list[Next] = []
        self.looks = 1
        self.ends_as: Any = "succeeded"
        self.files: list[Next] = []  # what the next requests for a video get instead of it
        self.weather: Callable[[str, str], Next | None] = lambda *_: None  # by "submit", "read" or "file", and path
        self.fate: Callable[[Job], str] = lambda _: str(self.ends_as)
        self.hides_jobs = False  # from lists, as if no request had come
        self.is_down = False
        self.is_dead = False  # it cuts each connection, and takes nothing
        self.has_expired = False  # what it made is deleted
        self.most_at_once = 0
        self.jobs: dict[str, Job] = {}
        self.submitted: list[str] = []  # keys, one for each job that was begun
        self.cancelled: list[str] = []
        self.past: list[Job] = []  # what it was paid for, and has deleted since
        self.erased: list[str] = []  # jobs whose request and files were deleted
        self.erasures: list[Next] = []  # what the next requests for a deletion get, instead
        self.tokens: list[str | None] = []
        self.posted_with: list[Message] = []  # headers
        self.connections = 0
        self._servers = Server(self), Server(self)
        self.url, self.files_url = self._servers[0].url, f"{self._servers[1].url}{_FILES}"

    @contextmanager
    def serving(self) -> Iterator[Self]:
        """Answer requests until left."""
        with answering(self._servers[0]), answering(self._servers[1]):
            try:
                yield self
            finally:
                self.left.set()

    @property
    def book(self) -> list[Job]:
        """The jobs that it was paid for, the first one first, deleted ones, too."""
        return sorted([*self.jobs.values(), *self.past], key=lambda job: job["at"])

    def end_as(self, how: str) -> None:
        """Set how jobs end: succeeded, failed or moderated."""
        self.ends_as = how

    def refusal(self, status: int, told: str) -> Next:
        """Return a refusal in this vendor's format."""
        raise NotImplementedError

    def route(self, request: Request) -> Next:
        """Return the true answer."""
        raise NotImplementedError

    def call(self, job: Job, at: float | None = None) -> Call:
        """Return the call about a job, as the vendor signs and sends it."""
        raise NotImplementedError

    def sent_twice(self) -> list[str]:
        """Name the jobs that more than one request was made for; a key begins with the job's id."""
        return [job for job, times in Counter(key.rpartition("-")[0] for key in self.submitted).items() if times > 1]

    def answer(self, request: Request) -> Next:
        with self.lock:
            self.connections += 1
            self.tokens.append(request.headers.get("Authorization"))
            self.posted_with += [request.headers] if request.method == "POST" else []
            if self.is_dead:
                return LOST
            if self.is_down:
                return 503, None
            if spoilt := self.spoilt(request):
                return spoilt
            if request.path.startswith(_FILES):
                job = self.jobs[request.path.removeprefix(_FILES).removesuffix(".mp4")]
                return (403, None) if self.has_expired or job["status"] == "expired" else (200, self.video)
            if request.method != "GET":
                return self.route(request)
            planned = self.reads.pop(0) if self.reads else self.weather("read", request.path)
            return planned or self.route(request)

    def spoilt(self, request: Request) -> Next | None:
        """Return what a request for a video gets instead of it, where something was planned."""
        if not request.path.startswith(_FILES) and not request.path.endswith(("/content", "/view", "/video.mp4")):
            return None
        planned = self.files.pop(0) if self.files else self.weather("file", request.path)
        if planned == CUT:
            return 200, self.video[: len(self.video) // 2], {"Content-Length": str(len(self.video))}
        return planned

    def accept(self, key: str, described: Callable[[Job], tuple[Any, ...]], **fields: object) -> Next:
        """Begin a job, unless something else was planned."""
        planned = self.queue.pop(0) if self.queue else self.weather("submit", "")
        if isinstance(planned, tuple):
            return planned
        self.submitted.append(key)
        job_id = f"p{len(self.submitted)}"
        job: Job = {"id": job_id, "key": key, "status": "running", "looks": 0, "at": datetime.now(UTC)} | fields
        self.jobs[job_id] = job
        at_once = sum(entry["status"] == "running" for entry in self.jobs.values())
        self.most_at_once = max(self.most_at_once, at_once)
        if planned in (LOST, SLOW):
            return str(planned)
        status, body, *headers = described(job) if planned != FAULT else (500, None)
        return status, json.dumps(body)[:-5].encode() if planned == CUT else body, *headers

    def look(self, job: Job) -> Job:
        """Advance a job by one step, as its state is read."""
        job["looks"] += 1
        if job["looks"] >= self.looks and job["status"] == "running":
            job["status"] = self.fate(job)
        return job

    def cancel(self, job: Job) -> None:
        self.cancelled.append(job["id"])
        if job["status"] == "running":
            job["status"] = "cancelled"

    def erase(self, job: Job, answer: Next) -> Next:
        """Forget a job, unless something else was planned; one that goes on makes its video after all."""
        if self.erasures and (planned := self.erasures.pop(0)) != LOST:
            return planned
        self.erased.append(job["id"])
        if job["status"] != "running":
            self.past.append(self.jobs.pop(job["id"]))
        return answer

    def stop_or_erase(self, job: Job, answer: Next) -> Next:
        """Cancel a job, or delete one that is over, as vendors do that have one call for both."""
        if job["status"] == "running":
            self.cancel(job)
            return answer
        return self.erase(job, answer)


class Handler(BaseHTTPRequestHandler):
    server: Server

    def _handle(self) -> None:
        vendor, split = self.server.vendor, urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(split.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        answer = vendor.answer(Request(self.command, split.path, query, self.headers, body))
        if isinstance(answer, str):
            if answer == SLOW:
                vendor.left.wait(60)
            self.close_connection = True
            return
        status, said, *headers = answer
        content = said if isinstance(said, bytes) else b"" if said is None else json.dumps(said).encode()
        self.send_response(status)
        kind = {} if isinstance(said, bytes) else {"Content-Type": "application/json"}
        for name, value in (kind | (headers[0] if headers else {})).items():
            self.send_header(name, value)
        if 300 <= status < 400:
            self.send_header("Location", said)
        if "Content-Length" not in (headers[0] if headers else {}):  # else of more than is sent
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_DELETE = _handle  # noqa: N815  the names that http.server calls

    def log_message(self, *_: object) -> None:
        """Say nothing."""
