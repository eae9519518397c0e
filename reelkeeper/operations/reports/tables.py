"""A month's figures in tables: the bill, who it goes to, and what each picture shows."""

from calendar import monthrange
from collections import Counter
from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import NamedTuple

from reelkeeper.operations.reports.report import TOTAL, MonthReport
from reelkeeper.operations.reports.text import usd
from reelkeeper.rules.core.wording import size
from reelkeeper.rules.lifecycle.savings import KINDS, a_day, kind_of
from reelkeeper.store.billing.charge_reports import SkuLine

_MAX_PAYERS = 10
_GB = 10**9


class Table(NamedTuple):
    """Rows of words. The first column names, and a second line in it says more; the last `figures` are amounts."""

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    total: Sequence[str] = ()
    figures: int = 99


def bill(report: MonthReport) -> Table:
    """List what was charged for."""
    rows = [
        [
            f"{line.sku}\n{'about ' if line.estimated else ''}{_consumed(line, report.month)}",
            usd(line.list_nanousd),
            usd(line.billed_nanousd),
        ]
        for line in report.lines
    ]
    total = ["In all", usd(sum(line.list_nanousd for line in report.lines)), usd(report.billed_nanousd)]
    return Table("What was used and what it cost", ["What", "At list price", "Billed"], rows, total)


def payers(report: MonthReport) -> Table:
    """List whose use it was, at list price, and what no user answers for."""
    users = [one for one in report.payers if one.key]
    shown, others = users[:_MAX_PAYERS], users[_MAX_PAYERS:]
    rows = [
        [f"{one.key}\n{one.tier or 'tier unknown'}", usd(one.list_nanousd), usd(one.billed_nanousd)] for one in shown
    ]
    if others:
        listed, billed = (sum(getattr(one, name) for one in others) for name in ("list_nanousd", "billed_nanousd"))
        rows.append([f"{len(others):,} more", usd(listed), usd(billed)])
    rows += [
        ["nobody: allowances and rounding", usd(one.list_nanousd), usd(one.billed_nanousd)]
        for one in report.payers
        if not one.key
    ]
    total = ["In all", usd(sum(one.list_nanousd for one in report.payers)), usd(report.billed_nanousd)]
    return Table("Whose use it was", ["User", "At list price", "Billed"], rows, total)


def daily(report: MonthReport) -> Table:
    """List what each day was billed."""
    sums: Counter[str] = Counter()
    for one in report.spent:
        sums[one.service] += one.billed_nanousd
    services = [name for name, _ in sums.most_common()]
    days: dict[date, dict[str, int]] = {}
    for one in report.spent:
        days.setdefault(one.day, {})[one.service] = one.billed_nanousd
    rows = [
        [f"{day:%-d %b}", *(usd(billed.get(name, 0)) for name in services), usd(sum(billed.values()))]
        for day, billed in days.items()
    ]
    return Table("What each day was billed, by service", ["Day", *services, "Sum"], rows)


def months(report: MonthReport) -> Table:
    """List the bills of the months before, and those that are expected."""
    expected = {one.month: one for one in report.expected if one.service == TOTAL}
    past = {day: amount for day, amount in report.months.items() if day not in expected}
    rows = [
        [f"{day:%B %Y}", f"{usd(amount)}{'' if day < report.month or report.is_over else ' so far'}", "", ""]
        for day, amount in past.items()
    ]
    rows += [
        [
            f"{day:%B %Y}",
            f"about {usd(one.mean_microusd * 1000)}",
            f"{usd(one.lower80_microusd * 1000)} to {usd(one.upper80_microusd * 1000)}",
            f"{usd(one.lower95_microusd * 1000)} to {usd(one.upper95_microusd * 1000)}",
        ]
        for day, one in sorted(expected.items())
    ]
    return Table("Bills, and what is expected", ["Month", "Bill", "In 4 of 5 cases", "In 19 of 20"], rows)


def stock(report: MonthReport) -> Table:
    """List what is stored."""
    rows = [[one.age, one.tier, f"{one.objects:,}", size(one.size_bytes)] for one in report.stock]
    return Table("Live videos by age and tier", ["Age", "Tier", "Videos", "Size"], rows, figures=2)


def savings(report: MonthReport) -> Table:
    """List what was saved, by what saved it."""
    rows = []
    for kind in KINDS:
        amount = sum(one.nanousd for one in report.saved if one.kind == kind)
        freed = sum(one.size_bytes for one in report.freed if kind_of(one.rule) == kind)
        if freed:
            rows.append([kind, size(freed), usd(amount), usd(a_day(freed) * 30)])
    return Table("What purges have freed", ["By", "Bytes", "Saved so far", "Each month from now"], rows)


def _consumed(line: SkuLine, month: date) -> str:
    if line.consumed_unit == "Byte-Days":
        gb_months = Decimal(line.consumed_quantity) / (_GB * monthrange(month.year, month.month)[1])
        return f"{gb_months:,.3f} GB-months"
    if line.consumed_unit == "Bytes":
        return size(line.consumed_quantity)
    return f"{line.consumed_quantity:,} {line.consumed_unit.lower()}"
