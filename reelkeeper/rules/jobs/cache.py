"""Which answers are worth keeping? Keys that tell requests apart, and a cache with a budget of bytes.

A request is the same as another when everything that shapes its video is: the key is the SHA-256 of all of it as
canonical JSON, with the user's id in it unless the video may be shared.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Final

_MAX_COUNTED: Final = 3  # two bits of hits
_PROVEN: Final = 2  # hits that take an entry from the small queue into the main one


def key(request: Mapping[str, object], user_id: str | None) -> str:
    """Give the key of a request: model, version, prompts, image hash, size, duration, frame rate, seed, parameters.

    `user_id` None shares the answer with everybody. ValueError if `request` holds what JSON cannot say exactly.

    >>> same = key({"prompt": "a fox", "seed": 7}, "ana") == key({"seed": 7, "prompt": "a fox"}, "ana")
    >>> same, key({"prompt": "a fox"}, "ana") == key({"prompt": "a fox"}, "ben")
    (True, False)
    """
    whole = {"request": dict(request), "tenant": user_id}
    told = json.dumps(whole, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(told.encode()).hexdigest()


class S3Fifo:
    """A cache of at most `budget_bytes` that lets what is asked for once leave soon.

    Yang, Zhang, Qiu, Yue and Rashmi, "FIFO queues are all you need for cache eviction", SOSP 2023. New entries pass
    through a small queue; those that are hit twice there, or come back soon after they left it, enter the main one,
    from whose end what was hit since is put back at the front, with one hit less to its name.

    >>> cache = S3Fifo(budget_bytes=100)
    >>> cache.add("a", 60), cache.add("b", 40)
    ([], [])
    >>> cache.hit("a"), cache.hit("a"), cache.hit("c")
    (True, True, False)
    >>> cache.add("c", 40)
    ['b']
    >>> sorted(cache), cache.size_bytes
    (['a', 'c'], 100)
    """

    def __init__(self, budget_bytes: int, small_share: float = 0.1) -> None:
        self.budget_bytes, self.small_bytes_meant = budget_bytes, small_share * budget_bytes
        self._small: OrderedDict[str, int] = OrderedDict()  # key -> bytes, the oldest first
        self._main: OrderedDict[str, int] = OrderedDict()
        self._ghosts: OrderedDict[str, int] = OrderedDict()  # left the small queue lately; no bytes any more
        self._hits: dict[str, int] = {}
        self._small_bytes = self._main_bytes = self._ghost_bytes = 0

    @property
    def size_bytes(self) -> int:
        """What the entries take."""
        return self._small_bytes + self._main_bytes

    def __contains__(self, entry: str) -> bool:
        """Say whether an entry is there, without a hit."""
        return entry in self._hits

    def __iter__(self) -> Iterator[str]:
        """Give the keys that are there."""
        return iter(self._hits)

    def __len__(self) -> int:
        """Count the entries."""
        return len(self._hits)

    def hit(self, entry: str) -> bool:
        """Count a request; False when the entry is not there."""
        if entry not in self._hits:
            return False
        self._hits[entry] = min(self._hits[entry] + 1, _MAX_COUNTED)
        return True

    def add(self, entry: str, size_bytes: int) -> list[str]:
        """Take in a new entry and give those that leave for it; larger than the budget: it leaves itself.

        ValueError if it is there already, or takes no bytes.
        """
        if entry in self._hits or size_bytes <= 0:
            raise ValueError(f"{entry!r} of {size_bytes} bytes is in the cache already, or is no entry")
        if size_bytes > self.budget_bytes:
            return [entry]
        left = self._make_room(size_bytes)
        self._hits[entry] = 0
        if entry in self._ghosts:
            self._ghost_bytes -= self._ghosts.pop(entry)
            self._main[entry] = size_bytes
            self._main_bytes += size_bytes
        else:
            self._small[entry] = size_bytes
            self._small_bytes += size_bytes
        return left

    def remove(self, entry: str) -> None:
        """Drop an entry whose video is gone. KeyError when it is not there."""
        del self._hits[entry]
        if entry in self._small:
            self._small_bytes -= self._small.pop(entry)
        else:
            self._main_bytes -= self._main.pop(entry)

    def _make_room(self, size_bytes: int) -> list[str]:
        left = []
        while self.size_bytes + size_bytes > self.budget_bytes:
            leaves = self._leave_small() if self._from_small() else self._leave_main()
            left += [leaves] if leaves is not None else []
        return left

    def _from_small(self) -> bool:
        return not self._main or (bool(self._small) and self._small_bytes >= self.small_bytes_meant)

    def _leave_small(self) -> str | None:
        entry, size_bytes = self._small.popitem(last=False)
        self._small_bytes -= size_bytes
        if self._hits[entry] >= _PROVEN:
            self._hits[entry] = 0
            self._main[entry] = size_bytes
            self._main_bytes += size_bytes
            return None
        del self._hits[entry]
        self._ghosts[entry] = size_bytes
        self._ghost_bytes += size_bytes
        while self._ghost_bytes > self.budget_bytes:
            self._ghost_bytes -= self._ghosts.popitem(last=False)[1]
        return entry

    def _leave_main(self) -> str | None:
        entry, size_bytes = self._main.popitem(last=False)
        if self._hits[entry]:
            self._hits[entry] -= 1
            self._main[entry] = size_bytes
            return None
        self._main_bytes -= size_bytes
        del self._hits[entry]
        return entry
