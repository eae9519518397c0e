"""A service's own server that is told of events: it verifies each with Standard Webhooks' library, and answers as told.

Each path is an endpoint. Tests line up what its next requests get: a status, a reply that is lost, or a slow one.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from standardwebhooks import Webhook, WebhookVerificationError

from tests.doubles.serving import answering

LOST, TRICKLE = "lost", "trickle"  # taken, and the connection closed; a byte of an answer now and then


class Received(NamedTuple):
    """An event that came, and by which of the known secrets it was signed."""

    at: float
    id: str
    type: str
    data: dict[str, Any]
    verified: tuple[str, ...]
    answer: int | str


class Receiver:
    """The server. `secrets` are those that each path verifies with, `answers` what its next requests get.

    An answer takes `seconds`. `connections` counts what was opened, `at_once` the events at work when each one came:
    of all subjects, and of its own.
    """

    def __init__(self) -> None:
        self.secrets: dict[str, list[str]] = defaultdict(list)
        self.answers: dict[str, list[int | str]] = defaultdict(list)
        self.always: dict[str, int | str] = {}
        self.headers: dict[str, str] = {}
        self.got: dict[str, list[Received]] = defaultdict(list)
        self.body: bytes | None = b""  # None: one that never comes
        self.seconds: dict[str, float] = {}
        self.connections = 0
        self.at_once: list[tuple[int, int]] = []
        self.at_work: list[str] = []
        self.stop = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self._server.server_port}{path}"

    @contextmanager
    def serving(self) -> Iterator["Receiver"]:
        with answering(self._server):
            yield self
            self.stop.set()

    def taken(self, path: str) -> list[Received]:
        """Return the events that this path has accepted with 200."""
        return [each for each in self.got[path] if each.answer == 200]


def _handler(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            receiver.connections += 1

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            sent = self.rfile.read(length)
            if len(sent) < length:  # its sender was killed in the middle: no server of a service gets to see that
                self.close_connection = True
                return
            headers = {name.lower(): value for name, value in self.headers.items()}
            verified = tuple(secret for secret in receiver.secrets[self.path] if _verifies(secret, sent, headers))
            lined_up = receiver.answers[self.path]
            answer = lined_up.pop(0) if lined_up else receiver.always.get(self.path, 200)
            payload: dict[str, Any] = (
                Webhook(verified[0]).verify(sent, headers) if verified else {"type": "", "data": {}}
            )
            receiver.got[self.path].append(
                Received(time.monotonic(), headers["webhook-id"], payload["type"], payload["data"], verified, answer)
            )
            subject = payload["data"].get("of", "")
            receiver.at_work.append(subject)
            receiver.at_once.append((len(receiver.at_work), receiver.at_work.count(subject)))
            receiver.stop.wait(receiver.seconds.get(self.path, 0.0))
            receiver.at_work.remove(subject)
            self.close_connection = answer in {LOST, TRICKLE}
            if answer == LOST:
                self.connection.close()
            elif answer == TRICKLE:
                self.wfile.write(b"HTTP/1.1 ")
                while not receiver.stop.wait(0.1):
                    self.wfile.write(b"2")
            else:
                self.send_response(int(answer))
                for name, value in receiver.headers.items():
                    self.send_header(name, value)
                body = receiver.body
                self.send_header("Content-Length", str(1 if body is None else len(body)))
                self.end_headers()
                if body is None:
                    receiver.stop.wait(3)
                else:
                    self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Stay quiet."""

    return Handler


def _verifies(secret: str, body: bytes, headers: dict[str, str]) -> bool:
    try:
        Webhook(secret).verify(body, headers)
    except WebhookVerificationError:
        return False
    return True
