"""Webhook endpoints, and the delivery of their events.

Each endpoint has its own lease, connections and places, so a slow or dead one delays no other. An event counts as
delivered once that is recorded: after a crash in between, or a lost answer, it is sent again under the same id, so that
none is missing.
"""

import asyncio
import base64
import hashlib
import logging
import math
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from reelkeeper.adapters import public
from reelkeeper.adapters import webhooks as sender
from reelkeeper.errors import InputRefused, KeyReused, LeaseLost, NotFound, SinkBusy, SinkRefused
from reelkeeper.failpoints import effect
from reelkeeper.model.alerts import Delivery, Endpoint, EventType
from reelkeeper.operations.alerts import alerts
from reelkeeper.operations.core import replays
from reelkeeper.operations.core.lease import LeaseManager
from reelkeeper.rules.alerts import webhooks as rules
from reelkeeper.rules.core.wording import problem_of
from reelkeeper.store import Engine, Session
from reelkeeper.store.alerts import webhooks
from reelkeeper.store.core import deployment, leases
from reelkeeper.store.core.audit import Event, append
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.lifecycle import notices

MAX_ENDPOINTS: Final = 20
MAX_AT_ONCE: Final = 16  # messages at one endpoint: at 100 ms for each it takes 100 a second and more
LOOK_SECONDS: Final = 1.0
_RUN: Final = "webhooks"
_log = logging.getLogger(__name__)


def add(
    engine: Engine, url: str, events: Sequence[EventType] = (), *, allow_private: bool, author: str, key: str = ""
) -> tuple[str, str]:
    """Add an endpoint for these events, or for all; return its id and its secret, which is not shown again.

    A repetition with the same `key` returns the same endpoint, with a new secret: the answer may have been lost.
    Raises AddressRefused unless the URL is https with a public address, InputRefused for more than 20 endpoints,
    KeyReused where the key was used with another address.
    """
    # guard webhooks.address: an endpoint inside our network is added
    public.resolve(url, allow_private=allow_private)
    secret = _new_secret()
    named = hashlib.sha256(key.encode()).hexdigest()[:12] if key else None
    with transaction(engine, "webhooks.add") as session:
        # guard webhooks.add_turns: a request that is repeated before its first answer ends in an internal error
        deployment.lock(session)
        if named and (before := webhooks.url_of(session, named)) is not None:
            # guard webhooks.key_reused: a key reused with another address returns the first endpoint's secret
            if before != url:
                raise KeyReused(
                    f"idempotency key {key!r} was used to add another URL; nothing was changed. Use a new key"
                )
            webhooks.rotate(session, named, secret, rules.OLD_SECRET_SECONDS)
            _audit(session, "webhook_rotate", named, author)
            replays.note()
            return named, secret
        if webhooks.count(session) >= MAX_ENDPOINTS:
            raise InputRefused(
                f"there are {MAX_ENDPOINTS} webhooks, which is the limit; nothing was added. Delete one first"
            )
        endpoint_id = webhooks.add(session, url, sorted(set(events)), secret, named)
        _audit(session, "webhook_add", endpoint_id, author, host=urlsplit(url).hostname, events=sorted(set(events)))
    return endpoint_id, secret


def rotate(engine: Engine, endpoint_id: str, *, author: str) -> str:
    """Replace an endpoint's secret and return the new one; for a day, messages are also signed with the old one."""
    secret = _new_secret()
    with transaction(engine, "webhooks.rotate") as session:
        deployment.lock(session)
        _require(webhooks.rotate(session, endpoint_id, secret, rules.OLD_SECRET_SECONDS), endpoint_id)
        _audit(session, "webhook_rotate", endpoint_id, author)
    return secret


def choose(engine: Engine, endpoint_id: str, events: Sequence[EventType], *, author: str) -> None:
    """Subscribe an endpoint to these events from now on, or to all. Waiting messages are still sent."""
    with transaction(engine, "webhooks.choose") as session:
        deployment.lock(session)
        chosen = sorted(set(events))
        _require(webhooks.choose(session, endpoint_id, chosen), endpoint_id)
        _audit(session, "webhook_choose", endpoint_id, author, events=chosen)


def disable(engine: Engine, endpoint_id: str, *, author: str) -> None:
    """Stop sending to an endpoint until it is enabled; events wait for it."""
    with transaction(engine, "webhooks.disable") as session:
        deployment.lock(session)
        _require(webhooks.disable(session, endpoint_id, f"by {author}"), endpoint_id)
        _audit(session, "webhook_disable", endpoint_id, author)


def enable(engine: Engine, endpoint_id: str, *, author: str) -> None:
    """Resume sending to an endpoint, waiting messages first, and resolve its alert."""
    with transaction(engine, "webhooks.enable") as session:
        deployment.lock(session)
        _require(webhooks.enable(session, endpoint_id), endpoint_id)
        alerts.observe_within(session, [], rules=[rules.DISABLED], scope=rules.scope(endpoint_id), run_id=_RUN)
        _audit(session, "webhook_enable", endpoint_id, author)


def remove(engine: Engine, endpoint_id: str, *, author: str) -> None:
    """Delete an endpoint, and its waiting messages."""
    with transaction(engine, "webhooks.remove") as session:
        # guard webhooks.remove_turns: a notice that a run gives meanwhile waits for ever for an endpoint that is gone
        deployment.lock(session)
        _require(webhooks.remove(session, endpoint_id), endpoint_id)
        notices.forget_endpoint(session, endpoint_id)
        alerts.observe_within(
            session, [], rules=[rules.DISABLED, rules.GIVEN_UP], scope=rules.scope(endpoint_id), run_id=_RUN
        )
        _audit(session, "webhook_remove", endpoint_id, author)


def replay(engine: Engine, endpoint_id: str, *, since: datetime | None, author: str) -> int:
    """Send messages again: those given up and, from `since` on, those delivered; return how many. Ids stay the same."""
    with transaction(engine, "webhooks.replay") as session:
        deployment.lock(session)
        _require(webhooks.exists(session, endpoint_id), endpoint_id)
        count = webhooks.replay(session, endpoint_id, since)
        alerts.observe_within(session, [], rules=[rules.GIVEN_UP], scope=rules.scope(endpoint_id), run_id=_RUN)
        _audit(session, "webhook_replay", endpoint_id, author, messages=count)
    return count


def release(engine: Engine, endpoint_id: str | None, *, author: str, reason: str) -> int:
    """Count the notices that an endpoint has not accepted as given now; return how many. None: any endpoint.

    The operator confirms that users were told in another way. The days of notice run from now, as from a delivery.
    """
    with transaction(engine, "webhooks.release") as session:
        deployment.lock(session)
        if endpoint_id is not None:
            _require(webhooks.exists(session, endpoint_id), endpoint_id)
        count = notices.release(session, endpoint_id)
        scope = rules.scope(endpoint_id) if endpoint_id else None
        alerts.observe_within(session, [], rules=[rules.NOT_DELIVERED], scope=scope, run_id=_RUN)
        detail = {"webhook": endpoint_id, "notices": count, "reason": reason}
        append(session, [Event("notice_release", author, detail=detail)])
    return count


def listed(engine: Engine) -> list[Endpoint]:
    """List the endpoints, the oldest first."""
    with reading(engine) as session:
        return webhooks.listed(session)


def find(engine: Engine, endpoint_id: str) -> Endpoint:
    """Return this endpoint. Raises NotFound."""
    found = [endpoint for endpoint in listed(engine) if endpoint.id == endpoint_id]
    _require(bool(found), endpoint_id)
    return found[0]


@dataclass(slots=True)
class Deliveries:
    """The number of events accepted by endpoints, and of failed attempts."""

    sent: int = 0
    failed: int = 0


def deliver(
    engine: Engine,
    *,
    allow_private: bool,
    seconds: float = 60.0,
    follow: bool = False,
    timeout_seconds: float = sender.TIMEOUT_SECONDS,
) -> Deliveries:
    """Send due messages to each endpoint, for at most `seconds`; with `follow`, also those that arrive meanwhile."""
    with reading(engine) as session:
        if not webhooks.has_endpoint(session):
            return Deliveries()
    with LeaseManager(engine) as manager:
        run = _Run(engine, manager, time.monotonic() + seconds)
        open_sender = partial(sender.Sender, allow_private=allow_private, timeout_seconds=timeout_seconds)
        asyncio.run(_deliver(run, open_sender, follow=follow))
    return run.deliveries


@dataclass(frozen=True, slots=True)
class _Run:
    """One run of `deliver`, shared by its endpoints."""

    engine: Engine
    manager: LeaseManager
    ends: float
    deliveries: Deliveries = field(default_factory=Deliveries)

    def is_over(self) -> bool:
        return time.monotonic() >= self.ends

    def due_endpoints(self) -> list[str]:
        if self.is_over():
            return []
        with reading(self.engine) as session:
            return webhooks.due_endpoints(session)


async def _deliver(run: _Run, open_sender: Callable[[], sender.Sender], *, follow: bool) -> None:
    busy: dict[str, asyncio.Task[None]] = {}
    senders: dict[str, sender.Sender] = {}
    async with AsyncExitStack() as stack:
        while busy or not run.is_over():
            for endpoint_id in await asyncio.to_thread(run.due_endpoints):
                if endpoint_id not in senders:
                    senders[endpoint_id] = await stack.enter_async_context(aclosing(open_sender()))
                if endpoint_id not in busy:
                    # guard webhooks.apart: a dead endpoint delays the others
                    busy[endpoint_id] = asyncio.create_task(_serve(run, endpoint_id, senders[endpoint_id]))
            if busy:
                await asyncio.wait(busy.values(), timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            elif follow:
                await asyncio.sleep(LOOK_SECONDS)
            else:
                break
            for endpoint_id in [name for name, task in busy.items() if task.done()]:
                busy.pop(endpoint_id).result()


async def _serve(run: _Run, endpoint_id: str, send_to: sender.Sender) -> None:
    """Send due messages to one endpoint until there are none, or it is paused."""
    taken = await asyncio.to_thread(run.manager.take, [f"webhook/{endpoint_id}"])
    # guard webhooks.one_sender: two processes send the same event at the same time
    if not taken:
        await asyncio.sleep(min(LOOK_SECONDS, max(0.0, run.ends - time.monotonic())))  # another process serves it
        return
    serving = _Serving(run, endpoint_id, taken[0], send_to)
    try:
        await serving.until_done()
    except LeaseLost:
        _log.warning("another process serves webhook %s now", endpoint_id)
    finally:
        for task in serving.at_work:
            task.cancel()
        await asyncio.to_thread(run.manager.release, taken)


class _Attempt(NamedTuple):
    """One request, and what came of it: a receipt, or an error."""

    delivery: Delivery
    began: float
    receipt: str = ""
    error: Exception | None = None


class _Serving:
    """Sends messages to one endpoint: each subject's in order, those of different subjects side by side.

    An endpoint gets one at first, one more at a time with each that it accepts, and one again after a failure. So one
    that is down, or asks for a pause, is asked no oftener than with one at a time. The store is asked from a thread,
    once for all that was answered meanwhile: a slow commit neither holds up nor times out the other requests.
    """

    def __init__(self, run: _Run, endpoint_id: str, lease: Lease, send_to: sender.Sender) -> None:
        self.at_work: dict[asyncio.Task[_Attempt], int] = {}  # the message of each
        self._run, self._endpoint_id, self._lease, self._sender = run, endpoint_id, lease, send_to
        self._room = 1
        self._failed_at = -math.inf

    async def until_done(self) -> None:
        """Send what is due, until there is nothing, or the run is over; wait for what was begun."""
        while True:
            if len(self.at_work) < self._room and not self._run.is_over():
                for delivery in await asyncio.to_thread(self._due):
                    self.at_work[asyncio.create_task(self._attempt(delivery))] = delivery.message_id
            if not self.at_work:
                return
            done, _ = await asyncio.wait(self.at_work, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.to_thread(self._record, [task.result() for task in done])
            for task in done:
                del self.at_work[task]

    def _due(self) -> list[Delivery]:
        with reading(self._run.engine) as session:
            places, but = self._room - len(self.at_work), set(self.at_work.values())
            found = webhooks.due(session, self._endpoint_id, places, but=but)
        self._run.manager.check(self._lease)
        return found

    async def _attempt(self, delivery: Delivery) -> _Attempt:
        began = time.monotonic()
        try:
            with effect("webhook.send"):
                return _Attempt(delivery, began, receipt=await self._sender.send(delivery))
        # guard webhooks.any_error: one bad message blocks all others of its endpoint
        except Exception as error:  # noqa: BLE001  whatever it is, the event must wait and not be lost
            return _Attempt(delivery, began, error=error)

    def _record(self, attempts: Sequence[_Attempt]) -> None:
        """Record these attempts in one transaction: if it fails, they are made again under the same ids."""
        receipts = {each.delivery.message_id: each.receipt for each in attempts if each.error is None}
        with transaction(self._run.engine, "webhook.answered") as session:
            if len(receipts) < len(attempts):
                deployment.lock(session)
            # guard webhooks.marked_by_sender: a process that was suspended marks an event as failed that another sends
            if not leases.current(session, self._lease):
                raise LeaseLost(f"another process holds lease {self._lease.name!r} now; nothing was recorded")
            if receipts:
                is_well = any(each.error is None and not each.delivery.is_own for each in attempts)
                webhooks.mark_sent(session, self._endpoint_id, receipts, is_well=is_well)
                notices.delivered(session, receipts)
            for each in attempts:
                if each.error is not None:
                    self._note_failure(session, each, each.error)
        self._run.deliveries.sent += len(receipts)
        self._run.deliveries.failed += len(attempts) - len(receipts)
        failed = len(receipts) < len(attempts)
        self._room = 1 if failed else min(self._room + len(receipts), MAX_AT_ONCE)

    def _note_failure(self, session: Session, attempt: _Attempt, error: Exception) -> None:
        problem = problem_of(error)
        _log.warning("webhook %s did not accept a message: %s", self._endpoint_id, problem)
        endpoint_id, delivery = self._endpoint_id, attempt.delivery
        # guard webhooks.own_apart: a wrong URL of one job pauses or disables the endpoint, and all wait
        if delivery.is_own:
            self._note_own_failure(session, delivery, error, problem)
            return
        in_a_row = attempt.began >= self._failed_at  # and not on its way when another failed
        if in_a_row:
            self._failed_at = time.monotonic()
        untried = rules.UNTRIED_SECONDS
        failing = webhooks.note_failure(session, endpoint_id, problem, in_a_row=in_a_row, untried_seconds=untried)
        if failing is None:
            return  # it was removed
        retry_after = error.seconds if isinstance(error, SinkBusy) else 0.0
        webhooks.close(session, endpoint_id, max(retry_after, rules.pause_seconds(failing.failures)))
        failing_for = failing.at - failing.failing_since
        retry = rules.retry_seconds(delivery.attempts + 1)
        is_gone = isinstance(error, SinkRefused)
        if is_gone or failing_for >= rules.DEAD_AFTER:
            reason = problem if is_gone else f"It has accepted nothing for {failing_for.days} days: {problem}"
            webhooks.disable(session, endpoint_id, reason)
            # guard webhooks.waits_for_the_dead: a message that a dead endpoint missed is given up, and lost
            webhooks.put_off(session, delivery.message_id, 0.0, problem)
            # guard webhooks.dead_told: a service gets no more events, and nobody knows
            alerts.observe_within(session, [rules.disabled(endpoint_id, reason)], run_id=_RUN)
        # guard webhooks.accepts_others: an event is given up as nobody sent for days, and its endpoint was down before
        elif retry is None and failing.last_ok_at and failing.last_ok_at >= delivery.happened_at:
            self._give_up(session, delivery, failing.at, problem)
        else:
            webhooks.put_off(session, delivery.message_id, float(retry or rules.RETRY_SECONDS[-1]), problem)

    def _note_own_failure(self, session: Session, delivery: Delivery, error: Exception, problem: str) -> None:
        """Try a job's own URL again later; the endpoint at its origin is not to blame."""
        retry = rules.retry_seconds(delivery.attempts + 1)
        if retry is None or isinstance(error, SinkRefused):
            self._give_up(session, delivery, delivery.at, problem)
            return
        asked_for = error.seconds if isinstance(error, SinkBusy) else 0.0
        webhooks.put_off(session, delivery.message_id, max(float(retry), asked_for), problem)

    def _give_up(self, session: Session, delivery: Delivery, at: datetime, problem: str) -> None:
        webhooks.give_up(session, delivery.message_id, problem)
        # guard webhooks.given_up_told: the service misses an event, and nobody knows
        finding = rules.given_up(self._endpoint_id, f"{at:%Y-%m-%d}", delivery.id, problem)
        alerts.observe_within(session, [finding], run_id=_RUN)


def _require(found: bool, endpoint_id: str) -> None:
    if not found:
        raise NotFound(f"no webhook {endpoint_id!r}. To see them: reelkeeper webhooks list")


def _audit(session: Session, event: str, endpoint_id: str, author: str, **detail: object) -> None:
    append(session, [Event(event, author, detail={"webhook": endpoint_id, **detail})])


def _new_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
