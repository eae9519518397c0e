"""The queue of R2's event notifications, pulled over HTTP.

Read 2026-11 from Cloudflare's documentation: "Queues: Pull consumers", "Queues: Limits" and the API reference of
messages/pull and messages/ack. Messages are delivered at least once, in any order; one that is neither acknowledged nor
marked for a retry is delivered again when its lease ends. Pulls and acknowledgements have no rate limit.
"""

import base64
import binascii
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from reelkeeper.adapters.cloudflare.api import QUEUES, Api, documented
from reelkeeper.model.buckets import Message, Pulled
from reelkeeper.settings import Settings

BATCH: Final = 100  # messages: the maximum of one pull
LEASE_MILLISECONDS: Final = 60_000  # far longer than a batch takes; later acknowledgements are still accepted
_ENCODED: Final = frozenset({"json", "bytes"})  # content types whose bodies are base64


def connect(settings: Settings, sleep: Callable[[float], object] = time.sleep) -> "Queue | None":
    """Return the configured queue, or None if there is none: then only listings follow the bucket."""
    if not (settings.event_queue_id and settings.event_queue_token and settings.account_id):
        return None
    token = settings.event_queue_token.get_secret_value()
    api = Api(
        settings.cloudflare_api_url,
        settings.account_id,
        token,
        setting="REELKEEPER_EVENT_QUEUE_TOKEN",
        has_limit=False,
        sleep=sleep,
    )
    return Queue(api, settings.event_queue_id)


class Queue:
    """A queue with a pull consumer. Raises TokenRefused, and UsageUnknown if Cloudflare does not answer."""

    def __init__(self, api: Api, queue_id: str) -> None:
        self.account_id = api.account_id
        self._api = api
        self._path = f"/queues/{queue_id}/messages"

    def close(self) -> None:
        """Close the connections."""
        self._api.close()

    def pull(self, limit: int = BATCH) -> Pulled:
        """Pull up to `limit` messages, each under a lease; the rest comes with the next pull."""
        body = {"batch_size": limit, "visibility_timeout_ms": LEASE_MILLISECONDS}
        result = self._api.post(f"{self._path}/pull", QUEUES, body)
        with documented("messages"):
            backlog = result.get("message_backlog_count")
            messages = [_message(entry) for entry in result["messages"] or ()]
            return Pulled(messages, None if backlog is None else int(backlog))

    def settle(self, acks: Sequence[str], retries: Mapping[str, int]) -> None:
        """Acknowledge messages by lease id, and have others delivered again after the given seconds."""
        if acks or retries:
            delayed = [{"lease_id": lease_id, "delay_seconds": seconds} for lease_id, seconds in retries.items()]
            done = {"acks": [{"lease_id": lease_id} for lease_id in acks], "retries": delayed}
            self._api.post(f"{self._path}/ack", QUEUES, done)


def _message(entry: Mapping[str, Any]) -> Message:
    kind = str((entry.get("metadata") or {}).get("CF-Content-Type", "json"))
    return Message(str(entry["lease_id"]), int(entry.get("attempts") or 1), _decoded(entry.get("body"), kind))


def _decoded(body: Any, kind: str) -> Any:  # noqa: ANN401  any JSON
    """Decode a body; None if it is not JSON, so that one message does not stop the others."""
    if not isinstance(body, str):
        return body
    try:
        # JSON objects are sent as text or base64, and the latter has no brace: so both can be told apart.
        encoded = kind in _ENCODED and not body.lstrip().startswith("{")
        return json.loads(base64.b64decode(body, validate=True) if encoded else body)
    except (binascii.Error, ValueError, RecursionError):
        return None
