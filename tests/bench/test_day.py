"""A tenth of a day of the default schedules on a real Prefect server: both databases stay small."""

from datetime import UTC, datetime

import pytest

from bench.day import HOURS, MAX_PREFECT_MB, MAX_STORE_MB, due, live


@pytest.mark.long
def test_neither_database_grows_without_end() -> None:
    day = live(HOURS / 10)
    assert day.failed == {}
    assert day.runs.total() > 80
    assert day.prefect_at_most < MAX_PREFECT_MB * 10**6
    assert day.store.total() * 10 < 3 * MAX_STORE_MB * 10**6  # the daily flows are in this tenth, so ten times in it
    assert not any(day.left.values()), "Prefect keeps what is old"


def test_a_part_of_a_day_has_the_daily_flows() -> None:
    monday = datetime(2026, 11, 23, tzinfo=UTC)
    flows = {flow for _, flow in due(monday, HOURS / 10)}
    assert {"tier_storage", "expire_videos", "sync_catalog"} <= flows
    assert len(due(monday, HOURS)) >= 845
