"""Imports accept a whole file or nothing, and name the wrong field."""

from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from reelkeeper.errors import InputRefused
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.tables import daily_views, users, videos, view_days
from reelkeeper.store.videos.imports import Imported, import_users, import_videos, import_views, mark_complete
from reelkeeper.store.videos.key_owners import import_keys
from tests.marks import marked


@pytest.fixture(autouse=True)
def catalogue(engine: sa.Engine) -> None:
    with transaction(engine, "test.put") as session:
        session.execute(sa.insert(users), [{"id": "ada"}, {"id": "bob"}])
        session.execute(
            sa.insert(videos),
            [{"id": name, "user_id": "ada", "state": "live", "generation": 1} for name in ("v1", "v2")],
        )


def rows(engine: sa.Engine, *columns: sa.Column[Any]) -> list[tuple[Any, ...]]:
    with reading(engine) as session:
        return [tuple(row) for row in session.execute(sa.select(*columns).order_by(*columns))]


def load_users(engine: sa.Engine, lines: Iterable[str]) -> Imported:
    return import_users(engine, lines, lambda _session: ("free", "premium", "pro"))


def test_users_are_added_and_their_tiers_set(engine: sa.Engine) -> None:
    taken = load_users(engine, ["id,tier,created_at", "ada,pro,2026-01-02T03:04:05+01:00", "cyd,,"])
    assert taken == Imported(2)
    load_users(engine, ["created_at,id,tier,ignored", ",ada,premium,x"])
    at = datetime(2026, 1, 2, 2, 4, 5, tzinfo=UTC)
    assert rows(engine, users.c.id, users.c.tier, users.c.created_at) == [
        ("ada", "premium", at),
        ("bob", None, None),
        ("cyd", None, None),
    ]


def test_imported_videos_get_their_age(engine: sa.Engine) -> None:
    import_videos(engine, ["id,user_id,created_at", "v1,ada,2026-01-02T00:00:00Z", "v2,ada,"])
    assert rows(engine, videos.c.id, videos.c.created_at) == [("v1", datetime(2026, 1, 2, tzinfo=UTC)), ("v2", None)]


def test_videos_are_tagged_and_an_empty_tag_leaves_what_is_there(engine: sa.Engine) -> None:
    import_videos(engine, ["id,user_id,created_at,tag", "v1,ada,,draft", "v2,ada,,"])
    import_videos(engine, ["id,user_id,created_at,tag", "v1,ada,,", "v2,ada,2026-01-02T00:00:00Z,final"])
    import_videos(engine, ["id,user_id,created_at", "v1,ada,"])
    assert rows(engine, videos.c.id, videos.c.tag) == [("v1", "draft"), ("v2", "final")]
    with pytest.raises(InputRefused) as refused:
        import_videos(engine, ["id,user_id,created_at,tag", "v1,ada,,a b"])
    assert marked(refused.value) == snapshot(
        "nothing of it was taken, because 1 field is invalid: line 2, column tag: 'a b' is not a valid tag: up to 64 letters, digits, dots, dashes and underscores, a letter or digit first"
    )


def test_views_replace_what_was_known_of_a_day_and_move_the_last_view(engine: sa.Engine) -> None:
    import_views(engine, ["video_id,day,views", "v1,2026-01-01,5", "v2,2026-01-01,0"])
    import_views(engine, ["video_id,day,views,viewed_at", "v1,2026-01-01,3,", "v1,2025-12-31,1,2025-12-31T10:00:00Z"])
    assert rows(engine, daily_views.c.video_id, daily_views.c.day, daily_views.c.views) == [
        ("v1", date(2025, 12, 31), 1),
        ("v1", date(2026, 1, 1), 3),
        ("v2", date(2026, 1, 1), 0),
    ]
    assert rows(engine, videos.c.id, videos.c.last_viewed_at) == [
        ("v1", datetime(2026, 1, 2, tzinfo=UTC)),
        ("v2", None),
    ]
    assert rows(engine, view_days.c.day) == []


def test_only_past_days_are_complete_and_only_if_stated(engine: sa.Engine) -> None:
    import_views(engine, ["video_id,day,views", "v1,2026-01-01,2147483647", "v2,2026-01-02,0"], complete=True)
    mark_complete(engine, [date(2026, 1, 2), date(2026, 1, 3)])
    assert rows(engine, view_days.c.day) == [(date(2026, 1, day),) for day in (1, 2, 3)]
    with reading(engine) as session:
        today = now(session).date()
    for late in (today, today + timedelta(days=1)):
        with pytest.raises(InputRefused) as refused:
            import_views(engine, ["video_id,day,views", f"v1,{late},5"], complete=True)
        assert marked(refused.value) == snapshot(
            "nothing of it was taken, because 1 field is invalid: column day: 'DAY' has not ended yet"
        )
        with pytest.raises(InputRefused) as refused:
            mark_complete(engine, [late])
        assert marked(refused.value) == snapshot(
            "DAY has not ended, so its views cannot be complete; nothing was changed"
        )
    assert len(rows(engine, view_days.c.day)) == 3


@pytest.mark.parametrize(
    ("load", "lines", "complaint"),
    [
        (
            load_users,
            ["id,tier,created_at", "cyd,free,", "dan,gold,"],
            snapshot(
                "nothing of it was taken, because 1 field is invalid: line 3, column tier: 'gold' is not one of free, premium, pro, and not empty"
            ),
        ),
        (
            load_users,
            ["id,tier,created_at", "cyd ,free,"],
            snapshot(
                "nothing of it was taken, because 1 field is invalid: line 2, column id: 'cyd ' begins or ends with white space"
            ),
        ),
        (
            load_users,
            ["id,tier,created_at", "cyd,free,2026-01-01T00:00:00"],
            snapshot(
                "nothing of it was taken, because 1 field is invalid: line 2, column created_at: '2026-01-01T00:00:00' has no time zone; write 2026-01-31T12:00:00Z"
            ),
        ),
        (
            load_users,
            ["id,tier,created_at", "cyd,free,soon"],
            snapshot(
                "nothing of it was taken, because 1 field is invalid: line 2, column created_at: 'soon' is not an ISO 8601 time"
            ),
        ),
        (
            load_users,
            ["id,tier", "cyd,free"],
            snapshot(
                "nothing of it was taken, because 1 field is invalid: line 1, column created_at: 'id,tier' lacks this column"
            ),
        ),
        (
            load_users,
            ["id,tier,created_at", 'cyd,"free,'],
            snapshot(
                "nothing of it was taken, because 1 field is invalid: line 1, column all: '' is not CSV: unexpected end of data"
            ),
        ),
        (
            load_users,
            ["id,tier,created_at", "cyd,pro,", "cyd,free,"],
            snapshot("nothing of it was taken, because 1 field is invalid: line 3, column id: 'cyd' is named twice"),
        ),
        (
            load_users,
            ["id,tier,created_at", "cyd,pro,,x"],
            snapshot(
                "nothing of it was taken, because 1 field is invalid: line 2, column all: '' has more fields than the first line: is a comma not quoted?"
            ),
        ),
        (
            load_users,
            ["id,tier,created_at", "cyd,pro,0001-01-01T00:00:00+14:00"],
            snapshot(
                "nothing of it was taken, because 1 field is invalid: line 2, column created_at: '0001-01-01T00:00:00+14:00' is not an ISO 8601 time"
            ),
        ),
        (
            import_videos,
            ["id,user_id,created_at", "v1,ada,", "v1,ada,"],
            snapshot("nothing of it was taken, because 1 field is invalid: line 3, column id: 'v1' is named twice"),
        ),
        (
            import_views,
            ["video_id,day,views", "v1,9999-12-31,1"],
            snapshot(
                "nothing of it was taken, because 1 field is invalid: line 2, column day: '9999-12-31' is not a date; write 2026-01-31"
            ),
        ),
        (
            load_users,
            [],
            snapshot(
                "nothing of it was taken, because 3 fields are invalid: line 1, column id: '' lacks this column; line 1, column tier: '' lacks this column; line 1, column created_at: '' lacks this column"
            ),
        ),
        (
            import_videos,
            ["id,user_id,created_at", "v1,bob,"],
            snapshot(
                "nothing of it was taken, because 1 field is invalid: line 2, column user_id: 'bob' is not its owner 'ada'"
            ),
        ),
        (
            import_videos,
            ["id,user_id,created_at", "v9,ada,"],
            snapshot(
                "nothing of it was taken, because 1 field is invalid: line 2, column id: 'v9' is not in the catalogue; run sync_catalog, which takes no empty object, or use --skip-unknown"
            ),
        ),
        (
            import_views,
            ["video_id,day,views", "v1,2026-13-01,1"],
            snapshot(
                "nothing of it was taken, because 1 field is invalid: line 2, column day: '2026-13-01' is not a date; write 2026-01-31"
            ),
        ),
        (
            import_views,
            ["video_id,day,views", "v1,2026-01-01,-1"],
            snapshot(
                "nothing of it was taken, because 1 field is invalid: line 2, column views: '-1' is not a number of views from 0 to 2,147,483,647"
            ),
        ),
        (
            import_views,
            ["video_id,day,views", "v1,2026-01-01,1e3"],
            snapshot(
                "nothing of it was taken, because 1 field is invalid: line 2, column views: '1e3' is not a number of views from 0 to 2,147,483,647"
            ),
        ),
        (
            import_views,
            ["video_id,day,views", "v1,2026-01-01,2147483648"],
            snapshot(
                "nothing of it was taken, because 1 field is invalid: line 2, column views: '2147483648' is not a number of views from 0 to 2,147,483,647"
            ),
        ),
        (
            import_views,
            ["video_id,day,views", "v1,2026-01-01,1", "v1,2026-01-01,2"],
            snapshot(
                "nothing of it was taken, because 1 field is invalid: line 3, column video_id: 'v1' is named twice on this day"
            ),
        ),
        (
            import_views,
            ["video_id,day,views", "v1,2026-01-01,1", "v9,2026-01-01,2"],
            snapshot(
                "nothing of it was taken, because 1 field is invalid: line 3, column video_id: 'v9' is not in the catalogue; run sync_catalog, which takes no empty object, or use --skip-unknown"
            ),
        ),
    ],
)
def test_a_bad_field_is_named_and_nothing_changes(
    engine: sa.Engine, load: Callable[..., Imported], lines: list[str], complaint: str
) -> None:
    before = rows(engine, *users.c), rows(engine, *videos.c)
    with pytest.raises(InputRefused) as refused:
        load(engine, lines)
    assert str(refused.value) == complaint
    assert (rows(engine, *users.c), rows(engine, *videos.c), rows(engine, *daily_views.c)) == (*before, [])


@pytest.mark.parametrize(
    "never_set", ["0001-01-01T00:00:00Z", "1970-01-01T00:00:00+00:00", "1969-12-31T19:00:00-05:00"]
)
def test_a_time_that_was_never_set_makes_no_video_old(engine: sa.Engine, never_set: str) -> None:
    with pytest.raises(InputRefused):
        import_videos(engine, ["id,user_id,created_at", "v1,ada,2026-01-02T00:00:00Z", f"v2,ada,{never_set}"])
    with pytest.raises(InputRefused):
        import_keys(engine, ["key,user_id,created_at", f"videos/a.mp4,ada,{never_set}"], str)
    assert rows(engine, videos.c.created_at) == [(None,), (None,)]


def test_every_bad_field_is_counted_and_the_first_ten_are_shown(engine: sa.Engine) -> None:
    with pytest.raises(InputRefused) as refused:
        import_views(engine, ["video_id,day,views", *(["v1,2026-01-01,x"] * 5_000)])
    assert marked(refused.value) == snapshot(
        "nothing of it was taken, because 5,000 fields are invalid: line 2, column views: 'x' is not a number of views from 0 to 2,147,483,647; line 3, column views: 'x' is not a number of views from 0 to 2,147,483,647; line 4, column views: 'x' is not a number of views from 0 to 2,147,483,647; line 5, column views: 'x' is not a number of views from 0 to 2,147,483,647; line 6, column views: 'x' is not a number of views from 0 to 2,147,483,647; line 7, column views: 'x' is not a number of views from 0 to 2,147,483,647; line 8, column views: 'x' is not a number of views from 0 to 2,147,483,647; line 9, column views: 'x' is not a number of views from 0 to 2,147,483,647; line 10, column views: 'x' is not a number of views from 0 to 2,147,483,647; line 11, column views: 'x' is not a number of views from 0 to 2,147,483,647; and 4,990 more"
    )


def test_videos_that_the_catalogue_lacks_can_be_skipped(engine: sa.Engine) -> None:
    lines = ["video_id,day,views", "v1,2026-01-01,1", "gone,2026-01-01,2"]
    assert import_views(engine, lines, skip_unknown=True) == Imported(1, skipped=1)
    lines = ["id,user_id,created_at", "v1,ada,2026-01-01T00:00:00Z", "gone,ada,2026-01-01T00:00:00Z"]
    assert import_videos(engine, lines, skip_unknown=True) == Imported(1, skipped=1)


def test_a_file_without_a_known_video_says_of_no_day_that_nothing_was_viewed(engine: sa.Engine) -> None:
    lines = ["video_id,day,views", "videos/ada/v1.mp4,2026-01-01,900", "videos/ada/v2.mp4,2026-01-02,800"]
    with pytest.raises(InputRefused):
        import_views(engine, lines, complete=True, skip_unknown=True)
    assert rows(engine, view_days.c.day) == []
    assert import_views(engine, lines, skip_unknown=True) == Imported(0, skipped=2)
    import_views(engine, [*lines, "v1,2026-01-02,1"], complete=True, skip_unknown=True)
    assert rows(engine, view_days.c.day) == [(date(2026, 1, 1),), (date(2026, 1, 2),)]


@pytest.mark.long("5,000 lines")
def test_a_long_file_is_taken_whole(engine: sa.Engine) -> None:
    days = (date(2000, 1, 1) + timedelta(days=n) for n in range(5_000))
    assert import_views(engine, ["video_id,day,views", *(f"v1,{day},1" for day in days)], complete=True).lines == 5_000
    assert len(rows(engine, daily_views.c.day)) == len(rows(engine, view_days.c.day)) == 5_000
