"""Tabulate a month's figures: the bill, its allocation to users, and the data of each picture."""

from calendar import monthrange
from collections import Counter
from datetime import date
from decimal import Decimal

from reelkeeper.model.document import Table
from reelkeeper.operations.reports.report import TOTAL, MonthReport
from reelkeeper.rules.core.wording import dollars, size, usd
from reelkeeper.rules.lifecycle.savings import KINDS, a_day, kind_of
from reelkeeper.store.billing.charge_reports import SkuLine

_GB = 10**9
_HOUR_SECONDS = 3600


def bill(report: MonthReport) -> Table:
    """Tabulate the bill by item."""
    rows = [
        [
            f"{line.sku}\n{'about ' if line.estimated else ''}{_consumed(line, report.month)}",
            usd(line.list_nanousd),
            usd(line.billed_nanousd),
        ]
        for line in report.lines
    ]
    total = ["In all", usd(sum(line.list_nanousd for line in report.lines)), usd(report.billed_nanousd)]
    return Table(["What", ">At list price", ">Billed"], rows, "What was used and what it cost", total)


def payers(report: MonthReport) -> Table:
    """Tabulate usage by user, at list price, and the part without a user."""
    rows = [
        [f"{item.key}\n{item.tier or 'tier unknown'}", usd(item.list_nanousd), usd(item.billed_nanousd)]
        for item in report.payers
        if item.key
    ]
    others = report.other_payers
    if others.users:
        rows.append([f"{others.users:,} more", usd(others.list_nanousd), usd(others.billed_nanousd)])
    rows += [
        ["nobody: allowances and rounding", usd(payer.list_nanousd), usd(payer.billed_nanousd)]
        for payer in report.payers
        if not payer.key
    ]
    listed = sum(payer.list_nanousd for payer in report.payers) + others.list_nanousd
    total = ["In all", usd(listed), usd(report.billed_nanousd)]
    return Table(["User", ">At list price", ">Billed"], rows, "Whose use it was", total)


def makers(report: MonthReport) -> Table:
    """Tabulate the cost of jobs by provider and model, and its forecast for the month."""
    expected = {item.service: usd(item.mean_microusd * 1000) for item in report.expected if item.month == report.month}
    rows = [
        [total.scope.replace(":", " ", 1), usd(total.microusd * 1000), expected.get(total.scope, "")]
        for total in sorted(report.jobs, key=lambda total: (total.scope.startswith("model"), -total.microusd))
    ]
    return Table(["Of", ">So far", ">Expected of the month"], rows, "What jobs took, by provider and by model")


def daily(report: MonthReport) -> Table:
    """Tabulate the bill by day."""
    sums: Counter[str] = Counter()
    for spending in report.spent:
        sums[spending.service] += spending.billed_nanousd
    services = [name for name, _ in sums.most_common()]
    days: dict[date, dict[str, int]] = {}
    for spending in report.spent:
        days.setdefault(spending.day, {})[spending.service] = spending.billed_nanousd
    rows = [
        [f"{day:%-d %b}", *(usd(billed.get(name, 0)) for name in services), usd(sum(billed.values()))]
        for day, billed in days.items()
    ]
    return Table(["Day", *(f">{name}" for name in services), ">Sum"], rows, "What each day was billed, by service")


def months(report: MonthReport) -> Table:
    """Tabulate the bills of earlier months, and the expected ones."""
    expected = {forecast.month: forecast for forecast in report.expected if forecast.service == TOTAL}
    past = {day: amount for day, amount in report.months.items() if day not in expected}
    rows = [
        [f"{day:%B %Y}", f"{usd(amount)}{'' if day < report.month or report.is_over else ' so far'}", "", ""]
        for day, amount in past.items()
    ]
    rows += [
        [
            f"{day:%B %Y}",
            f"about {usd(forecast.mean_microusd * 1000)}",
            *(
                (
                    f"{usd(forecast.lower80_microusd * 1000)} to {usd(forecast.upper80_microusd * 1000)}",
                    f"{usd(forecast.lower95_microusd * 1000)} to {usd(forecast.upper95_microusd * 1000)}",
                )
                if forecast.has_range
                else (forecast.method, "")
            ),
        ]
        for day, forecast in sorted(expected.items())
    ]
    return Table(["Month", ">Bill", ">In 4 of 5 cases", ">In 19 of 20"], rows, "Bills, and what is expected")


def stock(report: MonthReport) -> Table:
    """Tabulate the stored bytes."""
    rows = [[item.age, item.tier, item.objects, size(item.size_bytes)] for item in report.stock]
    return Table(["Age", "Tier", ">Videos", ">Size"], rows, "Live videos by age and tier")


def savings(report: MonthReport) -> Table:
    """Tabulate the savings by kind."""
    rows = []
    for kind in KINDS:
        amount = sum(saving.nanousd for saving in report.saved if saving.kind == kind)
        freed = sum(freed_bytes.size_bytes for freed_bytes in report.freed if kind_of(freed_bytes.rule) == kind)
        if freed:
            rows.append([kind, size(freed), usd(amount), usd(a_day(freed) * 30)])
    return Table(["By", ">Bytes", ">Saved so far", ">Each month from now"], rows, "What purges have freed")


def smaller(report: MonthReport) -> Table:
    """Tabulate the cost and savings of compression, by the model that made the clips and the frame size."""
    rows = [
        [
            f"{item.model or 'model unknown'}\n{item.frame}",
            f"{item.totals.accepted:,} of {item.totals.searches:,}",
            f"{item.totals.kept_bytes / item.totals.source_bytes:.0%}" if item.totals.source_bytes else "",
            size(item.totals.source_bytes - item.totals.kept_bytes),
            f"{item.totals.cpu_seconds / _HOUR_SECONDS:,.2f} h",
            dollars(item.totals.cost_microusd),
            dollars(item.saved_microusd),
            dollars(item.saved_microusd - item.totals.cost_microusd),
            dollars(item.totals.net_microusd),
        ]
        for item in report.smaller
    ]
    figures = (
        "Shrunk",
        "Bytes kept",
        "Bytes less",
        "CPU",
        "Cost",
        "Saved so far",
        "Net so far",
        "Net over their lives",
    )
    headings = ["Made by", *(f">{figure}" for figure in figures)]
    return Table(headings, rows, "What making files smaller took and brought, by model and size of picture")


def machines(report: MonthReport) -> Table:
    """Tabulate what each machine has done of the month's compression."""
    rows = [
        [
            machine,
            f"{totals.accepted:,} of {totals.searches:,}",
            size(totals.source_bytes - totals.kept_bytes),
            f"{totals.cpu_seconds / _HOUR_SECONDS:,.2f} h",
            dollars(totals.cost_microusd),
        ]
        for machine, totals in report.machines
    ]
    return Table(["Machine", ">Shrunk", ">Bytes less", ">CPU", ">Cost"], rows, "Which machine made files smaller")


def _consumed(line: SkuLine, month: date) -> str:
    if line.consumed_unit == "Byte-Days":
        gb_months = Decimal(line.consumed_quantity) / (_GB * monthrange(month.year, month.month)[1])
        return f"{gb_months:,.3f} GB-months"
    if line.consumed_unit == "Bytes":
        return size(line.consumed_quantity)
    return f"{line.consumed_quantity:,} {line.consumed_unit.lower()}"
