"""SIGKILL at every failpoint of every operation, then at every failpoint of its recovery: nothing is lost or stuck.

Between a death and the next run, the dead run's leases are let expire: in life that takes a minute.

Slow: each kill takes two child processes, a world of its own, and a look at every object.
"""

import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import NamedTuple

import pytest
import sqlalchemy as sa
from sqlmodel import Session

from reelkeeper.model import BlobState, Grace, Transcode, VideoState
from reelkeeper.model.alerts import EventType
from reelkeeper.operations.alerts import webhooks
from reelkeeper.operations.billing import ledger, quota
from reelkeeper.operations.core import epochs
from reelkeeper.operations.core.lease import LeaseManager
from reelkeeper.operations.lifecycle.purge import begin
from reelkeeper.operations.lifecycle.swap import Run
from reelkeeper.operations.videos.hold import hold
from reelkeeper.store.billing.ledger import balance
from reelkeeper.store.core.backup import backup, restore
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.core.epochs import BEHIND, RESTORED, marks, unconfirmed
from reelkeeper.store.tables import (
    blobs,
    credit_holds,
    notice_deliveries,
    notices,
    orphans,
    outbox,
    reservations,
    transfers,
    videos,
)
from reelkeeper.store.videos.holds import HoldTerms, in_force
from tests.faults.conftest import EVERY, Child, MakeWorld, first_of, wait_for_end
from tests.faults.world import LONG_AGO, World
from tests.operations.changes import change
from tests.operations.lifecycle.copies import bring_back
from tests.swapping import shrinker, swap

# The longest first, and how many kills in pairs each is good for at the least: fewer, and a failpoint has gone.
OPERATIONS = {
    "sync": 500,
    "job": 350,
    "upload": 300,
    "swap": 250,
    "swap_in_place": 250,
    "swap_in_parts": 250,
    "undo_in_place": 250,
    "restore_in_place": 250,
    "receive": 250,
    "settle_accounts": 200,
    "purge": 200,
    "adopt": 200,
    "retire": 60,
    "notify": 6,
    "restore": 6,
}


HELD = HoldTerms("video", "held", "a dispute", "p")


class Prepared(NamedTuple):
    """A world with work for an operation, and the operation's arguments."""

    world: World
    arguments: dict[str, object]


@pytest.fixture
def prepare(make_world: MakeWorld, tiny_transcode: Transcode) -> Callable[[str], Prepared]:
    def make(operation: str) -> Prepared:
        world = make_world()
        return Prepared(world, globals()[f"_for_{operation}"](world, tiny_transcode))

    return make


def _for_swap(world: World, result: Transcode) -> dict[str, object]:
    blob = world.video("v1")
    world.video("bystander")
    return {"blob": blob, "result": result}


def _for_swap_in_place(world: World, result: Transcode, *, in_parts: bool = False) -> dict[str, object]:
    world.double.limits_overwrites = False
    blob = world.video("v1", key=f"{world.address.prefix}ann/v1.mp4", in_parts=in_parts)
    world.video("bystander")
    return {"blob": blob, "result": result}


def _for_swap_in_parts(world: World, result: Transcode) -> dict[str, object]:
    return _for_swap_in_place(world, result, in_parts=True)


def _for_undo_in_place(world: World, result: Transcode) -> dict[str, object]:
    """What is stored is not as announced: whole bytes of the video, and the original goes back over them."""
    wrong = replace(result, media=replace(result.media, frames=result.media.frames + 1))
    return _for_swap_in_place(world, wrong)


def _for_restore_in_place(world: World, result: Transcode) -> dict[str, object]:
    arguments = _for_swap_in_place(world, result)
    scratch = Path(world.address.folder) / "scratch"
    with LeaseManager(world.workspace.engine) as manager:
        (lease,) = manager.take(["video/v1"])
        blob, run = int(str(arguments["blob"])), Run("before", lease, Grace(), scratch)
        swap(world.workspace, "v1", blob, shrinker(result), run, "in_place")
    return {}


def _for_upload(world: World, _: Transcode) -> dict[str, object]:
    world.video("bystander")
    return {"clip": str(world.clip)}


def _for_retire(world: World, _: Transcode) -> dict[str, object]:
    return {"plan": world.plan("expire_videos", "retire", [world.video("v1"), world.video("v2")])}


def _for_notify(world: World, _: Transcode) -> dict[str, object]:
    for place in ("one", "two"):
        webhooks.add(
            world.workspace.engine,
            f"http://127.0.0.1:9/{place}",
            [EventType.VIDEO_EXPIRING],
            allow_private=True,
            author="test",
        )
    return {"plan": world.plan("expire_videos", "notify", [world.video("v1"), world.video("v2")])}


def _for_purge(world: World, _: Transcode) -> dict[str, object]:
    replaced = world.video("v1", blob_state=BlobState.RETIRED, due=True, current=False)
    world.video("v1", generation=2)
    whole = world.video("v2", state=VideoState.RETIRED, blob_state=BlobState.RETIRED, due=True)
    vanished = world.video("v3", state=VideoState.RETIRED, blob_state=BlobState.RETIRED, due=True, stored=False)
    world.video("bystander", state=VideoState.RETIRED, blob_state=BlobState.RETIRED)
    held = world.video("held", state=VideoState.RETIRED, blob_state=BlobState.RETIRED, due=True)
    with LeaseManager(world.workspace.engine) as manager:
        (lease,) = manager.take(["flow/purge_retired"])
        begin(world.workspace, lease)  # an earlier run, whose epoch is dropped by this one
    hold(world.workspace.engine, HELD)  # which the bucket does not know yet
    chosen = [replaced, whole, vanished, held]
    return {"plan": world.plan("purge_retired", "purge", chosen), "blobs": chosen}


def _for_adopt(world: World, _: Transcode) -> dict[str, object]:
    """Go back to a backup, with videos that were restored and held since then, and one that is due."""
    due = [
        world.video(name, state=VideoState.RETIRED, blob_state=BlobState.RETIRED) for name in ("back", "held", "due")
    ]
    folder = Path(world.address.folder)
    saved = backup(world.workspace.engine, folder / "saved")
    bring_back(world, "back")
    hold(world.workspace.engine, HELD)
    assert epochs.tell(world.workspace)
    url = f"sqlite:///{folder / 'restored.sqlite3'}"
    restore(url, saved)
    world.address = replace(world.address, store_url=url)
    world.workspace = world.address.workspace()
    change(world, blobs, purge_after=LONG_AGO)
    return {"plan": world.plan("purge_retired", "purge", due), "blobs": due}


def _for_restore(world: World, _: Transcode) -> dict[str, object]:
    for name in ("v1", "v2"):
        world.video(name, state=VideoState.RETIRED, blob_state=BlobState.RETIRED, run_id="before")
    world.swapped("v3", run_id="before")
    world.video("bystander")
    return {}


def _for_sync(world: World, _: Transcode) -> dict[str, object]:
    at, prefix = world.workspace.bucket, world.address.prefix
    for name in ("new1", "new2"):
        at.put_once(f"{prefix}bob/{name}.mp4", world.clip, "video/mp4")
    debris = at.put_once(f"{prefix}ann/v1/g1-00000000deadbeef.mp4", world.clip, "video/mp4")
    world.video("v1", generation=2)
    world.video("v2", stored=False)
    world.video("v3", state=VideoState.RETIRED, blob_state=BlobState.RETIRED)
    world.video("v4", state=VideoState.GONE, blob_state=BlobState.GONE)  # an object that came after its purge
    world.video("v5", state=VideoState.LOST, blob_state=BlobState.LOST)  # and one that is found again
    with transaction(world.workspace.engine, "test") as session:
        session.execute(
            sa.insert(orphans).values(
                key=debris.key,
                size_bytes=debris.size_bytes,
                etag=debris.etag,
                last_modified=LONG_AGO,
                first_seen_at=LONG_AGO,
                last_seen_at=LONG_AGO,
            )
        )
    return {}


def _for_job(world: World, _: Transcode) -> dict[str, object]:
    with transaction(world.workspace.engine, "test") as session:
        ledger.grant(session, "ann", 1_000, "gift", run_id="test")
    return {"clip": str(world.clip)}


def _for_receive(world: World, _: Transcode) -> dict[str, object]:
    world.video("bystander")
    return {"clip": str(world.clip)}


def _for_settle_accounts(world: World, _: Transcode) -> dict[str, object]:
    with transaction(world.workspace.engine, "test") as session:
        ledger.grant(session, "ann", 1_000, "gift", run_id="test")
        ledger.hold(session, "ann", 400, "job", run_id="test", lasting_seconds=1)
        quota.reserve(session, "ann", 70, "upload", lasting_seconds=1)
        for table in (credit_holds, reservations):
            session.execute(sa.update(table).values(expires_at=LONG_AGO))
    return {}


def _shown_and_kept(session: Session) -> tuple[str, set[str]]:
    """The SHA-256 of the object at the service's key, and of objects in their grace."""
    shown = sa.select(blobs.c.sha256).join(videos, videos.c.blob_id == blobs.c.id).where(videos.c.id == "v1")
    kept = sa.select(blobs.c.sha256).where(blobs.c.video_id == "v1", blobs.c.state == BlobState.RETIRED)
    return session.execute(shown).scalar_one(), set(session.execute(kept).scalars())


def _check_swap_in_place(session: Session) -> None:
    shown, kept = _shown_and_kept(session)
    assert kept
    assert shown not in kept


_check_swap_in_parts = _check_swap_in_place


def _check_undo_in_place(session: Session) -> None:
    """The original is where it was, and each try has left a copy of it alone, unless it was killed before it copied."""
    shown, kept = _shown_and_kept(session)
    assert kept <= {shown}


def _check_restore_in_place(session: Session) -> None:
    """The original is where it was; its copy, and one of what had taken its place, are kept."""
    shown, kept = _shown_and_kept(session)
    assert shown in kept
    assert len(kept) == 2


def _check_purge(session: Session) -> None:
    """What is held is kept, and each epoch is known to be stored."""
    held = sa.select(blobs.c.state).where(blobs.c.video_id == "held")
    assert session.execute(held).scalar_one() == BlobState.RETIRED
    assert not unconfirmed(session)


def _check_adopt(session: Session) -> None:
    """Nothing is purged, what was restored and held since then is held, once, and the bucket knows who goes on."""
    assert {*session.execute(sa.select(blobs.c.state)).scalars()} == {BlobState.RETIRED}
    assert session.execute(sa.select(sa.func.min(blobs.c.purge_after))).scalar_one() > now(session)
    assert sorted(line.subject for line in in_force(session)) == ["back", "held"]
    assert not unconfirmed(session)
    assert not {RESTORED, BEHIND} & marks(session).keys()


def _check_notify(session: Session) -> None:
    """Of each video one notice, with a message of its own for each endpoint."""
    assert sorted(session.execute(sa.select(notices.c.video_id)).scalars()) == ["v1", "v2"]
    sent = session.execute(sa.select(outbox.c.endpoint_id, outbox.c.subject)).all()
    assert len(sent) == len(set(sent)) == 4
    messages = session.execute(sa.select(notice_deliveries.c.message_id)).scalars().all()
    assert sorted(messages) == sorted(session.execute(sa.select(outbox.c.id)).scalars())


def _check_job(session: Session) -> None:
    """One hold, captured once; the bytes of one try arrived, those of others were given back."""
    assert balance(session, "ann") == (700, 0, 300)
    kinds = Counter(session.execute(sa.select(transfers.c.kind)).scalars())
    assert kinds == {"grant": 1, "hold": 1, "capture": 1}
    states = Counter(session.execute(sa.select(reservations.c.state)).scalars())
    assert states.pop("settled") == 1
    assert not states.keys() - {"released"}


def _check_receive(session: Session) -> None:
    """One upload, whose bytes have arrived."""
    assert session.execute(sa.select(reservations.c.state)).scalars().all() == ["settled"]
    assert session.execute(sa.select(videos.c.state).where(videos.c.id == "new")).scalar_one() == VideoState.LIVE


def _check_settle_accounts(session: Session) -> None:
    assert balance(session, "ann") == (1_000, 0, 0)
    assert session.execute(sa.select(credit_holds.c.state)).scalars().all() == ["expired"]
    assert session.execute(sa.select(reservations.c.state)).scalars().all() == ["expired"]


class Runner:
    """Runs an operation in children, and counts how often it killed one."""

    def __init__(self, start_child: Child, operation: str, prepared: Prepared) -> None:
        self.start_child, self.operation, self.prepared = start_child, operation, prepared
        self.kills = 0

    def check(self) -> None:
        """Check the master property, and this operation's own guarantees."""
        self.prepared.world.check()
        if and_more := globals().get(f"_check_{self.operation}"):
            with reading(self.prepared.world.workspace.engine) as session:
                and_more(session)

    def run(self, kill_at: int | None = None) -> bool:
        """Run it, killed at its `kill_at`-th failpoint; True if it got to its end."""
        spec = f"*=kill@{kill_at}" if kill_at else ""
        process = self.start_child(self.operation, self.prepared.world.address, spec, self.prepared.arguments)
        code = wait_for_end(process)
        assert code in (0, -signal.SIGKILL), f"{self.operation} ended with {code} under {spec!r}"
        self.prepared.world.expire_leases()
        self.kills += code != 0
        return code == 0


@pytest.fixture
def runner(start_child: Child, prepare: Callable[[str], Prepared]) -> Callable[[str], Runner]:
    return lambda operation: Runner(start_child, operation, prepare(operation))


@EVERY
@pytest.mark.parametrize("operation", OPERATIONS)
def test_killed_at_any_failpoint_the_next_run_finishes(
    operation: str, every: int, runner: Callable[[str], Runner]
) -> None:
    for point in count(first_of(every), every):
        item = runner(operation)
        ended = item.run(kill_at=point)
        if operation != "sync":  # its world begins with the differences that it is there to settle
            item.prepared.world.check(settled=False)
        assert item.run()
        item.check()
        if ended:
            break
    assert point > 2  # at the least, before and after one commit


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.soak)])  # each ninth pair, or each
@pytest.mark.parametrize(("operation", "at_least"), OPERATIONS.items())
def test_killed_anywhere_and_its_recovery_killed_anywhere(
    operation: str, at_least: int, every: int, runner: Callable[[str], Runner], capsys: pytest.CaptureFixture[str]
) -> None:
    began, kills = time.monotonic(), 0
    for pair in _pairs(operation, runner, every):
        assert pair.run(), f"{operation} is stuck"
        pair.check()
        kills += pair.kills
    with capsys.disabled():
        seconds = time.monotonic() - began
        print(f"\n{operation}: {kills} kills, {seconds:.0f} s: 0 lost, 0 stuck, 0 orphaned")  # noqa: T201  the figure that this suite is run for
    assert kills >= (at_least if every == 1 else at_least // (2 * every**2))


def _pairs(operation: str, runner: Callable[[str], Runner], every: int) -> Iterator[Runner]:
    """Kill at point i, then kill the recovery at point j; for each i and j that there are, or some of both."""
    for first in count(first_of(every), every):
        for second in count(first_of(every), every):
            item = runner(operation)
            if item.run(kill_at=first):
                return
            ended = item.run(kill_at=second)
            yield item
            if ended:
                break
