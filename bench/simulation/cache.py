"""Requests for videos, some of them made before, against caches of several kinds: ours, published ones and the bound.

Ours decides as `prune_cache` does, but whenever the budget is full, not once a day: it never uses more than the others.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

import numpy as np

from bench.simulation.peers import Lru, S3Fifo, WTinyLfu
from bench.simulation.traces import Request
from reelkeeper.rules.jobs.reuse import EDGES, Habits, kind, no_counts, spell

_TTL_DAYS, _FEW_HITS, _IDLE_DAYS = 7, 2, 3  # the source document's
_FREE_SHARE: Final = 0.02  # of the budget, made at once
_GROWTH, _FIRST_LEARNT = 1.1, 200  # habits are learnt anew each day and, while requests are few, as they become more


class Cache(Protocol):
    """A simulated cache: it counts requests, and takes in new entries."""

    @property
    def size_bytes(self) -> int: ...  # noqa: D102  its name says it
    def hit(self, request: Request) -> bool: ...  # noqa: D102  its name says it
    def add(self, request: Request) -> None: ...  # noqa: D102  its name says it


@dataclass(frozen=True, slots=True)
class Served:
    """The worth of a cache: shares of requests and of generation dollars that it saved, and its bytes."""

    cache: str
    hits: float
    cost_hits: float
    mean_bytes: float
    generated_microusd: int


_VIDEO: Final = [
    ("first", "f8"),
    ("last", "f8"),
    ("times", "i8"),
    ("kind", "i8"),
    ("bytes", "i8"),
    ("dear", "f8"),
    ("here", "?"),
]


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


class Unlimited:
    """The bound that no cache of any size can exceed."""

    def __init__(self, _: int) -> None:
        self.size_bytes, self._keys = 0, set[str]()

    def hit(self, request: Request) -> bool:
        """Count a request."""
        return request.key in self._keys

    def add(self, request: Request) -> None:
        """Take in a new entry."""
        self._keys.add(request.key)
        self.size_bytes += request.size_bytes


class Seed:
    """The source document's rule, whatever it takes: seven days from writing, and once a day all that was hit less than
    twice and not for three days.
    """  # noqa: D205  one sentence

    def __init__(self, _: int) -> None:
        self.size_bytes, self._pruned = 0, 0
        self._entries: dict[str, list[float]] = {}  # bytes, written, hits, last used

    def hit(self, request: Request) -> bool:
        """Count a request, and drop due entries."""
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
CACHES: Final[dict[str, Callable[[int], Cache]]] = {
    "ours": Ours,
    "S3-FIFO": S3Fifo,
    "W-TinyLFU": WTinyLfu,
    "W-TinyLFU, climbing": partial(WTinyLfu, climbs=True),
    "LRU": Lru,
    "seed": Seed,
    "unlimited": Unlimited,
}


def serve(name: str, cache: Cache, coming: Iterable[Request]) -> Served:
    """Send every request to `cache`, which takes in the missing ones."""
    total = hits = cost = saved = stored = 0
    for request in coming:
        total, cost, stored = total + 1, cost + request.cost_microusd, stored + cache.size_bytes
        if cache.hit(request):
            hits, saved = hits + 1, saved + request.cost_microusd
        else:
            cache.add(request)
    return Served(name, hits / total, saved / cost, stored / total, cost - saved)
