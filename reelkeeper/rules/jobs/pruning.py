"""Choose the cache entries to drop: by age first, then by a budget of bytes.

    gone       its video cannot be used any more           the first match decides
    expired    it was not requested within its time to live
    rent       storing its video since it was last used cost more than making it again would
    unused     the source document's: hit less than twice, and not for three days; enabled by `rule="seed"`
    budget     while the videos take more bytes than the budget, the entry that saves the least: how likely and how
    soon it is requested again, as `reuse` learns from recorded requests, times its cost, by its bytes

Making a video again costs hundreds of times as much as keeping it for a month, so "unused" is off by default, and
"rent" takes years to match. A plan reports for each rule what it saves and what it loses.
"""

import heapq
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from reelkeeper.model.document import RunReport
from reelkeeper.model.jobs import CacheItem, RequestTime
from reelkeeper.rules.billing.pricing import storage_microusd_per_month
from reelkeeper.rules.billing.tariff import DAYS_A_MONTH, STANDARD
from reelkeeper.rules.jobs.reuse import DAY, Counts, kind, learn, spell

RULES: Final = ("gone", "expired", "rent", "unused", "budget")
_DAY_SECONDS: Final = 86_400
_MIN_HITS: Final = 2  # for seed: entries with fewer are dropped,
_IDLE_DAYS: Final = 3  # if they were unused for this number of days
_MAX_ENTRIES: Final = 20_000  # that one run drops; the rest wait for the next, as the plan is held in memory
_GB: Final = 10**9
_MICROUSD_PER_GB_MONTH: Final = int(STANDARD.storage_usd_per_gb_month * 10**6)


class PrunePolicy(BaseModel):
    """Thresholds at which an entry is dropped from the cache. Its video stays until its own retention ends."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    budget_bytes: int | None = Field(
        100_000_000_000,
        ge=1,
        description="Size of all reusable videos that each run of prune_cache leaves in the cache, in bytes; until the "
        "next run there may be more. never: no limit",
    )
    rule: Literal["rent", "seed"] = Field(
        "rent",
        description="rent: drop entries by age once keeping them costs more than making them again; seed: also drop "
        "rarely used entries",
    )


class Leaving(NamedTuple):
    """An entry to be dropped, and its rule."""

    item: CacheItem
    rule: str


@dataclass(frozen=True, slots=True)
class Pruned:
    """The entries dropped by one rule: the monthly cost of their storage, and the cost of making them again."""

    rule: str
    entries: int = 0
    size_bytes: int = 0
    saved_microusd_a_month: int = 0
    remake_microusd: int = 0


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """The entries to be dropped, and the number of all entries."""

    entries: int
    size_bytes: int
    leaving: list[Leaving] = field(repr=False)

    def by_rule(self) -> tuple[Pruned, ...]:
        """Sum up dropped entries by rule; rules without any are left out."""
        sums: dict[str, list[CacheItem]] = {}
        for item, rule in self.leaving:
            sums.setdefault(rule, []).append(item)
        return tuple(
            Pruned(
                rule,
                len(sums[rule]),
                sum(item.size_bytes for item in sums[rule]),
                storage_microusd_per_month(sum(item.size_bytes for item in sums[rule])),
                sum(item.cost_microusd for item in sums[rule]),
            )
            for rule in RULES
            if rule in sums
        )


@dataclass(frozen=True, slots=True)
class PruneReport(RunReport):
    """The result of a run of `prune_cache`. `stayed` were used while it ran."""

    entries: int
    size_bytes: int
    rules: tuple[Pruned, ...]
    dropped: int = 0
    stayed: int = 0
    forgotten: Mapping[str, int] = field(default_factory=dict)  # old records by table; in a dry run, to be deleted

    def after(self, dropped: int, stayed: int, forgotten: Mapping[str, int]) -> "PruneReport":
        """Return the report with the results."""
        return replace(self, dropped=dropped, stayed=stayed, forgotten=forgotten)


def by_age(item: CacheItem, policy: PrunePolicy, as_of: datetime) -> str | None:
    """Return the rule that drops an entry regardless of the budget, or None."""
    idle_seconds = (as_of - item.used_at).total_seconds()
    if not item.live:
        return "gone"
    if item.expires_at is not None and item.expires_at <= as_of:
        return "expired"
    if rent_microusd(item.size_bytes, idle_seconds) > item.cost_microusd:
        return "rent"
    if policy.rule == "seed" and item.hits < _MIN_HITS and idle_seconds > _IDLE_DAYS * _DAY_SECONDS:
        return "unused"
    return None


def rent_microusd(size_bytes: int, seconds: float) -> float:
    """Return the cost in micro-dollars of storing these bytes for this time."""
    return size_bytes / _GB * _MICROUSD_PER_GB_MONTH * seconds / (DAYS_A_MONTH * _DAY_SECONDS)


def plan(
    entries: Callable[[], Iterable[CacheItem]],
    requests: Callable[[], Iterable[RequestTime]],
    policy: PrunePolicy,
    as_of: datetime,
) -> PrunePlan:
    """Decide on each entry; `entries` is called at most twice, and `requests`, as `learn` takes them, at most once.

    Of more than `_MAX_ENTRIES` candidates, the earlier rules' come first. Only dropped entries are kept in memory.
    """
    count = sum_bytes = young = young_bytes = 0
    aged = list[Leaving]()
    for item in entries():
        count, sum_bytes = count + 1, sum_bytes + item.size_bytes
        rule = by_age(item, policy, as_of)
        if rule is None:
            young, young_bytes = young + 1, young_bytes + item.size_bytes
        else:
            aged.append(Leaving(item, rule))
    aged = sorted(aged, key=lambda leaving: RULES.index(leaving.rule))[:_MAX_ENTRIES]
    over, most = list[CacheItem](), _MAX_ENTRIES - len(aged)
    if policy.budget_bytes is not None and young_bytes > policy.budget_bytes and most > 0:
        worth = learn(requests(), as_of).worth(policy.budget_bytes * young / young_bytes)
        kept = (item for item in entries() if by_age(item, policy, as_of) is None)
        over = _least(kept, worth, as_of, young_bytes - policy.budget_bytes, most)
    return PrunePlan(count, sum_bytes, [*aged, *(Leaving(item, "budget") for item in over)])


def saves(item: CacheItem, worth: Counts, as_of: datetime) -> float:
    """Return the expected saving per byte of an entry, in micro-dollars."""
    times, idle_days = max(item.requests, item.hits + 1), (as_of - item.used_at) / DAY
    expected = worth[kind(times, (item.used_at - item.first_at) / DAY)][spell(idle_days)]
    return expected * item.cost_microusd / max(item.size_bytes, 1)


def _least(items: Iterable[CacheItem], worth: Counts, as_of: datetime, excess_bytes: int, most: int) -> list[CacheItem]:
    """Return at most `most` entries that save the least and together have `excess_bytes`, the least first."""
    heap, sum_bytes = list[tuple[float, float, str, CacheItem]](), 0  # the best comes first, to be replaced
    for item in items:
        # of equals, the least recently used is dropped
        heapq.heappush(heap, (-saves(item, worth, as_of), -item.used_at.timestamp(), item.key, item))
        sum_bytes += item.size_bytes
        while len(heap) > most or sum_bytes - heap[0][-1].size_bytes >= excess_bytes:
            sum_bytes -= heapq.heappop(heap)[-1].size_bytes
    return [entry[-1] for entry in sorted(heap, reverse=True)]
