"""200 kills over every failpoint of replacing in place: originals in one part and in parts, on SeaweedFS and on moto.

After each, nights follow: a sync that settles what was left, the purge of all that is due, and another sync. Nothing is
lost, no doubt lasts, and nothing freezes.
"""

import random
import secrets
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from reelkeeper.adapters.s3.seaweed import Endpoint
from reelkeeper.model import BlobState, Grace, Transcode
from reelkeeper.operations.core.freeze import why_frozen
from reelkeeper.operations.core.lease import LeaseManager
from reelkeeper.operations.lifecycle import purge
from reelkeeper.operations.lifecycle.swap import Order, swap
from reelkeeper.operations.videos import intents
from reelkeeper.store.core.engine import reading
from reelkeeper.store.lifecycle.doubts import listed
from reelkeeper.store.tables import blobs
from tests.doubles.r2 import R2Double
from tests.faults.conftest import Child, wait_for_end
from tests.faults.scenarios import ready
from tests.faults.world import LONG_AGO, World
from tests.operations.changes import change, sync_once

KILLS = 200
DRAWN = 8  # of them in the long suite
OPERATIONS = ("swap_in_place", "undo_in_place", "restore_in_place")


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


def prepared(places: Places, operation: str, result: Transcode, *, in_parts: bool) -> tuple[World, dict[str, object]]:
    """Make a world with a video at a key of the service's, and the operation's arguments."""
    world = places.world()
    blob = world.video("v1", key=f"{world.address.prefix}ann/v1.mp4", in_parts=in_parts)
    if operation == "undo_in_place":
        result = replace(result, media=replace(result.media, frames=result.media.frames + 1))
    if operation == "restore_in_place":
        with LeaseManager(world.workspace.engine) as manager:
            (lease,) = manager.take(["video/v1"])
            order = Order("v1", blob, lambda _, place: ready(result, place), "in_place")
            scratch = Path(world.address.folder) / "scratch"
            swap(world.workspace, order, scratch=scratch, lease=lease, run_id="before", grace=Grace())
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


def points_of(places: Places, operation: str, result: Transcode, start_child: Child, *, in_parts: bool) -> list[int]:
    """Number the failpoints that an operation passes."""
    world, arguments = prepared(places, operation, result, in_parts=in_parts)
    seen = Path(world.address.folder) / "points"
    process = start_child(operation, world.address, "", arguments | {"count_points": str(seen)})
    assert wait_for_end(process) == 0
    return list(range(1, len(seen.read_text().splitlines()) + 1))


@pytest.mark.long
@pytest.mark.parametrize("kills", [DRAWN // 2, pytest.param(KILLS // 2, marks=pytest.mark.soak)])  # on each server
def test_killed_anywhere_an_original_in_parts_leaves_no_doubt(
    places: Places, tiny_transcode: Transcode, start_child: Child, kills: int, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = random.randrange(10**6)
    draw = random.Random(seed)
    print(f"seed {seed}")  # noqa: T201  shown where it fails
    cases = [(operation, in_parts) for operation in OPERATIONS for in_parts in (True, False)]
    every = [
        (operation, in_parts, point)
        for operation, in_parts in cases
        for point in points_of(places, operation, tiny_transcode, start_child, in_parts=in_parts)
    ]
    wanted = draw.sample(every, min(kills, len(every)))
    wanted += draw.choices(every, k=kills - len(wanted))
    killed, bad = Counter[tuple[str, bool]](), list[str]()
    for operation, in_parts, point in wanted:
        world, arguments = prepared(places, operation, tiny_transcode, in_parts=in_parts)
        process = start_child(operation, world.address, f"*=kill@{point}", arguments)
        assert wait_for_end(process) in (0, -signal.SIGKILL)
        killed[operation, in_parts] += process.exitcode != 0
        bad += [f"{operation}, in parts: {in_parts}, at {point}: {why}" for why in nights(world)]
        world.check()
    with capsys.disabled():
        print(f"\n{killed.total()} kills at {len(set(wanted))} of {len(every)} failpoints, seed {seed}: {len(bad)} bad")  # noqa: T201  the figure that this suite is run for
    assert bad == []
    assert killed.total() >= kills * 0.9
