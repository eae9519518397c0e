"""A trial: a store reads a bucket that it does not own, and changes nothing there until it goes live."""

from collections.abc import Callable
from typing import Any

import pytest

from reelkeeper.adapters.s3 import r2
from reelkeeper.adapters.s3.r2 import Bucket
from reelkeeper.errors import IdentityMismatch, OnTrial
from reelkeeper.operations.core import epochs
from reelkeeper.operations.core.workspace import is_on_trial, join, note_trial, place_of
from reelkeeper.operations.removals.delete import delete
from reelkeeper.operations.videos.hold import hold
from reelkeeper.store.videos.holds import HoldTerms
from tests.buckets import BUCKET
from tests.faults.world import World


def again(bucket: Bucket, prefix: str | None = None, host: str = "127.0.0.1") -> Bucket:
    """Open the bucket as another process does."""
    endpoint_url = bucket.endpoint_url.replace("127.0.0.1", host)
    return r2.connect(endpoint_url, *bucket.credentials, BUCKET, prefix or bucket.prefix)


@pytest.fixture
def trial(world: World, bucket: Bucket) -> Bucket:
    """A bucket with a video, and a store that tries it out and knows objects by now."""
    world.video("known")
    bucket.put_bytes_once(f"{bucket.prefix}u/v.mp4", b"theirs", "video/mp4")
    note_trial(world.workspace.engine, bucket, begins=True)
    return again(bucket)


CHANGES: dict[str, Callable[[Bucket, str], Any]] = {
    "put": lambda bucket, key: bucket.put_bytes_once(f"{key}2", b"ours", "video/mp4"),
    "delete": lambda bucket, key: bucket.delete([key]),
    "delete of a view": lambda bucket, key: bucket.under(f"{bucket.prefix}u/").delete([key]),
    "signed delete": lambda bucket, key: bucket.sign_deletes([key], 30),
    "upload URL": lambda bucket, key: bucket.presigned("put_object", key, 60),
}


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_changes_a_bucket_on_trial(world: World, trial: Bucket, change: str) -> None:
    opened, key = join(world.workspace.engine, trial), f"{trial.prefix}u/v.mp4"
    assert (opened.on_trial, opened.is_ours, trial.head(trial.identity_key)) == (True, False, None)
    with pytest.raises(OnTrial):
        CHANGES[change](opened.bucket, key)
    assert opened.bucket.read_bytes(key) == b"theirs"
    assert opened.bucket.presigned("get_object", key, 60)
    assert [stored.key for page in opened.bucket.pages() for stored in page] == [key]


def test_a_trial_ends_where_it_goes_live_and_only_there(world: World, trial: Bucket) -> None:
    engine = world.workspace.engine
    with pytest.raises(IdentityMismatch):  # a store that knows objects, and another bucket
        join(engine, again(trial, f"{trial.prefix}other/"), goes_live=True)
    opened = join(engine, trial, goes_live=True)
    assert (opened.on_trial, opened.is_ours, is_on_trial(engine)) == (False, True, True)
    note_trial(engine, opened.bucket, begins=False)
    assert not is_on_trial(engine)
    opened.bucket.put_bytes_once(f"{trial.prefix}u/w.mp4", b"ours", "video/mp4")
    assert join(engine, again(trial)).is_ours


def test_a_trial_under_another_prefix_is_told_both_and_no_way_to_claim(world: World, trial: Bucket) -> None:
    engine, other = world.workspace.engine, again(trial, f"{trial.prefix}other/")
    with pytest.raises(IdentityMismatch) as refused:
        join(engine, other, claims=False)
    told = {word.strip(",:") for word in str(refused.value).split()}
    assert {place_of(trial), place_of(other), "REELKEEPER_PREFIX"} <= told
    assert "--claim" not in told


def test_a_bucket_that_the_store_has_claimed_is_on_trial_too_until_it_goes_live(world: World) -> None:
    note_trial(world.workspace.engine, world.workspace.bucket, begins=True)
    opened = world.address.workspace()
    assert (opened.on_trial, opened.is_ours) == (True, True)
    with pytest.raises(OnTrial):
        opened.require_live()
    note_trial(world.workspace.engine, world.workspace.bucket, begins=False)
    assert not world.address.workspace().on_trial


@pytest.mark.parametrize("change", CHANGES)
def test_at_another_address_than_the_confirmed_one_nothing_changes_the_bucket(world: World, change: str) -> None:
    """The bucket and the identity in it are the same: it may also be a copy of the one that was confirmed."""
    ours, engine = world.workspace.bucket, world.workspace.engine
    note_trial(engine, ours, begins=False)
    opened = join(engine, again(ours, host="localhost"))
    assert (opened.on_trial, opened.is_ours, opened.live_at) == (True, True, place_of(ours))
    with pytest.raises(OnTrial):
        CHANGES[change](opened.bucket, f"{ours.prefix}u/v.mp4")
    assert not join(engine, again(ours)).on_trial
    confirmed = join(engine, again(ours, host="localhost"), goes_live=True)
    note_trial(engine, confirmed.bucket, begins=False)
    assert [join(engine, again(ours, host=host)).on_trial for host in ("localhost", "127.0.0.1")] == [False, True]


def test_an_embedded_bucket_ends_a_trial_and_is_live_at_any_port(world: World) -> None:
    ours, engine = world.workspace.bucket, world.workspace.engine
    note_trial(engine, ours, begins=True)
    note_trial(engine, ours, begins=False, embedded=True)
    assert [join(engine, again(ours, host=host)).on_trial for host in ("localhost", "127.0.0.1")] == [False, False]


def test_a_video_is_not_deleted_in_a_trial(world: World, trial: Bucket) -> None:
    with pytest.raises(OnTrial):
        delete(world.workspace.engine, "known", by="front", run_id="delete-1")
    note_trial(world.workspace.engine, trial, begins=False)
    assert delete(world.workspace.engine, "known", by="front", run_id="delete-1").user_id == "ann"


def test_a_hold_in_a_trial_waits_until_it_is_live_and_no_failure_is_logged(
    world: World, trial: Bucket, caplog: pytest.LogCaptureFixture
) -> None:
    engine = world.workspace.engine
    hold(engine, HoldTerms("video", "known", "asked", "front"))
    assert not epochs.tell(join(engine, trial))
    assert not caplog.records
    note_trial(engine, join(engine, again(trial), goes_live=True).bucket, begins=False)
    assert epochs.tell(join(engine, again(trial)))
