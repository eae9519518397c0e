"""Score alerts against events. An alert within an event, or on the day after it, is correct; every other is false."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import date, timedelta

from bench.anomaly.sets import Series

_DAYS_A_MONTH = 30


@dataclass(frozen=True, slots=True)
class Score:
    """The numbers of events, found events and false alerts."""

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
    sums = ([getattr(item, field.name) for item in scores] for field in fields(Score))
    return Score(*(sum(column) for column in sums))


def score(series: Sequence[Series], alerts: Iterable[Sequence[int]], wholes: Iterable[tuple[str, date]] = ()) -> Score:
    """Score alerts. `wholes` are alerts of a family's total: each is correct for all events that it meets, or false."""
    of_family: defaultdict[str, set[date]] = defaultdict(set)
    for family, day in wholes:
        of_family[family].add(day)
    met: set[tuple[str, date]] = set()
    watched: set[tuple[str, date]] = set()
    found = false = 0
    for item, days in zip(series, alerts, strict=True):
        told = {day for day in days if day >= item.watched}
        shared = {(day - item.start).days for day in of_family[item.family]}
        about: set[int] = set()
        for event in item.events:
            inside = set(range(event.first, event.last + 1))
            found += bool(inside & (told | shared))
            about |= inside | {event.last + 1}
        false += len(told - about)
        met |= {(item.family, item.start + timedelta(days=day)) for day in shared & about}
        watched |= {
            (item.family, item.start + timedelta(days=d)) for d in shared if item.watched <= d < len(item.values)
        }
    return Score(
        sum(len(item.events) for item in series),
        found,
        false + len(watched - met),
        sum(len(item.values) - item.watched for item in series) / _DAYS_A_MONTH,
    )
