"""A sign of life to the outside, such as a dead man's switch: what does not come is noticed there."""

import httpx

from reelkeeper.errors import SinkDown

TIMEOUT_SECONDS = 10.0


def ping(url: str) -> None:
    """GET the address. Raises SinkDown, without naming it, unless it answers 2xx."""
    try:
        answer = httpx.get(url, timeout=TIMEOUT_SECONDS, follow_redirects=False)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise SinkDown(f"REELKEEPER_WATCHDOG_PING_URL gave no answer: {type(error).__name__}") from None
    if not answer.is_success:
        raise SinkDown(f"REELKEEPER_WATCHDOG_PING_URL answered {answer.status_code}")
