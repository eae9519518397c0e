"""The rules of webhooks: every event is described, and pauses only grow."""

from itertools import pairwise

from reelkeeper.model.alerts import EventType
from reelkeeper.rules.alerts.webhooks import DEAD_AFTER, MEANS, RETRY_SECONDS, pause_seconds, retry_seconds


def test_the_page_of_webhooks_has_every_event() -> None:
    assert list(MEANS) == list(EventType)


def test_a_message_is_tried_for_three_days_with_growing_pauses() -> None:
    assert DEAD_AFTER.total_seconds() <= sum(RETRY_SECONDS) < DEAD_AFTER.total_seconds() + 86_400
    assert all(earlier < later for earlier, later in pairwise(RETRY_SECONDS))
    assert [retry_seconds(attempts) for attempts in range(1, 10)] == list(RETRY_SECONDS)
    assert retry_seconds(10) is None
    assert all(pause_seconds(n) <= pause_seconds(n + 1) <= 300 for n in range(2_000))
