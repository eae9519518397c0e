"""Many videos are restored in batches, each by itself; what became of each is known, however it ends."""

import tempfile
from pathlib import Path
from typing import Final

import pytest

from reelkeeper.errors import StorageError
from reelkeeper.model import BlobState, Grace, Outcome, VideoState
from reelkeeper.operations.lifecycle import restore as operation
from tests.faults.world import World
from tests.worlds import AtFailpoint

RESTORED: Final = "restore.after_commit"
BY: Final = operation.Restorer("p", "p", Grace(), 0, Path(tempfile.gettempdir()))


@pytest.fixture(autouse=True)
def batches_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operation, "_BATCH", 2)


@pytest.fixture
def five(world: World) -> World:
    """Five retired videos: three batches."""
    for number in range(5):
        world.video(f"v{number}", state=VideoState.RETIRED, blob_state=BlobState.RETIRED)
    return world


def restored(world: World, ends: type[BaseException] | None = None) -> list[tuple[str, str]]:
    outcomes: list[Outcome] = []
    found = operation.find_restorable(world.workspace, user_id="ann")
    if ends:
        with pytest.raises(ends):
            operation.restore_each(world.workspace, found, BY, outcomes)
    else:
        operation.restore_each(world.workspace, found, BY, outcomes)
    return [(outcome.video_id, outcome.action) for outcome in outcomes]


def test_an_object_that_cannot_be_read_keeps_no_other_batch_from_coming_back(five: World) -> None:
    five.double.faults.fail("HeadObject", 403)
    assert restored(five) == [
        *(("v0", "failed"), ("v1", "failed")),
        *(("v2", "restored"), ("v3", "restored")),
        ("v4", "restored"),
    ]
    assert restored(five) == [("v0", "restored"), ("v1", "restored")]


def test_a_bucket_that_is_away_ends_the_restore_and_each_video_is_named(five: World, at_failpoint: AtFailpoint) -> None:
    at_failpoint(RESTORED, lambda: five.double.faults.fail("ListObjectsV2", 403))
    assert restored(five, StorageError) == [
        *(("v0", "restored"), ("v1", "restored")),
        *(("v2", "failed"), ("v3", "failed")),
        ("v4", "not_tried"),
    ]
    assert restored(five) == [("v2", "restored"), ("v3", "restored"), ("v4", "restored")]


def test_a_restore_that_is_interrupted_names_each_video(five: World, at_failpoint: AtFailpoint) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    at_failpoint(RESTORED, interrupt)  # the first batch is restored, though its outcomes are not known
    assert restored(five, KeyboardInterrupt) == [
        *(("v0", "failed"), ("v1", "failed")),
        *(("v2", "not_tried"), ("v3", "not_tried"), ("v4", "not_tried")),
    ]
