"""The effect of a bucket's own rules on one object."""

from datetime import UTC, datetime, timedelta

from reelkeeper.model.buckets import NEVER, Lock, locked_until

AT, DAY = datetime(2026, 11, 24, 12, tzinfo=UTC), timedelta(days=1)


def test_the_longest_of_several_locks_on_an_object_counts() -> None:
    month, week = Lock("a", "videos/", age=30 * DAY), Lock("b", "", age=7 * DAY)
    assert locked_until([month, week], "videos/x.mp4", AT) == AT + 30 * DAY
    assert locked_until([month, week], "images/x.png", AT) == AT + 7 * DAY
    assert locked_until([month], "images/x.png", AT) is None
    assert locked_until([month, Lock("c", "videos/x", until=AT + 90 * DAY)], "videos/x.mp4", AT) == AT + 90 * DAY
    assert locked_until([month, Lock("d", "")], "videos/x.mp4", AT) == NEVER
