"""Send messages to a webhook or the console, if Slack is not configured or fails; and ping a URL."""

import logging
import sys

import httpx

from reelkeeper.adapters import public
from reelkeeper.errors import SinkDown
from reelkeeper.model.alerts import Message, MessageKind, OutboxMessage, Severity, one_line, tame

PING_SECONDS = 10.0

_MARKS = {Severity.CRITICAL: "🔴 Critical", Severity.WARNING: "🟠 Warning", Severity.NOTICE: "🔵 Notice"}

TIMEOUT_SECONDS = 10.0
_log = logging.getLogger(__name__)


class Webhook:
    """POSTs JSON: `text` has the whole message, the other fields its parts."""

    name = "second sink"
    pace_seconds = 1.0

    def __init__(self, url: str) -> None:
        self._url = url

    def send(self, outgoing: OutboxMessage) -> str:
        """Post a message. Raises SinkDown for any answer but 2xx. Redirects are not followed."""
        body = {"id": outgoing.id, **outgoing.message.model_dump(mode="json")}
        body["text"] = as_text(outgoing.message)
        try:
            answer = httpx.post(self._url, json=body, timeout=TIMEOUT_SECONDS, follow_redirects=False)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise SinkDown(f"the second sink gave no answer: {public.cause(error)}") from None
        if not answer.is_success:
            raise SinkDown(f"the second sink answered {answer.status_code}")
        return f"second sink, {answer.status_code}"


class Console:
    """Writes to stderr, which a scheduler's log or cron's mail keeps."""

    name = "console"
    pace_seconds = 0.0

    def __init__(self, *, logged: bool = False) -> None:
        self._logged = logged  # as a line of the log, if stderr has the log

    def send(self, outgoing: OutboxMessage) -> str:
        """Print a message."""
        if self._logged:
            _log.warning("%s", as_text(outgoing.message))
            return "log"
        sys.stderr.write(f"{as_text(outgoing.message)}\n\n")
        sys.stderr.flush()
        return "console"


def headline(message: Message) -> str:
    """Return the title, with a mark for its urgency."""
    title = one_line(message.title) or "Untitled"
    if message.kind == MessageKind.RESOLVE:
        return f"🟢 {title}"
    return f"{_MARKS[message.severity]}: {title}" if message.severity else title


def as_text(message: Message) -> str:
    """Return a message as plain text, without control characters, which a terminal would interpret."""
    parts = [
        headline(message),
        message.text,
        "\n".join(f"{label}: {value}" for label, value in message.figures),
        f"What to do: {message.suggestion}" if message.suggestion else "",
        "\n".join(f"- {line}" for line in message.lines),
        message.footer,
        f"The run: {message.link}" if message.link else "",
    ]
    return tame("\n".join(part for part in parts if part))


def ping(url: str) -> None:
    """GET the URL. Raises SinkDown, without the URL, unless it answers 2xx."""
    try:
        answer = httpx.get(url, timeout=PING_SECONDS, follow_redirects=False)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise SinkDown(f"REELKEEPER_WATCHDOG_PING_URL gave no answer: {public.cause(error)}") from None
    if not answer.is_success:
        raise SinkDown(f"REELKEEPER_WATCHDOG_PING_URL answered {answer.status_code}")
