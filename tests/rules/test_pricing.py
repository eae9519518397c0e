"""What a stored byte costs."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelkeeper.rules.pricing import GB, storage_microusd_per_month, storage_usd_per_month


@pytest.mark.parametrize(
    ("users", "gigabytes", "dollars"),
    [(100, 15, "0.08"), (500, 75, "0.98"), (1000, 150, "2.10"), (5000, 750, "11.10")],
)
def test_the_table_of_the_first_sketch(users: int, gigabytes: int, dollars: str) -> None:
    """Five videos of 30 MB per user, storage only, to the cent, without R2's rounding up to whole gigabytes."""
    stored = users * 5 * 30 * 10**6
    assert stored == gigabytes * GB
    assert round(storage_usd_per_month(stored), 2) == Decimal(dollars)


def test_the_first_ten_gigabytes_are_free_and_the_next_byte_is_not() -> None:
    assert storage_usd_per_month(0) == storage_usd_per_month(10 * GB) == 0
    assert storage_usd_per_month(10 * GB + 1) == Decimal("0.000000000015")
    assert storage_usd_per_month(11 * GB) == Decimal("0.015")


@pytest.mark.parametrize(
    ("size_bytes", "microusd"),
    [(0, 0), (GB, 15_000), (-GB, -15_000), (10**15, 15 * 10**9), (33_333, 0), (33_334, 1), (100_000, 2), (166_667, 3)],
)
def test_a_saving_is_whole_microdollars(size_bytes: int, microusd: int) -> None:
    assert storage_microusd_per_month(size_bytes) == microusd


@given(st.integers(0, 10**18))
def test_rounding_is_half_to_even_and_exact_at_any_size(size_bytes: int) -> None:
    assert storage_microusd_per_month(size_bytes) == round(Fraction(size_bytes * 15, 10**6))
