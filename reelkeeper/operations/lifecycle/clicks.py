"""Carry out an operator's press on a button of a Slack alert, once, and report it in the channel.

A repeated or replayed press has no second effect: it names the alert as in the message, and itself by Slack's
timestamp.
"""

import hashlib
import logging
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from reelkeeper.errors import NotFound, OnTrial, PlanRefused
from reelkeeper.model.alerts import AlertState, Click, Verb
from reelkeeper.operations.alerts.alerts import post
from reelkeeper.operations.lifecycle import plans
from reelkeeper.rules.alerts import alerting
from reelkeeper.rules.core.wording import size
from reelkeeper.store import Engine, Session
from reelkeeper.store.alerts import alerts
from reelkeeper.store.alerts.alerts import ListedAlert
from reelkeeper.store.core import deployment
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.lifecycle.plans import Approved

SNOOZE: Final = timedelta(hours=8)
_SHOWN: Final = 5  # videos of a plan that are shown
_log = logging.getLogger(__name__)


class ClickResult(NamedTuple):
    """The answer to the person who clicked, and the approved plan, if any."""

    answer: str
    approved: Approved | None = None


def carry_out(engine: Engine, click: Click, operators: Collection[str]) -> ClickResult:
    """Carry out a click, if this person is permitted; the answer contains any refusal."""
    # guard slack.operators: everybody in the channel approves plans
    if click.user_id not in operators:
        _log.warning("%s clicked %s in Slack, but is not in REELKEEPER_SLACK_OPERATORS", click.user_id, click.verb)
        return ClickResult(f"Nothing was done: {click.user_id} is not in REELKEEPER_SLACK_OPERATORS.")
    try:
        return _HANDLERS[click.verb](engine, click)
    except (NotFound, OnTrial, PlanRefused) as error:
        return ClickResult(str(error))


def why(engine: Engine, alert_id: str) -> str:
    """Describe an alert in full, with the contents of a refused plan. Raises NotFound."""
    with reading(engine) as session:
        alert = _find(session, alert_id)
    text = _explain(alert)
    return f"{text}\n\n{_contents(engine, alert.period)}" if alert.rule == alerting.PLAN_REFUSED else text


def _explain(alert: ListedAlert) -> str:
    by = f", acknowledged by {alert.acknowledged_by}" if alert.acknowledged_by else ""
    seen = f"first {alert.first_at:%Y-%m-%d %H:%M}, last {alert.last_at:%Y-%m-%d %H:%M} UTC"
    figures = [f"{label}: {value}" for label, value in alert.figures]
    advice = [f"What to do: {alert.suggestion}"] if alert.suggestion else []
    return "\n".join([alert.title, alert.text, *figures, *advice, f"{alert.severity}, {alert.state}{by}: {seen}"])


def _contents(engine: Engine, plan_id: str) -> str:
    saved = plans.load(engine, plan_id, most=_SHOWN)
    rules = [f"{rule.objects:,} {rule.action} {rule.rule}, {size(rule.size_bytes)}" for rule in saved.planned]
    items = [f"{item.video_id} of {item.user_id}, {size(item.size_bytes)}: {item.reason}" for item in saved.items]
    return "\n".join([f"Plan {plan_id}:", *rules, "For example:", *items, f"All: reelkeeper plan --show {plan_id}"])


def _acknowledge(engine: Engine, click: Click) -> ClickResult:
    author = _author(click)
    with transaction(engine, "alerts.acknowledge") as session:
        alert = _find(session, click.alert_id)
        # guard slack.same_incident: an old press silences an incident that has returned since
        if alert.state == AlertState.RESOLVED or alert.first_at != _moment(click.fired_at):
            return ClickResult("This alert has ended. If it fires again, there is a newer message.")
        if not alerts.acknowledge(session, alert.id, author, now(session)):
            return ClickResult(f"{alert.acknowledged_by} has already acknowledged it.")
        post(session, f"{author} acknowledged: {alert.title}")
    return ClickResult("Acknowledged. There are no further messages while the alert lasts.")


def _snooze(engine: Engine, click: Click) -> ClickResult:
    author, reason = _author(click), "snoozed by a button in Slack"
    with transaction(engine, "alerts.snooze") as session:
        deployment.lock(session)
        alert, at = _find(session, click.alert_id), now(session)
        standing = [item for item in alerts.snoozes_in_force(session) if item.rule == alert.rule]
        # guard slack.one_snooze: two presses make two snoozes, and ending one leaves the other
        if any(item.scope in (None, alert.scope) for item in standing):
            return ClickResult("It is already snoozed.")
        # guard slack.replayed_snooze: a replayed press restores a snooze that a person ended
        if alerts.was_snoozed(session, _press_id(click)):
            return ClickResult("This click snoozed it before, and somebody has ended that snooze.")
        values = {"id": _press_id(click), "rule": alert.rule, "scope": alert.scope, "author": author, "reason": reason}
        alerts.add_snooze(session, values | {"created_at": at, "until": at + SNOOZE})
        post(session, f"{author} snoozed {alert.rule} of {alert.scope} for 8 hours")
    return ClickResult("Snoozed for 8 hours. If the alert still fires then, there is a new message.")


def _approve(engine: Engine, click: Click) -> ClickResult:
    approved = plans.approve(engine, click.plan_id, author=_author(click), reason="approved in Slack")
    return ClickResult(f"Plan {approved.plan_id} is approved for one run. To run it: {approved.command}", approved)


_HANDLERS: Final[dict[Verb, Callable[[Engine, Click], ClickResult]]] = {
    Verb.ACKNOWLEDGE: _acknowledge,
    Verb.SNOOZE: _snooze,
    Verb.WHY: lambda engine, click: ClickResult(why(engine, click.alert_id)),
    Verb.APPROVE: _approve,
}


def _find(session: Session, alert_id: str) -> ListedAlert:
    alert = alerts.find(session, alert_id)
    if alert is None:
        raise NotFound(f"no alert {alert_id!r}. To see all alerts: reelkeeper alerts list --all")
    return alert


def _moment(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _author(click: Click) -> str:
    return f"{click.user_name or 'somebody'} (Slack {click.user_id})"


def _press_id(click: Click) -> str:
    return hashlib.sha256(f"{click.alert_id} {click.user_id} {click.at}".encode()).hexdigest()[:12]
