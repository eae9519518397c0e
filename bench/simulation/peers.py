"""Published caches for comparison: each holds at most `budget_bytes`, and ignores what a video costs."""

from collections import OrderedDict
from typing import Final

from bench.simulation.traces import Request

_MAX_COUNTED: Final = 3  # two bits of hits
_PROVEN: Final = 2  # hits that take an entry from the small queue into the main one
_MAX_FREQUENCY: Final = 15  # four bits
_SAMPLE: Final = 10  # requests an entry after which frequencies are halved
_LEAST_ENTRIES: Final = 64  # so that a cache that is still empty does not forget at once
_PROTECTED: Final = 0.8  # of the main part
_STEP, _SHRINK, _RESTART, _MAX_WINDOW = 0.0625, 0.98, 0.05, 0.8  # of Caffeine's hill climber


class Lru:
    """The cache that evicts the least recently used entry."""

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


class S3Fifo:
    """Evict entries that are requested once early.

    Yang, Zhang, Qiu, Yue and Rashmi, "FIFO queues are all you need for cache eviction", SOSP 2023. New entries pass
    through a small queue; those that are hit twice there, or come back soon after they left it, enter the main one,
    from whose end what was hit since is put back at the front, with one hit less to its name.
    """

    def __init__(self, budget_bytes: int, small_share: float = 0.1) -> None:
        self.budget_bytes, self._small_bytes_meant = budget_bytes, small_share * budget_bytes
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


class WTinyLfu:
    """Admit a new entry only where it was requested more often than the entry that it would evict.

    Einziger, Friedman and Manes, "TinyLFU: a highly efficient cache admission policy", 2017: a small LRU window, then a
    main part of which four fifths are protected, with frequencies that are halved at times. They are exact here, where
    a sketch would guess. `climbs` moves the size of the window, as Caffeine does.
    """

    def __init__(self, budget_bytes: int, window: float = 0.01, *, climbs: bool = False) -> None:
        self.budget_bytes, self._window, self._climbs = budget_bytes, window, climbs
        self._parts: tuple[OrderedDict[str, int], ...] = (OrderedDict(), OrderedDict(), OrderedDict())
        self._bytes = [0, 0, 0]  # of the window, of those on probation, of the protected
        self._frequency: dict[str, int] = {}
        self._counted = self._requests = self._hits = 0
        self._step, self._last_share = -_STEP, 0.0

    @property
    def size_bytes(self) -> int:
        """The bytes of all entries."""
        return sum(self._bytes)

    def hit(self, request: Request) -> bool:
        """Count a request."""
        key = request.key
        self._count(key)
        part = next((number for number, entries in enumerate(self._parts) if key in entries), None)
        if self._climbs:
            self._climb(part is not None)
        if part is None:
            return False
        if part == 1:
            self._move(key, 1, 2)
            self._demote()
        else:
            self._parts[part].move_to_end(key)
        return True

    def add(self, request: Request) -> None:
        """Take in a new entry, unless it is larger than the budget."""
        if request.size_bytes > self.budget_bytes:
            return
        window, probation, protected = self._parts
        window[request.key] = request.size_bytes
        self._bytes[0] += request.size_bytes
        while self._bytes[0] > self._window * self.budget_bytes:
            candidate = next(iter(window))
            self._move(candidate, 0, 1)
            while self.size_bytes > self.budget_bytes and candidate in probation:
                victim = next(iter(probation))
                if victim == candidate and protected:
                    victim = next(iter(protected))
                admitted = self._frequency.get(candidate, 0) > self._frequency.get(victim, 0)
                self._drop(victim if admitted else candidate)
        self._demote()
        while self.size_bytes > self.budget_bytes:
            self._drop(next(iter(probation or protected or window)))

    def _count(self, key: str) -> None:
        self._frequency[key] = min(self._frequency.get(key, 0) + 1, _MAX_FREQUENCY)
        self._counted += 1
        if self._counted >= self._period():
            self._frequency = {name: count // 2 for name, count in self._frequency.items() if count > 1}
            self._counted //= 2

    def _period(self) -> int:
        return _SAMPLE * max(sum(map(len, self._parts)), _LEAST_ENTRIES)

    def _climb(self, hit: bool) -> None:
        self._requests, self._hits = self._requests + 1, self._hits + hit
        if self._requests < self._period():
            return
        share = self._hits / self._requests
        change = share - self._last_share
        amount = self._step if change >= 0 else -self._step
        self._window = min(_MAX_WINDOW, max(0.01, self._window + amount))
        self._step = _STEP * (1 if amount >= 0 else -1) if abs(change) >= _RESTART else _SHRINK * amount
        self._last_share, self._requests, self._hits = share, 0, 0

    def _move(self, key: str, source: int, target: int) -> None:
        size_bytes = self._parts[source].pop(key)
        self._parts[target][key] = size_bytes
        self._bytes[source] -= size_bytes
        self._bytes[target] += size_bytes

    def _demote(self) -> None:
        while self._bytes[2] > _PROTECTED * (1 - self._window) * self.budget_bytes:
            self._move(next(iter(self._parts[2])), 2, 1)

    def _drop(self, key: str) -> None:
        for number, entries in enumerate(self._parts):
            if key in entries:
                self._bytes[number] -= entries.pop(key)
