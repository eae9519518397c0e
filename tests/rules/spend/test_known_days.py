"""Exceptional days, as an operator writes them."""

from datetime import date

import pytest

from reelkeeper.rules.spend.anomaly import check, days


@pytest.mark.parametrize("good", ["12-25", "02-29", "2027-03-28", "2026-12-20/2026-12-31", "2026-01-01/2026-01-01"])
def test_valid_calendar_entries_are_accepted(good: str) -> None:
    check(good)


@pytest.mark.parametrize(
    "bad", ["", "12-32", "2026-13-01", "2025-02-29", "25.12.", "12-25/12-31", "2026-02-02/2026-02-01"]
)
def test_invalid_calendar_entries_are_refused(bad: str) -> None:
    with pytest.raises(ValueError, match=f"^'{bad}'"):
        check(bad)


def test_a_day_of_every_year_is_in_each_that_has_it() -> None:
    every = days(["12-25", "02-29"], date(2023, 1, 1), date(2025, 12, 24))
    assert every == {date(2023, 12, 25), date(2024, 2, 29), date(2024, 12, 25)}


def test_a_span_counts_both_ends_and_is_cut_to_what_is_asked() -> None:
    span = ["2026-12-30/2027-01-02"]
    assert len(days(span, date(2026, 1, 1), date(2027, 12, 31))) == 4
    assert days(span, date(2027, 1, 1), date(2027, 1, 1)) == {date(2027, 1, 1)}
    assert days(span, date(2028, 1, 1), date(2028, 1, 2)) == frozenset()
