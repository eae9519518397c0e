"""The stream of videos for the rules: unknown is not zero, and holds are included."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from reelkeeper.model import Counts, Video
from reelkeeper.model.scan import AGES, OLDER
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.tables import blobs, daily_views, holds, orphans, users, videos, view_days
from reelkeeper.store.videos.stock import by_age_and_tier, stored_bytes
from reelkeeper.store.videos.videos import list_videos, live_videos, population

AS_OF = datetime(2026, 11, 24, 2, tzinfo=UTC)
TODAY = AS_OF.date()
OLD = AS_OF - timedelta(days=100)


def put(engine: sa.Engine, table: sa.Table, *rows: dict[str, Any]) -> None:
    with transaction(engine, "test.put") as session:
        session.execute(sa.insert(table), list(rows))


def catalogue(engine: sa.Engine, created_at: datetime | None = OLD, **columns: Any) -> None:  # noqa: ANN401  any column
    put(engine, users, {"id": "ada", "tier": "free"})
    put(
        engine,
        videos,
        {"id": "v", "user_id": "ada", "state": "live", "generation": 3, "created_at": created_at, **columns},
    )
    blob = {"id": 7, "video_id": "v", "generation": 3, "key": "videos/ada/v/g3", "state": "live", "size_bytes": 1_000}
    put(engine, blobs, {**blob, "codec": "h264"})
    with transaction(engine, "test.put") as session:
        session.execute(sa.update(videos).values(blob_id=7))


def recorded(engine: sa.Engine, *days_ago: int) -> None:
    put(engine, view_days, *({"day": TODAY - timedelta(days=ago)} for ago in days_ago))


def only(engine: sa.Engine, as_of: datetime = AS_OF) -> Video:
    with reading(engine) as session:
        (video,) = live_videos(session, as_of)
    return video


def test_a_video_comes_with_all_that_the_rules_ask(engine: sa.Engine) -> None:
    catalogue(engine, refused_recipe="r1", model="sketch-1", tag="draft")
    recorded(engine, *range(1, 31))
    expected = Video("v", "ada", "free", OLD, 0, False, 1_000, "h264", "r1", 7, 3)
    assert only(engine) == expected._replace(model="sketch-1", tag="draft", key="videos/ada/v/g3")
    created_at = only(engine).created_at
    assert created_at is not None
    assert created_at.tzinfo is UTC


def test_compressed_videos_are_marked_as_such(engine: sa.Engine) -> None:
    catalogue(engine)
    assert only(engine).compressed is False
    with transaction(engine, "test.put") as session:
        session.execute(sa.update(blobs).values(recipe="r1"))
    assert only(engine).compressed is True


def test_only_live_videos_are_judged(engine: sa.Engine) -> None:
    catalogue(engine, state="retired")
    with reading(engine) as session:
        assert list(live_videos(session, AS_OF)) == []
        assert population(session) == Counts(0, 0)


def test_views_are_unknown_unless_every_day_of_the_window_is_recorded(engine: sa.Engine) -> None:
    catalogue(engine)
    assert only(engine).views is None
    recorded(engine, *(ago for ago in range(1, 31) if ago != 17))
    assert only(engine).views is None
    recorded(engine, 17)
    assert only(engine).views == 0


@pytest.mark.parametrize(
    ("age_days", "recorded_days", "views"),
    [(3, 3, 0), (3, 2, None), (0, 0, 0), (1, 0, None), (30, 29, None), (30, 30, 0), (31, 30, 0)],
)
def test_a_young_video_needs_only_the_days_since_it_was_created(
    engine: sa.Engine, age_days: int, recorded_days: int, views: int | None
) -> None:
    catalogue(engine, datetime(2026, 11, 24, tzinfo=UTC) - timedelta(days=age_days))
    recorded(engine, *range(1, recorded_days + 1), 60)
    assert only(engine).views == views


def test_a_video_of_unknown_age_needs_the_whole_window(engine: sa.Engine) -> None:
    catalogue(engine, None)
    recorded(engine, *range(1, 30))
    assert only(engine).views is None
    recorded(engine, 30)
    assert (only(engine).views, only(engine).created_at) == (0, None)


def test_views_are_summed_over_the_window_and_today(engine: sa.Engine) -> None:
    catalogue(engine)
    recorded(engine, *range(1, 31))
    for ago, views in ((31, 100), (30, 4), (1, 2), (0, 1)):
        put(engine, daily_views, {"video_id": "v", "day": TODAY - timedelta(days=ago), "views": views})
    assert only(engine).views == 7


@pytest.mark.parametrize(
    ("hold", "held"),
    [
        ({"scope": "video", "subject": "v"}, True),
        ({"scope": "user", "subject": "ada"}, True),
        ({"scope": "user", "subject": "v"}, False),
        ({"scope": "video", "subject": "w"}, False),
        ({"scope": "video", "subject": "v", "expires_at": AS_OF + timedelta(seconds=1)}, True),
        ({"scope": "video", "subject": "v", "expires_at": AS_OF}, False),
        ({"scope": "video", "subject": "v", "released_at": AS_OF - timedelta(days=1)}, False),
    ],
)
def test_a_hold_in_force_is_seen(engine: sa.Engine, hold: dict[str, Any], held: bool) -> None:
    catalogue(engine)
    put(engine, holds, {"id": "h", "reason": "legal", "author": "bob", "created_at": AS_OF, **hold})
    assert only(engine).held is held


def test_the_population_is_counted_in_videos_and_bytes(engine: sa.Engine) -> None:
    catalogue(engine)
    with reading(engine) as session:
        assert population(session) == Counts(1, 1_000)


def test_people_find_videos_by_user_state_and_id(engine: sa.Engine) -> None:
    catalogue(engine)
    put(engine, daily_views, {"video_id": "v", "day": date(2020, 1, 1), "views": 9})
    put(engine, videos, {"id": "w", "user_id": "ada", "state": "pending", "generation": 1})
    with reading(engine) as session:
        assert [found.id for found in list_videos(session, user_id="ada")] == ["v", "w"]
        assert [found.id for found in list_videos(session, user_id="ada", limit=1)] == ["v"]
        assert [found.id for found in list_videos(session, state="pending")] == ["w"]
        assert list_videos(session, user_id="nobody") == []
        (found,) = list_videos(session, video_id="v")
    assert (found.views, found.key, found.created_at) == (9, "videos/ada/v/g3", OLD)


@pytest.mark.parametrize("age_days", [0, 0.5, 1, 2, 29, 100, None])
@pytest.mark.parametrize("recorded_days", [0, 1, 2, 30])
def test_people_see_none_where_plans_count_none_and_unknown_where_they_do(
    engine: sa.Engine, age_days: float | None, recorded_days: int
) -> None:
    with reading(engine) as session:
        at = now(session)
    catalogue(engine, at - timedelta(days=age_days) if age_days is not None else None)
    put(engine, view_days, *({"day": at.date() - timedelta(days=ago)} for ago in (*range(1, recorded_days + 1), 60)))
    with reading(engine) as session:
        assert list_videos(session, video_id="v")[0].views == only(engine, at).views


def test_what_is_stored_is_live_and_retired_bytes_and_objects_in_no_video_as_r2_bills_them(engine: sa.Engine) -> None:
    catalogue(engine)
    others = [("retired", 20), ("deleting", 300), ("gone", 4_000), ("pending", 50_000)]
    put(
        engine,
        blobs,
        *(
            {"id": n, "video_id": "v", "generation": n, "key": f"k{n}", "state": state, "size_bytes": size_bytes}
            for n, (state, size_bytes) in enumerate(others, 8)
        ),
    )
    at = {"first_seen_at": OLD, "last_seen_at": OLD, "etag": "e", "last_modified": OLD}
    put(engine, orphans, {"key": "videos/ada/x.jpg", "size_bytes": 600_000, **at})
    with reading(engine) as session:
        assert stored_bytes(session) == 1_000 + 20 + 300 + 600_000


@pytest.mark.parametrize("place", range(len(AGES)))
def test_an_age_is_that_of_its_last_whole_day_until_the_next_is_over(engine: sa.Engine, place: int) -> None:
    (last_days, label), older = AGES[place], (*(label for _, label in AGES), OLDER)[place + 1]
    ends = AS_OF - timedelta(days=last_days + 1)
    catalogue(engine)
    for created_at, expected in ((ends + timedelta(microseconds=1), label), (ends, older)):
        with transaction(engine, "test.put") as session:
            session.execute(sa.update(videos).values(created_at=created_at))
            assert [stock.age for stock in by_age_and_tier(session, AS_OF)] == [expected]
