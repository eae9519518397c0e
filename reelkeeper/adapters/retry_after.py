"""Read how long a server asks clients to wait."""

import time
from collections.abc import Mapping
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
            now = parsedate_to_datetime(there).timestamp() if there else time.time()
            seconds = parsedate_to_datetime(text).timestamp() - now
        except (TypeError, ValueError):
            seconds = default
    return min(max(seconds, 0.0), MAX_SECONDS) if isfinite(seconds) else default
