"""Describe a month's figures in sentences, which accompany a page's pictures, also as alternative text."""

from decimal import Decimal
from typing import NamedTuple

from reelkeeper.operations.reports.report import TOTAL, MonthReport, Trial
from reelkeeper.rules.core.wording import dollars, many, searched, sentence, size, usd
from reelkeeper.rules.lifecycle.report import Effect, effects
from reelkeeper.rules.lifecycle.savings import KINDS, a_day

FULL = 100  # percent


class Tile(NamedTuple):
    """One key figure. `share_percent` is drawn as a bar; `tone` is "", "good" or "bad"."""

    label: str
    value: str
    note: str
    tone: str = ""
    share_percent: int | None = None


def tiles(report: MonthReport) -> list[Tile]:
    """Return the key figures."""
    found = [_spent(report)]
    if (expected := report.this_month) is not None:
        between = expected.method
        if expected.has_range:
            low, high = usd(expected.lower80_microusd * 1000), usd(expected.upper80_microusd * 1000)
            between = f"{low} to {high}, in 4 of 5 cases"
        over = _over_budget(report, Decimal(expected.mean_microusd) / 10**6)
        found.append(Tile("Expected this month", usd(expected.mean_microusd * 1000), between, "bad" if over else ""))
    a_month = usd(a_day(report.stored_bytes + report.grace_bytes) * 30)
    grace = f", and {size(report.grace_bytes)} in their grace" if report.grace_bytes else ""
    found.append(Tile("Videos now", size(report.stored_bytes), f"{a_month} a month at list price{grace}"))
    if report.trial is not None:
        a_month = "a month at list price, by the latest plans of this trial"
        a_month += "; within R2's free 10 GB, so the bill stays" if report.trial.free else ""
        refused = " and ".join(sorted(report.trial.refused))
        a_month += f"; the limits of a run refuse {refused}" if refused else ""
        return [*found, Tile("Would save", dollars(report.trial.saving_microusd), a_month)]
    if not report.parts.stores:
        return found
    freed = sum(freed_bytes.size_bytes for freed_bytes in report.freed)
    from_now = f"{size(freed)} freed: {usd(a_day(freed) * 30)} less each month"
    total = sum(saving.nanousd for saving in report.saved)
    found.append(Tile("Saved so far", usd(total), from_now, "good" if total else ""))
    return found


def spend(report: MonthReport) -> str:
    """Describe the cost of the days."""
    days: dict[str, int] = {}
    for spending in report.spent:
        days[f"{spending.day:%-d %B}"] = days.get(f"{spending.day:%-d %B}", 0) + spending.billed_nanousd
    if not days:
        return "No charges are recorded for this month."
    dearest = max(days, key=lambda day: days[day])
    text = f"{many(len(days), 'day')} cost {usd(report.billed_nanousd)}"
    text += f"; the dearest was {dearest} with {usd(days[dearest])}."
    if (budget := report.budgets.daily_usd) is not None:
        over = sum(amount > budget * 10**9 for amount in days.values())
        text += f" {many(over, 'day') if over else 'No day'} went over the daily budget of {dollars(budget * 10**6)}."
    if report.unknown_days:
        named = ", ".join(f"{day:%-d %B}" for day in report.unknown_days[:10])
        text += f" Nobody knows what {named}{' and others' if len(report.unknown_days) > 10 else ''} cost."  # noqa: PLR2004  as many as named
    return text


def month(report: MonthReport) -> str:
    """Describe the month's bill so far and its forecast."""
    text = f"So far the month has cost {usd(report.billed_nanousd)}."
    if report.is_over:
        text = f"The month cost {usd(report.billed_nanousd)}."
    if not report.spent:
        text = "Nothing is charged, so nobody knows what the month has cost."
    if (forecast := report.this_month) is not None:
        between, how = "", forecast.method
        if forecast.has_range:
            low, high = usd(forecast.lower95_microusd * 1000), usd(forecast.upper95_microusd * 1000)
            between, how = f", and between {low} and {high} in 19 of 20 cases", f"method: {forecast.method}"
        text += f" By its end about {usd(forecast.mean_microusd * 1000)} is expected{between}."
        text += f" Said on {forecast.as_of:%-d %B}; {how}."
    if (budget := report.budgets.monthly_usd) is not None:
        text += f" The budget is {dollars(budget * 10**6)}."
    return text


def months(report: MonthReport) -> str:
    """Describe the cost of earlier months and the forecast of the next."""
    later = [forecast for forecast in report.expected if forecast.service == TOTAL and forecast.month > report.month]
    text = "What each month cost."
    if later:
        last = later[-1]
        text += f" {last.month:%B %Y} is expected to cost about {usd(last.mean_microusd * 1000)} if nothing is changed."
    return text


def storage(report: MonthReport) -> str:
    """Describe the stored bytes."""
    if not report.stock:
        return "No live video is stored."
    objects = sum(stock.objects for stock in report.stock)
    ages: dict[str, int] = {}
    for stock in report.stock:
        ages[stock.age] = ages.get(stock.age, 0) + stock.size_bytes
    most = max(ages, key=lambda age: ages[age])
    return f"{many(objects, 'live video')}, {size(report.stored_bytes)}; the largest part, {size(ages[most])}: {most}."


def savings(report: MonthReport) -> str:
    """Describe the savings."""
    searches = f" {searched(report.searches)}" if report.searches.searches else ""
    if not report.saved:
        freed = sum(freed_bytes.size_bytes for freed_bytes in report.freed)
        return (
            f"Purges have freed {size(freed)}, which saves from the next day on." if freed else "Nothing is freed yet."
        ) + searches
    kinds = {kind: sum(saving.nanousd for saving in report.saved if saving.kind == kind) for kind in KINDS}
    parts = ", ".join(f"{usd(amount)} by {kind}" for kind, amount in kinds.items() if amount)
    return (
        f"{parts}: what storage would have cost beyond today's bill, at list price, had nothing been removed.{searches}"
    )


def _would(effect: Effect) -> str:
    if not effect.size_bytes:
        return effect.will
    less = "a saving unknown" if effect.saving_microusd is None else f"{dollars(effect.saving_microusd)} a month less"
    return f"{effect.will}, {size(effect.size_bytes)}, {less}"


def trial(of: Trial) -> str:
    """Describe what the runs of a trial would do and save."""
    said = [f"A trial since {of.since:%-d %B %Y, %H:%M} UTC: nothing was changed."]
    if not of.planned:
        said.append("No plan by the policies in force has been made yet.")
    for flow, rules in of.planned.items():
        does = "; ".join(map(_would, effects(rules, is_refused=flow in of.refused))) or "nothing"
        said.append(f"By its latest plan, {flow} would do this: {does}.")
    if of.gate:
        said.append(sentence(of.gate))
    if of.saving_microusd:
        said.append(f"Bytes would be deleted after a grace of {of.grace.in_words} and dollars are R2's list price.")
    if of.refused:
        said.append(
            "reelkeeper plan --show ID names the limits; once live, reelkeeper approve carries such a plan out once, "
            "and wider limits in the policies let each night's act: reelkeeper policy show."
        )
    if any(of.planned.values()):
        said += [of.free] if of.free else []
        said.append("A trial makes no videos, so it has no cache to prune. To go live: reelkeeper up --live")
    return " ".join(said)


def _spent(report: MonthReport) -> Tile:
    label = "Spent" if report.is_over else "Spent so far"
    if not report.spent:
        return Tile(label, "unknown", "nothing is charged for this month")
    budget = report.budgets.monthly_usd
    if budget is None:
        return Tile(label, usd(report.billed_nanousd), "no monthly budget is set")
    percent = int(report.billed_nanousd * FULL / (budget * 10**9))
    tone = "bad" if percent >= FULL else ""
    return Tile(
        label, usd(report.billed_nanousd), f"{percent} % of the budget of {dollars(budget * 10**6)}", tone, percent
    )


def _over_budget(report: MonthReport, usd_expected: Decimal) -> bool:
    budget = report.budgets.monthly_usd
    return budget is not None and usd_expected > budget
