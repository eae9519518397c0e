"""Anomaly detectors: our rule, for single series and for accounts, and two common methods."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import date, timedelta
from statistics import fmean, stdev

from bench.anomaly.holidays import holidays
from bench.anomaly.sets import HISTORY_DAYS, Series
from reelkeeper.rules.spend.anomaly import AnomalyPolicy, judge_all, odd_days
from reelkeeper.rules.spend.budget import TOTAL, Spending
from reelkeeper.rules.spend.residuals import Judged

POLICY = AnomalyPolicy()
_NANO = 10**9
_LEAST_IN_AN_ACCOUNT = 3
_MONTH = 28

Alerts = list[list[int]]  # of each series, the days from its first


def ours(series: Sequence[Series], policy: AnomalyPolicy = POLICY, *, with_holidays: bool = False) -> Alerts:
    """Judge each series by itself."""
    found = []
    for item in series:
        known = _knowing(policy, item.place, item.start, len(item.values)) if with_holidays else policy
        days = judge_all(Spending(item.start, {TOTAL: _nano(item.values)}), known)[TOTAL]
        found.append(odd_days(days, policy))
    return found


def accounts(
    series: Sequence[Series], policy: AnomalyPolicy = POLICY, *, with_holidays: bool = False
) -> tuple[Alerts, list[tuple[str, date]]]:
    """Judge each family of three or more as the services of an account; an anomaly of the total is reported only once.

    Return the alerts of the series, and those of the totals: (family, day).
    """
    families: defaultdict[str, list[int]] = defaultdict(list)
    for n, item in enumerate(series):
        families[item.family].append(n)
    found: dict[int, list[int]] = {}
    of_wholes: list[tuple[str, date]] = []
    for family, places in families.items():
        members = [series[n] for n in places]
        if len(members) < _LEAST_IN_AN_ACCOUNT:
            found |= dict(zip(places, ours(members, policy, with_holidays=with_holidays), strict=True))
            continue
        first = min(member.start for member in members)
        length = max((member.start - first).days + len(member.values) for member in members)
        laid = {n: _laid(series[n], first, length) for n in places}
        whole = [_sum(day) for day in zip(*laid.values(), strict=True)]
        knowing = _knowing(policy, members[0].place, first, length) if with_holidays else policy
        judged = judge_all(Spending(first, {TOTAL: whole, **{f"service:{n}": laid[n] for n in places}}), knowing)
        odd = {day: _direction(judged[TOTAL][day]) for day in odd_days(judged[TOTAL], policy)}
        of_wholes += [(family, first + timedelta(days=day)) for day in odd]
        for n in places:
            days, offset = judged[f"service:{n}"], (series[n].start - first).days
            own = [day for day in odd_days(days, policy) if odd.get(day) != _direction(days[day])]
            found[n] = [day - offset for day in own]
    return [found[n] for n in range(len(series))], of_wholes


def three_sigma(series: Sequence[Series]) -> Alerts:
    """Judge by the mean and the standard deviation of the last 28 days."""

    def odd(values: Sequence[float | None], day: int) -> bool:
        value, past = values[day], [item for item in values[max(0, day - _MONTH) : day] if item is not None]
        return value is not None and len(past) > _MONTH // 2 and abs(value - fmean(past)) > 3 * stdev(past)

    return [_quiet([day for day in range(len(item.values)) if odd(item.values, day)]) for item in series]


def static(series: Sequence[Series]) -> Alerts:
    """Judge by twice the mean of the first weeks, like a threshold that was set once."""
    found = []
    for item in series:
        known = [value for value in item.values[item.watched - HISTORY_DAYS : item.watched] if value is not None]
        limit = 2 * fmean(known)
        found.append(_quiet([day for day, value in enumerate(item.values) if value is not None and value > limit]))
    return found


def _quiet(days: Sequence[int]) -> list[int]:
    found: list[int] = []
    for day in days:
        if not found or day - found[-1] > POLICY.quiet_days:
            found.append(day)
    return found


def _knowing(policy: AnomalyPolicy, place: str, first: date, days: int) -> AnomalyPolicy:
    known = sorted(str(day) for day in holidays(place, first, first + timedelta(days=days)))
    return policy.model_copy(update={"calendar": tuple(known)})


def _direction(verdict: Judged | None) -> int:
    return verdict.direction if verdict else 0


def _sum(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _nano(values: Sequence[float | None]) -> list[int | None]:
    return [None if value is None else round(value * _NANO) for value in values]


def _laid(series: Series, first: date, length: int) -> list[int | None]:
    before = (series.start - first).days
    return [*[None] * before, *_nano(series.values), *[None] * (length - before - len(series.values))]
