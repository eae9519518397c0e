"""How well alerts meet events. An alert inside an event, or on the day after it, is about it; every other is false."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import date, timedelta

from bench.anomaly.sets import Series

_DAYS_A_MONTH = 30


@dataclass(frozen=True, slots=True)
class Score:
    """What was found, and what was not there."""

    events: int
    found: int
    false: int
    series_months: float

    @property
    def recall(self) -> float:
        """Events that were found, of all."""
        return self.found / self.events

    @property
    def precision(self) -> float:
        """Found events, of them and the false alerts."""
        return self.found / max(self.found + self.false, 1)

    @property
    def f1(self) -> float:
        """The harmonic mean of both."""
        return 2 * self.found / (self.events + self.found + self.false)

    @property
    def false_a_month(self) -> float:
        """False alerts of a series in a month."""
        return self.false / self.series_months


def pooled(scores: Sequence[Score]) -> Score:
    """Add scores up."""
    sums = ([getattr(one, field.name) for one in scores] for field in fields(Score))
    return Score(*(sum(column) for column in sums))


def score(series: Sequence[Series], alerts: Iterable[Sequence[int]], wholes: Iterable[tuple[str, date]] = ()) -> Score:
    """Count. `wholes` are alerts of a whole family, each about every event of it that it meets, or false once."""
    of_family: defaultdict[str, set[date]] = defaultdict(set)
    for family, day in wholes:
        of_family[family].add(day)
    met: set[tuple[str, date]] = set()
    watched: set[tuple[str, date]] = set()
    found = false = 0
    for one, days in zip(series, alerts, strict=True):
        told = {day for day in days if day >= one.watched}
        shared = {(day - one.start).days for day in of_family[one.family]}
        about: set[int] = set()
        for event in one.events:
            inside = set(range(event.first, event.last + 1))
            found += bool(inside & (told | shared))
            about |= inside | {event.last + 1}
        false += len(told - about)
        met |= {(one.family, one.start + timedelta(days=day)) for day in shared & about}
        watched |= {(one.family, one.start + timedelta(days=d)) for d in shared if one.watched <= d < len(one.values)}
    return Score(
        sum(len(one.events) for one in series),
        found,
        false + len(watched - met),
        sum(len(one.values) - one.watched for one in series) / _DAYS_A_MONTH,
    )
