"""Check spend against limits and for anomalies, with every rule on the same charges."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final, NamedTuple

from reelkeeper.model.alerts import Finding, Severity
from reelkeeper.model.document import RunReport
from reelkeeper.model.money import Charge, CostForecast, JobTotal
from reelkeeper.rules.core.wording import many, usd
from reelkeeper.rules.spend import anomaly, breach, budget, drift, limits
from reelkeeper.rules.spend.anomaly import AnomalyPolicy
from reelkeeper.rules.spend.budget import BudgetPolicy
from reelkeeper.rules.spend.limits import LimitUse

RULE: Final = "missing_usage"
LOOKED_BACK_DAYS: Final = 30  # Cloudflare keeps 31 days of analytics: older gaps cannot be filled
_NAMED: Final = 5

RULES: Final = (budget.RULE, limits.RULE, breach.RULE, anomaly.RULE, drift.RULE, RULE)
LEAST_DAYS: Final = 62  # for budgets: yesterday's month, and the run rate


@dataclass(frozen=True, slots=True)
class Spent:
    """The known spend: charges, or sums of them, the last forecasts, and the missing days."""

    charges: Sequence[Charge]
    forecasts: Sequence[CostForecast] = ()
    missing: Sequence[date] = ()
    trouble: str = ""  # why Cloudflare did not answer, if it was asked
    limits: Sequence[LimitUse] = ()  # the limits of new jobs, and their use
    jobs: Sequence[JobTotal] = ()  # the daily totals of each provider and model
    since: date | None = None  # the day of the last check
    charged: Sequence[date] = ()  # the days whose charges have just changed


class CostLine(NamedTuple):
    """The cost of one service, or of all services, in dollars."""

    service: str
    today: str
    month: str
    month_at_list_price: str


@dataclass(frozen=True, slots=True)
class CostsReport(RunReport):
    """The result of a run of `monitor_costs`. `found` are the findings in a line each, the worst first."""

    as_of: datetime
    spent_today: str
    spent_this_month: str
    found: tuple[str, ...]
    days_charged: int = 0
    news: int = 0  # new alerts
    over: int = 0  # resolved alerts
    trouble: str = ""


def judge(spent: Spent, budgets: BudgetPolicy, oddness: AnomalyPolicy, as_of: datetime) -> list[Finding]:
    """Evaluate every rule."""
    return [
        *budget.findings(spent.charges, budgets, as_of, spent.since, spent.charged),
        *limits.findings(spent.limits),
        *breach.findings(spent.charges, budgets, as_of, spent.forecasts),
        *anomaly.findings(spent.charges, oddness, as_of, spent.jobs, spent.since),
        *drift.findings(spent.charges, oddness, as_of),
        *findings(spent.missing, spent.trouble),
    ]


def first_day(as_of: datetime) -> date:
    """Return the first day whose charges the rules need."""
    return as_of.date() - timedelta(days=max(anomaly.HISTORY_DAYS, LEAST_DAYS))


def lines(charges: Sequence[Charge], as_of: datetime) -> list[CostLine]:
    """List the cost of this month's services, the dearest first, and last the total."""
    day, month = as_of.date(), as_of.date().replace(day=1)
    sums = {name: Counter[str]() for name in ("today", "month", "list")}
    for charge in charges:
        if month <= charge.day <= day:
            for service in (charge.service, ""):
                sums["today"][service] += charge.billed_nanousd if charge.day == day else 0
                sums["month"][service] += charge.billed_nanousd
                sums["list"][service] += charge.list_nanousd
    services = sorted(sums["list"].keys() - {""}, key=lambda name: (-sums["list"][name], name))
    return [
        CostLine(
            service or "total", usd(sums["today"][service]), usd(sums["month"][service]), usd(sums["list"][service])
        )
        for service in (*services, "")
    ]


def findings(missing: Sequence[date], trouble: str = "") -> list[Finding]:
    """Report the missing days, and why a source did not answer.

    Args:
        missing: days without a figure for the stored bytes, in order.
        trouble: Cloudflare's error; "" where it did not fail, or was not asked.

    """
    found = []
    if missing:
        named = ", ".join(str(day) for day in missing[:_NAMED]) + (" ..." if len(missing) > _NAMED else "")
        found.append(
            Finding(
                RULE,
                "usage:stored_bytes",
                Severity.WARNING,
                f"Usage of {many(len(missing), 'day')} is missing",
                f"Nobody knows how much was stored on {named}. The last known figure stands in, as an estimate.",
                "monitor_costs counts when it runs: see that it does. Cloudflare still has the last 30 days: with "
                "REELKEEPER_CLOUDFLARE_API_TOKEN the next run asks it.",
            )
        )
    if trouble:
        found.append(
            Finding(
                RULE,
                "source:cloudflare",
                Severity.WARNING,
                "Cloudflare does not say what was used",
                f"Our own count stands in, which cannot see what others ask of the bucket. {trouble}",
                "Try it: reelkeeper doctor.",
            )
        )
    return found
