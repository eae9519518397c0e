"""Nouns of what people are told."""

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How soon somebody should look."""

    NOTICE = "notice"
    WARNING = "warning"
    CRITICAL = "critical"


class AlertState(StrEnum):
    """Where an alert stands: firing -> acknowledged -> resolved, or firing -> resolved."""

    FIRING = "firing"
    ACKNOWLEDGED = "acknowledged"
    RESOLVED = "resolved"


class MessageState(StrEnum):
    """Where a message stands: waiting -> sent, or waiting -> diverted: another sink has it."""

    WAITING = "waiting"
    SENT = "sent"
    DIVERTED = "diverted"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a person should know: what, how bad, what it costs, and what to do about it.

    `rule`, `scope`, `period` and `level` together are told once. All text is plain: a sink escapes it.
    """

    rule: str  # budget, forecast_breach, anomaly, drift, missing_usage, ledger_mismatch, silent_flow, saving, ...
    scope: str  # total, service:r2-storage, tier:free, user:ID, flow:tier_storage
    period: str  # 2026-11, 2026-11-24, or "" for what has none
    level: str  # "80", "100", or ""
    severity: Severity
    title: str  # one line
    text: str  # sentences, with the figures
    suggestion: str = ""
    impact_microusd: int | None = None  # what it costs, or would save, a month
    figures: tuple[tuple[str, str], ...] = ()  # label and value, shown side by side
