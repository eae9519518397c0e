"""The position of a day in its month."""

from datetime import date, timedelta

from inline_snapshot import snapshot

from reelkeeper.rules.spend.residuals import places


def test_a_day_stands_at_its_number_and_perhaps_at_the_end_of_the_month() -> None:
    monday, sunday = date(2026, 11, 30), date(2026, 5, 31)
    days = [date(2026, 11, 1), monday, sunday, sunday - timedelta(days=2), date(2028, 2, 29)]
    assert [places(day) for day in days] == snapshot(
        [
            ("day 1",),
            ("day 30", "last day", "last working day"),
            ("day 31", "last day"),
            ("day 29", "last working day"),
            ("day 29", "last day", "last working day"),
        ]
    )
