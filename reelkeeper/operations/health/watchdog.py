"""Detect, from outside Prefect, flows that no longer run and messages that are not sent.

Cron or a systemd timer runs it. It does not depend on what it watches: it reads the store, alerts people itself,
through the outbox and at once through the second sink, and pings an external address when all is well. A monitor of
that address notices when this machine or the watchdog is dead.
"""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from reelkeeper.disk import make_folder
from reelkeeper.errors import ReelkeeperError
from reelkeeper.failpoints import effect
from reelkeeper.model.alerts import Finding, Message, MessageKind, OutboxMessage, Severity, Sink
from reelkeeper.operations.alerts.alerts import observe
from reelkeeper.operations.alerts.outbox import Delivered, Sinks, deliver
from reelkeeper.operations.core import epochs
from reelkeeper.operations.health.status import flow_states
from reelkeeper.rules.alerts import cadence
from reelkeeper.rules.core.wording import many, problem_of, sentence
from reelkeeper.store import Engine, Session
from reelkeeper.store.alerts import outbox
from reelkeeper.store.core import deployment
from reelkeeper.store.core.engine import now, reading, transaction

STUCK_AFTER = timedelta(minutes=15)
REPEAT_SECONDS = 4 * 3600.0  # for the alert that the store cannot be reached, which the store cannot record
_SEND_SECONDS = 30.0
_STUCK: Final = "stuck_outbox"
_BEHIND: Final = "store_behind"
RULES = (cadence.RULE, _STUCK, _BEHIND)


@dataclass(frozen=True, slots=True)
class Watched:
    """The findings, the outcome of the messages, and the second sink's failures."""

    findings: tuple[Finding, ...]
    delivered: Delivered
    error: str


def watch(
    engine: Engine, sinks: Sinks, *, flows: Collection[str], run_id: str, sleep: Callable[[float], None] = time.sleep
) -> Watched:
    """Check `flows` and the outbox, and alert people."""
    with reading(engine) as session:
        findings = [*_silent(session, flows), *_stuck(session)]
    findings += _behind(engine)
    observe(engine, findings, rules=RULES, run_id=run_id)
    delivered = deliver(engine, sinks, seconds=_SEND_SECONDS, sleep=sleep)
    return Watched(tuple(findings), delivered, _tell_second(engine, sinks))


def tell_unreachable(sink: Sink, error: ReelkeeperError, marker: Path, *, at: float) -> None:
    """Send the second sink an alert that the store cannot be opened; the file `marker` prevents one at each run.

    `at` is in seconds since 1970. Raises SinkError.
    """
    # guard watchdog.marker_ahead: a store that cannot be opened is not told until a clock that was ahead is caught up
    if marker.exists() and 0 <= at - marker.stat().st_mtime < REPEAT_SECONDS:
        return
    message = Message(
        kind=MessageKind.NOTE,
        severity=Severity.CRITICAL,
        title="Reelkeeper's store cannot be opened",
        text=str(error),
        suggestion="reelkeeper doctor",
    )
    sink.send(OutboxMessage(f"unreachable-{at:.0f}", message))
    make_folder(marker.parent)
    marker.touch()


def _silent(session: Session, flows: Collection[str]) -> list[Finding]:
    at, made_at = now(session), deployment.made_at(session)
    found = (
        cadence.silent(
            # guard watchdog.never_ran: nobody learns that a flow has never run
            flow.flow,
            flow.last_ok_at or made_at,
            flow.cadence,
            has_succeeded=flow.last_ok_at is not None,
            as_of=at,
        )
        for flow in flow_states(session, flows)
    )
    return [finding for finding in found if finding]


def _stuck(session: Session) -> list[Finding]:
    count, oldest = outbox.count_waiting(session)
    # guard watchdog.stuck: nobody learns that no message is sent any more
    if oldest <= STUCK_AFTER:
        return []
    minutes = oldest.total_seconds() / 60
    errors = [
        waiting.last_error for waiting in outbox.listed(session, everything=False, limit=1_000) if waiting.last_error
    ]
    return [
        Finding(
            rule=_STUCK,
            scope="outbox",
            severity=Severity.CRITICAL,
            title=f"{many(count, 'message')} in the outbox, the oldest for {minutes:,.0f} minutes",
            text=f"Last error: {errors[-1] if errors else 'none; no attempt was made to send them'}.",
            suggestion="See reelkeeper alerts messages. To send them now: reelkeeper run deliver_alerts --apply",
        )
    ]


def _behind(engine: Engine) -> list[Finding]:
    why = epochs.why_behind(engine, None)
    # guard watchdog.behind: nobody learns that nothing is deleted any more, or that two copies work on one bucket
    if why is None:
        return []
    return [
        Finding(
            rule=_BEHIND,
            scope="store",
            severity=Severity.CRITICAL,
            title="The store is behind its bucket, and deletes nothing",
            text=sentence(why),
            suggestion="Stop the other copy, if there is one. In the store that is to go on: reelkeeper db adopt",
        )
    ]


def _tell_second(engine: Engine, sinks: Sinks) -> str:
    """Send the findings to the second sink, once, even where the first has them: Slack may be what failed."""
    if sinks.second is sinks.first:
        return ""
    with reading(engine) as session:
        uncopied = outbox.uncopied(session, RULES)
    for message_id, outgoing in uncopied:
        try:
            with effect("watchdog.tell"):
                sinks.second.send(sinks.linked(outgoing))
        except Exception as error:  # noqa: BLE001  the next run sends it
            return problem_of(error)
        with transaction(engine, "watchdog.told") as session:
            # guard watchdog.told_once: the second sink gets the same alert at each run
            outbox.mark_copied(session, [message_id])
    return ""


def beat(
    engine: Engine, flow: str, *, run_id: str, period_seconds: int, grace_seconds: int, run_seconds: float | None = None
) -> None:
    """Record that `flow` has succeeded, how long it took, and its period and grace until the next success."""
    with transaction(engine, "heartbeat") as session:
        deployment.record_beat(session, flow, run_id, period_seconds, grace_seconds, run_seconds)
