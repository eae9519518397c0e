"""Where a day stands in its month, for what is done once a month: on the first, the last, a fixed or a working day."""

from calendar import monthrange
from datetime import date, timedelta
from typing import Final

_SATURDAY: Final = 5
MONTHS, RECURRED = 3, 2  # of so many months, what recurs was odd at its place in so many at least


def places(day: date) -> tuple[str, ...]:
    """Name each place of the month that the day is: its number, the last day, the last day from Monday to Friday."""
    last = day.replace(day=monthrange(day.year, day.month)[1])
    working = last - timedelta(days=max(0, last.weekday() - _SATURDAY + 1))
    names = (("last day", last), ("last working day", working))
    return (f"day {day.day}", *(name for name, at in names if at == day))
