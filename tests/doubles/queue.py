"""A double of Cloudflare's queue of R2 event notifications, on a local port: messages/pull and messages/ack.

Built from the documentation of pull consumers: short polling, leases that end, attempts that are counted, messages that
are dropped after too many, bodies in base64, and at-least-once delivery in any order. Tests put in events, and say how
many of them come twice and in which order.
"""

import base64
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from tests.doubles.cloudflare import ACCOUNT, Reply, failed, handler, well
from tests.doubles.serving import answering

QUEUE, TOKEN = "fedcba9876543210fedcba9876543210", "cfat-of-the-queue"
_MAX_BATCH, _DEFAULT_BATCH, _DEFAULT_LEASE_MS = 100, 5, 30_000


@dataclass
class _Held:
    """A message that waits or is leased."""

    id: str
    body: str
    kind: str
    visible_at: float = 0.0
    attempts: int = 0
    lease_id: str = ""


class QueueDouble:
    """Its controls. `asked` is what clients sent, `queued` what they get next; `clock` may be moved by a test."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.reset()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/client/v4"

    def reset(self) -> None:
        """Begin anew, with an empty queue."""
        self.messages: list[_Held] = []
        self.asked: list[tuple[str, Any]] = []
        self.queued: list[Reply] = []
        self.max_retries = 100
        self.dropped = 0
        self.token = TOKEN

    @contextmanager
    def serving(self) -> Iterator["QueueDouble"]:
        """Answer requests until left."""
        with answering(self._server):
            yield self

    def put(self, body: Any, *, kind: str = "json") -> None:  # noqa: ANN401  any JSON
        """Send a message: JSON and bytes are encoded in base64, a text is sent as it is."""
        text = body if isinstance(body, str) and kind == "text" else json.dumps(body)
        self.messages.append(
            _Held(uuid4().hex, text if kind == "text" else base64.b64encode(text.encode()).decode(), kind)
        )

    def disorder(self, random_source: random.Random, *, twice: float = 0.0, missing: float = 0.0) -> None:
        """Shuffle what waits, with a share of it sent twice and another never."""
        kept = [held for held in self.messages if random_source.random() >= missing]
        again = [_Held(held.id, held.body, held.kind) for held in kept if random_source.random() < twice]
        self.messages = kept + again
        random_source.shuffle(self.messages)

    def reply(self, method: str, path: str, headers: Mapping[str, str], body: Any) -> Reply:  # noqa: ANN401  JSON
        """Answer one request."""
        at = urlsplit(path).path
        self.asked.append((at.rpartition("/")[2], body))
        if self.queued:
            return self.queued.pop(0)
        if headers.get("Authorization") != f"Bearer {self.token}":
            return 401, {}, failed(1000, "Invalid API Token")
        place = f"/client/v4/accounts/{ACCOUNT}/queues/{QUEUE}/messages/"
        if method != "POST" or at not in {place + "pull", place + "ack"}:
            return 404, {}, failed(7003, "Could not route to the resource")
        with self._lock:
            return 200, {}, well(self._pull(body) if at.endswith("pull") else self._ack(body))

    def _pull(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        unknown = asked.keys() - {"batch_size", "visibility_timeout_ms"}
        assert not unknown, f"the API knows no {unknown}"
        now, size = self.clock(), min(int(asked.get("batch_size", _DEFAULT_BATCH)), _MAX_BATCH)
        given: list[_Held] = []
        for held in list(self.messages):
            if len(given) == size:
                break
            if held.visible_at > now:
                continue
            if held.attempts > self.max_retries:
                self.messages.remove(held)
                self.dropped += 1
                continue
            held.attempts += 1
            held.lease_id = uuid4().hex
            held.visible_at = now + asked.get("visibility_timeout_ms", _DEFAULT_LEASE_MS) / 1_000
            given.append(held)
        entries = [
            {
                "id": held.id,
                "body": held.body,
                "attempts": held.attempts,
                "lease_id": held.lease_id,
                "timestamp_ms": 1_700_000_000_000,
                "metadata": {"CF-sourceMessageSource": "r2", "CF-Content-Type": held.kind},
            }
            for held in given
        ]
        return {"message_backlog_count": len(self.messages) - len(given), "messages": entries}

    def _ack(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        acks = {entry["lease_id"] for entry in asked.get("acks", ())}
        retries = {entry["lease_id"]: entry.get("delay_seconds", 0) for entry in asked.get("retries", ())}
        before = len(self.messages)
        self.messages = [held for held in self.messages if not held.lease_id or held.lease_id not in acks]
        for held in self.messages:
            if held.lease_id in retries:
                held.visible_at = self.clock() + retries[held.lease_id]
        return {"ackCount": before - len(self.messages), "retryCount": len(retries), "warnings": {}}


def event(action: str, bucket: str, key: str, *, size: int | None = None, etag: str | None = None) -> dict[str, Any]:
    """Return an event as R2 sends it: a deletion has neither size nor ETag."""
    told: dict[str, Any] = {"key": key}
    if size is not None:
        told |= {"size": size, "eTag": etag}
    return {
        "account": ACCOUNT,
        "action": action,
        "bucket": bucket,
        "object": told,
        "eventTime": "2026-11-27T02:00:00.000Z",
    }
