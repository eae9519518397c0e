"""Read how long a server asks clients to wait."""

import time
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from math import isfinite

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
