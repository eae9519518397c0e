"""Replacing in place an original that came in parts: its ETag is no MD5, and the server chooses that of its copy.

The copy aside is known by what is stored. Whatever happens between the copy and its record, nothing is in doubt later,
and the purge of the copy freezes nothing.
"""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from reelkeeper.adapters.s3.seaweed import Endpoint
from reelkeeper.model import BlobState, Grace, Transcode
from reelkeeper.operations.core.freeze import why_frozen
from reelkeeper.operations.core.lease import LeaseManager
from reelkeeper.operations.lifecycle import purge
from reelkeeper.operations.removals import takedown
from reelkeeper.store.core.engine import reading
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.tables import blobs
from tests.doubles.r2 import R2Double
from tests.faults.world import LONG_AGO, World
from tests.operations.changes import change, sync_once
from tests.operations.lifecycle.test_in_place import NEWER, Linked, die
from tests.worlds import AtFailpoint


def put_original_in_parts(linked: Linked) -> None:
    etag = linked.world.put_in_parts(linked.key, linked.original)
    found = linked.workspace.bucket.head(linked.key)
    assert found is not None
    change(linked.world, blobs, etag=etag, stored_at=found.last_modified)


@pytest.fixture
def linked(world: World, lease: Lease, tiny_transcode: Transcode) -> Linked:
    linked = Linked(world, lease, tiny_transcode)
    put_original_in_parts(linked)
    return linked


@pytest.fixture
def elsewhere(
    foreign: Endpoint, engine: sa.Engine, tiny_clip: Path, tiny_transcode: Transcode, tmp_path: Path
) -> Iterator[Linked]:
    """The same on moto."""
    with R2Double(foreign).serving() as double, LeaseManager(engine) as manager:
        url, folder = engine.url.render_as_string(hide_password=False), tmp_path / secrets.token_hex(6)
        folder.mkdir()
        world = World.make(folder, url, foreign, double, clip=tiny_clip)
        linked = Linked(world, manager.take(["test"])[0], tiny_transcode)
        put_original_in_parts(linked)
        yield linked


def asides(linked: Linked) -> list[sa.Row[tuple[object, ...]]]:
    """The rows of the copies, those that are gone included."""
    with reading(linked.workspace.engine) as session:
        return list(session.execute(sa.select(blobs).where(blobs.c.is_ours).order_by(blobs.c.id)))


def assert_nothing_is_in_doubt(linked: Linked) -> None:
    """Settle, sync, and purge all copies after their grace, as nights do."""
    linked.settle()
    assert sync_once(linked.world, linked.lease) == []
    change(linked.world, blobs, purge_after=LONG_AGO)
    due = [row.id for row in linked.asides() if row.state == BlobState.RETIRED]
    plan = linked.world.plan("purge_retired", "purge", due)
    outcomes = purge.purge(linked.workspace, plan, due, lease=linked.lease, run_id="purge", grace=Grace())
    assert {outcome.action for outcome in outcomes} <= {"purged"}
    assert why_frozen(linked.workspace.engine) is None
    assert linked.asides() == []
    assert sync_once(linked.world, linked.lease) == []


POINTS = [
    *("swap.announce.after_commit", "in_place.copy.before", "in_place.copy.after"),
    *("in_place.copied.before_commit", "in_place.copied.after_commit", "in_place.put.before"),
]


def die_at(linked: Linked, at_failpoint: AtFailpoint, point: str) -> None:
    at_failpoint(point, die)
    with pytest.raises(KeyboardInterrupt):
        linked.swap()
    if point.startswith("in_place.copy.a") or "copied" in point:
        (aside,) = [item for page in linked.workspace.bucket.pages() for item in page if item.key != linked.key]
        assert aside.size_bytes == len(linked.original)


def kill_in_the_middle(linked: Linked, at_failpoint: AtFailpoint, point: str) -> None:
    die_at(linked, at_failpoint, point)
    assert_nothing_is_in_doubt(linked)
    assert linked.shows() == linked.original
    linked.world.check()


@pytest.mark.parametrize(
    "point",
    [point if point == "in_place.copy.after" else pytest.param(point, marks=pytest.mark.long) for point in POINTS],
)
def test_killed_before_its_copy_is_recorded_nothing_is_in_doubt(
    linked: Linked, at_failpoint: AtFailpoint, point: str
) -> None:
    kill_in_the_middle(linked, at_failpoint, point)


def test_a_killed_runs_copy_is_recorded_as_it_is_stored(linked: Linked, at_failpoint: AtFailpoint) -> None:
    die_at(linked, at_failpoint, "in_place.copy.after")
    linked.settle()
    (aside,) = asides(linked)
    stored = linked.workspace.bucket.head(str(aside.key))
    assert stored is not None
    assert (aside.state, aside.etag) == (BlobState.RETIRED, stored.etag)  # before any sync, which would mend it


@pytest.mark.long
@pytest.mark.parametrize("point", POINTS)
def test_nor_on_another_server(elsewhere: Linked, at_failpoint: AtFailpoint, point: str) -> None:
    kill_in_the_middle(elsewhere, at_failpoint, point)


@pytest.mark.parametrize("point", ["in_place.copy.after", pytest.param("in_place.copy.before", marks=pytest.mark.long)])
def test_overwritten_before_its_copy_is_recorded_nothing_is_in_doubt(
    linked: Linked, at_failpoint: AtFailpoint, point: str
) -> None:
    at_failpoint(point, lambda: linked.put(NEWER))
    linked.swap()
    assert point == "in_place.copy.before" or linked.is_kept(linked.original)
    assert_nothing_is_in_doubt(linked)
    assert linked.shows() == NEWER


def test_a_copy_that_was_never_made_is_gone_and_not_lost(linked: Linked, at_failpoint: AtFailpoint) -> None:
    die_at(linked, at_failpoint, "in_place.copy.before")
    linked.settle()
    assert [row.state for row in asides(linked)] == [BlobState.GONE]
    assert sync_once(linked.world, linked.lease) == []
    assert [row.state for row in asides(linked)] == [BlobState.GONE]


@pytest.mark.long
def test_a_takedown_in_the_middle_leaves_no_doubt(linked: Linked, at_failpoint: AtFailpoint) -> None:
    die_at(linked, at_failpoint, "in_place.copy.after")
    wanted = takedown.TakedownOrder("counsel", "order 17", "t1")
    down = takedown.take_down(linked.workspace, "v1", wanted, scratch=linked.scratch)
    assert [item.key for item in down.left] == []
    assert [item.key for page in linked.workspace.bucket.pages() for item in page] == []
    assert why_frozen(linked.workspace.engine) is None


@pytest.mark.long
def test_a_damaged_copy_that_nobody_needs_is_known_as_it_is(linked: Linked, at_failpoint: AtFailpoint) -> None:
    die_at(linked, at_failpoint, "in_place.copy.after")
    (aside,) = asides(linked)
    linked.world.put_in_parts(str(aside.key), NEWER)
    assert_nothing_is_in_doubt(linked)
    assert linked.shows() == linked.original


@pytest.mark.long
def test_swapped_and_taken_back_nothing_is_in_doubt(linked: Linked) -> None:
    assert linked.swap().action == "compressed"
    assert linked.restore(hold_days=0).action == "restored"
    assert linked.shows() == linked.original
    assert_nothing_is_in_doubt(linked)
