"""Requests for videos, some of them made before, against caches of several kinds.

Half of the requests never come back. The rest ask for templates, of which 40 are new each day, whose popularity halves
in ten days and is spread among them by Zipf's law. A video takes 17 MB or so, and $0.02 or so to make again.
"""

import bisect
import itertools
import math
import random
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, NamedTuple, Protocol

from reelkeeper.model.jobs import RecordedRequest
from reelkeeper.rules.jobs.cache import S3Fifo

_TEMPLATES_A_DAY, _HALF_LIFE_DAYS, _FIRST_TEMPLATES = 40, 10.0, 400
_MEDIAN_BYTES, _SIZE_SIGMA = 15e6, 0.5  # of mean 17 MB
_MEDIAN_MICROUSD, _COST_SIGMA = 19_000, 0.3  # of mean $0.02
_TTL_DAYS, _FEW_HITS, _IDLE_DAYS = 7, 2, 3  # the source document's


class Request(NamedTuple):
    """A request at a time, for a key whose video takes so many bytes and costs so much to make."""

    day: float
    key: str
    size_bytes: int
    cost_microusd: int


class Cache(Protocol):
    """What a simulated cache does: count a request, and take in what was made."""

    @property
    def size_bytes(self) -> int: ...  # noqa: D102  its name says it
    def hit(self, request: Request) -> bool: ...  # noqa: D102  its name says it
    def add(self, request: Request) -> None: ...  # noqa: D102  its name says it


@dataclass(frozen=True, slots=True)
class Served:
    """What a cache was worth: shares of requests and of generation dollars that it saved, and the bytes it took."""

    cache: str
    hits: float
    cost_hits: float
    mean_bytes: float
    generated_microusd: int


def requests(
    *, seed: int, days: int = 60, a_day: int = 3000, once_share: float = 0.5, alpha: float = 0.8
) -> Iterator[Request]:
    """Draw requests in the order of time; `once_share` of them never come back, `alpha` is Zipf's."""
    draw = random.Random(seed)  # noqa: S311  a simulation is repeated by its seed
    makes = itertools.count()
    templates = [_made(draw, f"t{next(makes)}", -draw.uniform(0, 30)) for _ in range(_FIRST_TEMPLATES)]
    ranks = [draw.uniform(0, 1) for _ in templates]
    for day in range(days):
        templates += [_made(draw, f"t{next(makes)}", float(day)) for _ in range(_TEMPLATES_A_DAY)]
        ranks += [draw.uniform(0, 1) for _ in range(_TEMPLATES_A_DAY)]
        weights = _popularity(templates, ranks, day, alpha)
        for number in range(a_day):
            at = day + number / a_day
            if draw.random() < once_share:
                yield _made(draw, f"once{day}-{number}", at)
            else:
                chosen = templates[bisect.bisect(weights, draw.random() * weights[-1])]
                yield chosen._replace(day=at)


def recorded(answered: Sequence[RecordedRequest]) -> list[Request]:
    """Give requests that were answered once, in the order of time, as they can be sent again."""
    first = answered[0].at
    return [
        Request((request.at - first) / timedelta(days=1), request.key, request.size_bytes, request.cost_microusd)
        for request in answered
    ]


def _made(draw: random.Random, key: str, day: float) -> Request:
    size, cost = (
        _MEDIAN_BYTES * math.exp(draw.gauss(0, _SIZE_SIGMA)),
        _MEDIAN_MICROUSD * math.exp(draw.gauss(0, _COST_SIGMA)),
    )
    return Request(day, key, round(size), round(cost))


def _popularity(templates: list[Request], ranks: list[float], day: int, alpha: float) -> list[float]:
    """Give the running sum of the templates' weights: Zipf over a lasting rank, halved every ten days."""
    count = len(templates)
    return list(
        itertools.accumulate(
            (1 + rank * count) ** -alpha * 0.5 ** ((day - template.day) / _HALF_LIFE_DAYS)
            for template, rank in zip(templates, ranks, strict=True)
        )
    )


class Lru:
    """The cache that lets go of what was not asked for the longest."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes, self.size_bytes = budget_bytes, 0
        self._entries: OrderedDict[str, int] = OrderedDict()

    def hit(self, request: Request) -> bool:
        """Count a request."""
        if request.key not in self._entries:
            return False
        self._entries.move_to_end(request.key)
        return True

    def add(self, request: Request) -> None:
        """Take in a new entry."""
        self._entries[request.key] = request.size_bytes
        self.size_bytes += request.size_bytes
        while self.size_bytes > self.budget_bytes:
            self.size_bytes -= self._entries.popitem(last=False)[1]


class Ours:
    """The rule that `prune_cache` follows, S3-FIFO."""

    def __init__(self, budget_bytes: int) -> None:
        self._cache = S3Fifo(budget_bytes)

    @property
    def size_bytes(self) -> int:
        """What the entries take."""
        return self._cache.size_bytes

    def hit(self, request: Request) -> bool:
        """Count a request."""
        return self._cache.hit(request.key)

    def add(self, request: Request) -> None:
        """Take in a new entry."""
        self._cache.add(request.key, request.size_bytes)


class Seed:
    """The source document's rule, whatever it takes: seven days from writing, and once a day all that was hit less than
    twice and not for three days.
    """  # noqa: D205  one sentence

    def __init__(self, _: int) -> None:
        self.size_bytes, self._pruned = 0, 0
        self._entries: dict[str, list[float]] = {}  # bytes, written, hits, last used

    def hit(self, request: Request) -> bool:
        """Count a request, and let go of what is due."""
        if request.day >= self._pruned + 1:
            self._pruned = int(request.day)
            for key, (_, written, hits, used) in list(self._entries.items()):
                if request.day - written > _TTL_DAYS or (hits < _FEW_HITS and request.day - used > _IDLE_DAYS):
                    self._drop(key)
        entry = self._entries.get(request.key)
        if entry is None:
            return False
        if request.day - entry[1] > _TTL_DAYS:
            self._drop(request.key)
            return False
        entry[2], entry[3] = entry[2] + 1, request.day
        return True

    def add(self, request: Request) -> None:
        """Take in a new entry."""
        self._entries[request.key] = [request.size_bytes, request.day, 0, request.day]
        self.size_bytes += request.size_bytes

    def _drop(self, key: str) -> None:
        self.size_bytes -= int(self._entries.pop(key)[0])


GB: Final = 10**9
CACHES: Final[dict[str, Callable[[int], Cache]]] = {"ours": Ours, "LRU": Lru, "seed": Seed}


def serve(name: str, cache: Cache, coming: Iterable[Request]) -> Served:
    """Send every request to `cache`, which takes in what it had not."""
    total = hits = cost = saved = stored = 0
    for request in coming:
        total, cost, stored = total + 1, cost + request.cost_microusd, stored + cache.size_bytes
        if cache.hit(request):
            hits, saved = hits + 1, saved + request.cost_microusd
        else:
            cache.add(request)
    return Served(name, hits / total, saved / cost, stored / total, cost - saved)
