"""Read how long an HTTP server asks clients to wait, and reach servers on this machine without a proxy."""

import os
import time
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from math import isfinite
from typing import Final
from urllib.parse import urlsplit

_HOSTS: Final = ("127.0.0.1", "localhost", "::1")
_PROXIES: Final = {"http_proxy", "https_proxy", "all_proxy"}
MAX_SECONDS = 6 * 3600.0  # a longer time is a mistake, and would stop us for good


def retry_after_seconds(headers: Mapping[str, str], default: float) -> float:
    """Parse Retry-After: seconds, whole or not, or a date (RFC 9110, section 10.2.3); `default` if there is none."""
    named = {name.lower(): value for name, value in headers.items()}
    text = named.get("retry-after", "")
    try:
        seconds = float(text)
    except ValueError:
        try:
            there = named.get("date")
            seconds = _timestamp(text) - (_timestamp(there) if there else time.time())
        except (TypeError, ValueError):
            seconds = default
    return min(max(seconds, 0.0), MAX_SECONDS) if isfinite(seconds) else default


def _timestamp(date: str) -> float:
    at = parsedate_to_datetime(date)
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()  # the form of asctime names no zone: it is UTC


def is_loopback(url: str) -> bool:
    """Check whether a URL names this machine, which no proxy of the environment can reach.

    >>> is_loopback("http://127.0.0.1:4200/api"), is_loopback("https://example.com")
    (True, False)
    """
    return urlsplit(url).hostname in _HOSTS


def spare_loopback() -> None:
    """Have Prefect, in this process and in those that it starts, ask a server on this machine directly.

    Without a proxy in the environment nothing is set: that of a Mac's settings would not be used any more.
    """
    known = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    # guard outages.proxy: behind a company's proxy no server of our own ever answers, and `up` and `demo` hang
    if known.strip() != "*" and _PROXIES.intersection(map(str.lower, os.environ)):
        spared = ",".join(dict.fromkeys([*filter(None, known.split(",")), *_HOSTS]))
        os.environ |= {"no_proxy": spared, "NO_PROXY": spared}
