"""A double of Slack's Web API and incoming webhooks, on a local port.

It refuses what Slack refuses: a wrong token or channel, blocks over a limit, a message over its undocumented total.
Tests line up what the next requests are to get instead: an answer, a hang, a reset, or a reply lost on its way back.
"""

import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any
from urllib.parse import parse_qs, urlencode

from tests.doubles.serving import answering

TOKEN, CHANNEL, HOOK = "xoxb-the-right-token", "C0123456789", "/services/T0/B0/the-right-hook"
OPERATOR, SIGNING_SECRET = "U0123ADA", "8f742231b10e8888abcd99yyyzzz85a5"
MAX_ALL = 13_200  # characters in all blocks (bolt-js issue 2509)


@dataclass(frozen=True)
class Answer:
    """What a request gets instead of the true answer. `body` is sent as it is, or as JSON."""

    status: int = 200
    body: Any = ""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Posted:
    """A message that the double took: as chat.postMessage, a webhook or an upload brought it, and when."""

    at: float
    body: dict[str, Any]
    picture: bytes = b""


HANG, RESET, LOST = "hang", "reset", "lost"  # LOST: the message is taken, and nobody is told
Next = Answer | str


class Server(ThreadingHTTPServer):
    """Listens on a free port of loopback."""

    daemon_threads = True

    def __init__(self, double: "SlackDouble") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.double = double


class SlackDouble:
    """Its controls: `queue` is what the next requests get, `posted` what was taken, `asked` every request's path."""

    def __init__(self) -> None:
        self.clock: Callable[[], float] = time.monotonic
        self._server = Server(self)
        self.origin = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.api_url, self.hook_url = f"{self.origin}/api/", f"{self.origin}{HOOK}"
        self.second_url = f"{self.origin}/second"
        self.lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self.clock = time.monotonic
        self.queue: list[Next] = []
        self.always: Next | None = None  # an outage
        self.posted: list[Posted] = []
        self.asked: list[tuple[float, str]] = []
        self.uploads: dict[str, bytes] = {}
        self.too_long: str | None = None  # messages with this in their title are refused for good
        self.answered: list[str] = []  # what the person who pressed a button was told
        self.second: list[dict[str, Any]] = []  # what a second sink at `second_url` was given
        self.second_status = 200

    @property
    def answer_url(self) -> str:
        """Where a press is answered."""
        return f"{self.origin}/answer"

    def button(self, action: str) -> dict[str, Any]:
        """Return the newest button of this action that was posted."""
        blocks = [block for post in self.posted for block in post.body.get("blocks", []) if block["type"] == "actions"]
        found: list[dict[str, Any]] = [
            item for block in blocks for item in block["elements"] if item.get("action_id") == action
        ]
        return found[-1]

    @contextmanager
    def serving(self) -> Iterator["SlackDouble"]:
        """Answer requests until left."""
        with answering(self._server):
            yield self

    def asked_at(self) -> list[float]:
        """Return the time of each request for a message."""
        return [at for at, path in self.asked if path.endswith(("chat.postMessage", HOOK))]

    def gaps(self) -> list[float]:
        """Return the seconds between one request for a message and the next."""
        times = self.asked_at()
        return [later - sooner for sooner, later in pairwise(times)]

    def titles(self) -> list[str]:
        """Return the headers of accepted messages, in order."""
        return [
            block["text"]["text"]
            for post in self.posted
            for block in post.body.get("blocks", [])
            if block["type"] == "header"
        ]

    def answer(self, path: str, token: str, body: dict[str, Any]) -> Answer:
        """Return the true answer."""
        if path == HOOK:
            wrong = wrong_blocks(body)
            if not wrong:
                self.posted.append(Posted(self.clock(), body))
            return Answer(400, wrong) if wrong else Answer(200, "ok")
        if path == "/answer":
            self.answered.append(body["text"])
            return Answer(200, "ok")
        if path == "/second":
            self.second += [body] if self.second_status == 200 else []
            return Answer(self.second_status)
        if not path.startswith("/api/"):
            return Answer(404, "no_service")
        if token != f"Bearer {TOKEN}":
            return _no("invalid_auth")
        return getattr(self, f"_{path.removeprefix('/api/').replace('.', '_')}", lambda _: _no("unknown_method"))(body)

    def _chat_postMessage(self, body: dict[str, Any]) -> Answer:  # noqa: N802  Slack's name
        if body.get("channel") != CHANNEL:
            return _no("channel_not_found")
        if wrong := wrong_blocks(body):
            return _no(wrong)
        if self.too_long and self.too_long in body["text"]:
            return _no("msg_too_long")
        self.posted.append(Posted(self.clock(), body))
        return Answer(200, {"ok": True, "channel": CHANNEL, "ts": f"1700000000.{len(self.posted):06}"})

    def _files_getUploadURLExternal(self, body: dict[str, Any]) -> Answer:  # noqa: N802  Slack's name
        file_id = f"F{len(self.uploads):03}"
        self.uploads[file_id] = b""
        assert int(body["length"]) > 0
        return Answer(200, {"ok": True, "file_id": file_id, "upload_url": f"{self.origin}/upload/{file_id}"})

    def _files_completeUploadExternal(self, body: dict[str, Any]) -> Answer:  # noqa: N802  Slack's name
        if body.get("channel_id") != CHANNEL:
            return _no("channel_not_found")
        (file,) = json.loads(body["files"])
        self.posted.append(Posted(self.clock(), body, self.uploads[file["id"]]))
        return Answer(200, {"ok": True, "files": [file]})


def _no(error: str) -> Answer:
    return Answer(200, {"ok": False, "error": error})


def wrong_blocks(body: dict[str, Any]) -> str:
    """Return Slack's error for a message's blocks; "" if none. Limits of docs.slack.dev/reference/block-kit."""
    blocks = body.get("blocks", [])
    if not body.get("text") and not blocks:
        return "no_text"
    if len(blocks) > 50 or not all(_fits(block) for block in blocks):
        return "invalid_blocks"
    return "msg_blocks_too_long" if sum(map(_length, texts(blocks))) > MAX_ALL else ""


def _fits(block: dict[str, Any]) -> bool:
    kind = block["type"]
    if kind == "header":
        return block["text"]["type"] == "plain_text" and 0 < _length(block["text"]["text"]) <= 150
    if kind == "section":
        fields = block.get("fields", [])
        own = block.get("text", {"text": "x"})["text"]
        return (
            ("text" in block or bool(fields))
            and 0 < _length(own) <= 3000
            and len(fields) <= 10
            and all(0 < _length(item["text"]) <= 2000 for item in fields)
        )
    if kind == "actions":
        return 0 < len(block["elements"]) <= 25 and all(map(_is_button, block["elements"]))
    return (
        kind == "context" and 0 < len(block["elements"]) <= 10 and all(element["text"] for element in block["elements"])
    )


def _is_button(element: dict[str, Any]) -> bool:
    """Whether it is a link, or a button whose press comes back. Block Kit: "Button element", "Confirmation dialog"."""
    dialog = element.get("confirm")
    is_asked = dialog is None or (
        _length(dialog["title"]["text"]) <= 100
        and _length(dialog["text"]["text"]) <= 300
        and max(_length(dialog[name]["text"]) for name in ("confirm", "deny")) <= 30
    )
    comes_back = 0 < len(element.get("action_id", "")) <= 255 and len(element.get("value", "")) <= 2_000
    goes = element.get("url", "").startswith("http")
    return bool(
        element["type"] == "button" and _length(element["text"]["text"]) <= 75 and is_asked and (goes or comes_back)
    )


def press(  # as Slack tells it: docs.slack.dev, "block_actions payload", "Verifying requests from Slack"
    element: dict[str, Any],
    *,
    user: str = OPERATOR,
    at: float | None = None,
    answer_url: str,
    secret: str = SIGNING_SECRET,
) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of the call that a press on a button makes."""
    pressed_at = time.time() if at is None else at
    payload = {
        "type": "block_actions",
        "user": {"id": user, "username": "ada", "team_id": "T0"},
        "actions": [{**element, "block_id": "b", "action_ts": f"{pressed_at:.6f}"}],
        "response_url": answer_url,
        "trigger_id": "1.2.3",
    }
    body, timestamp = urlencode({"payload": json.dumps(payload)}).encode(), str(int(pressed_at))
    digest = hmac.new(secret.encode(), b"v0:" + timestamp.encode() + b":" + body, "sha256").hexdigest()
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    return body, headers | {"X-Slack-Request-Timestamp": timestamp, "X-Slack-Signature": f"v0={digest}"}


def texts(blocks: list[dict[str, Any]]) -> list[str]:
    """Return every text in these blocks."""
    found = []
    for block in blocks:
        parts = [block.get("text"), *block.get("fields", []), *_elements(block)]
        found += [part["text"] for part in parts if part]
    return found


def _elements(block: dict[str, Any]) -> list[dict[str, Any]]:
    return [item["text"] if item["type"] == "button" else item for item in block.get("elements", [])]


def active_markup(body: dict[str, Any]) -> list[str]:
    """Return every text of a message in which Slack would see a mention, a link or formatting of others."""
    blocks = body.get("blocks", [])
    parts = [part for block in blocks for part in (block.get("text"), *block.get("fields", []), *_elements(block))]
    active = [part["text"] for part in parts if part and (part["type"] != "plain_text" or part.get("emoji", True))]
    parsed = [str(body[name]) for name in ("text", "initial_comment") if body.get(name)]
    return active + [text for text in parsed if any(mark in text for mark in "<>")]


def _length(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


class Handler(BaseHTTPRequestHandler):
    server: "Server"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.double.asked.append((self.server.double.clock(), self.path))
        self._send(Answer(self.server.double.second_status))

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers.get("content-length", 0)))
        with self.server.double.lock:
            self.server.double.asked.append((self.server.double.clock(), self.path))
            answer = self._next(data)
        if isinstance(answer, Answer):
            self._send(answer)
        elif answer == HANG:
            self.connection.recv(1)  # which ends as the other side has lost its patience
        self.close_connection = True

    def _next(self, data: bytes) -> Next:
        if self.path.startswith("/upload/"):
            self.server.double.uploads[self.path.rpartition("/")[2]] = data
            return Answer(200, "OK")
        if self.path == "/second":
            return self._true(data)
        answer = (
            self.server.double.queue.pop(0)
            if self.server.double.queue
            else self.server.double.always or self._true(data)
        )
        if answer == LOST:
            self._true(data)
        return answer

    def _true(self, data: bytes) -> Answer:
        is_json = "json" in self.headers.get("content-type", "")
        form = {name: values[0] for name, values in parse_qs("" if is_json else data.decode()).items()}
        return self.server.double.answer(
            self.path, self.headers.get("authorization", ""), json.loads(data) if is_json else form
        )

    def _send(self, answer: Answer) -> None:
        body = (answer.body if isinstance(answer.body, str) else json.dumps(answer.body)).encode()
        self.send_response(answer.status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
