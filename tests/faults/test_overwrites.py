"""The service stores, overwrites and deletes at its own key while we work: its last upload is never lost or purged.

Every state of the key's row, every operation, something that the service does, at every failpoint of the operation, on
both stores. What the service has stored last must be live, or reported, after one `sync_catalog`, and still stored
after every grace has passed. The one window that stays is a key of the service's between its HEAD and its DELETE:
`purge.delete_signed.before`. It is counted apart, and docs/safety.md says how long it is.

What is put in place at that key, and put back, is held to the same.
"""

import random
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from itertools import count, product
from pathlib import Path
from time import sleep
from typing import NamedTuple

import pytest
import sqlalchemy as sa

from reelkeeper import failpoints
from reelkeeper.adapters.s3.seaweed import Endpoint
from reelkeeper.errors import ReelkeeperError, StorageError
from reelkeeper.model import BlobState, Grace, Outcome, Recorded, Transcode, VideoState
from reelkeeper.operations.core.freeze import thaw
from reelkeeper.operations.core.lease import LeaseManager
from reelkeeper.operations.lifecycle import purge
from reelkeeper.operations.lifecycle.restore import find_restorable, restore
from reelkeeper.operations.lifecycle.retire import retire
from reelkeeper.operations.lifecycle.swap import Run
from reelkeeper.operations.sync import adoption, orphans, sync
from reelkeeper.operations.sync.survey import confirm_missing, survey
from reelkeeper.operations.videos import intents
from reelkeeper.rules.lifecycle.transcode import IN_PLACE as PLACED
from reelkeeper.rules.lifecycle.transcode import NEW_KEY, Placement
from reelkeeper.rules.sync.adoption import AdoptionLimits
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.tables import blobs, videos
from tests.buckets import BUCKET
from tests.databases import create_database, drop_database
from tests.doubles.r2 import R2Double
from tests.faults.world import LONG_AGO, World
from tests.swapping import shrinker, swap

GRACE = Grace()
WINDOW = "purge.delete_signed.before"
AT_LEAST = 2_000
IN_SAMPLE = 60  # the soak plays every case
IN_PLACE_SAMPLE = 150  # on each of two stores
RETIRED: dict[str, object] = {"state": VideoState.RETIRED, "blob_state": BlobState.RETIRED}
STATES: dict[str, dict[str, object]] = {
    "live": {},
    "retired": RETIRED,
    "due": {**RETIRED, "due": True},
    "claimed": {**RETIRED, "due": True},  # by a purge that was killed a moment ago
    "claim timed out": {**RETIRED, "due": True},
    "gone": {"state": VideoState.GONE, "blob_state": BlobState.GONE},
    "lost": {"state": VideoState.LOST, "blob_state": BlobState.LOST},
    "swapped away": {"blob_state": BlobState.RETIRED, "due": True, "current": False},
    "swapped away, gone": {"blob_state": BlobState.GONE, "current": False},
    "swap in flight": {},
    "swapped in place": {},
    "swap in place in flight": {},
    "being put back": {},
}
IN_PLACE = ("swapped in place", "swap in place in flight", "being put back")
DEEDS = ("put", "put the same", "delete", "delete and put", "put twice")
STEPS = ("sync", "swap", "swap_in_place", "retire", "purge", "restore")


MakeAny = Callable[[], AbstractContextManager[World]]


class Case(NamedTuple):
    """A case: the row's state, the running step, the service's action, and the failpoint at which it happens."""

    state: str
    step: str
    deed: str
    at: int  # 0: before the step begins


class Scene:
    """A world with the video v1 at a key of the service's, and the service."""

    def __init__(self, world: World, state: str, transcode: Transcode) -> None:
        self.world, self.transcode = world, transcode
        world.double.limits_overwrites = False
        self.original = world.clip.read_bytes()
        self.key = f"{world.address.prefix}ann/v1.mp4"
        self.last: bytes | None = world.clip.read_bytes()  # what the service has stored last
        self.uploads, self.deleted = 0, False
        self._put(self.last)
        self.blob = world.video("v1", key=self.key, stored=False, **STATES[state])  # type: ignore[arg-type]  # a table of arguments
        world.video("bystander")
        if state.startswith("swapped away"):
            world.video("v1", generation=2)
        if state.startswith("claim"):
            claim = {"state": BlobState.DELETING, "claim_token": 10**6}
            with transaction(world.workspace.engine, "test") as session:
                claimed_at = now(session) if state == "claimed" else LONG_AGO
                session.execute(sa.update(blobs).where(blobs.c.id == self.blob).values(claimed_at=claimed_at, **claim))
        match state:
            case "swap in flight":
                self._begin("swap", "swap.put.after")
            case "swapped in place":
                self._begin("swap_in_place", "")
            case "swap in place in flight":
                self._begin("swap_in_place", "in_place.put.after")
            case "being put back":
                media = replace(transcode.media, frames=transcode.media.frames + 1)
                self.transcode = replace(transcode, media=media)  # what is stored is not as announced
                self._begin("swap_in_place", "in_place.fetch.after")
                self.transcode = transcode

    def _put(self, data: bytes) -> None:
        self.world.double.client.put_object(Bucket=BUCKET, Key=self.key, Body=data)

    def _begin(self, step: str, until: str) -> None:
        """Kill a swap on its way, or complete it."""

        def die(name: str) -> None:
            if name == until:
                failpoints.observe(None)
                raise KeyboardInterrupt

        failpoints.observe(die)
        with LeaseManager(self.world.workspace.engine) as manager, suppress(KeyboardInterrupt):
            self.step(step, manager.take(["video/v1"])[0])
        failpoints.observe(None)

    def do(self, deed: str) -> None:
        """Carry out the service's action."""
        if deed == "put the same":
            sleep(1.1)  # LastModified goes by the second
            self.last = self.world.clip.read_bytes()
            self._put(self.last)
        if deed in ("delete", "delete and put"):
            self.world.double.client.delete_object(Bucket=BUCKET, Key=self.key)
            self.last, self.deleted = None, True
        for _ in range({"put": 1, "delete and put": 1, "put twice": 2}.get(deed, 0)):
            self.uploads += 1
            self.last = f"upload {self.uploads} of the service".encode()
            self._put(self.last)

    def stored(self) -> bytes | None:
        if self.world.workspace.bucket.head(self.key) is None:
            return None
        return self.world.workspace.bucket.read_bytes(self.key, 10**7)

    def step(self, name: str, lease: Lease) -> None:
        getattr(self, name)(lease)

    def sync(self, lease: Lease) -> list[str]:
        workspace = self.world.workspace
        purge.settle_claims(workspace, run_id="sync", grace=GRACE, lease=lease)
        for intent in intents.open_intents(workspace):
            with suppress(StorageError):  # what may come yet stays open
                intents.settle(workspace, intent, scratch=self._scratch, lease=lease, grace=GRACE)
        found = survey(workspace, run_id="sync", note=True)
        confirm_missing(workspace, found)
        adoption.judge(workspace, found.scan_id, AdoptionLimits())
        orphans.adopt(workspace, found, lease=lease, run_id="sync")
        sync.lose(workspace, found, lease=lease, run_id="sync")
        doubtful = sync.mend(workspace, found, lease=lease, run_id="sync", grace=GRACE)
        sync.finish(workspace, found, "done")
        return doubtful

    def swap_in_place(self, lease: Lease) -> None:
        self.swap(lease, PLACED)

    def swap(self, lease: Lease, placement: Placement = NEW_KEY) -> None:
        swap(
            self.world.workspace,
            "v1",
            self.blob,
            shrinker(self.transcode),
            Run("swap", lease, GRACE, self._scratch),
            placement,
        )

    def retire(self, lease: Lease) -> None:
        plan = self.world.plan("expire_videos", "retire", [self.blob])
        retire(self.world.workspace, plan, ["v1"], lease=lease, run_id="retire", grace=GRACE)

    def purge(self, lease: Lease) -> list[Outcome]:
        """Purge all that is due."""
        with reading(self.world.workspace.engine) as session:
            due = sa.select(blobs.c.id).where(blobs.c.state == BlobState.RETIRED, blobs.c.purge_after < now(session))
            chosen = list(session.execute(due).scalars())
        plan = self.world.plan(f"{secrets.token_hex(2)}.purge", "purge", chosen)
        return purge.purge(self.world.workspace, plan, chosen, lease=lease, run_id="purge", grace=GRACE)

    def restore(self, _: Lease) -> None:
        workspace = self.world.workspace
        purge.settle_claims(workspace, run_id="restore", grace=GRACE)
        found = find_restorable(workspace, video_id="v1")
        restore(workspace, found, run_id="restore", author="p", grace=GRACE, hold_days=0)

    def keeps_original(self) -> bool:
        """Whether the original is stored, at the key or at one of ours."""
        bucket = self.world.workspace.bucket
        with reading(self.world.workspace.engine) as session:
            keys = sa.select(blobs.c.key).where(blobs.c.video_id == "v1", blobs.c.state != BlobState.GONE)
            stored = bucket.stored([self.key, *session.execute(keys).scalars()])
        return any(found and bucket.read_bytes(key, 10**7) == self.original for key, found in stored.items())

    @property
    def _scratch(self) -> Path:
        return Path(self.world.address.folder) / "scratch"

    def is_kept(self) -> bool:
        """Check that the last upload is at its key, or that the video uses a compressed copy of its bytes."""
        return self.stored() == self.last or (self.last == self.original and self.is_live())

    def is_live(self) -> bool:
        """Check that the video is live as recorded; at another key only if the bytes are the original."""
        with reading(self.world.workspace.engine) as session:
            row = session.execute(
                sa.select(blobs.c.key, *(blobs.c[name] for name in Recorded._fields))
                .join(videos, videos.c.blob_id == blobs.c.id)
                .where(videos.c.id == "v1", videos.c.state == VideoState.LIVE, blobs.c.state == BlobState.LIVE)
            ).one_or_none()
        if row is None or (row.key != self.key and self.last != self.original):
            return False
        found = self.world.workspace.bucket.head(row.key)
        return bool(found and Recorded(*row[1:]).matches(found))

    def let_time_pass(self) -> None:
        self.world.expire_leases()
        with transaction(self.world.workspace.engine, "test") as session:
            session.execute(sa.update(blobs).where(blobs.c.state == BlobState.RETIRED).values(purge_after=LONG_AGO))


def play(make: MakeAny, case: Case, transcode: Transcode) -> str:
    """Run a case and return its result: past the last failpoint, in the window, or well. Faults fail an assertion."""
    with make() as world:
        return _play(Scene(world, case.state, transcode), case)


def _play(scene: Scene, case: Case) -> str:
    passed = list[str]()
    acted_at = ""

    def observer(name: str) -> None:
        nonlocal acted_at
        passed.append(name)
        if len(passed) == case.at:
            acted_at = name
            scene.do(case.deed)

    if case.at == 0:
        scene.do(case.deed)
    with LeaseManager(scene.world.workspace.engine) as manager:
        (lease,) = manager.take(["test"])
        failpoints.observe(observer)
        try:
            with suppress(ReelkeeperError):  # a refusal is an answer; what it leaves behind is looked at below
                scene.step(case.step, lease)
        finally:
            failpoints.observe(None)
        if case.at and not acted_at:
            return "past the end"
        _assert_nothing_lost(scene, lease, case, acted_at)
    return "in the window" if acted_at == WINDOW else "well"


def _assert_nothing_lost(scene: Scene, lease: Lease, case: Case, acted_at: str) -> None:
    thaw(scene.world.workspace.engine, by="test")
    if acted_at == WINDOW and scene.stored() is None:
        return  # what docs/safety.md says can happen
    untouched = scene.uploads == 0 and case.deed != "put the same"
    if case.state in IN_PLACE or (case.step == "swap_in_place" and scene.uploads == 0):
        kept = scene.deleted or case.step == "purge" or not _begins_with_bytes(case.state) or scene.keeps_original()
        assert kept, f"ORIGINAL LOST by {case} at {acted_at}"
    if not untouched:
        assert scene.is_kept(), f"LOST by {case} at {acted_at}"
        doubtful = scene.sync(lease)
        assert scene.is_live() or scene.key in doubtful, f"not live, not reported: {case} at {acted_at}"
    for _ in range(2):  # what is in doubt is settled by the second
        scene.let_time_pass()
        thaw(scene.world.workspace.engine, by="test")
        with suppress(ReelkeeperError):
            scene.sync(lease)
        scene.let_time_pass()
        with suppress(ReelkeeperError):
            scene.purge(lease)
    if not untouched:
        assert scene.is_kept(), f"PURGED after {case} at {acted_at}"
        assert scene.is_live(), f"not live in the end: {case} at {acted_at}"
    with reading(scene.world.workspace.engine) as session:
        states = Counter(session.execute(sa.select(blobs.c.state)).scalars())
    assert not states[BlobState.DELETING], f"STUCK: {case} at {acted_at}"
    assert not states[BlobState.PENDING], f"STUCK: {case} at {acted_at}"


def _begins_with_bytes(state: str) -> bool:
    return "gone" not in state and state not in ("due", "claimed", "claim timed out")


@pytest.fixture(params=["sqlite", "postgresql"])
def make_any(
    request: pytest.FixtureRequest, endpoint: Endpoint, double: R2Double, tiny_clip: Path, tmp_path: Path
) -> MakeAny:
    """Create worlds with separate stores; leaving one drops its store."""

    @contextmanager
    def make() -> Iterator[World]:
        folder = tmp_path / secrets.token_hex(6)
        folder.mkdir()
        name = f"store_{folder.name}"
        if request.param == "sqlite":
            shutil.copyfile(request.getfixturevalue("migrated_file"), folder / "store.sqlite3")
            url = f"sqlite:///{folder / 'store.sqlite3'}"
        else:
            server = request.getfixturevalue("postgresql")
            url = create_database(server, name, request.getfixturevalue("migrated_database"))
        world = World.make(folder, url, endpoint, double, clip=tiny_clip)
        yield world
        world.workspace.engine.dispose()
        if request.param == "postgresql":
            drop_database(server, name)
        shutil.rmtree(folder)
        double.reset()

    return make


@contextmanager
def sampled(capsys: pytest.CaptureFixture[str], what: str) -> Iterator[tuple[random.Random, Counter[str]]]:
    """Provide a random generator and a count of results; print the seed, and the results at the end."""
    seed, results = random.randrange(10**6), Counter[str]()
    print(f"seed {seed}")  # noqa: T201  a failure is played again by it
    yield random.Random(seed), results
    with capsys.disabled():
        print(f"\n{what}, seed {seed}: {dict(results)}, 0 lost, 0 purged")  # noqa: T201  the figure that this is run for


@pytest.mark.long
def test_a_sample_of_states_steps_deeds_and_failpoints(
    make_any: MakeAny, tiny_transcode: Transcode, capsys: pytest.CaptureFixture[str]
) -> None:
    with sampled(capsys, "overwrites") as (chance, results):
        for _ in range(IN_SAMPLE):
            deed = chance.choice([text for text in DEEDS if text != "put the same"])
            case = Case(chance.choice(list(STATES)), chance.choice(STEPS), deed, chance.randrange(9))
            results[play(make_any, case, tiny_transcode)] += 1
    assert results["well"] > IN_SAMPLE // 4


@pytest.mark.long
@pytest.mark.parametrize("least", [30, pytest.param(IN_PLACE_SAMPLE, marks=pytest.mark.soak)])
def test_a_sample_of_what_is_put_in_place(
    make_any: MakeAny, tiny_transcode: Transcode, least: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with sampled(capsys, "overwrites in place") as (chance, results):
        while results.total() - results["past the end"] < least:
            state = chance.choice(["live", *IN_PLACE])
            step = "swap_in_place" if state == "live" else chance.choice(STEPS)
            deed = chance.choice([text for text in DEEDS if text not in ("put the same", "delete")])
            results[play(make_any, Case(state, step, deed, chance.randrange(26)), tiny_transcode)] += 1


@pytest.mark.soak
@pytest.mark.long
def test_every_state_step_deed_and_failpoint(
    make_any: MakeAny, tiny_transcode: Transcode, capsys: pytest.CaptureFixture[str]
) -> None:
    results = Counter[str]()
    for state, step, deed in product(STATES, STEPS, DEEDS):
        for at in count():
            result = play(make_any, Case(state, step, deed, at), tiny_transcode)
            if result == "past the end":
                break
            results[result] += 1
    with capsys.disabled():
        print(f"\noverwrites: {dict(results)}, 0 lost outside of the window, 0 purged")  # noqa: T201  the figure that this is run for
    assert results.total() >= AT_LEAST / 2  # on each of two stores
