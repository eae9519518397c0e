"""What leaves the cache: by age, by rent, and by S3-FIFO when there is a budget to keep."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelkeeper.model.jobs import CacheItem, CacheQueue
from reelkeeper.rules.jobs.cache import S3Fifo
from reelkeeper.rules.jobs.pruning import PrunePlan, PrunePolicy, by_age, plan, rent_microusd

NOW = datetime(2026, 11, 24, 5, tzinfo=UTC)
SMALL, MAIN = CacheQueue.SMALL, CacheQueue.MAIN


def item(key: str = "a", *, idle_days: float = 0.0, **changes: Any) -> CacheItem:  # noqa: ANN401  fields of an item
    used_at = NOW - timedelta(days=idle_days)
    return CacheItem(key, f"v-{key}", 17_000_000, 20_000, SMALL, 0, 0, used_at, None, live=True)._replace(**changes)


def decide(items: Iterable[CacheItem], **policy: Any) -> PrunePlan:  # noqa: ANN401  fields of a policy
    told = list(items)
    return plan(
        lambda queue: (cache_item for cache_item in told if cache_item.queue == queue), PrunePolicy(**policy), NOW
    )


@pytest.mark.parametrize(
    ("found", "rule", "reason"),
    [
        (item(idle_days=400), "rent", None),
        (item(idle_days=30 * 78), "rent", None),
        (item(idle_days=30 * 78), "seed", "unused"),
        (item(idle_days=30 * 79), "rent", "rent"),
        (item(idle_days=3.1), "seed", "unused"),
        (item(idle_days=2.9), "seed", None),
        (item(idle_days=3.1, hits=2), "seed", None),
        (item(idle_days=3.1, hits=1), "seed", "unused"),
        (item(expires_at=NOW), "rent", "expired"),
        (item(expires_at=NOW + timedelta(seconds=1)), "rent", None),
        (item(live=False), "rent", "gone"),
        (item(cost_microusd=0, idle_days=0.001), "rent", "rent"),
    ],
)
def test_the_first_rule_that_matches_decides(found: CacheItem, rule: str, reason: str | None) -> None:
    assert by_age(found, PrunePolicy.model_validate({"rule": rule}), NOW) == reason


def test_keeping_a_video_for_a_month_costs_a_hundredth_of_a_cent_or_so() -> None:
    assert rent_microusd(17_000_000, 30 * 86_400) == pytest.approx(255)  # 20,000 to make it: 78 months


def test_within_the_budget_nothing_goes() -> None:
    found = decide([item(str(n)) for n in range(10)], budget_bytes=170_000_000)
    assert (found.entries, found.size_bytes, found.moves) == (10, 170_000_000, [])
    assert not decide([item(str(n)) for n in range(10)], budget_bytes=None).moves


def test_a_plan_says_what_each_rule_saves_and_loses() -> None:
    found = decide([item("a", live=False), item("b"), item("c"), item("d", queue=MAIN)], budget_bytes=34_000_000)
    gone, budget = found.by_rule()
    assert (gone.rule, gone.entries) == ("gone", 1)
    assert (budget.rule, budget.entries, budget.size_bytes) == ("budget", 1, 17_000_000)
    assert (budget.saved_microusd_a_month, budget.remake_microusd) == (255, 20_000)


def test_one_run_drops_no_more_than_it_may_and_what_is_gone_goes_first() -> None:
    found = decide([item("a"), item("b"), item("c", live=False)], budget_bytes=1, max_entries=2)
    assert [(move.item.key, move.rule) for move in found.moves] == [("c", "gone"), ("a", "budget")]


ITEMS = st.lists(
    st.tuples(st.sampled_from([SMALL, MAIN]), st.integers(0, 3), st.integers(1, 40)), min_size=1, max_size=60
)


@given(ITEMS, st.integers(1, 1000))
def test_the_budget_is_kept_as_s3_fifo_keeps_it(shape: list[tuple[CacheQueue, int, int]], budget: int) -> None:
    items = [item(str(n), queue=queue, frequency=hits, size_bytes=size) for n, (queue, hits, size) in enumerate(shape)]
    peer = S3Fifo(budget)
    for cache_item in items:
        peer._hits[cache_item.key] = cache_item.frequency
        (peer._small if cache_item.queue == SMALL else peer._main)[cache_item.key] = cache_item.size_bytes
    peer._small_bytes, peer._main_bytes = sum(peer._small.values()), sum(peer._main.values())
    left = peer._make_room(0)
    found = decide(items, budget_bytes=budget)
    assert sorted(move.item.key for move in found.moves if move.rule) == sorted(left)
    moved = {move.item.key: move.frequency for move in found.moves if not move.rule}
    assert [*peer._main][len(peer._main) - len(moved) :] == [*moved]
    assert all(peer._hits[key] == hits for key, hits in moved.items())
    assert sum(cache_item.size_bytes for cache_item in items if cache_item.key not in left) <= budget
