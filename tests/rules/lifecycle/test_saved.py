"""Savings from freed bytes: none on the same day, then the daily price of storing them."""

from datetime import date, timedelta

from hypothesis import given
from hypothesis import strategies as st

from reelkeeper.model.money import Freed
from reelkeeper.rules.lifecycle.savings import GONE, LEFTOVERS, SMALLER, a_day, per_day

FIRST = date(2026, 11, 1)
GB = 10**9


def test_a_gigabyte_saves_a_cent_and_a_half_in_thirty_days() -> None:
    days = list(per_day([Freed(FIRST, "grace_over", GB)], FIRST + timedelta(days=30)))
    assert len(days) == 30
    assert sum(saving.nanousd for saving in days) == 15_000_000
    assert days[0].day == FIRST + timedelta(days=1)  # the day's peak was paid for


def test_savings_are_separated_by_kind() -> None:
    freed = [Freed(FIRST, rule, GB) for rule in ("replaced", "grace_over", "unfinished", "orphan")]
    saved = {saving.kind: saving.nanousd for saving in per_day(freed, FIRST + timedelta(days=1))}
    assert saved == {SMALLER: a_day(GB), GONE: a_day(2 * GB), LEFTOVERS: a_day(GB)}


def test_without_freed_bytes_nothing_is_saved() -> None:
    assert list(per_day([], FIRST)) == []
    assert list(per_day([Freed(FIRST, "orphan", GB)], FIRST)) == []


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 10**13)), max_size=8))
def test_each_day_saves_at_least_as_much_as_the_day_before(freed: list[tuple[int, int]]) -> None:
    rows = [Freed(FIRST + timedelta(days=day), "replaced", size) for day, size in freed]
    amounts = [saving.nanousd for saving in per_day(rows, FIRST + timedelta(days=25))]
    assert amounts == sorted(amounts)
