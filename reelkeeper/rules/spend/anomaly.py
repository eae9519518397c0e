"""Find days with unusually high or low cost: in total, or of a service, tier, provider or model.

A day is odd if it leaves the usual range (see `residuals`) by a number of spreads, by a percentage, and by an amount
of dollars. Today is judged too, although it is not over: it can only be too high. After an odd day its series is silent
for some days. An odd total is reported once, with its main parts. Before a series is two weeks old, a day is
odd that costs several times as much as the day before. Where nobody looked for days, each of them is judged.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from math import log
from typing import Final, NamedTuple, cast

from pydantic import BaseModel, ConfigDict, Field, field_validator

from reelkeeper.model.alerts import Finding, Severity
from reelkeeper.model.money import NANO, NANO_IN_MICRO, Charge, JobTotal
from reelkeeper.rules.core.wording import usd
from reelkeeper.rules.spend.budget import TOTAL, Spending, by_scope, first_unchecked, scope_in_words
from reelkeeper.rules.spend.residuals import Bounds, Judged, judge

_A_DAY: Final = timedelta(days=1)
_EVERY_YEAR: Final = re.compile(r"\d\d-\d\d")
_SOME: Final = re.compile(r"(\d{4}-\d\d-\d\d)(?:/(\d{4}-\d\d-\d\d))?")
_LEAP_YEAR: Final = 2024  # any leap year: it has every date

RULE: Final = "anomaly"
DAYS_A_MONTH: Final = 30
_CENT: Final = 10**7  # nano-dollars; less is negligible
_FULL: Final = 100  # percent
_NAMED: Final = 3  # services in a finding
_SPREADS: Final = 4.2  # beyond which a cost is odd; `python -m bench anomalies` has what is found and what is false
QUIET_DAYS: Final = 3  # after a reported anomaly, in which its series is not reported again
_EARLY_FACTOR: Final = 3  # in the first two weeks, a day is odd that costs more than this many times the day before
HISTORY_DAYS: Final = 800  # yearly patterns are learnt from two years

Days = Sequence[Judged | None]


class AnomalyPolicy(BaseModel):
    """Thresholds for odd days, and days that are meant to be odd."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    change_percent: float = Field(
        25,
        gt=0,
        lt=100,
        allow_inf_nan=False,
        description="Difference from the usual cost that an anomaly must exceed, in percent",
    )
    floor_usd: Decimal = Field(
        Decimal(1),
        ge=0,
        le=10**9,
        allow_inf_nan=False,
        description="Minimum difference from the usual cost for an anomaly, in dollars a day",
    )
    calendar: tuple[str, ...] = Field(
        (),
        max_length=1000,
        description="Unusual days, such as holidays: `12-25`, `2027-03-28`, `2026-12-20/2026-12-31`",
    )

    @field_validator("calendar")
    @classmethod
    def _days(cls, calendar: tuple[str, ...]) -> tuple[str, ...]:
        for entry in calendar:
            check(entry)
        return calendar

    @property
    def bounds(self) -> Bounds:
        """Return the limits as logarithms."""
        share = self.change_percent / _FULL
        return Bounds(_SPREADS, log(1 + share), log(1 - share))


class Odd(NamedTuple):
    """An odd day, and the nano-dollars beyond the expectation, including the odd days after it."""

    day: Judged
    excess: int
    goes_on: bool

    @property
    def began(self) -> tuple[date, bool]:
        """Return the day, and whether it was too high."""
        return self.day.day, self.excess > 0


def findings(
    charges: Iterable[Charge],
    policy: AnomalyPolicy,
    as_of: datetime,
    jobs: Iterable[JobTotal] = (),
    since: date | None = None,
) -> list[Finding]:
    """Report what is odd about today, yesterday, the days since `since`, or a run of days up to these.

    Args:
        charges: of the last `HISTORY_DAYS`, in any order; they may be sums.
        policy: the thresholds.
        as_of: now; its UTC day is not over yet.
        jobs: the cost of those days' jobs, by provider and model.
        since: the day on which they were last judged.

    """
    spending = by_scope(charges, as_of.date(), jobs)
    judged = judge_all(spending, policy)
    recent = (as_of.date() - first_unchecked(as_of.date(), since)).days + 1
    odd = {
        scope: news(days, policy, recent) or _early(spending, scope, days, policy, recent)
        for scope, days in judged.items()
    }
    parts = defaultdict[tuple[date, bool], list[str]](list)
    for scope, own in odd.items():
        for anomaly in own if scope != TOTAL else ():
            parts[anomaly.began].append(scope)
    totals = {anomaly.began for anomaly in odd.get(TOTAL, ())}
    return [
        _finding(scope, anomaly, judged, as_of.date(), parts[anomaly.began] if scope == TOTAL else ())
        for scope, own in odd.items()
        for anomaly in own
        if scope == TOTAL or anomaly.began not in totals
    ]


def judge_all(spending: Spending, policy: AnomalyPolicy) -> dict[str, Days]:
    """Judge each day of each scope."""
    first, series = spending
    calendar = days(policy.calendar, first, spending.day(len(series.get(TOTAL, ()))))
    return {
        scope: _not_over(judge(values, first, policy.bounds, calendar=calendar)) for scope, values in series.items()
    }


def odd_days(days: Days, policy: AnomalyPolicy) -> list[int]:
    """Return the indices of the odd days that are news: each more than `QUIET_DAYS` after the one before."""
    found: list[int] = []
    for n, verdict in enumerate(days):
        if _direction(verdict, policy) and (not found or n - found[-1] > QUIET_DAYS):
            found.append(n)
    return found


def news(days: Days, policy: AnomalyPolicy, recent: int) -> list[Odd]:
    """Return the odd days among the last `recent`, today included, and the last of all if it goes on until these."""
    found = []
    for place, following in pairwise([*odd_days(days, policy), len(days)]):
        day = cast("Judged", days[place])  # which is odd
        since = [n for n in range(place, following) if _direction(days[n], policy) == day.direction]
        if (since[-1] if following == len(days) else place) >= len(days) - recent:
            excess = sum(verdict.actual - verdict.expected for n in since if (verdict := days[n]))
            found.append(Odd(day, round(excess), goes_on=len(since) > 1))
    return found


def _direction(verdict: Judged | None, policy: AnomalyPolicy) -> int:
    if verdict is None or not verdict.direction or abs(verdict.actual - verdict.expected) < policy.floor_usd * NANO:
        return 0
    return verdict.direction


def _not_over(days: Days) -> Days:
    """Ignore that today, which is not over, is low."""
    if days and days[-1] and days[-1].direction < 0:
        return [*days[:-1], days[-1]._replace(direction=0)]
    return days


def _early(spending: Spending, scope: str, days: Days, policy: AnomalyPolicy, recent: int) -> list[Odd]:
    """Compare the last `recent` days, each with the day before, if the history is too short."""
    values, found = spending.series.get(scope, ()), []
    for n in range(max(len(values) - recent, 1), len(values)):
        actual, before = values[n], values[n - 1]
        # guard spend.taken_back: after a day on which more was taken back than spent, no budget is checked
        if days[n] is not None or actual is None or not before or before < 0:
            continue
        if actual > before * _EARLY_FACTOR and actual - before >= policy.floor_usd * NANO:
            found.append(Odd(Judged(spending.day(n), actual, log(actual / before), 1), actual - before, goes_on=False))
    return found


def _finding(scope: str, odd: Odd, judged: Mapping[str, Days], today: date, within: Iterable[str]) -> Finding:
    day, up = odd.day, odd.excess > 0
    word, more = ("more", odd.excess) if up else ("less", -odd.excess)
    when = f"{day.day}{' so far' if day.day == today else ''}"
    actual, usual, percent = usd(round(day.actual)), "next to nothing", ""
    if day.expected >= _CENT:
        usual = usd(round(day.expected))
        percent = f", {abs(day.actual / day.expected - 1) * _FULL:,.0f} % {word} than usual"
    parts = list(_parts(judged, day.day, 1 if up else -1)) if scope == TOTAL else []
    sentences = [f"{actual} at list price on {when}, where {usual} is usual."]
    sentences += [f"It has gone on since: {usd(more)} {word} in all."] if odd.goes_on else []
    sentences += [f"Most of the difference: {', '.join(f'{name} {cost}' for name, cost in parts)}."] if parts else []
    month = round((day.actual - day.expected) * DAYS_A_MONTH)
    sentences += [f"A month of such days costs {usd(month)} more."] if up else []
    return Finding(
        RULE,
        scope,
        Severity.WARNING if up else Severity.NOTICE,
        f"{scope_in_words(scope)} is odd: {actual} on {when}{percent}",
        " ".join(sentences),
        "Where it comes from: reelkeeper bill --by user. A day that was meant goes into calendar.",
        month // NANO_IN_MICRO if up else None,
        (("Actual", actual), ("Usual", usual), ("Day", when), *parts),
        tuple((RULE, part, f"{day.day}") for part in within),
        period=f"{day.day}",
    )


def _parts(judged: Mapping[str, Days], day: date, sign: int) -> Iterator[tuple[str, str]]:
    """Return the services with the largest differences on that day, in the total's direction, and these differences."""
    services = (
        (scope.partition(":")[2], sign * (verdict.actual - verdict.expected))
        for scope, days in judged.items()
        if scope.startswith("service:")
        for verdict in days
        if verdict is not None and verdict.day == day
    )
    most = sorted(((more, name) for name, more in services if more >= _CENT), reverse=True)[:_NAMED]
    return ((name, usd(round(more))) for more, name in most)


def check(entry: str) -> None:
    """Raise ValueError unless it has the form `12-25`, `2027-03-28` or `2026-12-20/2026-12-31`."""
    spans = _spans(entry, [_LEAP_YEAR])
    if not spans or spans[0][1] < spans[0][0]:
        raise ValueError(f"{entry!r} is no day: write 12-25, 2027-03-28 or 2026-12-20/2026-12-31")


def days(entries: Iterable[str], first: date, last: date) -> frozenset[date]:
    """Return the days of `entries` from `first` to `last`, both included."""
    years = range(first.year, last.year + 1)
    spans = [(max(start, first), min(end, last)) for entry in entries for start, end in _spans(entry, years)]
    return frozenset(start + n * _A_DAY for start, end in spans for n in range((end - start).days + 1))


def _spans(entry: str, years: Iterable[int]) -> list[tuple[date, date]]:
    if _EVERY_YEAR.fullmatch(entry):
        found = filter(None, (_date(f"{year}-{entry}") for year in years))  # 29 February is not in all years
        return [(day, day) for day in found]
    some = _SOME.fullmatch(entry)
    start, end = (_date(some[1]), _date(some[2] or some[1])) if some else (None, None)
    return [(start, end)] if start and end else []


def _date(text: str) -> date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None
