"""Predict whether a month will end over its budget.

It uses a recent forecast, or else the run rate, which needs three complete days (as OCI's budgets do).
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import date, datetime, timedelta
from typing import Final

from reelkeeper.model.alerts import Finding, Severity
from reelkeeper.model.money import NANO_IN_MICRO, Charge, CostForecast
from reelkeeper.rules.core.wording import many, usd
from reelkeeper.rules.spend.budget import FORESEEN, TOTAL, BudgetPolicy, Period, Span, nanousd, spans

RULE: Final = FORESEEN
RATE_DAYS: Final = 30  # for the run rate
_LEAST_RATE_DAYS: Final = 3
_FORECAST_DAYS: Final = 8  # the maximum age of a forecast, which is made each Monday
_WORDS: Final = {10: "may", 50: "is expected to", 90: "will almost surely"}


def findings(
    charges: Iterable[Charge], policy: BudgetPolicy, as_of: datetime, forecasts: Iterable[CostForecast] = ()
) -> list[Finding]:
    """Report the budgets of this month that will be exceeded; the level is the probability in percent: 10, 50 or 90.

    Args:
        charges: of this month and of the last `RATE_DAYS` days, in any order.
        policy: the budgets.
        as_of: now; its UTC day is not over yet.
        forecasts: of this month, in any order; those older than a week are ignored.

    """
    charges, forecasts, today = list(charges), list(forecasts), as_of.date()
    known = {charge.day for charge in charges}
    return [
        finding
        for span in spans(charges, policy, as_of)
        if span.budget.period is Period.MONTH and span.spent < span.limit and today <= span.last
        for finding in _breach(span, as_of, forecasts, known)
    ]


def _breach(
    span: Span, as_of: datetime, forecasts: Sequence[CostForecast], known: Collection[date]
) -> Iterator[Finding]:
    if forecast := _believed(span, as_of, forecasts):
        bounds = (forecast.lower80_microusd, forecast.mean_microusd, forecast.upper80_microusd)
        low, mean, high = (bound * NANO_IN_MICRO for bound in bounds)
        how = f"The forecast of {forecast.as_of:%Y-%m-%d}, by {forecast.method}, says {usd(mean)}, and with 80 % "
        how += f"probability between {usd(low)} and {usd(high)}."
        if not forecast.has_range:
            low, high = 0, mean
            how = f"The forecast of {forecast.as_of:%Y-%m-%d} says {usd(mean)}; {forecast.method}."
    elif rate := _run_rate(span, as_of.date(), known):
        mean, days = rate
        low, high = 0, mean  # a run rate has no band
        how = f"The mean of the last {many(days, 'whole day')}, carried on, gives {usd(mean)}."
    else:
        return
    crossed = [level for level, end in ((10, high), (50, mean), (90, low)) if end > span.limit]
    if not crossed:
        return
    level, limit = crossed[-1], usd(span.limit)
    yield Finding(
        RULE,
        span.budget.scope,
        Severity.NOTICE if level == min(_WORDS) else Severity.WARNING,
        f"{span.what} of {limit} {_WORDS[level]} be exceeded: {usd(mean)} expected",
        f"{usd(span.spent)} of {limit} spent in {span.name} so far. {how}",
        "What it goes to: reelkeeper bill --by service, and --by user.",
        max(mean - span.limit, 0) // NANO_IN_MICRO or None,
        (("Expected", usd(mean)), ("Budget", limit), ("Spent so far", usd(span.spent)), ("Period", span.name)),
        period=span.name,
        level=str(level),
    )


def _believed(span: Span, as_of: datetime, forecasts: Sequence[CostForecast]) -> CostForecast | None:
    """Return the latest forecast of the span, unless it is old, or the present spend already exceeds it."""
    kind, _, name = span.budget.scope.partition(":")
    fits = [
        forecast
        for forecast in forecasts
        if kind in {TOTAL, "service"}
        and (forecast.service, forecast.month) == (name, span.first)
        and timedelta() <= as_of - forecast.as_of <= timedelta(days=_FORECAST_DAYS)
        and span.spent <= forecast.upper95_microusd * NANO_IN_MICRO
    ]
    return max(fits, key=lambda forecast: forecast.as_of, default=None)


def _run_rate(span: Span, today: date, known: Collection[date]) -> tuple[int, int] | None:
    """Return the month's cost at the rate of the last days, and their number; None if there are too few.

    After the first charge of the budget's scope, a `known` day, which has any charge, cost it nothing without one.
    """
    by_day = Counter[date]()
    for charge in span.charges:
        by_day[charge.day] += nanousd(charge, span.budget.scope)
    since = max(min(by_day, default=today), today - timedelta(days=RATE_DAYS))
    # guard spend.idle_days: the cost of the few days on which a user did anything is foreseen for each day
    amounts = [by_day[day] for day in known if since <= day < today]
    if len(amounts) < _LEAST_RATE_DAYS:
        return None
    mean = sum(amounts) // len(amounts)
    rest_of_today = max(mean - by_day[today], 0)
    return span.spent + rest_of_today + mean * (span.last - today).days, len(amounts)
