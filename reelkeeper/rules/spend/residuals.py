"""Measure the distance of each day of a series from its expectation by the days before it.

The expectation is the level of the last 14 days, their median, times the weekday's profile of the last 8 weeks; the
residual is the logarithm of actual to expected. The spread is the usual size of residuals: the median of their absolute
values in the last 8 weeks. Every day is judged only by earlier days.

Known recurrences widen the allowed range. A day may return to a level of the last days, so that the end of an odd
period is not odd in turn; it may repeat what its date, its weekday and their neighbours did one and two years before;
it may repeat what the same place of the month (its number, the last day, the last working day) did in two of the last
three months; and on a day of the calendar it may be as low as on the quietest weekday.

Where many days cost nothing a ratio says little: there a day is odd that is far above the mean, in dollars.

What a part is worth, in F1 on made-up costs, on those with a monthly job, and on public series: returning to a level
.06, .09, .07; the years before 0, 0, .04; the month 0, .43, 0. A spread for each weekday, and leaving days out of the
level once they were explained, changed it by less than .01 and are not here.
"""

from collections import defaultdict, deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from math import exp, log
from statistics import fmean, median, pstdev
from typing import Final, NamedTuple

from reelkeeper.model.money import end_of_month

LEAST_DAYS: Final = 14  # before a day, for it to be judged
_PROFILE_DAYS: Final = 56  # 8 weeks, also for the spread
_LEVEL_DAYS: Final = 14
_WEEK: Final = 7
_SATURDAY: Final = 5
MONTHS, RECURRED = 3, 2  # a recurring place was odd in at least two of the last three months
_HALF_WEEK: Final = 3
_LEAST_LEVEL_DAYS: Final = 5
_LEAST_RESIDUALS: Final = 7
_LEAST_SPREAD: Final = 0.015  # minimum, for a series that hardly moves: 1.5 %
_ONCE_MORE: Final = 2  # minimum days of a weekday for a profile
_YEARS_AGO: Final = (364, 365, 366, 728, 730, 731)  # days: the same weekday, and the same date
_NEARLY: Final = 0.8  # share of the bounds, from which on other years' residuals count as recurring
_NOTHING: Final = 1e-6  # the value of a day of 0, for its logarithm
GAPPY: Final = 0.15  # share of days at nothing from which on dollars are judged
_DEVIATIONS: Final = 4.0  # standard ones above the mean of such a series
TRIMMED: Final = 0.06  # share of the dearest days that do not count for these


@dataclass(frozen=True, slots=True)
class Bounds:
    """Thresholds: more than `spreads` spreads, and more than `rise` or less than `fall`, in logarithms."""

    spreads: float
    rise: float
    fall: float

    def direction(self, excess: float, spread: float) -> int:
        """Return 1 or -1 for an oddly high or low day, 0 for one that is not odd."""
        if abs(excess) <= self.spreads * spread or self.fall <= excess <= self.rise:
            return 0
        return 1 if excess > 0 else -1


class Judged(NamedTuple):
    """One day, judged by the days before it. `residual` is a natural logarithm."""

    day: date
    actual: float
    residual: float
    direction: int  # 1: oddly high; -1: oddly low; 0: not odd

    @property
    def expected(self) -> float:
        """The expectation, in the unit of `actual`."""
        return max(self.actual, _NOTHING) / exp(self.residual)


def judge(
    values: Sequence[float | None], first: date, bounds: Bounds, *, calendar: Collection[date] = frozenset()
) -> list[Judged | None]:
    """Judge each day of a series; None if it has no value, or too few days before it.

    Args:
        values: one per day, not negative; None is unknown, which is not zero.
        first: the day of the first value.
        bounds: the thresholds.
        calendar: days that are known to be unusual.

    """
    judging = _Judging(values, bounds)
    days = [first + timedelta(days=n) for n in range(len(values))]
    return [judging.judge(n, day, in_calendar=day in calendar) for n, day in enumerate(days)]


class _Judging:
    """A series that is judged day by day."""

    def __init__(self, values: Sequence[float | None], bounds: Bounds) -> None:
        self.values, self.bounds = values, bounds
        self.logs = [None if value is None else log(max(value, _NOTHING)) for value in values]
        self.from_week: list[float | None] = []  # each day's distance from the median of the week around it
        self.residuals: list[float | None] = []
        self.levels: list[float] = []
        self.months: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=MONTHS))

    def judge(self, n: int, day: date, *, in_calendar: bool) -> Judged | None:
        self._take_up(n - _HALF_WEEK - 1)
        value = self.logs[n]
        profile = self._profile(n) if value is not None else []
        level = self._level(n, profile) if value is not None else None
        if value is None or level is None:
            self.residuals.append(None)
            return None
        self.levels.append(level)
        weekdays = profile[n % _WEEK]
        residual = value - weekdays - level
        self.residuals.append(residual)
        in_month = [tuple(self.months[place]) for place in places(day)]
        for place in places(day):
            self.months[place].append(residual)
        spread = self._spread(n)
        if n < LEAST_DAYS or spread is None:
            return None
        actual = self.values[n] or 0.0
        if (judged := self._in_dollars(n, day, actual)) is not None:
            return judged
        recurring = [
            *(item - level for item in self.levels[-_LEVEL_DAYS:]),
            *self._years_ago(n, spread),
            *(past for place in in_month for past in self._recurred(place, spread)),
            *([min(profile) - weekdays] if in_calendar else []),
        ]
        beyond = max(residual - max(recurring), 0.0) + min(residual - min(recurring), 0.0)
        return Judged(day, actual, residual, self.bounds.direction(beyond, spread))

    def _in_dollars(self, n: int, day: date, actual: float) -> Judged | None:
        """Judge a day of a series with many days of nothing; None for any other series."""
        past = sorted(value for value in self.values[max(0, n - _PROFILE_DAYS) : n] if value is not None)
        if sum(value == 0 for value in past) < GAPPY * len(past):
            return None
        usual = past[: len(past) - int(TRIMMED * len(past))]
        mean = fmean(usual)
        is_odd = actual > mean + _DEVIATIONS * pstdev(usual)
        return Judged(day, actual, log(max(actual, _NOTHING) / max(mean, _NOTHING)), int(is_odd))

    def _take_up(self, n: int) -> None:
        """Add day `n` to the profile, as the week around it is known now."""
        if n < 0:
            return
        value = self.logs[n]
        around = [log for log in self.logs[max(0, n - _HALF_WEEK) : n + _HALF_WEEK + 1] if log is not None]
        self.from_week.append(None if value is None else value - median(around))

    def _profile(self, n: int) -> list[float]:
        """Return the usual deviation of each weekday from the level; index 0 is the first day's weekday."""
        weekdays: list[list[float]] = [[] for _ in range(_WEEK)]
        for past in range(max(0, n - _PROFILE_DAYS), len(self.from_week)):
            distance = self.from_week[past]
            if distance is not None:
                weekdays[past % _WEEK].append(distance)
        return [median(days) if len(days) >= _ONCE_MORE else 0.0 for days in weekdays]

    def _level(self, n: int, profile: Sequence[float]) -> float | None:
        days = range(max(0, n - _LEVEL_DAYS), n)
        levels = [value - profile[day % _WEEK] for day in days if (value := self.logs[day]) is not None]
        return median(levels) if len(levels) >= _LEAST_LEVEL_DAYS else None

    def _spread(self, n: int) -> float | None:
        lately = [abs(item) for item in self.residuals[max(0, n - _PROFILE_DAYS) : n] if item is not None]
        return max(median(lately), _LEAST_SPREAD) if len(lately) >= _LEAST_RESIDUALS else None

    def _years_ago(self, n: int, spread: float) -> list[float]:
        """Return the residuals of the same days in earlier years that were at least nearly odd."""
        days = (n - ago + beside for ago in _YEARS_AGO for beside in (-1, 0, 1))
        found = [past for day in days if day >= 0 and (past := self.residuals[day]) is not None]
        return [past for past in found if self._is_nearly_odd(past, spread)]

    def _recurred(self, past: Sequence[float], spread: float) -> list[float]:
        """Return the residuals of a place of the month, if enough recent months were nearly odd in one direction."""
        odd = [residual for residual in past if self._is_nearly_odd(residual, spread)]
        ways = ([each for each in odd if each > 0], [each for each in odd if each < 0])
        return [each for way in ways if len(way) >= RECURRED for each in way]

    def _is_nearly_odd(self, residual: float, spread: float) -> bool:
        rise, fall, spreads = (_NEARLY * limit for limit in (self.bounds.rise, self.bounds.fall, self.bounds.spreads))
        return abs(residual) > spreads * spread and not fall <= residual <= rise


def places(day: date) -> tuple[str, ...]:
    """Return the places of a day in its month: its number, the last day, the last working day (Monday to Friday)."""
    last = end_of_month(day)
    working = last - timedelta(days=max(0, last.weekday() - _SATURDAY + 1))
    names = (("last day", last), ("last working day", working))
    return (f"day {day.day}", *(name for name, at in names if at == day))
