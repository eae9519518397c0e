"""Count the requests to a bucket by day and by R2's name of the operation: the part of R2's bill that we cause.

It uses botocore's events, so that every attempt counts and not only the last. Requests that were refused for missing
rights (401, 403; "R2: Pricing", failed requests) or never reached the server are free; all others may be billed.
"""

import threading
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ConnectTimeoutError, EndpointConnectionError, ProxyConnectionError, SSLError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

FREE_STATUSES: Final = frozenset({401, 403})
_NEVER_ARRIVED: Final = (ConnectTimeoutError, EndpointConnectionError, ProxyConnectionError, SSLError)
_R2_NAMES: Final = {"ListObjectsV2": "ListObjects"}  # operations that R2's price list names differently than S3

Counts = Mapping[tuple[date, str], int]


class Meter:
    """Counts of each operation by UTC day since `take` was last called. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = Counter[tuple[date, str]]()
        self._sending = threading.local()  # the count to which a thread's answer belongs

    def attach(self, client: "S3Client") -> None:
        """Count the requests that `client` sends from now on."""
        client.meta.events.register("before-send.s3", self._sent)
        client.meta.events.register("response-received.s3", self._answered)

    def take(self) -> Counts:
        """Return the counts and start again from zero."""
        with self._lock:
            taken, self._counts = self._counts, Counter()
        return {key: count for key, count in taken.items() if count}

    def give_back(self, counts: Counts) -> None:
        """Put back counts that were taken and could not be recorded."""
        with self._lock:
            self._counts.update(counts)

    def count(self, action: str) -> None:
        """Count one operation that was not sent by a botocore client."""
        with self._lock:
            self._counts[datetime.now(UTC).date(), action] += 1

    def _sent(self, event_name: str, **_: object) -> None:
        action = event_name.rpartition(".")[2]
        key = (datetime.now(UTC).date(), _R2_NAMES.get(action, action))
        self._sending.key = key
        with self._lock:
            self._counts[key] += 1

    def _answered(self, response_dict: Mapping[str, Any] | None, exception: Exception | None, **_: object) -> None:
        refused = response_dict is not None and response_dict["status_code"] in FREE_STATUSES
        if refused or isinstance(exception, _NEVER_ARRIVED):
            with self._lock:
                self._counts[self._sending.key] -= 1
