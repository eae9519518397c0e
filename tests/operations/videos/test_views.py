"""Cloudflare's reads become views; a day is complete only if nothing is in doubt."""

from datetime import UTC, date, datetime, time, timedelta

import pytest
import sqlalchemy as sa

from reelkeeper.adapters.cloudflare import Client
from reelkeeper.errors import UsageUnknown
from reelkeeper.operations.videos import views
from reelkeeper.operations.videos.views import days_to_import, import_reads, record_views
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.tables import blobs, daily_views, users, videos, view_days
from tests.doubles.analytics import Operation
from tests.doubles.cloudflare import CloudflareDouble

NOW = datetime.now(UTC)
TODAY = NOW.date()
DAY = TODAY - timedelta(days=2)
BUCKET = "reelkeeper"


@pytest.fixture
def store(engine: sa.Engine) -> sa.Engine:
    """Videos v1, which has two generations, and v2; and an orphan."""
    keys = {"v1/g1": "v1", "v1/g2": "v1", "v2/g1": "v2", "orphan": None}
    with transaction(engine, "test") as session:
        session.execute(sa.insert(users).values(id="ann", tier="free"))
        session.execute(sa.insert(videos), [{"id": text, "user_id": "ann", "state": "live"} for text in ("v1", "v2")])
        rows = [{"key": key, "video_id": owner, "state": "live", "size_bytes": 1} for key, owner in keys.items()]
        session.execute(sa.insert(blobs), rows)
    return engine


def hourly(day: date) -> list[Operation]:
    return [Operation(datetime.combine(day, time(hour, 0), UTC), "ListObjects") for hour in range(24)]


def read(key: str, times: int, day: date = DAY) -> Operation:
    return Operation(datetime.combine(day, time(5, 30), UTC), "GetObject", key, times)


def known(engine: sa.Engine) -> tuple[dict[str, int], list[date]]:
    with reading(engine) as session:
        views = {row.video_id: row.views for row in session.execute(sa.select(daily_views).order_by("video_id"))}
        return views, list(session.scalars(sa.select(view_days.c.day)))


def last_viewed(engine: sa.Engine, video_id: str) -> datetime | None:
    with reading(engine) as session:
        found: datetime | None = session.scalar(sa.select(videos.c.last_viewed_at).where(videos.c.id == video_id))
        return found


def test_reads_of_every_generation_are_views_of_the_video(
    store: sa.Engine, client: Client, cloudflare: CloudflareDouble
) -> None:
    reads = [read("v1/g1", 3), read("v1/g2", 4), read("orphan", 7), read("gone", 9)]
    cloudflare.operations = [*hourly(DAY), *reads]
    came = import_reads(store, client, BUCKET, DAY, complete=True)
    assert came == (DAY, 1, 7, 2, "")
    assert known(store) == ({"v1": 7}, [DAY])
    assert last_viewed(store, "v1") == datetime.combine(DAY + timedelta(days=1), time(), UTC)
    assert last_viewed(store, "v2") is None


def test_a_day_imported_again_counts_no_view_twice_and_loses_none(
    store: sa.Engine, client: Client, cloudflare: CloudflareDouble
) -> None:
    record_views(store, {"v2": 50}, at=datetime.combine(DAY, time(9), UTC))
    cloudflare.operations = [read("v1/g1", 3), read("v2/g1", 2)]
    import_reads(store, client, BUCKET, DAY)
    cloudflare.operations.append(read("v1/g2", 1))
    import_reads(store, client, BUCKET, DAY)
    assert known(store) == ({"v1": 4, "v2": 50}, [])


@pytest.mark.parametrize("doubt", ["sampled", "quiet hours", "today", "unmarked"])
def test_a_doubtful_day_is_not_complete_but_its_views_count(
    store: sa.Engine, client: Client, cloudflare: CloudflareDouble, doubt: str
) -> None:
    day = TODAY if doubt == "today" else DAY
    cloudflare.operations = [read("v1/g1", 3, day), *hourly(day)[1 if doubt == "quiet hours" else 0 :]]
    cloudflare.sampled = doubt == "sampled"
    came = import_reads(store, client, BUCKET, day, complete=doubt != "unmarked")
    assert known(store) == ({"v1": 3}, [])
    assert bool(came.doubt) is (doubt != "unmarked")


def test_without_an_answer_from_cloudflare_no_views_are_recorded(
    store: sa.Engine, client: Client, cloudflare: CloudflareDouble
) -> None:
    cloudflare.operations = hourly(DAY) + [read(f"k{n:02}", 1) for n in range(15)]
    cloudflare.queue = [None, (400, {}, {"errors": [{"message": "query contains error"}]})]  # of the second page
    with pytest.raises(UsageUnknown):
        import_reads(store, client, BUCKET, DAY, complete=True)
    assert known(store) == ({}, [])


def test_the_days_to_import_are_those_that_are_kept_over_and_not_complete(store: sa.Engine) -> None:
    with transaction(store, "test") as session:
        session.execute(sa.insert(view_days).values(day=DAY))
    days, at = days_to_import(store), datetime.now(UTC)  # TODAY is when the run of tests began
    settled = (at - timedelta(hours=1)).date()
    kept = [at.date() - timedelta(days=n) for n in range(30, 0, -1)]
    assert days == [day for day in kept if day != DAY and day < settled]


@pytest.mark.parametrize(("minute", "is_settled"), [(59, False), (60, True)])
def test_yesterday_is_imported_an_hour_after_its_end(
    store: sa.Engine, monkeypatch: pytest.MonkeyPatch, minute: int, is_settled: bool
) -> None:
    at = datetime.combine(TODAY, time(), UTC) + timedelta(minutes=minute)
    monkeypatch.setattr(views, "now", lambda _: at)
    assert (TODAY - timedelta(days=1) in days_to_import(store)) == is_settled
