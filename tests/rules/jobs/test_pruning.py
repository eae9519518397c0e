"""Pruning of the cache: by age, by storage cost, and the least valuable entries over the budget."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelkeeper.model.jobs import CacheItem, RequestTime
from reelkeeper.rules.jobs import pruning
from reelkeeper.rules.jobs.pruning import PrunePlan, PrunePolicy, by_age, plan, rent_microusd, saves
from reelkeeper.rules.jobs.reuse import learn

NOW = datetime(2026, 11, 24, 5, tzinfo=UTC)


def item(key: str = "a", *, idle_days: float = 0.0, **changes: Any) -> CacheItem:  # noqa: ANN401  fields of an item
    used_at = NOW - timedelta(days=idle_days)
    made = CacheItem(key, f"v-{key}", 17_000_000, 20_000, 0, used_at, None, live=True, requests=1, first_at=used_at)
    return made._replace(**changes)


def decide(items: Iterable[CacheItem], asked: Iterable[RequestTime] = (), **policy: Any) -> PrunePlan:  # noqa: ANN401  fields of a policy
    told = list(items)
    return plan(lambda: iter(told), lambda: asked, PrunePolicy(**policy), NOW)


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
    assert (found.entries, found.size_bytes, found.leaving) == (10, 170_000_000, [])
    assert not decide([item(str(n)) for n in range(10)], budget_bytes=None).leaving


def test_a_plan_says_what_each_rule_saves_and_loses() -> None:
    found = decide([item("a", live=False), item("b"), item("c"), item("d")], budget_bytes=34_000_000)
    gone, budget = found.by_rule()
    assert (gone.rule, gone.entries) == ("gone", 1)
    assert (budget.rule, budget.entries, budget.size_bytes) == ("budget", 1, 17_000_000)
    assert (budget.saved_microusd_a_month, budget.remake_microusd) == (255, 20_000)


def test_one_run_drops_no_more_than_it_may_and_what_is_gone_goes_first() -> None:
    with mock.patch.object(pruning, "_MAX_ENTRIES", 2):
        found = decide([item("b"), item("a", cost_microusd=19_000), item("c", live=False)], budget_bytes=1)
    assert [(each.item.key, each.rule) for each in found.leaving] == [("c", "gone"), ("a", "budget")]


SHAPES = st.lists(
    st.tuples(st.integers(0, 5), st.integers(1, 40), st.integers(1, 9), st.integers(0, 90)), min_size=1, max_size=60
)


@given(SHAPES, st.integers(1, 1000), st.integers(1, 60))
def test_entries_that_save_the_least_are_dropped_and_no_more_than_needed(
    shape: list[tuple[int, int, int, int]], budget: int, most: int
) -> None:
    items = [
        item(str(n), hits=hits, size_bytes=size, cost_microusd=cost * 10**6, idle_days=idle)
        for n, (hits, size, cost, idle) in enumerate(shape)
    ]
    with mock.patch.object(pruning, "_MAX_ENTRIES", most):
        going = [each.item for each in decide(items, budget_bytes=budget).leaving]
    worth = learn([], NOW).worth(budget * len(items) / sum(each.size_bytes for each in items))
    order = sorted(items, key=lambda each: (saves(each, worth, NOW), each.used_at))
    excess, sizes = sum(each.size_bytes for each in items) - budget, [each.size_bytes for each in going]
    assert [(saves(each, worth, NOW), each.used_at) for each in going] == [
        (saves(each, worth, NOW), each.used_at) for each in order[: len(going)]
    ]
    assert len(going) <= most
    assert sum(sizes) >= excess or len(going) == most
    assert not sizes or sum(sizes[:-1]) < excess


def asked_at(key: str, *days_ago: float) -> list[RequestTime]:
    return [RequestTime(key, NOW - timedelta(days=days)) for days in sorted(days_ago, reverse=True)]


def test_the_entry_with_the_higher_cost_per_byte_stays_of_two_otherwise_equal() -> None:
    found = decide(
        [item("a"), item("b", cost_microusd=20_001), item("c", size_bytes=17_000_001)], budget_bytes=17 * 10**6
    )
    assert [each.item.key for each in found.leaving] == ["c", "a"]


def test_with_passing_fashions_the_entry_unrequested_the_longest_is_dropped() -> None:
    record = [at for n in range(200) for at in asked_at(f"old{n}", 40, 39.9, 39.8, *([39.7] if n % 2 else []))]
    old, new = item("old", idle_days=20, requests=4, hits=3), item("new", idle_days=0.1)
    assert [each.item.key for each in decide([new, old], record, budget_bytes=17 * 10**6).leaving] == ["old"]


def test_with_weekly_lists_a_due_entry_is_worth_more_than_a_recent_one() -> None:
    record = [at for n in range(200) for at in asked_at(f"list{n}", 22, 15, 8, 1)]
    worth = learn(record, NOW).worth(300)
    due = item(idle_days=6, requests=2, hits=1, first_at=NOW - timedelta(days=13))
    came = item(idle_days=0.5, requests=2, hits=1, first_at=NOW - timedelta(days=7.5))
    assert saves(due, worth, NOW) > 1.2 * saves(came, worth, NOW)


def test_requests_after_the_time_of_the_plan_are_not_used() -> None:
    later = [RequestTime("k", NOW + timedelta(days=1)), RequestTime("k", NOW + timedelta(days=2))]
    assert learn(later, NOW).worth(10) == learn([], NOW).worth(10)
