"""Sixteen clients with one connection each, which send the next request after each answer."""

import json
import threading
import time
from collections.abc import Callable
from http.client import HTTPConnection
from typing import Any, NamedTuple

CLIENTS = 16


class Sent(NamedTuple):
    """One request."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any = None


class Rush(NamedTuple):
    """The result: requests a second, and the median and 99th percentile in seconds."""

    a_second: float
    p50_seconds: float
    p99_seconds: float


def rush(port: int, requests: int, request: Callable[[int], Sent], status: int) -> Rush:
    """Send `requests` requests, shared among the clients; raise AssertionError for any other status."""
    took: list[float] = []
    wrong: list[str] = []
    taken = iter(range(requests))
    lock = threading.Lock()

    def client() -> None:
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        while True:
            with lock:
                number = next(taken, None)
            if number is None or wrong:
                break
            asked = request(number)
            body = None if asked.body is None else json.dumps(asked.body)
            began = time.perf_counter()
            connection.request(asked.method, asked.path, body, asked.headers)
            answer = connection.getresponse()
            text = answer.read()
            took.append(time.perf_counter() - began)
            if answer.status != status:
                wrong.append(f"{asked}: {answer.status}, {text[:300]!r}")
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    whole = time.perf_counter() - began
    if wrong:
        raise AssertionError(wrong[0])
    took.sort()
    return Rush(requests / whole, took[len(took) // 2], took[int(len(took) * 0.99)])
