"""The catalogue as of a past day: later retirements, deletions, replacements and uploads are told apart."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.tables import blobs, daily_views, holds, keeps, orphans, users, videos
from reelkeeper.store.videos.conditions import DELETED, TAKEN_DOWN
from reelkeeper.store.videos.history import (
    Batch,
    PastVideo,
    Removal,
    leaving_by_day,
    oldest,
    replay,
    unexplained_bytes,
)

NOW = datetime(2026, 11, 24, 9, tzinfo=UTC)
TODAY = datetime(2026, 11, 24, tzinfo=UTC)
DAY = timedelta(days=1)
START = TODAY - 40 * DAY


@pytest.fixture(autouse=True)
def _users(engine: sa.Engine) -> None:
    put(engine, users, {"id": "ann", "tier": "free"}, {"id": "ben", "tier": None})


def put(engine: sa.Engine, table: sa.Table, *rows: dict[str, Any]) -> None:
    with transaction(engine, "test.put") as session:
        session.execute(sa.insert(table), list(rows))


def video(engine: sa.Engine, video_id: str, *stored: dict[str, Any], **columns: Any) -> None:  # noqa: ANN401  any column
    """Put a video with its blobs, the last of which it stands on."""
    row = {"user_id": "ann", "state": "live", "generation": len(stored) or 1, "created_at": TODAY - 100 * DAY}
    put(engine, videos, {"id": video_id, **row, **columns})
    with transaction(engine, "test.put") as session:
        for generation, blob in enumerate(stored or ({},), 1):
            key = {"video_id": video_id, "generation": generation, "key": f"{video_id}/{generation}"}
            usual = {"state": "live", "size_bytes": 1_000, "codec": "h264", "stored_at": TODAY - 100 * DAY}
            made = sa.insert(blobs).values(**key, **(usual | blob)).returning(blobs.c.id)
            blob_id = session.execute(made).scalar_one()
        session.execute(sa.update(videos).where(videos.c.id == video_id).values(blob_id=blob_id))


def batches(engine: sa.Engine, start: datetime = START, at_once: int = 100) -> list[Batch]:
    with reading(engine) as session:
        since = (start - 30 * DAY).date()
        return list(replay(session, start, TODAY, removed_since=start, views_since=since, at_once=at_once))


def past(engine: sa.Engine, start: datetime = START) -> dict[str, PastVideo]:
    return {found.video.id: found for batch in batches(engine, start) for found in batch.videos}


def test_videos_live_then_or_uploaded_since_are_read_with_the_reason_of_their_removal(engine: sa.Engine) -> None:
    gone = {"state": "gone", "retired_at": TODAY - 9 * DAY}
    video(engine, "live")
    video(engine, "cold", **gone, retire_reason="no view in 30 days")
    video(engine, "deleted", **gone | {"state": "retired"}, retire_reason=DELETED)
    video(engine, "down", **gone, retire_reason=TAKEN_DOWN)
    video(engine, "before", state="gone", retired_at=START - DAY)
    video(engine, "lost", state="lost")
    video(engine, "new", created_at=TODAY - 2 * DAY)
    video(engine, "today", created_at=TODAY + timedelta(hours=1))
    video(engine, "clock", created_at=NOW + DAY)
    found = past(engine)
    assert {name: item.removal for name, item in found.items()} == {
        "live": None,
        "cold": Removal.RULE,
        "deleted": Removal.USER,
        "down": Removal.TAKEDOWN,
        "new": None,
        "today": None,
        "clock": None,
    }
    assert found["cold"].removed_at == TODAY - 9 * DAY
    assert found["live"].removed_at is None


def test_a_video_has_the_bytes_of_then(engine: sa.Engine) -> None:
    first = {"size_bytes": 9_000, "state": "gone", "is_ours": False}
    small = {"size_bytes": 500, "recipe": "r1", "codec": "hevc"}
    video(engine, "since", first, small | {"stored_at": TODAY - 5 * DAY})
    video(engine, "before", first, small | {"stored_at": START - DAY})
    second = first | {"size_bytes": 700, "stored_at": START - 10 * DAY}
    video(engine, "twice", first, second, small | {"stored_at": TODAY - 5 * DAY})
    video(engine, "young", first | {"stored_at": TODAY - 9 * DAY}, small | {"stored_at": TODAY - DAY})
    found = past(engine)
    sizes = {name: (item.video.size_bytes, item.video.compressed, item.is_ours) for name, item in found.items()}
    assert sizes.pop("twice") == (700, False, False)
    assert sizes == {"since": (9_000, False, False), "before": (500, True, True), "young": (9_000, False, False)}
    assert found["since"].video.codec == "h264"
    assert past(engine, TODAY)["since"].video.size_bytes == 500


def test_holds_and_requests_to_keep_are_those_of_now(engine: sa.Engine) -> None:
    usual = {"reason": "a dispute", "author": "eve", "created_at": START}
    rows: list[dict[str, Any]] = [
        {"scope": "video", "subject": "a", "expires_at": TODAY, "released_at": None},
        {"scope": "user", "subject": "ben", "expires_at": None, "released_at": None},
        {"scope": "video", "subject": "c", "expires_at": None, "released_at": TODAY - DAY},
    ]
    put(engine, holds, *(usual | row | {"id": f"h{number}"} for number, row in enumerate(rows)))
    video(engine, "a")
    video(engine, "b", user_id="ben")
    video(engine, "c")
    put(engine, keeps, {"id": "k1", "video_id": "c", "until": TODAY + DAY, "days": 9, "at": START, "author": "ann"})
    found = past(engine)
    assert found["a"].held_until == TODAY
    assert found["b"].held_until is not None
    assert found["b"].held_until > TODAY + 1_000 * DAY
    assert found["c"].held_until is None
    assert found["c"].video.kept_until == TODAY + DAY


def test_views_come_with_their_videos_those_of_a_user_in_a_row(engine: sa.Engine) -> None:
    for name, user in (("a", "ben"), ("b", "ann"), ("c", "ben")):
        video(engine, name, user_id=user)
    days = {"old": START - 31 * DAY, "first": START - 30 * DAY, "last": TODAY - DAY, "today": TODAY}
    rows = [{"video_id": "a", "day": day.date(), "views": n} for n, day in enumerate(days.values(), 1)]
    put(engine, daily_views, *rows, {"video_id": "b", "day": (TODAY - DAY).date(), "views": 7})
    (first, second) = batches(engine, at_once=2)
    assert [found.video.user_id for found in (*first.videos, *second.videos)] == ["ann", "ben", "ben"]
    seen = sorted(zip(first.places, first.days, first.counts, strict=True))
    last = (TODAY - DAY).toordinal()
    assert seen == [(0, last, 7), (1, (START - 30 * DAY).toordinal(), 2), (1, last, 3), (1, TODAY.toordinal(), 4)]


def test_bytes_in_their_grace_are_summed_by_its_last_day(engine: sa.Engine) -> None:
    grace = {"state": "retired", "retired_at": START - DAY, "purge_after": START + 6 * DAY + timedelta(hours=3)}
    video(engine, "a", grace, state="retired", retired_at=START - DAY)
    video(engine, "b", grace | {"state": "gone"}, state="gone", retired_at=START - DAY)
    video(engine, "c", grace | {"retired_at": START}, state="retired", retired_at=START)
    video(engine, "d", grace | {"purge_after": START - timedelta(hours=1)}, state="gone", retired_at=START - DAY)
    at = {"etag": "e", "last_modified": START, "first_seen_at": START, "last_seen_at": START}
    put(engine, orphans, {"key": "x", "size_bytes": 70, **at}, {"key": "y", "size_bytes": 7, **at})
    with reading(engine) as session:
        assert leaving_by_day(session, START) == {(START + 6 * DAY).date(): 2_000}
        assert unexplained_bytes(session) == 77
        assert oldest(session) == (TODAY - 100 * DAY).date()


def test_an_empty_catalogue_has_no_history(engine: sa.Engine) -> None:
    assert batches(engine) == []
    with reading(engine) as session:
        assert leaving_by_day(session, START) == {}
        assert oldest(session) is None
