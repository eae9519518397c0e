"""Compare spend with budgets of a day or a month, in total, or for a service, a tier or one user.

Only the highest crossed level of a budget is news. Yesterday is checked too, as the last usage of a day is known only
after its end; for past periods only an excess is news. `breach` predicts whether a month will end over its budget.

A user's or a tier's spend is list cost: their usage priced without free allowances. All else is as billed.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from itertools import pairwise
from typing import Annotated, Final, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from reelkeeper.model.alerts import Finding, Severity
from reelkeeper.model.money import NANO, NANO_IN_MICRO, Charge, JobTotal, each_day, end_of_month
from reelkeeper.rules.core.wording import usd

RULE: Final = "budget"
FORESEEN: Final = "forecast_breach"  # the rule that an excess may have been foreseen by, in `breach`
TOTAL: Final = "total"
FULL: Final = 100  # percent
_A_DAY: Final = timedelta(days=1)
_NAMED: Final = 3  # services in a finding


class Period(StrEnum):
    """The period of a budget: a calendar day or month in UTC."""

    DAY = "day"
    MONTH = "month"


_Usd = Annotated[Decimal, Field(gt=0, le=10**9, decimal_places=6)]


class Budget(BaseModel):
    """The dollars for one scope and period."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scope: str = Field(
        TOTAL,
        pattern=r"^(total|service:\S+|tier:\S+|user:\S(.*\S)?)$",
        description="total, service:X, tier:X or user:X",
    )
    period: Period = Field(Period.MONTH, description="day or month")
    usd: _Usd = Field(description="Budget of the period, in dollars")


class BudgetPolicy(BaseModel):
    """Budgets, and the shares of them at which people are alerted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    daily_usd: _Usd | None = Field(Decimal(10), description="Total budget per day, in dollars; never: no limit")
    monthly_usd: _Usd | None = Field(Decimal(200), description="Total budget per month, in dollars; never: no limit")
    budgets: tuple[Budget, ...] = Field(
        (), max_length=1000, description='Further budgets: `[{"scope": "service:compute", "period": "day", "usd": 5}]`'
    )
    levels_percent: tuple[int, ...] = Field(
        (50, 80, 100, 150), min_length=1, description="Percentages of a budget that are reported when reached"
    )

    @field_validator("levels_percent")
    @classmethod
    def _ascending(cls, levels: tuple[int, ...]) -> tuple[int, ...]:
        if levels[0] < 1 or any(later <= earlier for earlier, later in pairwise(levels)):
            raise ValueError(f"levels_percent={list(levels)}: give them in ascending order, from 1 up")
        return levels

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        counts = Counter((budget.scope, budget.period) for budget in self.all_budgets())
        if twice := [f"{scope} by {period}" for (scope, period), count in counts.items() if count > 1]:
            raise ValueError(
                f"more than one budget for {', '.join(twice)}; daily_usd and monthly_usd are for the total"
            )
        return self

    def users(self) -> list[str]:
        """List the users with a budget."""
        scopes = [budget.scope.partition(":") for budget in self.budgets]
        return sorted({name for kind, _, name in scopes if kind == "user"})

    def all_budgets(self) -> tuple[Budget, ...]:
        """Return every budget, the two total ones first."""
        totals = ((Period.DAY, self.daily_usd), (Period.MONTH, self.monthly_usd))
        return (*(Budget(period=period, usd=usd) for period, usd in totals if usd is not None), *self.budgets)


class Span(NamedTuple):
    """One budget in one of its periods. `limit` and `spent` are nano-dollars."""

    budget: Budget
    name: str  # 2026-11-24, or 2026-11
    first: date
    last: date
    limit: int
    spent: int
    charges: Sequence[Charge]  # of the budget's scope, for all days

    @property
    def what(self) -> str:
        """Describe the budget."""
        whose = "" if self.budget.scope == TOTAL else f" for {self.budget.scope.replace(':', ' ')}"
        return f"{'Daily' if self.budget.period is Period.DAY else 'Monthly'} budget{whose}"


def findings(
    charges: Iterable[Charge],
    policy: BudgetPolicy,
    as_of: datetime,
    since: date | None = None,
    charged: Iterable[date] = (),
) -> list[Finding]:
    """Report the crossed budgets, each at its highest level.

    Args:
        charges: of the days from the earlier of yesterday and `since`, with their months, to today, in any order.
        policy: the budgets.
        as_of: now; its UTC day is not over yet.
        since: the day on which they were last checked; None: never.
        charged: the days whose charges have just changed.

    """
    found = []
    for span in spans(charges, policy, as_of, since, charged):
        crossed = [level for level in policy.levels_percent if span.spent * FULL >= span.limit * level]
        # guard spend.past_excess: an excess found after the period's end is never told where levels below 100 are set
        is_news = as_of.date() <= span.last or span.spent >= span.limit  # of a past period, only an excess
        found += [_crossing(span, crossed[-1], as_of)] if crossed and is_news else []
    return found


def spans(
    charges: Iterable[Charge],
    policy: BudgetPolicy,
    as_of: datetime,
    since: date | None = None,
    charged: Iterable[date] = (),
) -> Iterator[Span]:
    """Return each budget with its spend in today's period, and in those of yesterday and since `since` that differ.

    Those of the days just `charged` are checked again, unless this is the first check. A user's daily budget is of
    today and yesterday only: what a user cost on earlier days is kept by month.
    """
    charges, today = list(charges), as_of.date()
    # guard spend.charged: a budget that is exceeded by what Cloudflare says days later is never told
    again = {day for day in charged if day < today} if since else set[date]()
    days = sorted({*each_day(first_unchecked(today, since), today), *again})
    months = sorted({day.replace(day=1) for day in days})
    for budget in policy.all_budgets():
        own = [charge for charge in charges if _belongs(charge, budget.scope)]
        known = days[-2:] if budget.scope.startswith("user:") else days
        yield from (_span(budget, day, own) for day in (months if budget.period is Period.MONTH else known))


def first_unchecked(today: date, since: date | None) -> date:
    """Return the first day that a last check on `since` has not seen to its end: at the latest, yesterday."""
    # guard spend.since: what was overspent, or odd, while the flow did not run for days is never told
    return min(since or today, today - _A_DAY)


def _belongs(charge: Charge, scope: str) -> bool:
    kind, _, name = scope.partition(":")
    return kind == TOTAL or {"service": charge.service, "tier": charge.tier, "user": charge.user_id}[kind] == name


def nanousd(charge: Charge, scope: str) -> int:
    """Return the amount of a charge for a scope: list cost for users and tiers, the billed cost for the others."""
    return charge.list_nanousd if scope.startswith(("user:", "tier:")) else charge.billed_nanousd


def _span(budget: Budget, day: date, charges: Sequence[Charge]) -> Span:
    if budget.period is Period.DAY:
        name, first, last = f"{day}", day, day
    else:
        name = f"{day:%Y-%m}"
        first, last = day.replace(day=1), end_of_month(day)
    spent = sum(nanousd(charge, budget.scope) for charge in charges if first <= charge.day <= last)
    return Span(budget, name, first, last, int(budget.usd * NANO), spent, charges)


def _crossing(span: Span, level: int, as_of: datetime) -> Finding:
    spent, limit, over = usd(span.spent), usd(span.limit), span.spent - span.limit
    inside = [charge for charge in span.charges if span.first <= charge.day <= span.last]
    by_service = Counter[str]()
    for charge in inside:
        by_service[charge.service] += nanousd(charge, span.budget.scope)
    most = [(service, usd(part)) for service, part in by_service.most_common(_NAMED) if part > 0]
    sentences = [f"{spent} of {limit} spent in {span.name}, as of {as_of:%Y-%m-%d %H:%M} UTC."]
    sentences += [f"That is {usd(over)} over."] if over > 0 else []
    sentences += [f"Most of it: {', '.join(f'{service} {part}' for service, part in most)}."] if most else []
    sentences += ["Some of the usage is an estimate."] if any(charge.estimated for charge in inside) else []
    return Finding(
        RULE,
        span.budget.scope,
        _severity(level),
        f"{span.what} at {span.spent * FULL // span.limit} %: {spent} of {limit}",
        " ".join(sentences),
        "See what it went to: reelkeeper bill --by service, and --by user.",
        over // NANO_IN_MICRO if over > 0 and span.budget.period is Period.MONTH else None,
        (("Spent", spent), ("Budget", limit), ("Period", span.name), *most),
        ((FORESEEN, span.budget.scope, span.name),) if over >= 0 else (),
        period=span.name,
        level=str(level),
    )


def _severity(level: int) -> Severity:
    near = 80
    if level >= FULL:
        return Severity.CRITICAL
    return Severity.WARNING if level >= near else Severity.NOTICE


class Spending(NamedTuple):
    """Nano-dollars a day from `first` on: total, by service and by tier. None is unknown."""

    first: date
    series: Mapping[str, Sequence[int | None]]

    def day(self, n: int) -> date:
        """Return the date of an index in the series."""
        return self.first + n * _A_DAY


def by_scope(charges: Iterable[Charge], today: date, jobs: Iterable[JobTotal] = ()) -> Spending:
    """Arrange charges, or sums of them, by day from their first day to today, with the cost of `jobs`.

    A day without any charge is unknown; on a day with charges, a service or tier without one cost nothing. Providers
    and models are scopes of their own if there are several.
    """
    sums: defaultdict[str, defaultdict[date, int]] = defaultdict(lambda: defaultdict(int))
    for charge in charges:
        for scope in (TOTAL, f"service:{charge.service}", *([f"tier:{charge.tier}"] if charge.tier else [])):
            sums[scope][charge.day] += charge.list_nanousd
    known = sums[TOTAL]
    by_kind: defaultdict[str, set[str]] = defaultdict(set)
    jobs = list(jobs)
    for total in jobs:
        by_kind[total.scope.partition(":")[0]].add(total.scope)
    for total in jobs:
        if len(by_kind[total.scope.partition(":")[0]]) > 1:
            sums[total.scope][date.fromisoformat(total.period)] += total.microusd * NANO_IN_MICRO
    first = min(known, default=today)
    days = list(each_day(first, today))
    series = {scope: [own[day] if day in known else None for day in days] for scope, own in sorted(sums.items())}
    return Spending(first, series)


def scope_in_words(scope: str) -> str:
    """Return "The spend of service compute" for "service:compute"."""
    return "The spend" if scope == TOTAL else f"The spend of {scope.replace(':', ' ')}"
