"""Generated requests for videos, of several kinds: which are repeated, after how long, and how often.

    templates  half never come back; the rest ask for templates, 40 new a day, that lose half their popularity in ten
    days
    scans      a steady crowd, and batches that ask for a catalogue once, or all of it again weeks later
    bursts     seven in ten never come back; topics flare up for a day or so, a few of them enormously
    loops      lists that a schedule asks for in order, each day, every second day or week, and a steady crowd
    sessions   people who try again what they or others asked for a little while ago
    fashions   a steady crowd whose taste changes all at once, every twelve days
    studios    work-days and weekends apart; what takes twice the bytes costs twice as much

A video takes 17 MB or so, and $0.02 or so to make again.
"""

import bisect
import itertools
import math
import random
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

_TEMPLATES_A_DAY, _HALF_LIFE_DAYS, _FIRST_TEMPLATES = 40, 10.0, 400
_MEDIAN_BYTES, _SIZE_SIGMA = 15e6, 0.5  # of mean 17 MB
_MEDIAN_MICROUSD, _COST_SIGMA = 19_000, 0.3  # of mean $0.02
_WEEK, _WORKDAYS = 7, 5


class Request(NamedTuple):
    """A request at a time, for a key whose video takes so many bytes and costs so much to make."""

    day: float
    key: str
    size_bytes: int
    cost_microusd: int


class _Crowd:
    """Templates that are requested by Zipf's law."""

    def __init__(self, draw: random.Random, name: str, count: int, alpha: float) -> None:
        self._draw = draw
        self._templates = [_made(draw, f"{name}{rank}", 0.0) for rank in range(count)]
        self._weights = list(itertools.accumulate((1 + rank) ** -alpha for rank in range(count)))

    def ask(self, day: float) -> Request:
        at = bisect.bisect(self._weights, self._draw.random() * self._weights[-1])
        return self._templates[at]._replace(day=day)


def templates(
    *, seed: int, days: int = 60, a_day: int = 3000, once_share: float = 0.5, alpha: float = 0.8
) -> Iterator[Request]:
    """Draw requests in the order of time; `once_share` of them never come back, `alpha` is Zipf's."""
    draw = random.Random(seed)
    makes = itertools.count()
    known = [_made(draw, f"t{next(makes)}", -draw.uniform(0, 30)) for _ in range(_FIRST_TEMPLATES)]
    ranks = [draw.uniform(0, 1) for _ in known]
    for day in range(days):
        known += [_made(draw, f"t{next(makes)}", float(day)) for _ in range(_TEMPLATES_A_DAY)]
        ranks += [draw.uniform(0, 1) for _ in range(_TEMPLATES_A_DAY)]
        weights = _popularity(known, ranks, day, alpha)
        for number in range(a_day):
            at = day + number / a_day
            if draw.random() < once_share:
                yield _made(draw, f"once{day}-{number}", at)
            else:
                chosen = known[bisect.bisect(weights, draw.random() * weights[-1])]
                yield chosen._replace(day=at)


def scans(*, seed: int, days: int = 60, a_day: int = 3000) -> Iterator[Request]:
    """Draw a crowd of 6,000 templates, and half of all requests in batches of 500 to 5,000, a third of them again."""
    draw = random.Random(seed)
    crowd, batches, batch = _Crowd(draw, "t", 6000, 0.9), list[list[Request]](), list[Request]()
    for number in range(days * a_day):
        at = number / a_day
        if draw.random() < 1 / 2:
            yield crowd.ask(at)
            continue
        if not batch and batches and draw.random() < 1 / 3:
            batch = batches[draw.randrange(len(batches))][:]
        elif not batch:
            batch = [_made(draw, f"b{len(batches)}-{n}", 0.0) for n in range(draw.randrange(500, 5000))]
            batches.append(batch[:])
        yield batch.pop()._replace(day=at)


def bursts(*, seed: int, days: int = 60, a_day: int = 3000) -> Iterator[Request]:
    """Draw topics: a new one begins every forty minutes and is requested less and less."""
    draw = random.Random(seed)
    alive, begun = list[tuple[Request, float, float]](), itertools.count()
    for number in range(days * a_day):
        at = number / a_day
        if number % max(1, a_day // 36) == 0:
            alive = [topic for topic in alive if at - topic[0].day < 8 * topic[2]]
            made = _made(draw, f"t{next(begun)}", at)
            alive.append((made, min(draw.paretovariate(0.9), 200.0), draw.lognormvariate(0, 0.7)))
            weights = list(
                itertools.accumulate(
                    strength / lasts * math.exp(-(at - topic.day) / lasts) for topic, strength, lasts in alive
                )
            )
        if draw.random() < 0.7:  # noqa: PLR2004  the share that never comes back
            yield _made(draw, f"once{number}", at)
        else:
            yield alive[bisect.bisect(weights, draw.random() * weights[-1])][0]._replace(day=at)


def loops(*, seed: int, days: int = 60, a_day: int = 3000) -> Iterator[Request]:
    """Draw lists of 50 to 1,500 that are requested in order, a crowd of 3,000, and a fifth that never comes back."""
    draw = random.Random(seed)
    crowd, due, repeats = _Crowd(draw, "t", 3000, 0.8), list[tuple[float, int]](), list[Request]()
    lists = [
        (draw.choice((1, 2, _WEEK)), [_made(draw, f"l{n}-{m}", 0.0) for m in range(draw.randrange(50, 1500))])
        for n in range(9)
    ]
    due = sorted((draw.uniform(0, period), n) for n, (period, _) in enumerate(lists))
    for number in range(days * a_day):
        at = number / a_day
        if due[0][0] <= at:
            when, chosen = due.pop(0)
            repeats[:0] = reversed(lists[chosen][1])
            bisect.insort(due, (when + lists[chosen][0], chosen))
        kind = draw.random()
        if kind < 0.6 and repeats:  # noqa: PLR2004  the share of the schedule
            yield repeats.pop()._replace(day=at)
        elif kind < 0.8:  # noqa: PLR2004  and of the crowd
            yield crowd.ask(at)
        else:
            yield _made(draw, f"once{number}", at)


def sessions(*, seed: int, days: int = 60, a_day: int = 3000) -> Iterator[Request]:
    """Draw requests of which two in three repeat a recent one: the median is 300 requests ago, with a long tail."""
    draw = random.Random(seed)
    past = list[Request]()
    for number in range(days * a_day):
        ago = int(draw.lognormvariate(math.log(300), 2.0)) + 1
        if draw.random() < 2 / 3 and ago <= len(past):
            past.append(past[-ago]._replace(day=number / a_day))
        else:
            past.append(_made(draw, f"s{number}", number / a_day))
        yield past[-1]


def fashions(*, seed: int, days: int = 60, a_day: int = 3000) -> Iterator[Request]:
    """Draw a crowd of 5,000 that is replaced every twelve days, and a third that never comes back."""
    draw = random.Random(seed)
    for number in range(days * a_day):
        at = number / a_day
        if number % (12 * a_day) == 0:
            crowd = _Crowd(draw, f"f{number}-", 5000, 0.7)
        yield _made(draw, f"once{number}", at) if draw.random() < 1 / 3 else crowd.ask(at)


def studios(*, seed: int, days: int = 60, a_day: int = 3000) -> Iterator[Request]:
    """Draw a crowd of work-days and one of weekends, each request of twice the bytes at twice the cost."""
    draw = random.Random(seed)
    crowds = _Crowd(draw, "w", 9000, 0.75), _Crowd(draw, "e", 4000, 1.0)
    for number in range(days * a_day):
        at = number / a_day
        once = draw.random() < 0.4  # noqa: PLR2004  the share that never comes back
        request = _made(draw, f"once{number}", at) if once else crowds[at % _WEEK >= _WORKDAYS].ask(at)
        yield request._replace(cost_microusd=round(request.size_bytes * _MEDIAN_MICROUSD / _MEDIAN_BYTES))


def _made(draw: random.Random, key: str, day: float) -> Request:
    size = _MEDIAN_BYTES * math.exp(draw.gauss(0, _SIZE_SIGMA))
    cost = _MEDIAN_MICROUSD * math.exp(draw.gauss(0, _COST_SIGMA))
    return Request(day, key, round(size), round(cost))


def _popularity(known: list[Request], ranks: list[float], day: int, alpha: float) -> list[float]:
    """Give the running sum of the templates' weights: Zipf over a lasting rank, halved every ten days."""
    count = len(known)
    return list(
        itertools.accumulate(
            (1 + rank * count) ** -alpha * 0.5 ** ((day - template.day) / _HALF_LIFE_DAYS)
            for template, rank in zip(known, ranks, strict=True)
        )
    )


TRACES: Final[dict[str, Callable[..., Iterator[Request]]]] = {
    "templates": templates,
    "scans": scans,
    "bursts": bursts,
    "loops": loops,
    "sessions": sessions,
    "fashions": fashions,
    "studios": studios,
}
