"""Counts of what events adopted in a day. It is judged together with what they find next, as one listing would be."""

from datetime import UTC, date, datetime
from typing import Any

import sqlalchemy as sa

from reelkeeper.model.adoption import BY_CSV, AdoptionVerdict, OneDay
from reelkeeper.store.core.engine import Clock, reading, transaction
from reelkeeper.store.sync.noted_counts import adopted_files, crowding, left_out, one_day_of_catalogue
from reelkeeper.store.tables import audit_events, blobs, orphans, users, videos

RUN = "follow_bucket-2026-11-24"
HOUR = 3_600


def test_files_of_a_video_count_for_24_hours_after_events_adopted_it(engine: sa.Engine) -> None:
    happened = [
        ("lately", "adopt", RUN, 23),
        ("named", "adopt", RUN, 23),
        ("yesterday", "adopt", RUN, 25),
        ("listed", "adopt", "sync_catalog-1", 1),
        ("by_hand", "adopt", "follow-bucket-1", 1),
        ("swapped", "swap", RUN, 1),
    ]
    noted = [
        ("lately", AdoptionVerdict.ANOTHER_FILE, 0),
        ("lately", AdoptionVerdict.REFUSED, 1),
        ("lately", AdoptionVerdict.LEFTOVER, 0),  # ours, and no file of the service's
        ("named", AdoptionVerdict.ANOTHER_FILE, BY_CSV),  # a person says so, and no pattern
        *((video_id, AdoptionVerdict.ANOTHER_FILE, 0) for video_id in ("yesterday", "listed", "swapped", "unknown")),
    ]
    with transaction(engine, "test") as session:
        for number, (video_id, event, run_id, hours) in enumerate(happened, 1):
            row = {"id": number, "video_id": video_id, "event": event, "run_id": run_id, "at": Clock(-hours * HOUR)}
            session.execute(sa.insert(audit_events).values(**row, detail={}, previous="", digest=""))
        for number, (video_id, verdict, pattern) in enumerate(noted):
            row = {"key": f"k{number}", "video_id": video_id, "verdict": verdict, "pattern": pattern}
            seen = dict.fromkeys(("last_modified", "first_seen_at", "last_seen_at"), Clock(-HOUR))
            session.execute(sa.insert(orphans).values(**row, **seen, size_bytes=1, etag=""))
    with reading(engine) as session:
        assert adopted_files(session, "follow_bucket-") == {"lately": 3, "named": 1}


def note(engine: sa.Engine, *rows: dict[str, Any]) -> None:
    """Put objects that no blob explains, at keys k0, k1 and so on, as of the scan s2."""
    seen = dict.fromkeys(("last_modified", "first_seen_at", "last_seen_at"), Clock(-HOUR))
    with transaction(engine, "test") as session:
        for number, row in enumerate(rows):
            usual = {"key": f"k{number}", "scan_id": "s2", "size_bytes": 1, "etag": ""}
            session.execute(sa.insert(orphans).values({**usual, **seen, **row}))


def test_what_a_scan_leaves_out_is_counted_by_reason_with_its_first_keys(engine: sa.Engine) -> None:
    refused, others = AdoptionVerdict.REFUSED, (AdoptionVerdict.ADOPT, AdoptionVerdict.TAKE_BACK)
    verdicts = (refused, AdoptionVerdict.LEFTOVER, refused, *others)
    note(engine, *({"verdict": verdict} for verdict in verdicts), {"verdict": refused, "scan_id": "s1"})
    with reading(engine) as session:
        found = [(one.verdict, one.objects, one.keys) for one in left_out(session, "s2")]
    assert found == [(AdoptionVerdict.REFUSED, 2, ("k0", "k2")), (AdoptionVerdict.LEFTOVER, 1, ("k1",))]


def test_of_live_videos_the_day_on_which_most_were_stored_is_found(engine: sa.Engine) -> None:
    days = [datetime(2026, 11, day, tzinfo=UTC) for day in (3, 4, 4, 5, 5, 5)]
    with transaction(engine, "test") as session:
        session.execute(sa.insert(users).values(id="ann"))
        for number, day in enumerate(days):
            about = {"user_id": "ann", "state": "gone" if day.day == 5 else "live", "generation": 1}
            session.execute(sa.insert(videos).values(id=f"v{number}", created_at=day, **about))
            row = {"video_id": f"v{number}", "key": f"k{number}", "state": "live", "size_bytes": 1, "stored_at": day}
            session.execute(sa.insert(blobs).values(**row, generation=1))
    with reading(engine) as session:
        assert one_day_of_catalogue(session) == OneDay(date(2026, 11, 4), 2, 3)


def test_the_user_with_most_new_videos_is_counted_with_those_known(engine: sa.Engine) -> None:
    noted = [("ann", "v1", AdoptionVerdict.ADOPT), ("ann", "v1", AdoptionVerdict.ANOTHER_FILE)]
    noted += [("ann", "v2", AdoptionVerdict.ADOPT), ("bob", "v3", AdoptionVerdict.ADOPT)]
    with transaction(engine, "test") as session:
        session.execute(sa.insert(users), [{"id": user} for user in ("ann", "bob")])
        for name, user in (("w1", "ann"), ("w2", "ann"), ("w3", "bob")):
            session.execute(sa.insert(videos).values(id=name, user_id=user, state="live", generation=1))
    note(
        engine,
        *({"user_id": user, "video_id": video, "verdict": verdict, "pattern": 0} for user, video, verdict in noted),
    )
    with reading(engine) as session:
        found = crowding(session, "s2")
    assert (found.objects, found.further_files, found.files, found.video) == (4, 1, 2, "v1")
    assert (found.new_videos, found.videos, found.of_user, found.user) == (3, 6, 4, "ann")
