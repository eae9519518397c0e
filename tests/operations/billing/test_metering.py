"""From usage to costs: counted by the store, corrected by Cloudflare, charged day by day."""

from datetime import UTC, date, datetime, time, timedelta

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from reelkeeper.adapters.cloudflare import KEPT_DAYS, Client
from reelkeeper.adapters.s3.r2 import Bucket
from reelkeeper.model.money import Charge, Metric, UsageSource, Used
from reelkeeper.operations.billing.metering import charge, charge_month, collect, sample_storage, spent
from reelkeeper.operations.core.policies import put_in_force
from reelkeeper.operations.core.workspace import flush_operations
from reelkeeper.rules.billing.catalogue import JobPrice
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.policies import Policies
from reelkeeper.rules.spend import budget
from reelkeeper.rules.spend.budget import BudgetPolicy
from reelkeeper.store.billing import charge_reports
from reelkeeper.store.billing.charges import between, replace
from reelkeeper.store.billing.usage import days, missing_days, record
from reelkeeper.store.core.audit import Event, append
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.tables import (
    blobs,
    charge_months,
    deployment,
    heartbeats,
    orphans,
    policy_versions,
    usage_days,
    users,
    videos,
)
from tests.doubles.analytics import Operation, Stored
from tests.doubles.cloudflare import CloudflareDouble
from tests.marks import marked

ONE_DAY = timedelta(days=1)
BOOK = PriceBook()
GB = 10**9
MID = datetime(2026, 6, 20, 12, tzinfo=UTC)  # of a month of 30 days
JUNE = date(2026, 6, 1)
STATES = {"live": 5, "retired": 3, "deleting": 2, "gone": 100, "lost": 100, "pending": 100}


def now() -> datetime:
    return datetime.now(UTC)


def today() -> date:
    return now().date()


@pytest.fixture
def store(engine: sa.Engine) -> sa.Engine:
    """Ann has 10 bytes that R2 bills, in three states; bob has 7; 4 are of objects that no row explains."""
    with transaction(engine, "test") as session:
        session.execute(sa.insert(users), [{"id": "ann", "tier": "pro"}, {"id": "bob", "tier": None}])
        session.execute(
            sa.insert(videos), [{"id": f"v-{text}", "user_id": text, "state": "live"} for text in ("ann", "bob")]
        )
        rows: list[tuple[str | None, str, int]] = [("v-ann", state, size_bytes) for state, size_bytes in STATES.items()]
        rows += [("v-bob", "live", 7), (None, "retired", 1)]
        session.execute(
            sa.insert(blobs),
            [
                {"video_id": video, "state": state, "size_bytes": size, "key": f"k{number}", "stored_at": now()}
                for number, (video, state, size) in enumerate(rows)
            ],
        )
        seen = {"last_modified": now(), "first_seen_at": now(), "last_seen_at": now()}
        session.execute(sa.insert(orphans).values(key="o", size_bytes=3, etag="e", **seen))
    return engine


def used(engine: sa.Engine, metric: Metric, first: date | None = None, last: date | None = None) -> dict[str, int]:
    with reading(engine) as session:
        return {
            usage.user_id or usage.resource: usage.quantity
            for usage in days(session, first or today(), last or today(), metrics=[metric])
        }


def grow(engine: sa.Engine, size_bytes: int) -> None:
    with transaction(engine, "test") as session:
        session.execute(sa.update(blobs).where(blobs.c.video_id == "v-bob").values(size_bytes=size_bytes))


def by_day(engine: sa.Engine, month: date) -> list[charge_reports.Settled]:
    with reading(engine) as session:
        return sorted(charge_reports.settled(session, month, month + 30 * ONE_DAY))


def charges(engine: sa.Engine, month: date) -> list[Charge]:
    with reading(engine) as session:
        return list(between(session, month, month + 30 * ONE_DAY))


def test_stored_bytes_of_users_and_account_are_recorded_as_the_days_peak(store: sa.Engine) -> None:
    sample_storage(store)
    assert used(store, Metric.STORED_BYTES) == {"ann": 10, "bob": 7, "": 21}
    grow(store, 9)
    sample_storage(store)
    grow(store, 1)
    sample_storage(store)
    assert used(store, Metric.STORED_BYTES) == {"ann": 10, "bob": 9, "": 23}
    assert used(store, Metric.USERS) == {"": 2}


def test_added_and_purged_bytes_are_recorded_by_day_zeros_included(store: sa.Engine) -> None:
    with transaction(store, "test") as session:
        session.execute(sa.update(deployment).values(created_at=now() - 4 * ONE_DAY))
        blob_id = session.execute(sa.select(blobs.c.id).where(blobs.c.state == "gone")).scalar_one()
        append(session, [Event(event, "run", blob_id=blob_id) for event in ("retire", "purge", "retire")])
    sample_storage(store)
    assert used(store, Metric.UPLOADED_BYTES) == {"": sum(STATES.values()) - STATES["pending"] + 7 + 1}
    assert used(store, Metric.DELETED_BYTES) == {"": 100}
    yesterday = today() - ONE_DAY
    assert used(store, Metric.UPLOADED_BYTES, yesterday, yesterday) == {"": 0}
    with reading(store) as session:
        first = today() - 5 * ONE_DAY
        assert missing_days(session, Metric.UPLOADED_BYTES, first, today()) == [first]  # before the store was made


def test_the_buckets_own_operations_are_added_up_and_lost_by_no_failure(engine: sa.Engine, bucket: Bucket) -> None:
    list(bucket.pages())
    bucket.head(bucket.identity_key)
    assert flush_operations(engine, bucket) == 2
    bucket.head(bucket.identity_key)
    with transaction(engine, "test") as session:
        session.execute(sa.text("ALTER TABLE usage_days RENAME TO away"))
    with pytest.raises(sa.exc.SQLAlchemyError):
        flush_operations(engine, bucket)
    with transaction(engine, "test") as session:
        session.execute(sa.text("ALTER TABLE away RENAME TO usage_days"))
    assert flush_operations(engine, bucket) == 1
    assert flush_operations(engine, bucket) == 0
    assert used(engine, Metric.OPERATIONS) == {"ListObjects": 1, "HeadObject": 2}


def test_cloudflares_figures_are_recorded_beside_ours(
    store: sa.Engine, client: Client, cloudflare: CloudflareDouble
) -> None:
    yesterday = datetime.combine(today() - ONE_DAY, time(8), UTC)
    cloudflare.stored = [Stored(yesterday, 500, 1), Stored(now(), 600)]
    cloudflare.operations = [Operation(yesterday, "PutObject", requests=7)]
    found = collect(store, client, now())
    assert found.trouble == ""
    with reading(store) as session:
        theirs = list(days(session, today() - ONE_DAY, today(), source=UsageSource.CLOUDFLARE))
    assert [(usage.day, usage.metric, usage.quantity) for usage in theirs] == [
        (today() - ONE_DAY, Metric.OPERATIONS, 7),
        (today() - ONE_DAY, Metric.STORED_BYTES, 501),
        (today(), Metric.STORED_BYTES, 600),
    ]
    assert used(store, Metric.STORED_BYTES)["ann"] == 10


def test_a_day_that_was_not_over_when_cloudflare_answered_is_asked_for_again(
    store: sa.Engine, client: Client, cloudflare: CloudflareDouble
) -> None:
    every = [datetime.combine(today() - n * ONE_DAY, time(0, 1), UTC) for n in range(31)]
    cloudflare.stored = [Stored(at, 500) for at in every]
    collect(store, client, now())
    spans = [str(body["variables"]["filter"]) for _, _, body in cloudflare.asked]
    assert [span for span in spans if str(today() - (KEPT_DAYS - 1) * ONE_DAY) in span]  # as far back as it has them
    cloudflare.asked.clear()
    cloudflare.operations = [Operation(every[1], "PutObject", requests=9)]
    collect(store, client, now())
    assert used(store, Metric.OPERATIONS, today() - ONE_DAY, today()) == {"PutObject": 9}
    asked = [str(body["variables"]["filter"]) for _, _, body in cloudflare.asked]
    assert asked
    assert not [span for span in asked if str(today() - 5 * ONE_DAY) in span]


def test_operations_that_cloudflare_has_later_than_the_bytes_of_their_day_are_asked_for_again(
    store: sa.Engine, client: Client, cloudflare: CloudflareDouble
) -> None:
    every = [datetime.combine(today() - n * ONE_DAY, time(0, 1), UTC) for n in range(31)]
    late = today() - 5 * ONE_DAY
    cloudflare.stored = [Stored(at, 500) for at in every]
    note(store, Used(late, Metric.OPERATIONS, 3, "ListObjects"))
    collect(store, client, now())
    cloudflare.operations = [Operation(every[5], "PutObject", requests=9)]
    collect(store, client, now())
    assert used(store, Metric.OPERATIONS, late, late) == {"ListObjects": 3, "PutObject": 9}
    cloudflare.asked.clear()
    collect(store, client, now())
    assert not [body for _, _, body in cloudflare.asked if str(late) in str(body["variables"]["filter"])]


def test_if_cloudflare_refuses_our_own_count_is_used_and_the_reason_reported(
    store: sa.Engine, client: Client, cloudflare: CloudflareDouble
) -> None:
    cloudflare.permissions = frozenset()
    found = collect(store, client, now())
    assert marked(found.trouble) == snapshot(
        "REELKEEPER_CLOUDFLARE_API_TOKEN lacks the permission 'Account Analytics: Read' on account ID (not authorized for that account); add it under My Profile, API Tokens"
    )
    assert used(store, Metric.STORED_BYTES)["ann"] == 10


def test_days_without_a_count_after_the_first_one_are_told_but_not_today(store: sa.Engine) -> None:
    days_ago = [now().date() - n * ONE_DAY for n in range(6)]
    note(store, *(Used(day, Metric.STORED_BYTES, 5) for day in (days_ago[5], days_ago[2])))
    missing = spent(store, now(), first=days_ago[5], users=[]).missing
    assert list(missing) == [days_ago[4], days_ago[3], days_ago[1]]


def test_uncounted_days_are_missing(store: sa.Engine) -> None:
    found = collect(store, None, MID)
    assert [day.day for day in found.missing] == list(range(1, 21))


def note(engine: sa.Engine, *rows: Used) -> None:
    with transaction(engine, "test") as session:
        record(session, rows)


def stored(day: int, gigabytes: int, user_id: str = "") -> Used:
    return Used(date(2026, 6, day), Metric.STORED_BYTES, gigabytes * GB, "", "standard", user_id)


def test_a_month_is_charged_to_users_and_sums_to_the_bill(store: sa.Engine) -> None:
    note(store, *(stored(day, 15) for day in range(1, 31)), *(stored(day, 6, "ann") for day in range(1, 31)))
    note(store, Used(JUNE, Metric.JOBS, 2, "veo"), Used(JUNE, Metric.JOBS, 2, "veo", user_id="bob"))
    assert len(charge_month(store, BOOK, JUNE, date(2026, 7, 9))) == 30
    rows = charges(store, JUNE)
    assert sum(row.billed_nanousd for row in rows) == 75_000_000 + 30_000_000  # 15 - 10 GB-months, and two jobs
    assert sum(row.list_nanousd for row in rows if row.user_id == "ann") == 90_000_000
    assert {row.tier for row in rows if row.user_id == "ann"} == {"pro"}
    assert not any(row.estimated for row in rows)


def test_charging_again_touches_only_the_days_that_may_have_changed(store: sa.Engine) -> None:
    note(store, *(stored(day, 15) for day in range(1, 21)))
    assert len(charge(store, BOOK, MID)) == 20
    before = by_day(store, JUNE)
    assert charge(store, BOOK, MID) == [MID.date()]
    assert by_day(store, JUNE) == before
    assert len(charge(store, BOOK, MID + 10 * ONE_DAY)) == 11  # ten new ones, and the one that was not over


@pytest.mark.long
def test_a_corrected_day_is_charged_again_with_all_days_after_it(store: sa.Engine) -> None:
    note(store, *(stored(day, 9) for day in range(1, 21)))
    charge(store, BOOK, MID)
    note(store, stored(3, 5000)._replace(source=UsageSource.CLOUDFLARE))
    charge(store, BOOK, MID)
    with transaction(store, "test") as session:
        session.execute(sa.delete(usage_days))
        record(session, [stored(day, 5000 if day == 3 else 9) for day in range(1, 21)])
    mended = by_day(store, JUNE)
    with transaction(store, "test") as session:
        replace(session, {item.day for item in mended}, [])
        session.execute(sa.delete(charge_months))
    charge(store, BOOK, MID)
    assert by_day(store, JUNE) == mended
    assert sum(item.billed_nanousd for item in mended) == 15_000_000 * (173 - 10)  # (5000 + 19 · 9) / 30 is 172.4


def test_a_change_of_prices_is_charged_from_the_first_of_the_month(store: sa.Engine) -> None:
    note(store, *(Used(date(2026, 6, day), Metric.JOBS, 1) for day in range(1, 21)))
    charge(store, BOOK, MID)
    dearer = PriceBook(prices=JobPrice(base_usd=1, compute_usd=1))
    assert len(charge(store, dearer, MID)) == 20
    assert sum(item.billed_nanousd for item in charges(store, JUNE)) == 20 * 1_005_000_000


def test_a_change_of_prices_leaves_the_month_before_as_it_was(store: sa.Engine) -> None:
    note(store, Used(date(2026, 6, 30), Metric.JOBS, 1), Used(date(2026, 7, 1), Metric.JOBS, 1))
    dear = PriceBook(prices=JobPrice(base_usd=1, compute_usd=1))
    with transaction(store, "test") as session:
        put_in_force(session, Policies(book=dear), after=0, author="ann", reason="a price from July on")
        session.execute(sa.update(policy_versions).values(created_at=datetime(2026, 7, 1, tzinfo=UTC)))
    charge(store, dear, datetime(2026, 7, 1, 1, tzinfo=UTC))
    assert sum(item.billed_nanousd for item in charges(store, JUNE)) == 15_000_000 + 1_005_000_000
    with transaction(store, "test") as session:
        session.execute(sa.update(policy_versions).values(created_at=datetime(2026, 6, 30, 23, 59, tzinfo=UTC)))
    charge(store, dear, datetime(2026, 7, 1, 1, tzinfo=UTC))
    assert sum(item.billed_nanousd for item in charges(store, JUNE)) == 2 * 1_005_000_000


def test_this_month_is_charged_where_the_prices_of_the_month_before_cannot_be_read(store: sa.Engine) -> None:
    note(store, Used(date(2026, 6, 30), Metric.JOBS, 1), Used(date(2026, 7, 1), Metric.JOBS, 1))
    with transaction(store, "test") as session:
        put_in_force(session, Policies(), after=0, author="ann", reason="of an earlier version")
        put_in_force(session, Policies(), after=1, author="ann", reason="what this version can read")
        of_june = sa.update(policy_versions).where(policy_versions.c.version == 1)
        session.execute(of_june.values(created_at=MID, document={"of": "another version"}))
        july = sa.update(policy_versions).where(policy_versions.c.version == 2)
        session.execute(july.values(created_at=datetime(2026, 7, 1, tzinfo=UTC)))
    charge(store, BOOK, datetime(2026, 7, 1, 1, tzinfo=UTC))
    assert {item.day for item in charges(store, JUNE)} == {date(2026, 7, 1)}


def test_the_month_before_is_charged_too_while_its_last_days_may_change(store: sa.Engine) -> None:
    note(store, stored(29, 5), stored(30, 5))
    charge(store, BOOK, datetime(2026, 7, 2, 1, tzinfo=UTC))
    assert {item.day for item in by_day(store, JUNE) if not item.estimated} == {date(2026, 6, 29), date(2026, 6, 30)}
    assert [item.day.day for item in charges(store, date(2026, 7, 1)) if item.estimated] == [1, 2]


@pytest.mark.parametrize(("day", "is_open"), [(2, True), (3, False)])
def test_the_last_days_of_a_month_may_change_for_two_days(store: sa.Engine, day: int, is_open: bool) -> None:
    note(store, stored(30, 500))
    for each in range(1, day + 1):
        charge(store, BOOK, datetime(2026, 7, each, 1, tzinfo=UTC))
    before, *_ = by_day(store, JUNE)
    note(store, stored(30, 700))
    charge(store, BOOK, datetime(2026, 7, day, 2, tzinfo=UTC))
    assert (by_day(store, JUNE)[0] != before) == is_open


@pytest.mark.parametrize(("day", "is_known"), [(25, True), (24, False)])
def test_what_was_stored_is_known_for_a_week_before_the_month(store: sa.Engine, day: int, is_known: bool) -> None:
    note(store, stored(day, 500)._replace(day=date(2026, 5, day)))
    charge_month(store, BOOK, JUNE, date(2026, 6, 2))
    assert bool(charges(store, JUNE)) == is_known


def test_a_user_who_deletes_is_charged_for_the_day_and_no_longer(store: sa.Engine) -> None:
    note(store, stored(1, 5), stored(2, 0), stored(1, 5, "ann"))
    charge_month(store, BOOK, JUNE, date(2026, 6, 3))
    assert {item.day.day for item in charges(store, JUNE) if item.user_id == "ann"} == {1}


@pytest.mark.long
def test_a_charge_that_was_killed_half_way_is_finished_by_the_next(store: sa.Engine) -> None:
    note(store, *(stored(day, 15) for day in range(1, 21)), stored(4, 6, "ann"))
    charge(store, BOOK, MID)
    whole, of_days = charges(store, JUNE), by_day(store, JUNE)
    for left in (7, 1, 0):  # days that a first run had charged when it was killed
        done = {date(2026, 6, day) for day in range(1, left + 1)}
        with transaction(store, "test") as session:
            replace(session, {item.day for item in whole}, [item for item in whole if item.day in done])
            session.execute(sa.delete(charge_months))
        charge(store, BOOK, MID)
        assert by_day(store, JUNE) == of_days


@pytest.mark.parametrize(
    ("late", "as_of", "told"),
    [
        (date(2026, 6, 14), MID, ["2026-06-14", "2026-06"]),
        (date(2026, 6, 30), datetime(2026, 7, 2, 12, tzinfo=UTC), ["2026-06-30", "2026-06"]),
    ],
)
def test_a_budget_that_cloudflares_late_figures_exceed_is_told(
    sqlite_engine: sa.Engine, late: date, as_of: datetime, told: list[str]
) -> None:
    """Its token had expired, while the service wrote as never before: our own count knows nothing of that."""
    note(sqlite_engine, *(Used(date(2026, 6, day), Metric.OPERATIONS, 1_000, "PutObject") for day in range(1, 31)))
    charge(sqlite_engine, BOOK, as_of)
    with transaction(sqlite_engine, "test") as session:
        beat = {"flow": "monitor_costs", "period_seconds": 3600, "grace_seconds": 0, "run_id": "test"}
        session.execute(sa.insert(heartbeats).values(**beat, last_ok_at=as_of))
    theirs = Used(late, Metric.OPERATIONS, 90 * 10**6, "PutObject", source=UsageSource.CLOUDFLARE)
    note(sqlite_engine, theirs)
    changed = charge(sqlite_engine, BOOK, as_of)
    known = spent(sqlite_engine, as_of, first=JUNE, users=[], charged=changed)
    found = budget.findings(known.charges, BudgetPolicy(), as_of, known.since, known.charged)
    assert [one.period for one in found if one.level == "150"] == told
