"""The position of a day in its month."""

from datetime import date

import pytest

from reelkeeper.rules.spend.residuals import places


@pytest.mark.parametrize(
    ("day", "names"),
    [
        (date(2026, 11, 1), ("day 1",)),
        (date(2026, 11, 30), ("day 30", "last day", "last working day")),  # a Monday
        (date(2026, 5, 31), ("day 31", "last day")),  # a Sunday
        (date(2026, 5, 29), ("day 29", "last working day")),
        (date(2028, 2, 29), ("day 29", "last day", "last working day")),
    ],
)
def test_a_day_stands_at_its_number_and_perhaps_at_the_end_of_the_month(day: date, names: tuple[str, ...]) -> None:
    assert places(day) == names
