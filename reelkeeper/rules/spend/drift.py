"""Find gradual growth without an odd day, such as a leak. It is reported once a week, not as an alarm.

The mean day of the last two whole weeks is compared with that of the two weeks four weeks before. Growth beyond the
usual growth in four weeks, the median of the last half year, is news; for the total only if no service has it.
"""

from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta
from math import exp, log
from statistics import fmean, median
from typing import Final, NamedTuple

from reelkeeper.model.alerts import Finding, Severity
from reelkeeper.model.money import NANO, NANO_IN_MICRO, Charge
from reelkeeper.rules.core.wording import usd
from reelkeeper.rules.spend.anomaly import DAYS_A_MONTH, AnomalyPolicy
from reelkeeper.rules.spend.budget import TOTAL, by_scope, scope_in_words

RULE: Final = "drift"
_WEEK: Final = 7
_LEAST_DAYS: Final = 5  # of a week, for a known mean
_APART: Final = 4  # weeks
_HALF_A_YEAR: Final = 26  # weeks
_LEAST_CHANGES: Final = 4  # for a trend: thirteen weeks in all
_FULL: Final = 100  # percent
_GROWTH_PERCENT: Final = 35  # in four weeks, beyond the trend, from which on it is reported


def findings(charges: Iterable[Charge], policy: AnomalyPolicy, as_of: datetime) -> list[Finding]:
    """Report what has grown beyond its trend, as of the last complete week.

    Args:
        charges: of the last `HISTORY_DAYS`, in any order; they may be sums.
        policy: the least growth, in dollars a day.
        as_of: now; its UTC week is not over yet.

    """
    today = as_of.date()
    spending = by_scope(charges, today)
    monday = today - timedelta(days=today.weekday())
    ends = (monday - spending.first).days  # the days before this week
    found = {}
    for scope, values in spending.series.items():
        if (change := drift(values[:ends])) is not None:
            before, now, trend = change
            expected = before * exp(trend)
            if now > expected * (1 + _GROWTH_PERCENT / _FULL) and now - expected >= policy.floor_usd * NANO:
                found[scope] = _finding(scope, before, now, expected, monday)
    if any(scope.startswith("service:") for scope in found):
        found.pop(TOTAL, None)
    return list(found.values())


class Drift(NamedTuple):
    """The mean day four weeks ago and now, and the usual change in four weeks, as a logarithm."""

    before: float
    now: float
    trend: float


def drift(days: Sequence[float | None]) -> Drift | None:
    """Compare mean days four weeks apart, up to the last of `days`; None if the history is too short."""
    weeks = [_mean(days[end - _WEEK : end]) for end in range(len(days), _WEEK - 1, -_WEEK)][: _HALF_A_YEAR + _APART]
    pairs = [_mean(weeks[n : n + 2], least=2) for n in range(len(weeks) - 1)]  # the latest first
    changes = [
        log(now / before) if now and before and min(now, before) > 0 else None
        for now, before in zip(pairs, pairs[_APART:], strict=False)
    ]
    usual = [change for change in changes[_APART:] if change is not None]
    if len(usual) < _LEAST_CHANGES or changes[0] is None:
        return None
    return Drift(pairs[_APART] or 0.0, pairs[0] or 0.0, median(usual))


def _mean(values: Sequence[float | None], least: int = _LEAST_DAYS) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) >= least else None


def _finding(scope: str, before: float, now: float, expected: float, monday: date) -> Finding:
    last = monday - timedelta(days=1)
    month = round((now - expected) * DAYS_A_MONTH)
    percent, beyond = (f"{(now / then - 1) * _FULL:,.0f} %" for then in (before, expected))
    return Finding(
        RULE,
        scope,
        Severity.NOTICE,
        f"{scope_in_words(scope)} has grown by {percent} in four weeks",
        f"{usd(round(now))} a day at list price in the two weeks to {last}, {usd(round(before))} four weeks before: "
        f"{beyond} beyond its trend. That is {usd(month)} a month.",
        "Where it comes from: reelkeeper bill --by service, and --by user.",
        month // NANO_IN_MICRO,
        (
            ("A day now", usd(round(now))),
            ("Four weeks ago", usd(round(before))),
            ("By its trend", usd(round(expected))),
        ),
        tuple((RULE, same, _week(last - timedelta(days=_WEEK))) for same in dict.fromkeys((scope, TOTAL))),
        period=_week(last),
    )


def _week(day: date) -> str:
    year, week, _ = day.isocalendar()
    return f"{year}-W{week:02}"
