"""Public holidays of the places of the real series, with the days next to them that people take off.

They replace what an operator writes into `anomaly.calendar`: days known in advance, by rule.
"""

from collections.abc import Iterator
from datetime import date, timedelta

_A_DAY = timedelta(days=1)
_MON, _TUE, _THU, _FRI, _SAT, _SUN = 0, 1, 3, 4, 5, 6
_GRAND_FINAL_SINCE = 2015


def holidays(place: str, first: date, last: date) -> frozenset[date]:
    """Return the days off in "us" or "victoria" from `first` to `last`; a place that is not known has none."""
    of_year = {"us": _us, "victoria": _victoria}.get(place)
    years = range(first.year, last.year + 1) if of_year else ()
    return frozenset(day for year in years for day in of_year(year) if first <= day <= last) if of_year else frozenset()


def _us(year: int) -> Iterator[date]:
    for day in (date(year, 1, 1), date(year, 7, 4)):
        yield from _around(day, 1, 1)
    yield from _around(date(year, 12, 25), 2, 7)
    yield date(year, 11, 11)
    yield from (_nth(year, 1, _MON, 3), _nth(year, 2, _MON, 3), _nth(year, 10, _MON, 2))
    yield from _around(_easter(year), 2, 0)
    yield from _around(_nth(year, 5, _MON, -1), 2, 0)
    yield from _around(_nth(year, 9, _MON, 1), 2, 0)
    yield from _around(_nth(year, 11, _THU, 4), 1, 3)
    for day in (date(year, 1, 1), date(year, 7, 4), date(year, 11, 11), date(year, 12, 25)):
        yield {_SAT: day - _A_DAY, _SUN: day + _A_DAY}.get(day.weekday(), day)


def _victoria(year: int) -> Iterator[date]:
    yield from _around(date(year, 1, 1), 1, 1)
    yield from _around(date(year, 12, 25), 1, 6)
    yield from (date(year, 1, 26), date(year, 4, 25), _nth(year, 3, _MON, 2), _nth(year, 6, _MON, 2))
    yield from _around(_easter(year), 2, 1)
    yield from _around(_nth(year, 11, _TUE, 1), 1, 0)
    if year >= _GRAND_FINAL_SINCE:
        yield from _around(_nth(year, 9, _SAT, -1), 1, 0)
    for day in (date(year, 1, 1), date(year, 1, 26), date(year, 12, 25), date(year, 12, 26)):
        yield {_SAT: day + 2 * _A_DAY, _SUN: day + _A_DAY}.get(day.weekday(), day)


def _around(day: date, before: int, after: int) -> Iterator[date]:
    return (day + n * _A_DAY for n in range(-before, after + 1))


def _nth(year: int, month: int, weekday: int, nth: int) -> date:
    """Return the nth such weekday of a month, -1 for the last."""
    first = date(year, month, 1)
    day = first + ((weekday - first.weekday()) % 7) * _A_DAY
    if nth > 0:
        return day + 7 * (nth - 1) * _A_DAY
    later = [day + 7 * n * _A_DAY for n in range(6)]
    return max(item for item in later if item.month == month)


def _easter(year: int) -> date:
    """Return Easter Sunday, by the Gregorian computus."""
    a, (b, c) = year % 19, divmod(year, 100)
    (d, e), g = divmod(b, 4), (8 * b + 13) // 25
    h = (19 * a + b - d - g + 15) % 30
    i, k = divmod(c, 4)
    m = (a + 11 * h) // 319
    weekday = (2 * e + 2 * i - k - h + m + 32) % 7
    month = (h - m + weekday + 90) // 25
    return date(year, month, (h - m + weekday + month + 19) % 32)
