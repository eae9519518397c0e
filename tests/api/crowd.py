"""Simulate clients of the API: silent, slow, listening forever, and well-behaved ones."""

import asyncio
import contextlib
import hashlib
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final, NamedTuple, Self

PNG: Final = b"\x89PNG\r\n\x1a\n" + b"whatever comes then"
_BARE: Final = """
import asyncio
async def answer(reader, writer):
    await reader.readuntil(b"\\r\\n\\r\\n")
    writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n")
    writer.close()
async def serve():
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(serve())
"""
_PROBE: Final = """
import http.client, json, subprocess, sys, time
host, port, seconds, bare = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
beside = subprocess.Popen([sys.executable, "-c", bare], stdout=subprocess.PIPE)
ports = {"/healthz": port, "/readyz": port, "bare": int(beside.stdout.readline())}
took, began = {path: [] for path in ports}, time.monotonic()
while time.monotonic() - began < seconds:
    for path, all in took.items():
        asked = time.monotonic()
        try:
            line = http.client.HTTPConnection(host, ports[path], timeout=30)
            line.request("GET", path)
            status = line.getresponse().status
            line.close()
        except OSError as error:
            status = type(error).__name__
        all.append((time.monotonic() - asked, status))
    time.sleep(0.1)
beside.kill()
print(json.dumps(took))
"""

_AT_MOST: Final = 120.0  # seconds, where a busy machine needs them


class Size(NamedTuple):
    """How large the crowd is, and how long it stays."""

    idle: int
    streams: int
    slow_bodies: int
    clients: int
    seconds: float


class Answer(NamedTuple):
    """A status, 0 if the connection was cut before, and the headers."""

    status: int
    headers: dict[str, str]
    body: bytes


CUT: Final = Answer(0, {}, b"")


@dataclass
class Tally:
    """What became of it: statuses by kind of caller, and seconds until an answer."""

    statuses: dict[str, Counter[str]] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def note(self, kind: str, answer: Answer, seconds: float) -> None:
        said = str(answer.status)
        if answer.status == 503:
            said += " shed" if "retry-after" in answer.headers and b"urn:reelkeeper:" in answer.body else " bare"
        self.statuses.setdefault(kind, Counter())[said] += 1
        self.seconds.setdefault(kind, []).append(seconds)

    def some_went_well(self) -> bool:
        """Say whether those who ask well have been served at all."""
        return all(self.statuses.get(kind, Counter())["200"] for kind in ("client", "image", "stream"))

    def faults(self) -> dict[str, int]:
        """Answers that a server under load must not give: 5xx other than 503 that says when to come back."""
        return {
            f"{kind} {status}": number
            for kind, all_of in self.statuses.items()
            for status, number in all_of.items()
            if status.startswith("5") and status != "503 shed"
        }


class Connection:
    """One connection."""

    def __init__(self, host: str, port: int) -> None:
        self._at = host, port
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection(*self._at)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def ask(self, method: str, path: str, token: str, body: bytes = b"", **headers: str) -> Answer:
        await self.send(head(method, path, token, len(body), **headers) + body)
        return await self.answer()

    async def answer(self) -> Answer:
        """Read one answer; CUT where there is none."""
        try:
            answer = await self.answer_head()
            length = int(answer.headers.get("content-length", "0"))
            return answer._replace(body=await self.reader.readexactly(length))
        except (OSError, asyncio.IncompleteReadError):
            return CUT

    async def answer_head(self) -> Answer:
        first, *rest = (await self.reader.readuntil(b"\r\n\r\n")).decode().rstrip().split("\r\n")
        pairs = (text.partition(": ") for text in rest)
        return Answer(int(first.split()[1]), {name.lower(): value for name, _, value in pairs}, b"")


def head(method: str, path: str, token: str, length: int, **headers: str) -> bytes:
    """Write the head of a request."""
    told = {"Host": "api", "Authorization": f"Bearer {token}", "Content-Length": str(length), **headers}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name.replace('_', '-')}: {value}" for name, value in told.items())]
    return "\r\n".join([*lines, "", ""]).encode()


@dataclass
class Crowd:
    """All of them at one server."""

    host: str
    port: int
    tokens: list[str]
    job_ids: list[str]
    size: Size
    seen: Tally = field(default_factory=Tally)
    listening: int = 0  # streams that are open now

    async def stay(self, sample: Callable[[], None]) -> dict[str, list[tuple[float, int | str]]]:
        """Stand before the door for as long as `size` says; return how the health routes answered meanwhile.

        Beside them stands `bare`, a server that does nothing else: how slow the machine was.
        """
        words = [_PROBE, self.host, str(self.port), str(self.size.seconds), _BARE]
        probe = await asyncio.create_subprocess_exec(sys.executable, "-c", *words, stdout=subprocess.PIPE)
        size = self.size
        kinds: list[tuple[int, Callable[[int], Awaitable[None]]]] = [
            (size.idle, self._idle),
            (size.streams, self._stream),
            (size.slow_bodies, self._slow_body),
            (size.clients, self._client),
            (1, self._image),
        ]
        began = time.monotonic()
        tasks = [asyncio.create_task(_again(act, number)) for many, act in kinds for number in range(many)]
        try:
            while (stood := time.monotonic() - began) < size.seconds or (
                stood < _AT_MOST and not self.seen.some_went_well()
            ):
                await asyncio.sleep(0.5)
                sample()
            told, _ = await probe.communicate()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        found: dict[str, list[tuple[float, int | str]]] = json.loads(told)
        return found

    def _line(self) -> Connection:
        return Connection(self.host, self.port)

    def _token(self, number: int) -> str:
        return self.tokens[number % len(self.tokens)]

    async def _idle(self, number: int) -> None:
        """Say nothing; one of ten dribbles the head of a request."""
        async with self._line() as line:
            if number % 10:
                await line.reader.read()
                return
            for byte in head("GET", "/v1/users/ann", self._token(number), 0, X_Padding="x" * 4_000):
                await line.send(bytes([byte]))
                await asyncio.sleep(0.5)

    async def _stream(self, number: int) -> None:
        """Listen to a job."""
        began = time.monotonic()
        async with self._line() as line:
            path = f"/v1/jobs/{self.job_ids[number % len(self.job_ids)]}/events"
            await line.send(head("GET", path, self._token(number), 0))
            answer = await line.answer_head()
            if answer.status != 200:
                answer = answer._replace(body=await line.reader.readexactly(int(answer.headers["content-length"])))
                self.seen.note("stream", answer, time.monotonic() - began)
                await asyncio.sleep(int(answer.headers.get("retry-after", "1")))
                return
            await line.reader.readuntil(b"\n\n")
            self.seen.note("stream", answer, time.monotonic() - began)
            self.listening += 1
            try:
                while await line.reader.read(4_096):
                    pass
            finally:
                self.listening -= 1

    async def _slow_body(self, number: int) -> None:
        """Send an image of 5 MB, a byte each 0.2 s."""
        began = time.monotonic()
        async with self._line() as line:
            await line.send(head("POST", "/v1/images", self._token(number), 5_000_000) + PNG)
            answer = asyncio.create_task(line.answer())
            with contextlib.suppress(OSError):
                while not answer.done():
                    await line.send(b"x")
                    await asyncio.sleep(0.2)
            self.seen.note("slow body", await answer, time.monotonic() - began)
        await asyncio.sleep(0.5)

    async def _client(self, number: int) -> None:
        """Send a service's requests on one connection, each after the previous answer."""
        token, mine = self._token(number), count()
        async with self._line() as line:
            while True:
                turn = next(mine)
                began = time.monotonic()
                key = hashlib.sha256(f"{number}-{turn}-{began}".encode()).hexdigest()
                asked: list[tuple[str, str, dict[str, Any] | None]] = [
                    ("POST", "/v1/jobs", {"user_id": "ann", "request": {"model": "m", "prompt": f"job {number % 7}"}}),
                    ("POST", "/v1/quota/check", {"user_id": "ann", "incoming_bytes": 1_000}),
                    ("GET", f"/v1/jobs/{self.job_ids[0]}", None),
                    ("GET", "/v1/users/ann", None),
                    ("GET", "/v1/users/ann", None),
                ]
                method, path, told = asked[(number + turn) % 5]
                body = json.dumps(told).encode() if told else b""
                headers = {"Content_Type": "application/json", "Idempotency_Key": key} if told else {}
                answer = await line.ask(method, path, token, body, **headers)
                self.seen.note("client", answer, time.monotonic() - began)
                if answer.status not in (200, 202) or answer.headers.get("connection") == "close":
                    break
        await asyncio.sleep(int(answer.headers.get("retry-after", "0")))

    async def _image(self, number: int) -> None:
        """Send an image as it should be, once a second."""
        began = time.monotonic()
        async with self._line() as line:
            answer = await line.ask("POST", "/v1/images", self._token(number - 1), PNG)
            self.seen.note("image", answer, time.monotonic() - began)
        await asyncio.sleep(1)


async def _again(act: Callable[[int], Awaitable[None]], number: int) -> None:
    """Do it again and again, whatever the server does to the line."""
    while True:
        try:
            await act(number)
        except (OSError, asyncio.IncompleteReadError):
            await asyncio.sleep(0.2)
