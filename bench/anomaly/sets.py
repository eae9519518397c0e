"""Series with inserted events: sixty synthetic cost series, and real ones, in which only inserted events count.

An event is a spike (times 1.5 to 3, a day), a drop (times 0.3 to 0.6, a day or two), a new level (times 1.35 to 2,
permanent) or a leak (rising for 14 days to times 1.5 to 2.2, then over). Events are two weeks apart.
"""

import json
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from math import exp, sqrt
from random import Random
from statistics import median
from typing import Any

from bench.report import peers_python
from reelkeeper.rules.spend.residuals import places

USD_A_DAY = 50.0  # cost to which the median day of a real series is scaled
HISTORY_DAYS = 120  # at least, before a series is watched
YEARS_BEFORE = 3 * 366 + 60  # days, at most
APART_DAYS = 14
KINDS = ("spike", "drop", "shift", "leak")
JOB_NOISE = 0.1  # of a monthly job's cost
LEAK_DAYS = 14
SHIFT_DAYS = 7  # a new level that was not detected by then counts as missed

Values = list[float | None]


@dataclass(frozen=True, slots=True)
class Event:
    """An inserted event, on the days from `first` to `last`, counted from the series' first."""

    kind: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Series:
    """Dollars a day from `start`, watched from day `watched` on."""

    name: str
    family: str
    place: str
    start: date
    values: Values
    watched: int
    events: tuple[Event, ...]


def synthetic(rng: Random, count: int = 60, watched_days: int = 180, *, monthly: bool = False) -> Iterator[Series]:
    """Generate cost series: growth up to 0.6 % a day, weekdays, autocorrelated noise of 5 to 9 %.

    With `monthly`, each has a job on one day of every month, which makes that day 1.5 to 3 times as expensive.
    """
    for n in range(count):
        base, growth = exp(rng.uniform(2.3, 5)), rng.uniform(0, 0.006)
        weekdays, noise, memory = [rng.gauss(0, 0.12) for _ in range(7)], rng.uniform(0.05, 0.09), rng.uniform(0.2, 0.6)
        values, state = Values(), 0.0
        for day in range(HISTORY_DAYS + watched_days):
            state = memory * state + rng.gauss(0, noise * sqrt(1 - memory**2))
            values.append(base * exp(growth * day + weekdays[day % 7] + state))
        start = date(2025, 1, 6)
        if monthly:
            values = _with_job(rng, values, start)
        events = _events(rng, HISTORY_DAYS, len(values), 3 if n else 4)
        yield Series(f"cost-{n}", f"cost-{n}", "", start, _with(rng, values, events), HISTORY_DAYS, events)


def _with_job(rng: Random, values: Values, start: date) -> Values:
    """Add a job that costs about the same each month: on the first, the last, a fixed or the last working day."""
    place = rng.choice(("day 1", "last day", f"day {rng.randint(2, 28)}", "last working day"))
    factor = rng.uniform(1.5, 3)
    return [
        value * (1 + (factor - 1) * exp(rng.gauss(0, JOB_NOISE)))
        if value is not None and place in places(start + timedelta(days=day))
        else value
        for day, value in enumerate(values)
    ]


def exported() -> dict[str, dict[str, Any]]:
    """Read the real series from the packages in .venv-peers. Raises MissingPeersError."""
    command = [str(peers_python()), "-m", "bench.anomaly.backgrounds"]
    found: dict[str, dict[str, Any]] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return found


def real(rng: Random, exports: dict[str, dict[str, Any]], watched_days: int = 240) -> Iterator[Series]:
    """Insert events into real series; a family's series, like services of an account, are watched on the same days.

    The days are drawn at random, after at least one year if a family has more.
    """
    begins: dict[str, date] = {}
    for n, (name, export) in enumerate(exports.items()):
        start, days = _dense(export["values"])
        family = export["family"]
        if family not in begins:
            least = HISTORY_DAYS + 400 if len(days) - watched_days > HISTORY_DAYS + 400 else HISTORY_DAYS
            latest = max(len(days) - watched_days, least)
            begins[family] = start + timedelta(days=rng.randint(least, latest))
        watched = max((begins[family] - start).days, HISTORY_DAYS)
        end, cut = min(watched + watched_days, len(days)), max(0, watched - YEARS_BEFORE)
        scale = USD_A_DAY / median(value for value in days if value is not None)
        values = [None if value is None else value * scale for value in days[cut:end]]
        events = _events(rng, watched - cut, len(values), 4 if n % 10 else 5)
        yield Series(
            name,
            family,
            export["place"],
            start + timedelta(days=cut),
            _with(rng, values, events),
            watched - cut,
            events,
        )


def _dense(values: dict[str, float]) -> tuple[date, Values]:
    first, last = (date.fromisoformat(find(values)) for find in (min, max))
    return first, [values.get(str(first + timedelta(days=n))) for n in range((last - first).days + 1)]


def _events(rng: Random, first: int, end: int, count: int) -> tuple[Event, ...]:
    found: list[Event] = []
    while len(found) < count:
        kind = rng.choice(KINDS)
        days = {"spike": 1, "drop": rng.choice((1, 2)), "shift": SHIFT_DAYS, "leak": LEAK_DAYS}[kind]
        day = rng.randrange(first, end - days)
        if all(day > event.last + APART_DAYS or day + days + APART_DAYS <= event.first for event in found):
            found.append(Event(kind, day, day + days - 1))
    return tuple(sorted(found, key=lambda event: event.first))


def _with(rng: Random, values: Sequence[float | None], events: Sequence[Event]) -> Values:
    changed = list(values)
    for event in events:
        low, high = {"spike": (1.5, 3), "drop": (0.3, 0.6), "shift": (1.35, 2), "leak": (1.5, 2.2)}[event.kind]
        factor, days = rng.uniform(low, high), event.last - event.first + 1
        last = len(values) - 1 if event.kind == "shift" else event.last
        for day in range(event.first, last + 1):
            share = (day - event.first + 1) / days if event.kind == "leak" else 1
            value = changed[day]
            changed[day] = None if value is None else value * (1 + (factor - 1) * share)
    return changed
