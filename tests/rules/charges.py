"""Charges for the tests of the rules."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from reelkeeper.model.money import Charge

NOW = datetime(2026, 11, 24, 14, 15, tzinfo=UTC)
TODAY = NOW.date()


def charge(
    usd: str,
    day: date = TODAY,
    *,
    service: str = "compute",
    user: str = "",
    tier: str | None = None,
    **columns: Any,  # noqa: ANN401  any column
) -> Charge:
    """So many dollars of compute today, that belong to nobody, unless said otherwise."""
    nanousd = int(Decimal(usd) * 10**9)
    return Charge(day, service, service, user, tier, 1, "jobs", nanousd, nanousd, "test")._replace(**columns)


def ago(days: int) -> date:
    return TODAY - timedelta(days=days)
