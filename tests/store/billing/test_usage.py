"""Usage by UTC day: peaks keep the maximum, sums are replaced or added, and a day without a row is unknown."""

from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta

import pytest
import sqlalchemy as sa

from reelkeeper.model.money import Metric, StorageClass, UsageSource, Used
from reelkeeper.store.billing.usage import days, days_of_users, gaps, missing_days, record
from reelkeeper.store.core.engine import reading, transaction

DAY = date(2026, 11, 24)
CLOUDFLARE = UsageSource.CLOUDFLARE


def note(engine: sa.Engine, *used: Used, add: bool = False) -> None:
    with transaction(engine, "test") as session:
        record(session, used, add=add)


def found(engine: sa.Engine, first: date = DAY, last: date = DAY, **chosen: object) -> list[Used]:
    with reading(engine) as session:
        return list(days(session, first, last, **chosen))  # type: ignore[arg-type]  # whatever the test asks


def test_the_larger_of_two_peaks_is_kept(engine: sa.Engine) -> None:
    for size_bytes in (5, 7, 6):
        note(engine, Used(DAY, Metric.STORED_BYTES, size_bytes))
        note(engine, Used(DAY, Metric.STORED_BYTES, size_bytes), add=True)
    assert found(engine) == [Used(DAY, Metric.STORED_BYTES, 7)]


def test_a_sum_is_replaced_or_joined_as_asked(engine: sa.Engine) -> None:
    puts = Used(DAY, Metric.OPERATIONS, 5, "PutObject")
    note(engine, puts, puts._replace(resource="GetObject"))
    note(engine, puts, add=True)
    assert [usage.quantity for usage in found(engine)] == [5, 10]
    note(engine, puts._replace(quantity=3))
    assert [usage.quantity for usage in found(engine)] == [5, 3]


def test_cloudflares_last_figure_counts_and_is_kept_beside_ours(engine: sa.Engine) -> None:
    ours = Used(DAY, Metric.STORED_BYTES, 9)
    theirs = ours._replace(source=CLOUDFLARE, resource="bucket", sampled=True)
    note(engine, ours, theirs)
    note(engine, theirs._replace(quantity=8, sampled=False))
    assert found(engine) == [theirs._replace(quantity=8, sampled=False), ours]
    assert found(engine, source=UsageSource.STORE) == [ours]


def test_joining_a_sampled_figure_leaves_it_sampled(engine: sa.Engine) -> None:
    jobs = Used(DAY, Metric.JOBS, 1, "veo")
    note(engine, jobs._replace(sampled=True), add=True)
    note(engine, jobs, add=True)
    assert found(engine) == [jobs._replace(quantity=2, sampled=True)]
    note(engine, jobs)
    assert found(engine) == [jobs]
    note(engine, jobs._replace(sampled=True), add=True)
    assert found(engine) == [jobs._replace(quantity=2, sampled=True)]


def test_usage_of_users_and_of_the_account_is_separate(engine: sa.Engine) -> None:
    whole = Used(DAY, Metric.STORED_BYTES, 9, storage_class=StorageClass.STANDARD)
    anns = whole._replace(quantity=4, user_id="ann")
    note(engine, anns, whole)
    assert found(engine, of_users=True) == [anns]
    assert found(engine, of_users=False) == [whole]
    assert found(engine, metrics=[Metric.USERS]) == []


def test_days_with_usage_of_users_are_those_asked_for(engine: sa.Engine) -> None:
    days_ago = [DAY - timedelta(days=n) for n in range(4)]
    note(engine, *(Used(day, Metric.STORED_BYTES, 4, user_id="ann") for day in days_ago))
    note(engine, Used(DAY + timedelta(days=1), Metric.STORED_BYTES, 4))
    with reading(engine) as session:
        assert sorted(days_of_users(session, days_ago[2], DAY + timedelta(days=1))) == sorted(days_ago[:3])


def test_a_day_of_which_only_a_user_is_known_is_missing(engine: sa.Engine) -> None:
    for day, user_id in ((1, ""), (3, "ann"), (4, "")):
        note(engine, Used(date(2026, 11, day), Metric.STORED_BYTES, 0, user_id=user_id))
    first, last = date(2026, 11, 1), date(2026, 11, 5)
    with reading(engine) as session:
        missing = missing_days(session, Metric.STORED_BYTES, first, last)
        assert [day.day for day in missing] == [2, 3, 5]
        assert len(missing_days(session, Metric.STORED_BYTES, first, last, CLOUDFLARE)) == 5


def test_many_who_count_at_once_lose_nothing_and_do_not_lock_each_other_out(engine: sa.Engine) -> None:
    actions = ["PutObject", "GetObject", "HeadObject", "ListObjects"]

    def count(turn: int) -> None:
        order = actions if turn % 2 else actions[::-1]
        note(engine, *(Used(DAY, Metric.OPERATIONS, 1, action) for action in order), add=True)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(count, range(40)))
    assert {usage.resource: usage.quantity for usage in found(engine)} == dict.fromkeys(actions, 40)


@pytest.mark.parametrize("count", [0, 5_000])
def test_any_number_goes_in_at_once(engine: sa.Engine, count: int) -> None:
    note(engine, *(Used(DAY, Metric.STORED_BYTES, n, user_id=f"u{n}") for n in range(count)))
    assert len(found(engine)) == count


def test_a_gap_is_a_missing_day_after_the_first_count(engine: sa.Engine) -> None:
    first, last = date(2026, 11, 1), date(2026, 11, 6)
    with reading(engine) as session:
        assert gaps(session, Metric.STORED_BYTES, first, last) == []
    for day in (3, 5):
        note(engine, Used(date(2026, 11, day), Metric.STORED_BYTES, 0))
    with reading(engine) as session:
        assert [day.day for day in gaps(session, Metric.STORED_BYTES, first, last)] == [4, 6]
