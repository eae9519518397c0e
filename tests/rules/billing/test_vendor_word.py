"""Judge the cost that a vendor reports for a job: whether it is believed, and when a wrong price is reported."""

import pytest

from reelkeeper.rules.billing.vendor_word import VendorWord

BOOKED = 4_000_000  # micro-dollars


@pytest.mark.parametrize(
    ("provider", "reported", "is_told"),
    [
        ("fal", BOOKED, False),
        ("fal", 4_400_000, False),
        ("fal", 4_400_001, True),
        ("fal", 3_600_000, False),
        ("fal", 3_599_999, True),
        ("http", 4_400_000, False),
        ("http", 4_400_001, True),
        ("http", 0, False),
        ("local", 1, False),
    ],
)
def test_people_are_told_of_a_cost_more_than_a_tenth_from_the_book_once_for_a_price(
    provider: str, reported: int, *, is_told: bool
) -> None:
    found = VendorWord(provider, "veo", BOOKED, reported).finding("j1", "price", "2026-11-24")
    assert (found is not None) == is_told
    assert found is None or found.period.endswith(" price")
    assert VendorWord(provider, "veo", BOOKED, reported, is_delivered=False).finding("j1", "price", "day") is None


@pytest.mark.parametrize(
    ("provider", "booked", "reported", "is_delivered", "is_believed"),
    [
        ("fal", BOOKED, 400_000, True, True),
        ("fal", BOOKED, 399_999, True, False),
        ("fal", BOOKED, 0, False, True),
        ("http", BOOKED, 0, True, True),
        ("fal", BOOKED, 40_000_000, True, True),
        ("fal", BOOKED, 40_000_001, False, False),
        ("fal", 1, 10_000_000, True, True),
        ("fal", 1, 10_000_001, True, False),
        ("fal", BOOKED, -1, False, False),
    ],
)
def test_a_cost_is_believed_within_a_tenth_and_ten_times_the_book_and_up_to_ten_dollars_always(
    provider: str, booked: int, reported: int, *, is_delivered: bool, is_believed: bool
) -> None:
    word = VendorWord(provider, "veo", booked, reported, is_delivered)
    assert word.is_believed == is_believed
    found = word.finding("j1", "price", "2026-11-24")
    assert is_believed or (found is not None and found.period.endswith(" 2026-11-24"))
