"""Compare the cache with S3-FIFO of the same size, on two kinds of requests: the share of the cost still spent.

    templates  half never come back; the rest ask for templates, 40 new a day, that lose half their popularity in ten
    days
    scans      a steady crowd, and batches that ask for a catalogue once, or all of it again weeks later

A video takes 17 MB or so, and $0.02 or so to make again. Ours decides as `prune_cache` does, but whenever the budget is
full, not once a day: it never uses more than the peer.
"""

import bisect
import itertools
import math
import random
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from statistics import fmean
from typing import Final, NamedTuple

import numpy as np

from bench.report import Row, interval
from reelkeeper.rules.jobs.reuse import EDGES, Habits, kind, no_counts, spell

SEEDS, DAYS, A_DAY, SIZES_GB = (11, 12, 13), 30, 3000, (10, 50, 200)
GB: Final = 10**9
LEAD: Final = 0.005  # of the cost, by which the peer may be better
_TEMPLATES_A_DAY, _HALF_LIFE_DAYS, _FIRST_TEMPLATES = 40, 10.0, 400
_MEDIAN_BYTES, _SIZE_SIGMA = 15e6, 0.5  # of mean 17 MB
_MEDIAN_MICROUSD, _COST_SIGMA = 19_000, 0.3  # of mean $0.02
_FREE_SHARE: Final = 0.02  # of the budget, made at once
_GROWTH, _FIRST_LEARNT = 1.1, 200  # habits are learnt anew each day and, while requests are few, as they become more
_MAX_COUNTED, _PROVEN, _SMALL_SHARE = 3, 2, 0.1  # S3-FIFO's: two bits of hits, and the small queue


def measure() -> Iterator[Row]:
    """Return the share of the cost without a cache that is still spent, by trace and size."""
    for (name, trace), size_gb in itertools.product(TRACES.items(), SIZES_GB):
        spent: dict[str, list[float]] = {"ours": [], "S3-FIFO": []}
        for seed in SEEDS:
            coming = list(trace(random.Random(seed)))
            spent["ours"].append(_spent(Ours(size_gb * GB), coming))
            spent["S3-FIFO"].append(_spent(S3Fifo(size_gb * GB), coming))
        apart, half = interval([100 * (mine - theirs) for mine, theirs in zip(*spent.values(), strict=True)])
        ours, peer = map(fmean, spent.values())
        what = f"{name}, {size_gb} GB: {apart:+.1f} points, give or take {half:.1f}"
        yield Row(what, ours, "S3-FIFO", peer, (peer + LEAD) / peer, "of the cost")


def _spent(cache: "Ours | S3Fifo", coming: Sequence["Request"]) -> float:
    """Send every request to the cache, which takes in the missing ones."""
    made = 0
    for request in coming:
        if not cache.hit(request):
            made += request.cost_microusd
            cache.add(request)
    return made / sum(request.cost_microusd for request in coming)


class Request(NamedTuple):
    """A request at a time, for a key whose video takes so many bytes and costs so much to make."""

    day: float
    key: str
    size_bytes: int
    cost_microusd: int


def templates(draw: random.Random) -> Iterator[Request]:
    """Draw templates by Zipf's law over a lasting rank, and as many requests that never come back."""
    makes = itertools.count()
    known = [_made(draw, f"t{next(makes)}", -draw.uniform(0, 30)) for _ in range(_FIRST_TEMPLATES)]
    ranks = [draw.uniform(0, 1) for _ in known]
    for day in range(DAYS):
        known += [_made(draw, f"t{next(makes)}", float(day)) for _ in range(_TEMPLATES_A_DAY)]
        ranks += [draw.uniform(0, 1) for _ in range(_TEMPLATES_A_DAY)]
        weights = list(
            itertools.accumulate(
                (1 + rank * len(known)) ** -0.8 * 0.5 ** ((day - template.day) / _HALF_LIFE_DAYS)
                for template, rank in zip(known, ranks, strict=True)
            )
        )
        for number in range(A_DAY):
            at = day + number / A_DAY
            once = draw.random() < 1 / 2
            chosen = bisect.bisect(weights, draw.random() * weights[-1])
            yield _made(draw, f"once{day}-{number}", at) if once else known[chosen]._replace(day=at)


def scans(draw: random.Random) -> Iterator[Request]:
    """Draw a crowd of 6,000 templates, and half of all requests in batches of 500 to 5,000, a third of them again."""
    crowd = [_made(draw, f"t{rank}", 0.0) for rank in range(6000)]
    weights = list(itertools.accumulate((1 + rank) ** -0.9 for rank in range(len(crowd))))
    batches, batch = list[list[Request]](), list[Request]()
    for number in range(DAYS * A_DAY):
        at = number / A_DAY
        if draw.random() < 1 / 2:
            yield crowd[bisect.bisect(weights, draw.random() * weights[-1])]._replace(day=at)
            continue
        if not batch and batches and draw.random() < 1 / 3:
            batch = batches[draw.randrange(len(batches))][:]
        elif not batch:
            batch = [_made(draw, f"b{len(batches)}-{n}", 0.0) for n in range(draw.randrange(500, 5000))]
            batches.append(batch[:])
        yield batch.pop()._replace(day=at)


def _made(draw: random.Random, key: str, day: float) -> Request:
    size = _MEDIAN_BYTES * math.exp(draw.gauss(0, _SIZE_SIGMA))
    cost = _MEDIAN_MICROUSD * math.exp(draw.gauss(0, _COST_SIGMA))
    return Request(day, key, round(size), round(cost))


TRACES: Final[dict[str, Callable[[random.Random], Iterator[Request]]]] = {"templates": templates, "scans": scans}

_NAMES: Final = ["first", "last", "times", "kind", "bytes", "dear", "here"]
_VIDEO: Final = np.dtype({"names": _NAMES, "formats": ["f8", "f8", "i8", "i8", "i8", "f8", "?"]})


class Ours:
    """The rule of `prune_cache`: what saves the least goes first, by `rules/jobs/reuse`."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes, self.size_bytes = budget_bytes, 0
        self._numbers: dict[str, int] = {}
        self._all = np.zeros(1024, dtype=_VIDEO)  # by number; `dear` is the cost by the bytes
        self._ended, self._worth = np.array(no_counts()), np.array(no_counts())
        self._requests, self._learn_at, self._learn_day = 0, _FIRST_LEARNT, 1.0

    def hit(self, request: Request) -> bool:
        """Count a request."""
        self._requests += 1
        number = self._numbers.setdefault(request.key, len(self._numbers))
        if number == len(self._all):
            self._all = np.concatenate((self._all, np.zeros_like(self._all)))
        video = self._all[number]
        if not video["times"]:
            dear = request.cost_microusd / request.size_bytes
            self._all[number] = (request.day, request.day, 1, 0, request.size_bytes, dear, False)
        else:
            self._ended[video["kind"], spell(request.day - video["last"])] += 1
            video["times"] += 1
            video["last"] = request.day
            video["kind"] = kind(video["times"], request.day - video["first"])
        if self._requests >= self._learn_at or request.day >= self._learn_day:
            self._learn(request.day)
        return bool(video["here"])

    def add(self, request: Request) -> None:
        """Take in a new entry, unless it is larger than the budget."""
        if request.size_bytes > self.budget_bytes:
            return
        self._all["here"][self._numbers[request.key]] = True
        self.size_bytes += request.size_bytes
        if self.size_bytes > self.budget_bytes:
            self._prune(request.day)

    def _learn(self, day: float) -> None:
        known, waiting = self._all[: len(self._numbers)], np.array(no_counts())
        np.add.at(waiting, (known["kind"], _spells(known, day)), 1)
        room = self.budget_bytes / float(known["bytes"].mean())
        habits = Habits(self._ended.tolist(), waiting.tolist(), self._requests / max(day, EDGES[0]))
        self._worth = np.array(habits.worth(room))
        self._learn_at, self._learn_day = int(self._requests * _GROWTH) + 50, day + 1

    def _prune(self, day: float) -> None:
        if not self._worth.any():
            self._learn(day)
        here = np.flatnonzero(self._all["here"])
        entries = self._all[here]
        order = np.argsort(self._worth[entries["kind"], _spells(entries, day)] * entries["dear"], kind="stable")
        freed = np.cumsum(entries["bytes"][order])
        enough = int(np.searchsorted(freed, self.size_bytes - (1 - _FREE_SHARE) * self.budget_bytes))
        self._all["here"][here[order[: enough + 1]]] = False
        self.size_bytes -= int(freed[enough])


def _spells(videos: np.ndarray, day: float) -> np.ndarray:
    return np.searchsorted(EDGES, day - videos["last"], side="right")


class S3Fifo:
    """Evict entries that are requested once early.

    Yang, Zhang, Qiu, Yue and Rashmi, "FIFO queues are all you need for cache eviction", SOSP 2023. New entries pass
    through a small queue; those that are hit twice there, or come back soon after they left it, enter the main one,
    from whose end what was hit since is put back at the front, with one hit less to its name.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes, self._small_bytes_meant = budget_bytes, _SMALL_SHARE * budget_bytes
        self._small: OrderedDict[str, int] = OrderedDict()  # key -> bytes, the oldest first
        self._main: OrderedDict[str, int] = OrderedDict()
        self._ghosts: OrderedDict[str, int] = OrderedDict()  # left the small queue lately; no bytes any more
        self._hits: dict[str, int] = {}
        self._small_bytes = self._main_bytes = self._ghost_bytes = 0

    @property
    def size_bytes(self) -> int:
        """The bytes of all entries."""
        return self._small_bytes + self._main_bytes

    def hit(self, request: Request) -> bool:
        """Count a request."""
        if request.key not in self._hits:
            return False
        self._hits[request.key] = min(self._hits[request.key] + 1, _MAX_COUNTED)
        return True

    def add(self, request: Request) -> None:
        """Take in a new entry, unless it is larger than the budget."""
        entry, size_bytes = request.key, request.size_bytes
        if size_bytes > self.budget_bytes:
            return
        while self.size_bytes + size_bytes > self.budget_bytes:
            if not self._main or (self._small and self._small_bytes >= self._small_bytes_meant):
                self._leave_small()
            else:
                self._leave_main()
        self._hits[entry] = 0
        if entry in self._ghosts:
            self._ghost_bytes -= self._ghosts.pop(entry)
            self._main[entry] = size_bytes
            self._main_bytes += size_bytes
        else:
            self._small[entry] = size_bytes
            self._small_bytes += size_bytes

    def _leave_small(self) -> None:
        entry, size_bytes = self._small.popitem(last=False)
        self._small_bytes -= size_bytes
        if self._hits[entry] >= _PROVEN:
            self._hits[entry] = 0
            self._main[entry] = size_bytes
            self._main_bytes += size_bytes
            return
        del self._hits[entry]
        self._ghosts[entry] = size_bytes
        self._ghost_bytes += size_bytes
        while self._ghost_bytes > self.budget_bytes:
            self._ghost_bytes -= self._ghosts.popitem(last=False)[1]

    def _leave_main(self) -> None:
        entry, size_bytes = self._main.popitem(last=False)
        if self._hits[entry]:
            self._hits[entry] -= 1
            self._main[entry] = size_bytes
            return
        self._main_bytes -= size_bytes
        del self._hits[entry]
