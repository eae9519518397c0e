"""Benchmark the detection of odd days on made-up costs and on public series, beside a rolling 3 sigma.

An event is a spike (times 1.5 to 3, a day), a drop (times 0.3 to 0.6, a day or two), a new level (times 1.35 to 2,
permanent) or a leak (rising for 14 days to times 1.5 to 2.2, then over). Only events that we insert count, so that real
events in public series count as false alerts. An alert within an event, or on the day after it, is correct.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from math import exp, sqrt
from random import Random
from statistics import fmean, median, stdev
from typing import Final

from bench.report import Row
from bench.series import daily
from reelkeeper.rules.spend.anomaly import QUIET_DAYS, AnomalyPolicy, judge_all, odd_days
from reelkeeper.rules.spend.budget import TOTAL, Spending
from reelkeeper.rules.spend.residuals import places

SEEDS: Final = (2026, 2027, 2028)
MISSED, FALSE = {"public": 0.20}, {"public": 0.6}  # at most: of all events, and a series-month; else:
MISSED_ELSE, FALSE_ELSE = 0.15, 0.05
POLICY: Final = AnomalyPolicy()
HISTORY_DAYS, WATCHED_DAYS, APART_DAYS, MONTH_DAYS = 120, 180, 14, 28
KINDS: Final = {  # the days of an event, and its factor; a new level that was not found in a week counts as missed
    "spike": ((1,), (1.5, 3)),
    "drop": ((1, 2), (0.3, 0.6)),
    "shift": ((7,), (1.35, 2)),
    "leak": ((14,), (1.5, 2.2)),
}
USD_A_DAY: Final = 50.0  # to which the median day of a public series is scaled

Detector = Callable[["Series"], list[int]]


@dataclass(frozen=True, slots=True)
class Series:
    """Dollars a day from `start`, and the first and last days of its events; the last days are watched."""

    start: date
    values: list[float]
    events: tuple[tuple[int, int], ...]

    @property
    def watched(self) -> int:
        """Return the first day on which an alert counts."""
        return len(self.values) - WATCHED_DAYS


def measure() -> Iterator[Row]:
    """Score our rule and 3 sigma on each set, over three draws of events."""
    for name, drawn in SETS.items():
        series = [each for seed in SEEDS for each in drawn(Random(seed))]
        missed, wrong, false = score(series, ours)
        peer = score(series, three_sigma)
        what = f"{name}, {sum(len(each.events) for each in series)} events"
        yield Row(f"{what}: missed", missed, "promised", MISSED.get(name, MISSED_ELSE), 1.0, "")
        yield Row(f"{what}: false a series-month", false, "promised", FALSE.get(name, FALSE_ELSE), 1.0, "")
        yield Row(f"{what}: 1 - F1", wrong, "3 sigma of four weeks", peer[1], 1.0, "")


def score(series: Sequence[Series], detector: Detector) -> tuple[float, float, float]:
    """Return the share of missed events, 1 - F1, and the false alerts in a series-month."""
    events = found = false = 0
    for each in series:
        told = {day for day in detector(each) if day >= each.watched}
        events += len(each.events)
        found += sum(any(first <= day <= last for day in told) for first, last in each.events)
        false += sum(not any(first <= day <= last + 1 for first, last in each.events) for day in told)
    months = len(series) * WATCHED_DAYS / 30
    return 1 - found / events, 1 - 2 * found / (events + found + false), false / months


def ours(series: Series) -> list[int]:
    """Judge each day by our rule."""
    nano: list[int | None] = [round(value * 10**9) for value in series.values]
    return odd_days(judge_all(Spending(series.start, {TOTAL: nano}), POLICY)[TOTAL], POLICY)


def three_sigma(series: Series) -> list[int]:
    """Judge each day by the mean and the standard deviation of the last four weeks."""
    found = list[int]()
    for day in range(MONTH_DAYS, len(series.values)):
        past = series.values[day - MONTH_DAYS : day]
        if abs(series.values[day] - fmean(past)) > 3 * stdev(past) and (not found or day - found[-1] > QUIET_DAYS):
            found.append(day)
    return found


def made_up(rng: Random, *, monthly: bool = False) -> Iterator[Series]:
    """Draw 60 costs: growth up to 0.6 % a day, weekdays, autocorrelated noise of 5 to 9 %.

    With `monthly`, each has a job on one day of every month, which makes that day 1.5 to 3 times as expensive.
    """
    for _ in range(60):
        base, growth, memory = rng.uniform(10, 150), rng.uniform(0, 0.006), rng.uniform(0.2, 0.6)
        weekdays, noise = [rng.gauss(0, 0.12) for _ in range(7)], rng.uniform(0.05, 0.09)
        start, state, values = date(2025, 1, 6), 0.0, list[float]()
        place = rng.choice(("day 1", "last day", f"day {rng.randint(2, 28)}", "last working day")) if monthly else ""
        factor = rng.uniform(1.5, 3)
        for day in range(HISTORY_DAYS + WATCHED_DAYS):
            state = memory * state + rng.gauss(0, noise * sqrt(1 - memory**2))
            job = factor * exp(rng.gauss(0, 0.05)) if place in places(start + timedelta(days=day)) else 1.0
            values.append(base * exp(growth * day + weekdays[day % 7] + state) * job)
        yield _with_events(rng, start, values)


def gappy(rng: Random) -> Iterator[Series]:
    """Draw 60 costs of $2 to $30 a day that are nothing on a third to two thirds of the days, with spikes alone."""
    for _ in range(60):
        base, gaps = rng.uniform(2, 30), rng.uniform(1 / 3, 2 / 3)
        values = [
            0.0 if rng.random() < gaps else base * exp(rng.gauss(0, 0.3)) for _ in range(HISTORY_DAYS + WATCHED_DAYS)
        ]
        days = range(rng.randrange(HISTORY_DAYS, HISTORY_DAYS + 40), len(values), 45)
        for day in days:
            values[day] = base * rng.uniform(6, 12)
        yield Series(date(2025, 1, 6), values, tuple((day, day) for day in days))


def public(rng: Random) -> Iterator[Series]:
    """Insert events into the last days of each public series."""
    for each in daily():
        cut = max(0, len(each["values"]) - HISTORY_DAYS - WATCHED_DAYS - 730)
        scale = USD_A_DAY / median(each["values"])
        start = date.fromisoformat(each["start"]) + timedelta(days=cut)
        yield _with_events(rng, start, [value * scale for value in each["values"][cut:]])


def _with_events(rng: Random, start: date, values: list[float]) -> Series:
    """Insert three events, two weeks apart."""
    events = list[tuple[int, int]]()
    first_day = len(values) - WATCHED_DAYS
    while len(events) < 3:  # noqa: PLR2004  as its name says
        kind = rng.choice([*KINDS])
        lengths, factors = KINDS[kind]
        days, factor = rng.choice(lengths), rng.uniform(*factors)
        first = rng.randrange(first_day, len(values) - days)
        if any(first <= last + APART_DAYS and start <= first + days + APART_DAYS for start, last in events):
            continue
        events.append((first, first + days - 1))
        last = len(values) if kind == "shift" else first + days
        for day in range(first, last):
            share = (day - first + 1) / days if kind == "leak" else 1
            values[day] *= 1 + (factor - 1) * share
    return Series(start, values, tuple(sorted(events)))


SETS: Final[dict[str, Callable[[Random], Iterator[Series]]]] = {
    "made up": made_up,
    "with a job each month": lambda rng: made_up(rng, monthly=True),
    "days of nothing": gappy,
    "public": public,
}
