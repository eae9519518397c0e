"""Which entries of the cache earn their keep? By age first, then by a budget of bytes.

    gone       its video cannot be given any more          the first that matches decides
    expired    nobody has asked for it in its time
    rent       storing its video since it was last used cost more than making it again would
    unused     the first sketch's: hit less than twice, and not for three days; asked for by `rule="seed"`
    budget     the first to go by S3-FIFO, as `rules/cache` has it, while the videos take more bytes than the budget

Making a video again costs hundreds of times what keeping it for a month does, so "unused" is off unless somebody asks,
and "rent" takes years to match. A plan says of each rule what it saves and what it loses.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from reelkeeper.model.jobs import CacheItem, CacheQueue
from reelkeeper.rules.billing.pricing import storage_microusd_per_month
from reelkeeper.rules.billing.tariff import DAYS_A_MONTH, STANDARD

RULES: Final = ("gone", "expired", "rent", "unused", "budget")
_PROVEN: Final = 2  # hits that take an entry from the small queue into the main one, as in rules/cache
_DAY_SECONDS: Final = 86_400
_GB: Final = 10**9
_MICROUSD_PER_GB_MONTH: Final = int(STANDARD.storage_usd_per_gb_month * 10**6)


class PrunePolicy(BaseModel):
    """When an entry leaves the cache. Its video stays its user's, until its own retention."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    budget_bytes: int | None = Field(
        100_000_000_000, ge=1, description="Bytes of all videos that the cache may give again; never: any"
    )
    small_percent: int = Field(10, ge=1, le=99, description="Share of the budget for entries that are on trial")
    rule: Literal["rent", "seed"] = Field(
        "rent", description="rent: by age only what cost more to keep than to make; seed: also what is hardly used"
    )
    min_hits: int = Field(2, ge=1, description="Under the seed's rule, entries with fewer hits go")
    idle_days: int = Field(
        3, ge=1, description="Under the seed's rule, only entries unused for so long; as long on trial"
    )
    max_entries: int = Field(20_000, ge=1, description="Entries that one run drops at most")


class Move(NamedTuple):
    """What becomes of one entry: it goes, by `rule`, or, with `rule` "", to the end of the main queue."""

    item: CacheItem
    rule: str
    frequency: int = 0  # that it has after the move


@dataclass(frozen=True, slots=True)
class Pruned:
    """What goes by one rule: what its storage costs a month, and what making all of it once more would cost."""

    rule: str
    entries: int = 0
    size_bytes: int = 0
    saved_microusd_a_month: int = 0
    remake_microusd: int = 0


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """Which entries go and which are moved, of how many."""

    entries: int
    size_bytes: int
    moves: list[Move] = field(repr=False)

    def by_rule(self) -> tuple[Pruned, ...]:
        """Sum up what goes, by rule; rules that nothing goes by are left out."""
        sums: dict[str, list[CacheItem]] = {}
        for move in self.moves:
            if move.rule:
                sums.setdefault(move.rule, []).append(move.item)
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
class PruneReport:
    """What a run of `prune_cache` found and did. `stayed` were used while it was at work."""

    flow: str
    run_id: str
    dry_run: bool
    entries: int
    size_bytes: int
    rules: tuple[Pruned, ...]
    dropped: int = 0
    stayed: int = 0
    forgotten: Mapping[str, int] = field(default_factory=dict)  # old records by table; of a dry run, what would go

    def after(self, dropped: int, stayed: int, forgotten: Mapping[str, int]) -> "PruneReport":
        """Say what was done."""
        return replace(self, dropped=dropped, stayed=stayed, forgotten=forgotten)


def by_age(item: CacheItem, policy: PrunePolicy, as_of: datetime) -> str | None:
    """Name the rule by which an entry goes whatever the budget is, or None."""
    idle_seconds = (as_of - item.used_at).total_seconds()
    if not item.live:
        return "gone"
    if item.expires_at is not None and item.expires_at <= as_of:
        return "expired"
    if rent_microusd(item.size_bytes, idle_seconds) > item.cost_microusd:
        return "rent"
    if policy.rule == "seed" and item.hits < policy.min_hits and idle_seconds > policy.idle_days * _DAY_SECONDS:
        return "unused"
    return None


def rent_microusd(size_bytes: int, seconds: float) -> float:
    """Give what storing so many bytes for so long costs, in micro-dollars."""
    return size_bytes / _GB * _MICROUSD_PER_GB_MONTH * seconds / (DAYS_A_MONTH * _DAY_SECONDS)


def plan(stream: Callable[[CacheQueue], Iterable[CacheItem]], policy: PrunePolicy, as_of: datetime) -> PrunePlan:
    """Decide on each entry; `stream` gives those of a queue in the order of their turn, and is asked twice at most.

    Of more than `max_entries` that could go, those that are gone, expired and so on come first. Memory holds what goes
    or moves, and not what stays.
    """
    entries, aged, size = 0, list[Move](), dict.fromkeys(CacheQueue, 0)
    sum_bytes = 0
    for queue in CacheQueue:
        for item in stream(queue):
            entries, sum_bytes = entries + 1, sum_bytes + item.size_bytes
            rule = by_age(item, policy, as_of)
            if rule is None:
                size[queue] += item.size_bytes
            else:
                aged.append(Move(item, rule))
    aged = sorted(aged, key=lambda move: RULES.index(move.rule))[: policy.max_entries]
    young = {
        queue: _Turns(item for item in stream(queue) if by_age(item, policy, as_of) is None) for queue in CacheQueue
    }
    over = _over_budget(young, size, policy, policy.max_entries - len(aged))
    return PrunePlan(entries, sum_bytes, [*aged, *over])


class _Turns:
    """A queue whose head is read as it is needed, and what was put at its end."""

    def __init__(self, items: Iterable[CacheItem]) -> None:
        self._items = iter(items)
        self.again: deque[tuple[CacheItem, int]] = deque()

    def pop(self) -> tuple[CacheItem, int]:
        """Give the entry whose turn it is, and its hits since the last one."""
        item = next(self._items, None)
        return (item, item.frequency) if item is not None else self.again.popleft()


def _over_budget(
    queues: Mapping[CacheQueue, _Turns], size: dict[CacheQueue, int], policy: PrunePolicy, most: int
) -> list[Move]:
    """Let entries take their turns until the rest fits; each is named once, with what became of it last."""
    moved, left = dict[str, Move](), 0
    small, main, budget = CacheQueue.SMALL, CacheQueue.MAIN, policy.budget_bytes
    while budget is not None and sum(size.values()) > budget and left < most:
        on_trial = not size[main] or (size[small] > 0 and 100 * size[small] >= budget * policy.small_percent)
        turn = small if on_trial else main
        item, hits = queues[turn].pop()
        size[turn] -= item.size_bytes
        moved.pop(item.key, None)
        if hits >= (_PROVEN if on_trial else 1):
            hits = 0 if on_trial else hits - 1
            queues[main].again.append((item, hits))
            size[main] += item.size_bytes
            moved[item.key] = Move(item, "", hits)
        else:
            moved[item.key] = Move(item, "budget")
            left += 1
    return list(moved.values())
