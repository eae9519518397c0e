"""Days that are known to be unlike others, as a person writes them: of every year, of one, or several in a row."""

import re
from collections.abc import Iterable
from datetime import date, timedelta
from typing import Final

_A_DAY: Final = timedelta(days=1)
_EVERY_YEAR: Final = re.compile(r"\d\d-\d\d")
_SOME: Final = re.compile(r"(\d{4}-\d\d-\d\d)(?:/(\d{4}-\d\d-\d\d))?")
_LEAP_YEAR: Final = 2024  # any: every day of the year has a date in it


def check(entry: str) -> None:
    """Raise ValueError for what is no `12-25`, `2027-03-28` or `2026-12-20/2026-12-31`."""
    spans = _spans(entry, [_LEAP_YEAR])
    if not spans or spans[0][1] < spans[0][0]:
        raise ValueError(f"{entry!r} is no day: write 12-25, 2027-03-28 or 2026-12-20/2026-12-31")


def days(entries: Iterable[str], first: date, last: date) -> frozenset[date]:
    """Give the days of `entries` from `first` to `last`, both included."""
    years = range(first.year, last.year + 1)
    spans = [(max(start, first), min(end, last)) for entry in entries for start, end in _spans(entry, years)]
    return frozenset(start + n * _A_DAY for start, end in spans for n in range((end - start).days + 1))


def _spans(entry: str, years: Iterable[int]) -> list[tuple[date, date]]:
    if _EVERY_YEAR.fullmatch(entry):
        found = filter(None, (_date(f"{year}-{entry}") for year in years))  # 29 February is not in all of them
        return [(day, day) for day in found]
    some = _SOME.fullmatch(entry)
    start, end = (_date(some[1]), _date(some[2] or some[1])) if some else (None, None)
    return [(start, end)] if start and end else []


def _date(text: str) -> date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None
