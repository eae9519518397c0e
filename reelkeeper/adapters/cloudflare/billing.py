"""Read Cloudflare's own bill from its billable-usage API, with FOCUS columns, and the bytes stored in each class now.

Version 1 has amounts of money and answers for self-serve accounts; where it is not offered (404, 405), version 2 gives
the quantities. Both take ranges of a month at most; a calendar month always includes the first day of the account's
billing period, without which version 1 returns nothing.
"""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, NamedTuple

from reelkeeper.adapters.cloudflare.api import BILLING, R2, Api, documented
from reelkeeper.errors import UsageUnknown
from reelkeeper.model.money import StorageClass, end_of_month, next_month

_CLASSES = {"standard": StorageClass.STANDARD, "infrequentAccess": StorageClass.INFREQUENT_ACCESS}


class BilledLine(NamedTuple):
    """One service on one UTC day, as Cloudflare counts it. The amount is None if it gives none."""

    day: date
    service: str
    quantity: Decimal
    unit: str
    billed_usd: Decimal | None


@documented("billable usage")
def billed(api: Api, first: date, last: date) -> list[BilledLine]:
    """Read R2's lines of these days, in order; none if nothing was counted yet. UsageUnknown without either version."""
    lines = []
    for start, end in _months(first, last):
        span = {"from": start.isoformat(), "to": end.isoformat()}
        rows = api.get("/billable-usage", BILLING, **span)
        if rows is None:
            rows = api.get("/billable/usage", BILLING, **span)
        if not isinstance(rows, list):
            raise UsageUnknown(f"Cloudflare does not offer this account its billable usage of {start:%Y-%m}")
        lines += [_line(row) for row in rows if _family(row) == "r2"]
    return sorted((line for line in lines if first <= line.day <= last), key=lambda line: (line.day, line.service))


@documented("metrics of R2")
def stored_now(api: Api) -> dict[StorageClass, int]:
    """Read the bytes that the account stores in each class, over all buckets; the latest writes may be missing."""
    found = api.get("/r2/metrics", R2)
    if not isinstance(found, dict):
        raise TypeError("not an object")
    return {kind: sum(map(_integer, _parts(found.get(name) or {}))) for name, kind in _CLASSES.items()}


def _parts(of_class: dict[str, dict[str, int]]) -> list[int]:
    states = [of_class.get(state) or {} for state in ("published", "uploaded")]
    return [state.get(part, 0) for state in states for part in ("payloadSize", "metadataSize")]


def _integer(value: Decimal | int) -> int:
    amount = _amount(value)
    if amount < 0 or amount != int(amount):
        raise ValueError(f"{value} is not a number of bytes")
    return int(amount)


def _months(first: date, last: date) -> list[tuple[date, date]]:
    spans, month = [], first.replace(day=1)
    while month <= last:
        spans.append((month, end_of_month(month)))
        month = next_month(month)
    return spans


def _family(row: dict[str, Any]) -> str:
    family = row.get("ServiceFamilyName") or row.get("x_ProductFamilyName")
    return str(family or _service(row)).split()[0].lower() if family or _service(row) else ""


def _service(row: dict[str, Any]) -> str:
    return str(row.get("ServiceName") or row.get("x_BillableMetricName") or "")


def _line(row: dict[str, Any]) -> BilledLine:
    day = datetime.fromisoformat(row["ChargePeriodStart"]).astimezone(UTC).date()
    quantity, cost = _amount(row["ConsumedQuantity"]), row.get("BilledCost")
    return BilledLine(day, _service(row), quantity, str(row["ConsumedUnit"]), None if cost is None else _amount(cost))


def _amount(value: Decimal | int) -> Decimal:
    if not isinstance(value, Decimal | int) or isinstance(value, bool) or not Decimal(value).is_finite():
        raise TypeError(f"{value!r} is not an amount")
    return Decimal(value)
