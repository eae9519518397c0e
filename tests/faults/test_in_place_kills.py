"""A kill at every failpoint of replacing in place, with originals put whole and in parts, on SeaweedFS and on moto.

After each, nights follow: a sync that settles what was left, the purge of all that is due, and another sync. Nothing is
lost, no doubt lasts, and nothing freezes.
"""

import secrets
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import pytest
import sqlalchemy as sa

from reelkeeper.adapters.s3.seaweed import Endpoint
from reelkeeper.model import BlobState, Grace, Transcode
from reelkeeper.operations.core.freeze import why_frozen
from reelkeeper.operations.core.lease import LeaseManager
from reelkeeper.operations.lifecycle import purge
from reelkeeper.operations.lifecycle.swap import Run
from reelkeeper.operations.videos import intents
from reelkeeper.store.core.engine import reading
from reelkeeper.store.lifecycle.doubts import listed
from reelkeeper.store.tables import blobs
from tests.doubles.r2 import R2Double
from tests.faults.conftest import Child, first_of, wait_for_end
from tests.faults.world import LONG_AGO, PART_BYTES, World
from tests.operations.changes import change, sync_once
from tests.swapping import shrinker, swap

OPERATIONS = ("swap_in_place", "undo_in_place", "restore_in_place")
PARTS = (0, 1, 2)  # of the original; 0: it was put whole
MANY = 20  # failpoints at the least: fewer, and some have gone


@dataclass
class Places:
    """What each world is made of."""

    endpoint: Endpoint
    double: R2Double
    store: Path
    clip: Path
    folder: Path

    def world(self) -> World:
        folder = self.folder / secrets.token_hex(6)
        folder.mkdir()
        shutil.copyfile(self.store, folder / "store.sqlite3")
        self.double.limits_overwrites = False
        return World.make(folder, f"sqlite:///{folder / 'store.sqlite3'}", self.endpoint, self.double, clip=self.clip)


@pytest.fixture(params=["seaweed", "moto"])
def places(
    request: pytest.FixtureRequest, migrated_file: Path, tiny_clip: Path, tmp_path: Path, endpoint: Endpoint
) -> Iterator[Places]:
    upstream = endpoint if request.param == "seaweed" else request.getfixturevalue("foreign")
    with R2Double(upstream).serving() as double:
        yield Places(upstream, double, migrated_file, tiny_clip, tmp_path)


def prepared(places: Places, operation: str, result: Transcode, parts: int) -> tuple[World, dict[str, object]]:
    """Make a world with a video at a key of the service's, and the operation's arguments."""
    world = places.world()
    clip = padded(world.clip, (parts - 1) * PART_BYTES) if parts > 1 else world.clip
    blob = world.video("v1", key=f"{world.address.prefix}ann/v1.mp4", clip=clip, in_parts=parts > 0)
    if operation == "undo_in_place":
        result = replace(result, media=replace(result.media, frames=result.media.frames + 1))
    if operation == "restore_in_place":
        with LeaseManager(world.workspace.engine) as manager:
            (lease,) = manager.take(["video/v1"])
            scratch = Path(world.address.folder) / "scratch"
            run = Run("before", lease, Grace(), scratch)
            swap(world.workspace, "v1", blob, shrinker(result), run, "in_place")
    return world, {"blob": blob, "result": result}


def nights(world: World) -> list[str]:
    """Settle, sync, purge what is due and sync again; return the keys in doubt, and why changes are frozen."""
    world.expire_leases()
    bad: list[str] = []
    with LeaseManager(world.workspace.engine) as manager:
        (lease,) = manager.take(["nights"])
        for intent in intents.open_intents(world.workspace):
            scratch = Path(world.address.folder) / "scratch"
            intents.settle(world.workspace, intent, scratch=scratch, lease=lease, grace=Grace())
        bad += sync_once(world, lease)
        change(world, blobs, purge_after=LONG_AGO)
        with reading(world.workspace.engine) as session:
            due = list(session.execute(sa.select(blobs.c.id).where(blobs.c.state == BlobState.RETIRED)).scalars())
        if due:
            plan = world.plan("purge_retired", "purge", due)
            purge.purge(world.workspace, plan, due, lease=lease, run_id="purge", grace=Grace())
        bad += sync_once(world, lease)
    with reading(world.workspace.engine) as session:
        bad += [doubt.key for doubt in listed(session)]
    return bad + [why for why in [why_frozen(world.workspace.engine)] if why]


def padded(clip: Path, size_bytes: int) -> Path:
    """Return the clip with an unused box at its end."""
    larger = clip.with_name(f"padded-{size_bytes}.mp4")
    if not larger.exists():
        larger.write_bytes(clip.read_bytes() + (size_bytes + 8).to_bytes(4) + b"free" + bytes(size_bytes))
    return larger


@pytest.mark.long("a child for each kill, and three runs after it")
@pytest.mark.parametrize("every", [20, pytest.param(1, marks=pytest.mark.soak)])  # each 20th failpoint, or each
@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_killed_at_any_failpoint_it_leaves_no_doubt(
    places: Places,
    tiny_transcode: Transcode,
    start_child: Child,
    operation: str,
    parts: int,
    every: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kills, bad = 0, list[str]()
    for point in count(first_of(every), every):
        world, arguments = prepared(places, operation, tiny_transcode, parts)
        process = start_child(operation, world.address, f"*=kill@{point}", arguments)
        code = wait_for_end(process)
        assert code in (0, -signal.SIGKILL)
        bad += [f"at {point}: {why}" for why in nights(world)]
        world.check()
        if code == 0:
            break
        kills += 1
    with capsys.disabled():
        print(f"\n{operation}, original in {parts} parts: {kills} kills, {len(bad)} bad")  # noqa: T201  the figure that this suite is run for
    assert bad == []
    assert point > MANY
