"""What the demo simulates: months of usage, with a spike."""

from datetime import date, timedelta

from demo import money

FIRST = date(2026, 11, 1)


def test_yesterday_had_the_spike_and_no_other_day() -> None:
    jobs = [money.jobs_on(FIRST - timedelta(days=ago), FIRST) for ago in range(1, money.DAYS)]
    assert jobs[0] > 2 * max(jobs[1:])
    assert min(jobs) > 200
