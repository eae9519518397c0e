"""Parsing messages of R2's queue, and which need no look at the bucket."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from inline_snapshot import snapshot

from reelkeeper.model import BlobState, Recorded
from reelkeeper.model.adoption import Crowding
from reelkeeper.model.buckets import BucketEvent
from reelkeeper.rules.sync.adoption import AdoptionLimits, refusal, together
from reelkeeper.rules.sync.events import SETTLING, Unread, gap_window, is_explained, read
from tests.marks import marked

NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)
CREATED: dict[str, Any] = {
    "account": "an-account",
    "action": "PutObject",
    "bucket": "films",
    "object": {"key": "videos/ann/v1.mp4", "size": 65536, "eTag": "c846ff7a18f28c2e262116d6e8719ef0"},
    "eventTime": "2026-11-27T12:00:00.000Z",
}


def reading(body: object) -> BucketEvent | Unread:
    return read(body, account_id="an-account", bucket="films")


@pytest.mark.parametrize("action", ["PutObject", "CopyObject", "CompleteMultipartUpload", "of next year"])
def test_a_creation_event_has_size_and_etag(action: str) -> None:
    expected = BucketEvent("videos/ann/v1.mp4", False, 65536, "c846ff7a18f28c2e262116d6e8719ef0")
    assert reading(CREATED | {"action": action}) == expected


@pytest.mark.parametrize(("action", "by_service"), [("DeleteObject", True), ("LifecycleDeletion", False)])
def test_a_deletion_event_has_neither_and_lifecycle_rules_are_not_the_service(action: str, by_service: bool) -> None:
    deleted = CREATED | {"action": action, "object": {"key": "videos/ann/v1.mp4"}}
    assert reading(deleted) == BucketEvent("videos/ann/v1.mp4", by_service, None, None)


def test_a_message_of_another_bucket_or_account_is_foreign() -> None:
    for other in ({"bucket": "films-of-others"}, {"account": "another"}):
        found = reading(CREATED | other)
        assert isinstance(found, Unread)
        assert found.kind == "foreign"


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        "PutObject",
        {},
        CREATED | {"object": None},
        CREATED | {"object": {"key": 1}},
        CREATED | {"object": {"key": ""}},
        CREATED | {"object": {"key": "\ud800"}},
        CREATED | {"action": None},
        CREATED | {"bucket": ["films"]},
    ],
)
def test_anything_else_is_malformed(body: object) -> None:
    found = reading(body)
    assert isinstance(found, Unread)
    assert found.kind == "malformed"


def test_reelkeepers_own_changes_are_explained_by_the_row() -> None:
    put, deleted = BucketEvent("k", False, 1, "e"), BucketEvent("k", True, None, None)
    ours, theirs = Recorded(1, "e", True, None), Recorded(1, "e", False, NOON)
    for state in (BlobState.LIVE, BlobState.RETIRED, BlobState.DELETING, BlobState.PENDING):
        assert is_explained(put, state, ours)
    for state in (BlobState.DELETING, BlobState.GONE, BlobState.PENDING):
        assert is_explained(deleted, state, ours)
    assert not is_explained(put, BlobState.LIVE, theirs)  # the same bytes stored again keep their ETag
    assert not is_explained(put._replace(etag="another"), BlobState.LIVE, ours)
    for state in (BlobState.LOST, BlobState.GONE):
        assert not is_explained(put, state, ours)
    for state in (BlobState.LIVE, BlobState.RETIRED, BlobState.LOST):
        assert not is_explained(deleted, state, ours)


def test_objects_that_come_one_by_one_are_judged_with_those_before() -> None:
    one = Crowding(objects=2, further_files=1, files=2, video="final", new_videos=1, videos=1, of_user=1, user="bob")
    assert refusal(AdoptionLimits(), one) is None
    assert together(one, {}) == one
    assert together(Crowding(), {"other": 9}) == Crowding()  # nothing new
    both = together(one, {"other": 4, "another": 1})
    assert (both.objects, both.further_files, both.files, both.video, both.new_videos) == (7, 4, 4, "other", 3)
    assert marked(refusal(AdoptionLimits(), both)) == snapshot(
        "4 of 7 objects (57 %) would be further files of videos, such as 'other' with 4, where at most 50 % may. The patterns do not fit this bucket: see REELKEEPER_KEY_PATTERN, or name owners with reelkeeper videos import --keys. If it is right: --param adoption.max_further_files_percent=100"
    )


def test_a_gap_is_an_object_stored_since_events_are_followed_and_after_the_settling_time() -> None:
    day = timedelta(days=1)
    assert gap_window(NOON - day, NOON, NOON + day) == (NOON - day, NOON - SETTLING)
    assert gap_window(NOON - day, NOON + day, NOON) == (NOON - day, NOON - SETTLING)
    assert gap_window(NOON, NOON, NOON) is None
