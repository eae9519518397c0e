"""Read only the user's own rows before an erasure, and ask each vendor for each deletion until it has answered."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
import sqlalchemy as sa

from reelkeeper.model.jobs import JobState, VendorErasure
from reelkeeper.store import Session
from reelkeeper.store.core.audit import Event, append
from reelkeeper.store.core.engine import now, transaction
from reelkeeper.store.removals import at_vendors, erasures
from reelkeeper.store.removals.at_vendors import Late
from reelkeeper.store.tables import blobs, holds, jobs, reservations, vendor_erasures, vendor_jobs
from tests.jobs import waiting
from tests.store.two_users import AT

LATER: Final = datetime(2099, 1, 1, tzinfo=UTC)
HOLD: Final[dict[str, Any]] = {"scope": "user", "subject": "ann", "is_legal": True}
OF_VIDEO: Final = HOLD | {"scope": "video", "subject": "videos of ann"}
IDLE: Final[dict[str, Any]] = {"user_id": "ann", "size_bytes": 7, "created_at": AT, "expires_at": AT}


@pytest.fixture
def session(filled_engine: sa.Engine) -> Iterator[Session]:
    """A transaction on a store in which two users have a row in every table."""
    with transaction(filled_engine, "test") as session:
        yield session


def test_what_is_found_of_a_user_is_all_of_theirs_and_nothing_of_another(session: Session) -> None:
    gone = {"id": 9, "video_id": "videos of ann", "key": "ann/gone", "state": "gone", "size_bytes": 100}
    session.execute(sa.insert(blobs).values(gone))
    session.execute(sa.insert(reservations).values(IDLE | {"id": "over", "state": "settled"}))
    session.execute(sa.insert(jobs), [waiting("follows", leader_id="jobs 1"), waiting("over", state=JobState.DEAD)])
    assert erasures.all_videos(session, "ann") == {"videos of ann", "upload of ann"}
    assert erasures.stored_videos(session, "ann", "", 9) == ["videos of ann"]
    assert erasures.stored_videos(session, "ann", "videos of ann", 9) == []
    assert erasures.count_stored(session, "ann") == (1, 1, 7)
    assert erasures.open_reservations(session, "ann") == ["reservations 1"]
    assert erasures.jobs_in_flight(session, "ann") == ["follows", "jobs 1"]
    assert sorted(erasures.loose_keys(session, "ann")) == ["1 of ann", "ann/orphan", "ann/put"]
    keys = ["ann/key", "ann/gone", "ann/put", "ann/orphan", "bob/key"]
    assert erasures.with_videos(session, keys) == {"ann/key", "bob/key"}


def test_a_user_is_being_erased_from_when_it_begins_until_the_row_has_the_pseudonym(session: Session) -> None:
    assert (erasures.find(session, "ann"), erasures.unfinished(session)) == (None, [])
    begun = erasures.begin(session, "ann")
    assert begun
    assert erasures.begin(session, "ann") == erasures.find(session, "ann") == begun
    assert erasures.unfinished(session) == ["ann"]
    assert (erasures.find(session, "bob"), erasures.begin(session, "eve")) == (None, None)


@pytest.mark.parametrize(
    ("found", "of_object", "of_user"),
    [
        ([], (False, None), (False, None)),
        ([HOLD], (True, None), (True, None)),
        ([HOLD | {"expires_at": LATER}], (True, LATER), (True, LATER)),
        ([HOLD | {"expires_at": LATER}, OF_VIDEO], (True, None), (True, LATER)),
        ([OF_VIDEO | {"expires_at": LATER}], (True, LATER), (False, None)),
        (
            [HOLD | {"expires_at": LATER}, OF_VIDEO | {"expires_at": LATER + timedelta(1)}],
            (True, LATER + timedelta(1)),
            (True, LATER),
        ),
        ([HOLD | {"expires_at": AT}], (False, None), (False, None)),
        ([HOLD | {"released_at": AT}], (False, None), (False, None)),
        ([HOLD | {"is_legal": False}], (False, None), (False, None)),
        ([HOLD | {"subject": "bob"}], (False, None), (False, None)),
    ],
)
def test_an_object_stays_while_a_legal_hold_on_its_user_or_video_is_in_force(
    session: Session,
    found: list[dict[str, Any]],
    of_object: tuple[bool, datetime | None],
    of_user: tuple[bool, datetime | None],
) -> None:
    for number, row in enumerate(found):
        session.execute(
            sa.insert(holds).values({"id": str(number), "reason": "", "author": "", "created_at": AT} | row)
        )
    assert erasures.left(session, "ann", 9) == [("videos of ann", 1, "ann/key", 7, *of_object)]
    assert erasures.legal_hold(session, "ann") == of_user


@pytest.mark.parametrize(
    ("event", "is_theirs", "is_anothers"),
    [
        ({"user_id": "ann"}, True, True),
        ({"user_id": "former_ids 1"}, True, True),
        ({"video_id": "videos of ann"}, True, False),
        ({"blob_id": 1}, True, False),
        ({"blob_id": 11}, True, False),
        ({"user_id": "bob"}, False, True),
        ({"video_id": "videos of bob"}, False, True),
        ({"blob_id": 2}, False, False),
        ({}, False, False),
    ],
)
def test_an_event_is_the_users_that_it_names_and_of_their_videos_and_bytes(
    session: Session, event: dict[str, Any], *, is_theirs: bool, is_anothers: bool
) -> None:
    append(session, [Event("retire", "run", **event, detail={"reason": "test"})])
    (found,) = erasures.personal_events(session, "ann", 0, 9)
    assert (found.detail, found.is_theirs, found.is_anothers) == ({"reason": "test"}, is_theirs, is_anothers)
    assert erasures.personal_events(session, "ann", found.place, 9) == []


@pytest.fixture
def sent(session: Session) -> Session:
    """Of the job that made a user's video: two attempts, and of another user's one."""
    session.execute(sa.delete(vendor_jobs))
    session.execute(sa.update(jobs).values(state=JobState.SUCCEEDED, provider_key=sa.literal("2 of ") + jobs.c.user_id))
    rows = [("1 of ann", "jobs 1"), ("2 of ann", "jobs 1"), ("2 of bob", "jobs 2")]
    over = {"provider": "fal", "sent_at": AT, "ended_at": AT}
    session.execute(sa.insert(vendor_jobs), [over | {"key": key, "job_id": job, "vendor_id": key} for key, job in rows])
    return session


def taken(session: Session, *providers: str, only_takedowns: bool = False) -> tuple[str, bool] | None:
    found = at_vendors.take_next(session, providers or ["fal"], only_takedowns=only_takedowns)
    return (found.key, found.is_delivered) if found else None


def test_a_vendor_is_asked_for_each_attempt_of_a_user_and_the_answer_is_recorded_once(sent: Session) -> None:
    at_vendors.ask_for_user(sent, "ann")
    at_vendors.ask_for_user(sent, "ann")
    assert [answer.state for answer in at_vendors.of_user(sent, "ann")] == ["waiting", "waiting"]
    assert at_vendors.of_user(sent, "bob") == []
    assert (taken(sent, only_takedowns=True), taken(sent, "replicate")) == (None, None)
    assert (taken(sent), taken(sent), taken(sent)) == (("1 of ann", False), ("2 of ann", True), None)
    assert at_vendors.answered(sent, "1 of ann", VendorErasure.DELETED) == ("videos of ann", "ann")
    assert at_vendors.answered(sent, "1 of ann", VendorErasure.GIVEN_UP) is None
    assert at_vendors.waits(sent)
    assert at_vendors.answered(sent, "2 of ann", VendorErasure.GIVEN_UP)
    assert not at_vendors.waits(sent)
    assert [answer[1:3] for answer in at_vendors.of_video(sent, "videos of ann")] == [
        ("1 of ann", "deleted"),
        ("2 of ann", "given_up"),
    ]
    at_vendors.ask_for_videos(sent, ["videos of ann"])
    assert [answer.state for answer in at_vendors.of_user(sent, "ann")] == ["deleted", "waiting"]
    assert taken(sent, only_takedowns=True) == ("2 of ann", True)


@pytest.mark.parametrize(("tries", "seconds"), [(0, 60), (1, 120), (8, 15_360), (9, 21_600), (5_000, 21_600)])
def test_a_vendor_is_asked_again_after_a_minute_and_ever_later_up_to_six_hours(
    sent: Session, tries: int, seconds: int
) -> None:
    at_vendors.ask_for_user(sent, "ann")
    sent.execute(sa.update(vendor_erasures).values(tries=tries))
    assert taken(sent)
    due_at, tried = sent.execute(sa.select(vendor_erasures.c.due_at, vendor_erasures.c.tries)).first() or (AT, 0)
    assert tried == tries + 1
    assert abs((due_at - now(sent)).total_seconds() - seconds) < 30


def test_a_vendor_is_late_with_what_it_has_not_answered_unless_a_legal_hold_keeps_it(sent: Session) -> None:
    at_vendors.ask_for_user(sent, "ann")
    hour_ago = now(sent) - timedelta(hours=1)
    sent.execute(sa.update(vendor_erasures).values(asked_at=hour_ago))
    assert at_vendors.late(sent, 3_000) == [Late("fal", 2, hour_ago)]
    assert at_vendors.late(sent, 4_000) == []
    at_vendors.answered(sent, "1 of ann", VendorErasure.DELETED)
    assert at_vendors.late(sent, 3_000) == [Late("fal", 1, hour_ago)]
    deleted, waits = at_vendors.of_user(sent, "ann")
    assert (deleted.at > hour_ago, waits.at) == (True, hour_ago)
    sent.execute(sa.insert(holds).values(HOLD | {"id": "h", "reason": "", "author": "", "created_at": AT}))
    assert (at_vendors.late(sent, 3_000), taken(sent)) == ([], None)
