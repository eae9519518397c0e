"""Query and change alerts and snoozes, inside a transaction."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import uuid4

import sqlalchemy as sa
from sqlmodel import Session

from reelkeeper.model.alerts import AlertState, Finding, Severity
from reelkeeper.store.core.engine import Clock, changed
from reelkeeper.store.tables import alerts, snoozes

_CROSSING = ("rule", "scope", "period", "level")
_SAID = ("severity", "title", "text", "suggestion", "figures", "impact_microusd")


class ListedAlert(NamedTuple):
    """An alert as shown to people."""

    id: str
    state: AlertState
    severity: Severity
    rule: str
    scope: str
    period: str
    level: str
    title: str
    text: str
    suggestion: str
    figures: list[list[str]]
    impact_microusd: int | None
    first_at: datetime
    last_at: datetime
    told_at: datetime | None
    resolved_at: datetime | None
    acknowledged_by: str | None


class Snoozed(NamedTuple):
    """A snooze in force."""

    id: str
    rule: str
    scope: str | None
    author: str
    reason: str
    until: datetime


def related(session: Session, rules: Collection[str], periods: Collection[str]) -> Sequence[sa.Row[Any]]:
    """Return the alerts of `rules` that are open, or of one of these periods in any state."""
    wanted = sa.select(alerts).where(
        alerts.c.rule.in_(rules),
        sa.or_(alerts.c.state != AlertState.RESOLVED, alerts.c.period.in_(periods)),
    )
    return session.execute(wanted.order_by(alerts.c.first_at, alerts.c.id)).all()


def snoozes_in_force(session: Session) -> list[Snoozed]:
    """Return the snoozes that have neither expired nor been ended."""
    columns = (snoozes.c[name] for name in Snoozed._fields)
    # guard alerts.snooze_end: a snooze of an hour silences alerts for ever
    wanted = sa.select(*columns).where(snoozes.c.ended_at.is_(None), snoozes.c.until > Clock())
    return [Snoozed(*row) for row in session.execute(wanted.order_by(snoozes.c.until))]


def snoozes_over(session: Session, rules: Collection[str]) -> list[tuple[str, str | None, datetime]]:
    """Return rule, scope and end of the snoozes of `rules` that have expired or been ended."""
    is_over = sa.or_(snoozes.c.ended_at.is_not(None), snoozes.c.until <= Clock())
    rows = session.execute(sa.select(snoozes).where(snoozes.c.rule.in_(rules), is_over)).all()
    return [(row.rule, row.scope, min(row.ended_at or row.until, row.until)) for row in rows]


def open_new(session: Session, findings: Sequence[tuple[str, Finding]], run_id: str, at: datetime) -> None:
    """Insert new alerts (id, finding)."""
    if findings:
        new = {"is_told": False, "first_at": at}
        rows = [
            {"id": alert_id, **new, **_read(finding, _CROSSING), **_columns(finding, run_id, at)}
            for alert_id, finding in findings
        ]
        session.execute(sa.insert(alerts), rows)


def see_again(session: Session, alert_id: str, finding: Finding, run_id: str, at: datetime, *, reopened: bool) -> None:
    """Update a known alert with a new finding; `reopened`: it was resolved."""
    values: dict[str, Any] = _columns(finding, run_id, at)
    if reopened:
        values |= {"first_at": at, "resolved_at": None, "acknowledged_at": None, "acknowledged_by": None}
    else:
        del values["state"]  # an acknowledged alert stays so
    session.execute(sa.update(alerts).where(alerts.c.id == alert_id).values(values))


def touch(session: Session, ids: Collection[str], at: datetime) -> None:
    """Record that alerts still fire, at a lower level than the reported one."""
    session.execute(sa.update(alerts).where(alerts.c.id.in_(ids)).values(last_at=at))


def mark_told(session: Session, ids: Collection[str], message_id: int, at: datetime) -> None:
    """Record the message that reports these alerts."""
    session.execute(
        sa.update(alerts).where(alerts.c.id.in_(ids)).values(told_at=at, is_told=True, message_id=message_id)
    )


def mark_told_again(session: Session, ids: Collection[str], at: datetime) -> None:
    """Record that these alerts were repeated, by a message that counts for none of them."""
    session.execute(sa.update(alerts).where(alerts.c.id.in_(ids)).values(told_at=at))


def mark_believed(session: Session, ids: Collection[str]) -> None:
    """Record that people know of the incident from an alert of a lower level."""
    session.execute(sa.update(alerts).where(alerts.c.id.in_(ids)).values(is_told=True))


def mark_untold(session: Session, ids: Collection[str]) -> None:
    """Record that an alert's message was withdrawn before it was sent."""
    session.execute(sa.update(alerts).where(alerts.c.id.in_(ids)).values(told_at=None, is_told=False, message_id=None))


def close(session: Session, ids: Collection[str], at: datetime) -> None:
    """Resolve alerts."""
    session.execute(
        sa.update(alerts).where(alerts.c.id.in_(ids)).values(state=AlertState.RESOLVED, resolved_at=at, is_told=False)
    )


def find(session: Session, alert_id: str) -> ListedAlert | None:
    """Return one alert, or None."""
    columns = (alerts.c[name] for name in ListedAlert._fields)
    row = session.execute(sa.select(*columns).where(alerts.c.id == alert_id)).one_or_none()
    return ListedAlert(*row) if row else None


def acknowledge(session: Session, alert_id: str, author: str, at: datetime) -> bool:
    """Acknowledge an alert; False if no unacknowledged alert of this id is firing."""
    return bool(
        changed(
            session,
            sa.update(alerts)
            .where(alerts.c.id == alert_id, alerts.c.state == AlertState.FIRING)
            .values(state=AlertState.ACKNOWLEDGED, acknowledged_at=at, acknowledged_by=author),
        )
    )


def add_snooze(session: Session, values: Mapping[str, Any]) -> str:
    """Insert a snooze and return its id: that in `values`, or 12 random hex digits."""
    row: dict[str, Any] = {"id": uuid4().hex[:12], **values}
    session.execute(sa.insert(snoozes).values(row))
    return str(row["id"])


def was_snoozed(session: Session, snooze_id: str) -> bool:
    """Check whether there was a snooze of this id, in force or not."""
    return session.execute(sa.select(snoozes.c.id).where(snoozes.c.id == snooze_id)).first() is not None


def end_snooze(session: Session, snooze_id: str, at: datetime) -> bool:
    """End a snooze before its time; False if none of this id is in force."""
    ending = sa.update(snoozes).where(snoozes.c.id == snooze_id, snoozes.c.ended_at.is_(None)).values(ended_at=at)
    return bool(changed(session, ending))


def listed(
    session: Session,
    *,
    everything: bool,
    limit: int | None = None,
    only: str | None = None,
    but: str | None = None,
    during: tuple[datetime, datetime] | None = None,
) -> list[ListedAlert]:
    """List alerts for people, firing ones first, then the latest; without `everything`, only the open ones.

    `only` and `but` are the one rule that is listed, or left out. `during`: that began before the second time, and
    were not over before the first.
    """
    wanted = sa.select(*(alerts.c[name] for name in ListedAlert._fields))
    if during:
        lasted = sa.or_(alerts.c.state != AlertState.RESOLVED, alerts.c.last_at >= during[0])
        wanted = wanted.where(alerts.c.first_at < during[1], lasted)
    if not everything:
        wanted = wanted.where(alerts.c.state != AlertState.RESOLVED)
    if only:
        wanted = wanted.where(alerts.c.rule == only)
    if but:
        wanted = wanted.where(alerts.c.rule != but)
    is_over = sa.case((alerts.c.state == AlertState.RESOLVED, 1), else_=0)
    rows = session.execute(wanted.order_by(is_over, alerts.c.last_at.desc(), alerts.c.id).limit(limit))
    return [ListedAlert(*row) for row in rows]


def _columns(finding: Finding, run_id: str, at: datetime) -> dict[str, Any]:
    return {**_read(finding, _SAID), "state": AlertState.FIRING, "run_id": run_id, "last_at": at}


def _read(finding: Finding, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(finding, name) for name in names}
