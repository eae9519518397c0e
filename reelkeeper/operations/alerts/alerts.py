"""Compare findings with the alerts that were sent, and queue new messages, in one transaction.

If a process is killed, either the alert is not recorded, and the next run finds it again, or its message waits in
the outbox. This works while changes are frozen, as people must be told why.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, get_args
from uuid import uuid4

from reelkeeper.adapters.orchestrator import Orchestrator
from reelkeeper.errors import NotFound
from reelkeeper.model.alerts import (
    AlertRule,
    AlertState,
    Finding,
    Message,
    MessageKind,
    Picture,
    Severity,
    one_line,
    tame,
)
from reelkeeper.operations.alerts import events
from reelkeeper.operations.alerts.outbox import run_link
from reelkeeper.rules.alerts import alerting, messages
from reelkeeper.rules.alerts.alerting import DIGEST_ABOVE, Decision, FindingState, Known, Lifted, Quiet, Trouble, decide
from reelkeeper.rules.alerts.cadence import FLOWS
from reelkeeper.store import Engine, Session
from reelkeeper.store.alerts import alerts, outbox
from reelkeeper.store.core import deployment
from reelkeeper.store.core.engine import now, reading, transaction

_LOOKED_BACK: Final = timedelta(hours=6)
NEVER_BEGAN_AFTER: Final = timedelta(minutes=5)  # after a worker accepted it; a cluster may have to pull an image first


@dataclass(frozen=True, slots=True)
class Observed:
    """The number of alerts sent, repeated, reported as resolved, and silenced by a snooze."""

    opened: int
    repeated: int
    resolved: int
    snoozed: int


def report_runs(engine: Engine, orchestrator: Orchestrator, *, ui_url: str | None) -> int:
    """Report the runs that failed or crashed in the last six hours, and that nobody has reported; return how many.

    Prefect's server calls the API once, away or not. After its own restart it holds an event back for 15 minutes where
    it has forgotten the one before it (`prefect.server.events.ordering`), and forgets those that it held back, so that
    runs which never began would wait for ever: they are ended first. Of a flow the last run is reported, and none that
    has succeeded since. Raises OrchestratorError.
    """
    with reading(engine) as session:
        at, beats = now(session), deployment.beats(session)
    orchestrator.end_never_begun(FLOWS, NEVER_BEGAN_AFTER)
    ended = orchestrator.ended_badly(FLOWS, at - _LOOKED_BACK)
    news, last = 0, {(run.flow, run.has_crashed): run for run in reversed(ended)}
    for run in last.values():
        beat, trouble = beats.get(run.flow.replace("-", "_")), Trouble.CRASHED if run.has_crashed else Trouble.FAILED
        if not beat or beat.last_ok_at < run.at:
            url = run_link(ui_url, run.id)
            news += report_run(engine, trouble, run.flow, run.id, run_name=run.name, message=run.message, url=url)
    return news


def report_run(
    engine: Engine, trouble: Trouble, flow: str, run_id: str, *, run_name: str, message: str, url: str
) -> int:
    """Report a run that failed, crashed or is late, unless it was only refused; return how many alerts are new."""
    if alerting.is_no_failure(trouble, flow, message):
        return 0
    found = alerting.finding(trouble, flow, run_name=run_name, message=message, url=url)
    return observe(engine, [found], rules=(), run_id=run_id).opened


def observe(
    engine: Engine,
    findings: Iterable[Finding],
    *,
    rules: Collection[str],
    run_id: str,
    scope: str | None = None,
    unjudged: Collection[tuple[str, str]] = (),
) -> Observed:
    """Record findings, and put messages about new ones into the outbox.

    `rules` were evaluated: their alerts without a finding are resolved, only those of `scope` if one is given, and none
    of `unjudged`, as rule and scope.
    Leave out a rule that could not be evaluated for lack of figures, and its alerts stay as they are.
    """
    with transaction(engine, "alerts.observe") as session:
        return observe_within(session, findings, rules=rules, run_id=run_id, scope=scope, unjudged=unjudged)


def observe_within(
    session: Session,
    findings: Iterable[Finding],
    *,
    rules: Collection[str] = (),
    run_id: str,
    scope: str | None = None,
    unjudged: Collection[tuple[str, str]] = (),
) -> Observed:
    """Do what `observe` does inside the caller's transaction: both are committed, or neither."""
    found = list(findings)
    judged = {*rules, *(one_line(finding.rule) for finding in found)}
    # guard alerts.turns: two concurrent runs report the same alert twice, or fail
    deployment.lock(session)
    at = now(session)
    rows = alerts.related(session, judged, {one_line(finding.period) for finding in found})
    known = [
        Known(**{name: getattr(row, name) for name in Known._fields})._replace(
            state=AlertState(row.state), severity=Severity(row.severity)
        )
        for row in rows
        if scope in (None, row.scope) and (row.rule, row.scope) not in unjudged
    ]
    quiet = [Quiet(item.rule, item.scope) for item in alerts.snoozes_in_force(session)]
    lifted = [Lifted(*item) for item in alerts.snoozes_over(session, judged)]
    decision = decide(found, known, quiet, rules=rules, as_of=at, lifted=lifted)
    _write(session, decision, run_id, at)
    # guard webhooks.snoozed: a service goes on spending since somebody has silenced the alert in Slack
    news = [*decision.opened, *decision.snoozed]
    events.budgets_crossed(session, (state.finding for state in news if not (state.known and state.known.is_open)))
    return Observed(
        len(decision.opened),
        len(decision.repeated),
        len(decision.resolved) + len(decision.faded),
        len(decision.snoozed),
    )


def tell_unfit(engine: Engine, machine: str, code: str, problem: str, *, run_id: str) -> None:
    """Alert people once that a machine cannot work, until `tell_fit`."""
    observe(engine, [alerting.unfit_machine(machine, code, problem)], rules=(), run_id=run_id)


def tell_fit(engine: Engine, machine: str, *, run_id: str) -> None:
    """Resolve the alert about a machine, if there is one."""
    scope = alerting.machine_scope(machine)
    observe(engine, [], rules=[alerting.UNFIT_MACHINE], scope=scope, run_id=run_id)


def forget(session: Session, rule: str, scope: str) -> None:
    """Close the open alerts of a rule and scope silently: a newer message replaces them."""
    deployment.lock(session)
    open_ids = [row.id for row in alerts.related(session, {rule}, ()) if row.scope == scope]
    alerts.close(session, open_ids, now(session))


def acknowledge(engine: Engine, alert_id: str, *, author: str) -> None:
    """Acknowledge an alert, so that a critical one is not repeated. Raises NotFound if none of this id is firing."""
    with transaction(engine, "alerts.acknowledge") as session:
        if not alerts.acknowledge(session, alert_id, author, now(session)):
            raise NotFound(
                f"no firing alert {alert_id!r} without an acknowledgement. To see the open ones: reelkeeper alerts list"
            )


def snooze(engine: Engine, rule: str, *, scope: str | None, seconds: float, author: str, reason: str) -> str:
    """Silence a rule, for one scope or all, for a while; return the id of the snooze.

    Alerts that still fire when it ends are sent then. Raises NotFound if there is no such rule.
    """
    if rule not in get_args(AlertRule):
        raise NotFound(f"no rule {rule!r}; nothing was silenced. Choose from {', '.join(get_args(AlertRule))}")
    with transaction(engine, "alerts.snooze") as session:
        at = now(session)
        values = {"rule": rule, "scope": scope, "author": author, "reason": reason, "created_at": at}
        return alerts.add_snooze(session, values | {"until": at + timedelta(seconds=seconds)})


def open_scopes(engine: Engine, rule: str) -> list[str]:
    """List the scopes of a rule whose alerts are open, which a snooze of it silences."""
    with reading(engine) as session:
        return sorted({row.scope for row in alerts.related(session, {rule}, ())})


def end_snooze(engine: Engine, snooze_id: str) -> None:
    """End a snooze before its time. Raises NotFound if none of this id is in force."""
    with transaction(engine, "alerts.unsnooze") as session:
        if not alerts.end_snooze(session, snooze_id, now(session)):
            raise NotFound(f"no snooze {snooze_id!r} in force. To see the snoozes: reelkeeper alerts list")


def post(
    session: Session,
    title: str,
    text: str = "",
    *,
    figures: Sequence[tuple[str, str]] = (),
    picture: Picture | None = None,
) -> int:
    """Put a message that is not an alert into the outbox, in the caller's transaction; return its id.

    A sink that takes no pictures gets the text and the figures.
    """
    kind = MessageKind.CHART if picture else MessageKind.NOTE
    shown = tuple((one_line(label), one_line(value)) for label, value in figures)
    message = Message(kind=kind, title=one_line(title), text=tame(text), figures=shown)
    return outbox.put(session, message, picture=picture)


def post_picture(engine: Engine, title: str, text: str, picture: Picture) -> None:
    """Put a picture with its text into the outbox."""
    with transaction(engine, "alerts.post") as session:
        post(session, title, text, picture=picture)


def _write(session: Session, decision: Decision, run_id: str, at: datetime) -> None:
    alerts.close(session, [known_alert.id for known_alert in decision.superseded], at)
    seen = {group: _note(session, getattr(decision, group), run_id, at) for group in _GROUPS}
    alerts.touch(session, [known_alert.id for known_alert in decision.outlasted], at)
    put = partial(_put, session, run_id)
    news = [
        (alert_id, state, group == "repeated") for group in ("opened", "repeated") for alert_id, state in seen[group]
    ]
    again = {alert_id for alert_id, state in seen["repeated"] if state.finding.severity != Severity.CRITICAL}
    if len(news) > DIGEST_ABOVE:
        for ids, message in messages.digests([(alert_id, state.finding) for alert_id, state, _ in news]):
            message_id = put(message, alert_ids=ids)
            alerts.mark_told(session, [alert_id for alert_id in ids if alert_id not in again], message_id, at)
            # people know of these, so their end is told even where they are struck from this message
            alerts.mark_told_again(session, again.intersection(ids), at)
    else:
        for alert_id, state, is_repeated in news:
            fired_at = state.known.first_at if state.known and state.known.is_open else at
            message = messages.alert(alert_id, state.finding, fired_at=fired_at, is_repeated=is_repeated)
            before = state.known.message_id if state.known and alert_id in again else None
            alerts.mark_told(session, [alert_id], put(message, alert_ids=[alert_id], after_id=before), at)
    _resolve(session, decision, run_id, at)


def _put(session: Session, run_id: str, message: Message, **options: Any) -> int:  # noqa: ANN401  as outbox.put has them
    return outbox.put(session, message.model_copy(update={"run_id": run_id}), **options)


_GROUPS = ("opened", "repeated", "silent", "snoozed")


def _note(session: Session, seen: Sequence[FindingState], run_id: str, at: datetime) -> list[tuple[str, FindingState]]:
    noted = [(state.known.id if state.known else uuid4().hex[:12], state) for state in seen]
    alerts.open_new(session, [(alert_id, state.finding) for alert_id, state in noted if not state.known], run_id, at)
    for alert_id, state in noted:
        if state.known:
            alerts.see_again(session, alert_id, state.finding, run_id, at, reopened=not state.known.is_open)
    alerts.mark_believed(session, [alert_id for alert_id, state in noted if state.is_told])
    return noted


def _resolve(session: Session, decision: Decision, run_id: str, at: datetime) -> None:
    alerts.close(session, [known_alert.id for known_alert in (*decision.resolved, *decision.faded)], at)
    # guard alerts.muted: an alert is sent after its incident has ended during a snooze, and its end is never told
    ended = (*decision.resolved, *decision.muted)
    # guard alerts.critical: a short critical incident is never reported
    passing = [known_alert for known_alert in ended if known_alert.severity != Severity.CRITICAL]
    over = {known_alert.id: known_alert.message_id for known_alert in passing}
    withdrawn = set(outbox.withdraw(session, [message_id for message_id in over.values() if message_id]))
    withdrawn |= outbox.strike(session, over, messages.of_digest)
    # guard alerts.untold: a withdrawn alert counts as sent, and is not sent when the incident returns
    alerts.mark_untold(session, withdrawn)
    announced = [known_alert for known_alert in decision.resolved if known_alert.id not in withdrawn]
    groups = [announced] if len(announced) > DIGEST_ABOVE else [[known_alert] for known_alert in announced]
    for group in groups:
        for ids, message in messages.resolved(group, at):
            after_id = max((known_alert.message_id or 0 for known_alert in group), default=0) or None
            _put(session, run_id, message, alert_ids=ids, after_id=after_id)
