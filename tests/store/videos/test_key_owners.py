"""Owners of keys from CSV: a whole file or nothing, and adopted videos keep their owner."""

from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from reelkeeper.errors import InputRefused
from reelkeeper.model.adoption import AdoptionVerdict
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.sync.noted import Owner, owners
from reelkeeper.store.tables import blobs, orphans, users, videos
from reelkeeper.store.videos.imports import Imported
from reelkeeper.store.videos.key_owners import import_keys, noted_at, video_at

AT = datetime(2025, 6, 1, tzinfo=UTC)


def check(text: str) -> str:
    if not text.startswith("videos/"):
        raise ValueError("is not under the prefix")
    return text


def test_the_owner_of_a_key_is_kept_for_the_next_sync(engine: sa.Engine) -> None:
    lines = ["key,user_id,created_at", "videos/a.mp4,ann,2025-06-01T00:00:00Z", '"videos/é, b.mp4",,']
    assert import_keys(engine, lines, check) == Imported(2)
    import_keys(engine, ["key,video_id", "videos/a.mp4,film"], check)
    with reading(engine) as session:
        assert owners(session, ["videos/a.mp4", "videos/é, b.mp4", "videos/c.mp4"]) == {
            "videos/a.mp4": Owner(None, "film", None),  # the last file that names it counts whole
            "videos/é, b.mp4": Owner(None, None, None),
        }


def test_an_adopted_video_gets_its_age_and_keeps_its_owner(engine: sa.Engine) -> None:
    with transaction(engine, "test.put") as session:
        session.execute(sa.insert(users), [{"id": "ann"}, {"id": "bob"}])
        rows = [{"id": name, "user_id": "ann", "state": "live", "generation": 1} for name in ("v1", "v2")]
        session.execute(sa.insert(videos), rows)
        session.execute(
            sa.insert(blobs),
            [
                {
                    "video_id": name,
                    "key": f"videos/{name}.mp4",
                    "state": "live",
                    "size_bytes": 1,
                    "generation": 1,
                    "is_ours": False,
                }
                for name in ("v1", "v2")
            ],
        )
    lines = ["key,video_id,user_id,created_at", f"videos/v1.mp4,v9,ann,{AT}", f"videos/v2.mp4,,bob,{AT}"]
    assert import_keys(engine, lines, check) == Imported(1, skipped=1)
    with reading(engine) as session:
        found = session.execute(sa.select(videos.c.id, videos.c.user_id, videos.c.created_at).order_by(videos.c.id))
        assert [tuple(row) for row in found] == [("v1", "ann", AT), ("v2", "ann", None)]
        assert (video_at(session, "videos/v1.mp4"), video_at(session, "videos/v9.mp4")) == ("v1", None)


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        (
            ["video_id,user_id", "v,ann"],
            snapshot(
                "nothing of it was taken, because 1 field is invalid: line 1, column key: 'video_id,user_id' lacks this column"
            ),
        ),
        (
            ["key,user_id", "videos/a.mp4,ann", "elsewhere/b.mp4,ann"],
            snapshot(
                "nothing of it was taken, because 1 field is invalid: line 3, column key: 'elsewhere/b.mp4' is not under the prefix"
            ),
        ),
        (
            ["key,user_id", "videos/a.mp4,ann "],
            snapshot(
                "nothing of it was taken, because 1 field is invalid: line 2, column user_id: 'ann ' begins or ends with white space"
            ),
        ),
        (
            ["key,created_at", "videos/a.mp4,2025-06-01"],
            snapshot(
                "nothing of it was taken, because 1 field is invalid: line 2, column created_at: '2025-06-01' has no time zone; write 2026-01-31T12:00:00Z"
            ),
        ),
        (
            ["key,user_id", "videos/a.mp4,ann", "videos/a.mp4,bob"],
            snapshot(
                "nothing of it was taken, because 1 field is invalid: line 3, column key: 'videos/a.mp4' is named twice"
            ),
        ),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_taken(engine: sa.Engine, lines: list[str], complaint: str) -> None:
    with pytest.raises(InputRefused) as refused:
        import_keys(engine, lines, check)
    assert str(refused.value) == complaint
    with reading(engine) as session:
        assert owners(session, ["videos/a.mp4"]) == {}


def test_the_last_verdict_on_a_key_is_that_keys(engine: sa.Engine) -> None:
    with transaction(engine, "test") as session:
        for key, verdict in (("a", AdoptionVerdict.REFUSED), ("b", AdoptionVerdict.LEFTOVER)):
            seen = dict.fromkeys(("last_modified", "first_seen_at", "last_seen_at"), AT)
            session.execute(sa.insert(orphans).values(key=key, verdict=verdict, size_bytes=1, etag="", **seen))
    with reading(engine) as session:
        found = {key: noted_at(session, key) for key in ("a", "b", "c")}
    assert found == {"a": AdoptionVerdict.REFUSED, "b": AdoptionVerdict.LEFTOVER, "c": None}
