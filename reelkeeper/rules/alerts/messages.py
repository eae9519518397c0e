"""Write messages to people: about one alert, many alerts, or resolved ones."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from decimal import Decimal

from reelkeeper.model.alerts import Finding, Message, MessageKind
from reelkeeper.rules.alerts.alerting import PLAN_REFUSED, Known
from reelkeeper.rules.core.wording import many

_MAX_LINES = 40  # alerts in one digest: with titles as long as Slack's headers it stays within 12,000 characters
_MAX_TITLE = 150


def alert(alert_id: str, finding: Finding, *, fired_at: datetime, is_repeated: bool = False) -> Message:
    """Write the message for a finding that fires since `fired_at`, or its repetition while unacknowledged."""
    text = finding.text
    if is_repeated:
        text = f"Nobody has acknowledged this since {fired_at:%Y-%m-%d %H:%M} UTC.\n{text}"
    where = ", ".join(filter(None, (finding.rule, finding.scope, finding.period)))
    return Message(
        kind=MessageKind.ALERT,
        severity=finding.severity,
        title=finding.title,
        text=text,
        suggestion=finding.suggestion,
        figures=(*finding.figures, *_impact(finding)),
        footer=f"{where}. To acknowledge: reelkeeper alerts ack {alert_id}",
        alert_id=alert_id,
        fired_at=fired_at,
        plan_id=finding.period if finding.rule == PLAN_REFUSED else "",
    )


def of_digest(count: int) -> str:
    """Return the title of a message about so many alerts."""
    return f"{many(count, 'alert')} at once"


def digests(news: Sequence[tuple[str, Finding]]) -> Iterator[tuple[list[str], Message]]:
    """Write as few messages as possible for many findings (alert id, finding), with the ids in each."""
    for start in range(0, len(news), _MAX_LINES):
        part = news[start : start + _MAX_LINES]
        worst = max((finding.severity for _, finding in part), key=lambda severity: severity.weight)
        which = f", {start + 1} to {start + len(part)}" if len(news) > len(part) else ""
        yield (
            [alert_id for alert_id, _ in part],
            Message(
                kind=MessageKind.DIGEST,
                severity=worst,
                title=f"{of_digest(len(news))}{which}",
                lines=tuple(_line(alert_id, finding) for alert_id, finding in part),
                footer="Details: reelkeeper alerts list. To acknowledge: reelkeeper alerts ack ID",
            ),
        )


def resolved(alerts: Sequence[Known], as_of: datetime) -> Iterator[tuple[list[str], Message]]:
    """Write as few messages as possible for resolved alerts, with the ids in each."""
    for start in range(0, len(alerts), _MAX_LINES):
        part = alerts[start : start + _MAX_LINES]
        ids = [known_alert.id for known_alert in part]
        if len(part) == 1:
            lasted = f"It began on {part[0].first_at:%Y-%m-%d %H:%M} UTC, and was over by {as_of:%Y-%m-%d %H:%M} UTC."
            yield ids, Message(kind=MessageKind.RESOLVE, title=f"Over: {part[0].title}", text=lasted)
        else:
            lines = tuple(_shortened(known_alert.title) for known_alert in part)
            yield ids, Message(kind=MessageKind.RESOLVE, title=f"{len(part)} alerts are over", lines=lines)


def _line(alert_id: str, finding: Finding) -> str:
    impact = "".join(f" ({value})" for _, value in _impact(finding))
    return f"{finding.severity}: {_shortened(finding.title)}{impact} [{alert_id}]"


def _shortened(title: str) -> str:
    return title if len(title) <= _MAX_TITLE else f"{title[: _MAX_TITLE - 1]}…"


def _impact(finding: Finding) -> Iterator[tuple[str, str]]:
    if finding.impact_microusd is not None:
        yield "Impact", f"${Decimal(finding.impact_microusd) / 10**6:,.2f} a month"
