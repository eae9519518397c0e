"""Amounts in words."""

import pytest

from reelkeeper.rules.core import wording


@pytest.mark.parametrize(
    ("size_bytes", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1.0 kB"),
        (970_800, "970.8 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (-1_500_000, "-1.5 MB"),
        (50 * 10**9, "50.0 GB"),
        (1_234 * 10**12, "1,234.0 TB"),
    ],
)
def test_bytes_get_the_unit_in_which_they_are_read(size_bytes: int, words: str) -> None:
    assert wording.size(size_bytes) == words


@pytest.mark.parametrize(
    ("microusd", "words"),
    [
        (0, "$0.00"),
        (10_000, "$0.01"),
        (-2_500_000, "-$2.50"),
        (13, "$0.000013"),
        (1_234, "$0.0012"),
        (1, "$0.000001"),
        (0.18, "under $0.000001"),
        (-0.18, "over -$0.000001"),
    ],
)
def test_a_small_amount_of_dollars_keeps_digits_that_say_something(microusd: float, words: str) -> None:
    assert wording.dollars(microusd) == words
