"""Faults that a test switches on: each acts on the next `times` requests of one operation, then is spent."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tests.doubles.requests import Request
from tests.doubles.rules import Answer

CODES = {429: "TooManyRequests", 500: "InternalError", 503: "SlowDown", 403: "AccessDenied", 404: "NoSuchKey"}
LISTING_FAULTS = frozenset({"no_token", "repeated_token", "foreign_entry", "half"})


@dataclass(slots=True)
class Fault:
    """`what` is one of: fail, drop_request, drop_reply, cut_reply, before, after, or a listing fault."""

    what: str
    operation: str
    left: int
    answer: Answer | None = None
    action: Callable[[Request], object] | None = None


class Faults:
    """The faults in waiting. Operations are named as in S3 (`PutObject`, `ListObjectsV2`); `*` is any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[Fault] = []
        self.refused_deletes: dict[str, tuple[Answer, int]] = {}
        self.skew_seconds = 0.0

    def fail(self, operation: str, status: int, times: int = 1, code: str | None = None) -> None:
        """Answer with an error and do nothing."""
        answer = Answer(status, code or CODES.get(status, "Error"), "injected by a test")
        self._add(Fault("fail", operation, times, answer=answer))

    def drop_request(self, operation: str, times: int = 1) -> None:
        """Close the connection and do nothing."""
        self._add(Fault("drop_request", operation, times))

    def drop_reply(self, operation: str, times: int = 1) -> None:
        """Carry out the request, then close the connection without an answer."""
        self._add(Fault("drop_reply", operation, times))

    def cut_reply(self, operation: str, times: int = 1) -> None:
        """Carry out the request, then close the connection in the middle of the answer's body."""
        self._add(Fault("cut_reply", operation, times))

    def before(self, operation: str, action: Callable[[Request], object], times: int = 1) -> None:
        """Call `action` when a request has arrived and nothing is done yet."""
        self._add(Fault("before", operation, times, action=action))

    def after(self, operation: str, action: Callable[[Request], object], times: int = 1) -> None:
        """Call `action` when a request has been carried out and not yet been answered."""
        self._add(Fault("after", operation, times, action=action))

    def delay(self, operation: str, seconds: float, times: int = 1) -> None:
        """Wait before carrying out the request."""
        self.before(operation, lambda _: time.sleep(seconds), times)

    def spoil_listing(self, what: str, times: int = 1) -> None:
        """Spoil the next pages.

        `no_token` says that more follows, not where; `repeated_token` sends back to the start of the page;
        `foreign_entry` adds a key from outside the prefix; `half` leaves out half and says that it is complete.
        """
        if what not in LISTING_FAULTS:
            raise ValueError(f"{what}: not one of {sorted(LISTING_FAULTS)}")
        self._add(Fault(what, "ListObjectsV2", times))

    def refuse_deletes(self, keys: Sequence[str], code: str = "AccessDenied", times: int = 1_000_000) -> None:
        """Answer DeleteObjects with an error for each of `keys`, and delete the others."""
        for key in keys:
            self.refused_deletes[key] = Answer(200, code, "injected by a test"), times

    def take(self, what: str, operation: str) -> Fault | None:
        """Spend one fault of this kind on a request."""
        with self._lock:
            for fault in self._waiting:
                if fault.what == what and fault.operation in {operation, "*"}:
                    fault.left -= 1
                    if not fault.left:
                        self._waiting.remove(fault)
                    return fault
        return None

    def act(self, what: str, request: Request) -> None:
        """Call the action that waits for this request, if one does."""
        fault = self.take(what, request.operation)
        if fault and fault.action:
            fault.action(request)

    def take_refused(self, keys: Sequence[str]) -> Mapping[str, Answer]:
        """Spend one refusal on each key that has one."""
        refused = {}
        with self._lock:
            for key in keys:
                if key in self.refused_deletes:
                    answer, left = self.refused_deletes.pop(key)
                    refused[key] = answer
                    if left > 1:
                        self.refused_deletes[key] = answer, left - 1
        return refused

    def clear(self) -> None:
        """Forget them all."""
        with self._lock:
            self._waiting.clear()
            self.refused_deletes.clear()
            self.skew_seconds = 0.0

    def _add(self, fault: Fault) -> None:
        with self._lock:
            self._waiting.append(fault)
