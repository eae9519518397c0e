"""Send the outbox's messages to the first sink, at its pace, and refused ones to the second sink.

Where the second is only the console, they wait: most refusals are about a token or a channel, which a person repairs.

A lease named for the sink keeps its pace over all processes: it is taken for one message, and ends one pace after the
answer, or when the sink's Retry-After ends. A message counts as sent once the sink's answer is recorded: after a crash
in between, or a lost answer, it is sent again, so that none is missing.
"""

import logging
import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from ipaddress import ip_address
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from reelkeeper.adapters import second_sink, slack
from reelkeeper.adapters.second_sink import as_text
from reelkeeper.errors import SinkBusy, SinkDown, SinkRefused
from reelkeeper.failpoints import effect
from reelkeeper.model.alerts import Message, MessageKind, OutboxMessage, Severity, Sink
from reelkeeper.operations.core.lease import new_holder
from reelkeeper.rules.core.wording import many, problem_of
from reelkeeper.settings import Settings
from reelkeeper.store import Engine
from reelkeeper.store.alerts import outbox
from reelkeeper.store.core import leases
from reelkeeper.store.core.engine import reading, transaction

_FLOW_RUN: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")  # Prefect's ids, unlike a command's

# A turn is for one message, and must outlast a turn's age at its use and the timeouts of the requests: where a process
# dies during it, no other sends before its end. A picture takes three requests.
TURN_SECONDS, PICTURE_SECONDS = 45.0, 120.0
STALE_SECONDS = 15.0  # an older turn is not used: the process was suspended, and another may have taken over
COPY_AFTER_SECONDS = 15 * 60.0
FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 5.0, 300.0
MAX_REFUSALS = 1_000  # of a message, where only the console is left: over three days at a run every 5 minutes
_MAX_FAILURES = 3  # in a row, after which this run stops
_MAX_COPIED = 50  # messages joined into one for the second sink
_SHORTEST_SLEEP_SECONDS = 0.01
_log = logging.getLogger(__name__)


def run_link(ui_url: str | None, run: str) -> str:
    """Return the page in Prefect's UI of a flow run, given by its id or by a URL of it.

    Empty where none is named, and where the address opens on this machine alone: messages are read elsewhere.

    >>> run_link("https://prefect.example.com", "0199c0de-0000-7000-8000-000000000001")
    'https://prefect.example.com/v2/runs/flow-run/0199c0de-0000-7000-8000-000000000001'
    >>> run_link("http://127.0.0.1:4200", "0199c0de-0000-7000-8000-000000000001")
    ''
    """
    run_id, at = _FLOW_RUN.search(run), urlsplit(ui_url or run)
    if not run_id or not at.hostname or _is_here(at.hostname):
        return ""
    base = (ui_url or f"{at.scheme}://{at.netloc}").rstrip("/")
    return f"{base}/v2/runs/flow-run/{run_id[0]}"  # the earlier UI is at /runs


def _is_here(host: str) -> bool:
    try:
        at = ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return at.is_loopback or at.is_unspecified


class Sinks(NamedTuple):
    """The first sink for messages, and the second for those that the first refuses."""

    first: Sink
    second: Sink
    ui_url: str = ""

    def linked(self, outgoing: OutboxMessage) -> OutboxMessage:
        """Return the message with a link to its run, where it is a flow run and Prefect's UI opens elsewhere."""
        link = run_link(self.ui_url, outgoing.message.run_id) if self.ui_url else ""
        return replace(outgoing, message=outgoing.message.model_copy(update={"link": link}))


def configured_sinks(settings: Settings) -> Sinks:
    """Return Slack, by bot or webhook, and the second sink; the console replaces one that is not configured."""
    console = second_sink.Console(logged=settings.log_format == "json")
    found: list[Sink] = []
    has_buttons = settings.slack_signing_secret is not None
    if settings.slack_bot_token and settings.slack_channel:
        token = settings.slack_bot_token.get_secret_value()
        found.append(slack.Bot(token, settings.slack_channel, settings.slack_api_url, has_buttons=has_buttons))
    elif settings.slack_webhook_url:
        found.append(slack.Webhook(settings.slack_webhook_url.get_secret_value(), has_buttons=has_buttons))
    if settings.second_sink_url:
        found.append(second_sink.Webhook(settings.second_sink_url.get_secret_value()))
    first, second = [*found, console, console][:2]
    return Sinks(first, second, settings.ui_url or "")


@dataclass(frozen=True, slots=True)
class Delivered:
    """The outcome of a delivery. `waiting` counts the messages left, `error` is the last one."""

    sent: int
    diverted: int
    copied: int
    failed: int
    waiting: int
    oldest: timedelta
    error: str


def preview(engine: Engine, *, limit: int) -> tuple[int, tuple[str, ...]]:
    """Count the waiting messages, and return the titles of the first; nothing is sent."""
    with reading(engine) as session:
        titles = tuple(waiting.title for waiting in outbox.listed(session, everything=False, limit=limit))
        return outbox.count_waiting(session)[0], titles


def deliver(
    engine: Engine, sinks: Sinks, *, seconds: float = 60.0, sleep: Callable[[float], None] = time.sleep
) -> Delivered:
    """Send due messages, untried and older ones first, for `seconds`; never sleep longer than the first sink's pace.

    Stops when the sink does not answer three times in a row, or asks to wait. Messages that have waited for 15 minutes
    by then are copied to the second sink, once, and keep waiting for the first.
    """
    delivery = _Delivery(engine, sinks, sleep)
    ends = time.monotonic() + seconds
    while delivery.in_a_row < _MAX_FAILURES and time.monotonic() < ends and delivery.step():
        pass
    delivery.copy_overdue()
    with reading(engine) as session:
        waiting, oldest = outbox.count_waiting(session)
    return Delivered(
        delivery.sent, delivery.diverted, delivery.copied, delivery.failed, waiting, oldest, delivery.error
    )


class _Delivery:
    """One run of `deliver`: its counts, and its turns at the first sink."""

    def __init__(self, engine: Engine, sinks: Sinks, sleep: Callable[[float], None]) -> None:
        self.sent = self.diverted = self.copied = self.failed = self.in_a_row = 0
        self.error = ""
        self._engine, self._sinks, self._sleep = engine, sinks, sleep
        self._holder = new_holder()
        self._is_shut = False  # the sink accepts nothing at the moment, from any process

    def step(self) -> bool:
        """Send one message; False if there is none, or another process has the sink."""
        with reading(self._engine) as session:
            if not outbox.has_due(session):
                return False
        requested_at = time.monotonic()
        while not (turn := leases.acquire(self._engine, [self._sinks.first.name], self._holder, TURN_SECONDS)):
            with reading(self._engine) as session:
                opens_in = outbox.opens_in(session, self._sinks.first.name).total_seconds()
            if opens_in > self._sinks.first.pace_seconds:
                self._is_shut = True  # or another process is sending, and continues
                return False
            self._sleep(max(opens_in, _SHORTEST_SLEEP_SECONDS))
            requested_at = time.monotonic()
        with transaction(self._engine, "outbox.take") as session:
            taken = outbox.take_next(session)
        pause = 0.0
        if taken:
            message_id, outgoing, attempts = taken
            if outgoing.picture:
                turn = leases.renew(self._engine, turn, PICTURE_SECONDS)
            pause = self._hand_over(message_id, self._sinks.linked(outgoing), attempts, requested_at=requested_at)
        leases.renew(self._engine, turn, pause)
        return taken is not None

    def copy_overdue(self) -> None:
        """Copy messages to the second sink that the first has not taken for too long."""
        while True:
            with reading(self._engine) as session:
                tried = not (self._is_shut or self.in_a_row)
                # guard outbox.copied_in_time: an alert is not seen while Slack is down
                late = outbox.overdue(session, COPY_AFTER_SECONDS, tried=tried, limit=_MAX_COPIED)
            if not late:
                return
            try:
                with effect("outbox.copy"):
                    self._sinks.second.send(
                        _copies(
                            [self._sinks.linked(outgoing) for _, outgoing in late], self._sinks.first.name, self.error
                        )
                    )
            except Exception as error:  # noqa: BLE001  whatever it is: no copy was made, and they wait all the same
                self._fail(error)
                return
            with transaction(self._engine, "outbox.copied") as session:
                # guard outbox.copied_once: the second sink gets the same message every few minutes
                outbox.mark_copied(session, [message_id for message_id, _ in late])
            self.copied += len(late)

    def _hand_over(self, message_id: int, outgoing: OutboxMessage, attempts: int, *, requested_at: float) -> float:
        """Send a message to the first sink and record its answer; return the seconds until the sink is free again."""
        pace = self._sinks.first.pace_seconds
        try:
            # guard outbox.stale_turn: a process that was suspended sends a message that another has sent
            if time.monotonic() - requested_at > STALE_SECONDS:
                raise SinkDown("this process was paused for so long that another may be sending; tried again later")  # noqa: TRY301  recorded below
            with effect("outbox.send"):
                receipt = self._sinks.first.send(outgoing)
        except SinkBusy as busy:
            self._is_shut = True
            self._fail(busy)
            self._put_off(message_id, busy.seconds)
            # guard outbox.shut: another process sends to a sink that asked for a pause
            return max(busy.seconds, pace)
        except SinkRefused as refusal:
            # guard outbox.diverted: an alert that Slack refuses reaches nobody
            self._divert(message_id, outgoing, attempts, refusal)
            return pace
        # guard outbox.any_error: one bad message blocks all others
        except Exception as error:  # noqa: BLE001  whatever it is, the message must wait and not be lost
            # guard outbox.three_failures: each run tries every message with a sink that is down, a minute for each
            self.in_a_row += 1
            self._fail(error)
            self._put_off(message_id, _backoff_seconds(attempts))
            return pace
        with transaction(self._engine, "outbox.sent") as session:
            outbox.mark_sent(session, message_id, receipt)
        self.sent += 1
        self.in_a_row = 0
        return pace

    def _divert(self, message_id: int, outgoing: OutboxMessage, attempts: int, refusal: SinkRefused) -> None:
        # guard outbox.only_console: an alert that Slack refuses because of a revoked token is lost in a log
        if isinstance(self._sinks.second, second_sink.Console) and attempts < MAX_REFUSALS:
            self.in_a_row += 1
            self._fail(refusal)
            self._put_off(message_id, _backoff_seconds(attempts))
            return
        self.error = str(refusal)
        why = f"{outgoing.message.footer}\nNot sent to {self._sinks.first.name}: {refusal}".strip()
        try:
            with effect("outbox.divert"):
                receipt = self._sinks.second.send(
                    replace(outgoing, message=outgoing.message.model_copy(update={"footer": why}))
                )
        except Exception as error:  # noqa: BLE001  as above
            self._fail(error)
            self._put_off(message_id, _backoff_seconds(attempts))
            return
        with transaction(self._engine, "outbox.diverted") as session:
            outbox.mark_diverted(session, message_id, receipt, str(refusal))
        self.diverted += 1

    def _put_off(self, message_id: int, seconds: float) -> None:
        with transaction(self._engine, "outbox.put_off") as session:
            outbox.put_off(session, message_id, seconds, self.error)

    def _fail(self, error: Exception) -> None:
        self.failed += 1  # only our own errors are known to contain no secret
        self.error = problem_of(error)
        _log.warning("a message was not sent: %s", self.error)


def _backoff_seconds(attempts: int) -> float:
    longest = min(FIRST_RETRY_SECONDS * 2.0 ** min(attempts - 1, 10), LAST_RETRY_SECONDS)
    return longest * random.uniform(0.5, 1.0)  # noqa: S311  it spreads attempts, and guards nothing


def _copies(waiting: Sequence[OutboxMessage], sink: str, error: str) -> OutboxMessage:
    """Join the messages that the first sink has not taken into one for the second."""
    message = Message(
        kind=MessageKind.DIGEST,
        severity=Severity.WARNING,
        title=f"{many(len(waiting), 'message')} waiting for {sink} for over {COPY_AFTER_SECONDS / 60:.0f} minutes",
        text=error,
        lines=tuple(as_text(outgoing.message) for outgoing in waiting),
        footer="They are still waiting to be sent. To see them: reelkeeper alerts messages",
    )
    return OutboxMessage(f"copy-{waiting[0].id}", message)
