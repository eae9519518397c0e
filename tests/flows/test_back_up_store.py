"""`back_up_store`: a failure is told; a store that is destroyed comes back by the runbook's lines alone."""

import random
import re
import shlex
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from flows.back_up_store import back_up_store
from reelkeeper.adapters.s3.seaweed import Endpoint
from reelkeeper.cli import app
from reelkeeper.errors import IntegrityDoubt
from reelkeeper.model import BlobState, VideoState
from reelkeeper.operations.billing import ledger
from reelkeeper.operations.core import epochs
from reelkeeper.operations.videos.hold import hold
from reelkeeper.settings import settings
from reelkeeper.store.core.audit import verify
from reelkeeper.store.core.engine import open_engine, reading, transaction
from reelkeeper.store.tables import alerts, blobs, heartbeats, holds, storage_accounts, users, videos
from reelkeeper.store.videos.holds import HoldTerms
from tests.buckets import BUCKET
from tests.databases import create_database, drop_database
from tests.doubles.r2 import R2Double
from tests.faults.world import World
from tests.flows.scenes import Scene
from tests.operations.books import DOLLAR, balances
from tests.operations.lifecycle.copies import bring_back, end_graces

RUNBOOK = Path(__file__).parents[2] / "docs" / "runbooks.md"


def firing(engine: sa.Engine) -> set[str]:
    with reading(engine) as session:
        return set(session.execute(sa.select(alerts.c.rule).where(alerts.c.state == "firing")).scalars())


def succeeded(engine: sa.Engine) -> bool:
    with reading(engine) as session:
        return session.execute(sa.select(heartbeats).where(heartbeats.c.flow == "back_up_store")).first() is not None


@pytest.mark.usefixtures("scene")
def test_a_dry_run_makes_nothing() -> None:
    assert (back_up_store().kept, back_up_store().backup) == (0, "")
    assert not settings().backup_folder.exists()


@pytest.mark.long
def test_a_failure_alerts_until_a_run_succeeds(scene: Scene) -> None:
    scene.video("v1", age_days=1)
    wrong = sa.update(storage_accounts).values(used_bytes=storage_accounts.c.used_bytes + 1)
    with transaction(scene.engine, "test") as session:
        session.execute(wrong)
    with pytest.raises(IntegrityDoubt):
        back_up_store(dry_run=False)
    assert firing(scene.engine) == {"backup_failed"}
    assert not succeeded(scene.engine)  # so the watchdog tells of silence, too
    with transaction(scene.engine, "test") as session:
        session.execute(sa.update(storage_accounts).values(used_bytes=storage_accounts.c.used_bytes - 1))
    report = back_up_store(dry_run=False)
    assert (report.restored, report.kept) == (True, 2)
    assert firing(scene.engine) == set()
    assert succeeded(scene.engine)


class Day:
    """What happens on a busy day, at random; it goes on until the store is gone."""

    def __init__(self, world: World, chance: random.Random) -> None:
        self.world, self.chance, self.engine = world, chance, world.workspace.engine
        self.uploaded, self.brought_back, self.held, self.dollars = set[str](), set[str](), set[str](), 0
        self.waiting = [f"retired{number}" for number in range(12)]

    def act(self, step: int) -> None:
        """Do one thing, as users and operators would."""
        what = self.chance.choice(("upload", "restore", "hold", "pay", "retire"))
        if what == "upload":
            self.world.video(f"new{step}")
            self.uploaded.add(f"new{step}")
        elif what == "restore" and self.waiting:
            video_id = self.waiting.pop()
            bring_back(self.world, video_id)
            self.brought_back.add(video_id)
        elif what == "hold" and self.waiting:
            video_id = self.waiting.pop()
            hold(self.engine, HoldTerms("video", video_id, "a test", "p", None, is_legal=False))
            assert epochs.tell(self.world.workspace, seconds=20)
            self.held.add(video_id)
        elif what == "pay":
            with transaction(self.engine, "test") as session:
                ledger.grant(session, "ann", DOLLAR, f"payment {step}", run_id="test")
            self.dollars += 1
        elif what == "retire":
            self.world.video(f"late{step}", state=VideoState.RETIRED, blob_state=BlobState.RETIRED)


@pytest.fixture
def lines() -> Callable[[], None]:
    """Run the lines of the runbook's section, one after the other, in the present folder."""
    section = RUNBOOK.read_text().split("\n## The store is lost, or was restored\n")[1].split("\n## ")[0]
    found = [line for block in re.findall(r"```sh\n(.*?)```", section, re.DOTALL) for line in block.splitlines()]
    assert [line.split()[:3] for line in found if "adopt" in line] == [["reelkeeper", "db", "adopt"]]

    def run() -> None:
        for line in found:
            if not line.startswith("reelkeeper "):
                subprocess.run(["/bin/sh", "-c", line], check=False)  # no such file on PostgreSQL
                continue
            settings.cache_clear()
            result = CliRunner().invoke(app, shlex.split(line)[1:], input="y\n")
            assert result.exit_code == 0, f"{line}: {result.output}"

    return run


@pytest.mark.long
@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
@pytest.mark.usefixtures("prefect_server")
def test_a_store_destroyed_at_a_random_second_comes_back_by_the_runbook(
    backend: str,
    request: pytest.FixtureRequest,
    endpoint: Endpoint,
    double: R2Double,
    tiny_clip: Path,
    tmp_path: Path,
    empty_url: Callable[[str], str],
    lines: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")  # noqa: T201  shown where it fails
    chance = random.Random(seed)
    folder = tmp_path / f"w{seed:06d}"
    (state := folder / ".reelkeeper").mkdir(parents=True)
    url = f"sqlite:///{state / 'store.sqlite3'}" if backend == "sqlite" else empty_url(backend)
    monkeypatch.chdir(folder)
    for name, value in {
        "DATABASE_URL": url,
        "S3_ENDPOINT_URL": double.endpoint.endpoint_url,
        "S3_ACCESS_KEY_ID": endpoint.access_key_id,
        "S3_SECRET_ACCESS_KEY": endpoint.secret_access_key,
        "BUCKET": BUCKET,
        "PREFIX": f"{folder.name}/videos/",
    }.items():
        monkeypatch.setenv(f"REELKEEPER_{name}", value)
    settings.cache_clear()
    CliRunner().invoke(app, ["db", "upgrade"])
    world = World.make(folder, url, endpoint, double, clip=tiny_clip)
    day = Day(world, chance)
    world.video("old")
    for video_id in day.waiting:
        world.video(video_id, state=VideoState.RETIRED, blob_state=BlobState.RETIRED)
    with transaction(day.engine, "test") as session:
        ledger.grant(session, "ann", 7 * DOLLAR, "before the night", run_id="test")
    assert back_up_store(dry_run=False).restored

    over = threading.Event()
    threading.Timer(chance.uniform(0.2, 4), over.set).start()
    step = 0
    while not over.is_set():
        day.act(step := step + 1)
    kept = {blob.key: blob.video_id for blob in _live(day.engine)}
    day.engine.dispose()
    if backend == "sqlite":
        store = state / "store.sqlite3"
        store.write_bytes(chance.randbytes(chance.randrange(store.stat().st_size)))
    else:
        server, name = request.getfixturevalue("postgresql"), str(sa.make_url(url).database)
        drop_database(server, name)
        create_database(server, name, "template1")  # as the runbook says
    lines()

    engine = open_engine(url)
    assert epochs.why_behind(engine, world.workspace.bucket) is None
    states = _states(engine)
    for video_id in {"old"} | day.uploaded:
        assert states[video_id] == "live", f"{video_id}, seed {seed}"
    assert balances(engine, "ann") == (7 * DOLLAR, 0)  # the payments of the day are lost, and no others
    assert _held(engine) >= day.brought_back | day.held
    back = World(world.address, double, tiny_clip, world.address.workspace(engine), world.outside)
    end_graces(back)
    assert CliRunner().invoke(app, ["run", "purge_retired", "--apply"]).exit_code == 0
    for key, video_id in kept.items():
        assert back.workspace.bucket.head(key) is not None, f"LOST {video_id}, seed {seed}"
    with reading(engine) as session:
        assert verify(session) > 0
        assert session.execute(sa.select(users.c.id)).scalars().all() == ["ann"]
    engine.dispose()


def _live(engine: sa.Engine) -> list[sa.Row[tuple[str, str]]]:
    """What the store that is about to be destroyed shows."""
    with reading(engine) as session:
        return list(session.execute(sa.select(blobs.c.key, blobs.c.video_id).where(blobs.c.state == "live")))


def _states(engine: sa.Engine) -> dict[str, str]:
    with reading(engine) as session:
        return {row.id: row.state for row in session.execute(sa.select(videos.c.id, videos.c.state))}


def _held(engine: sa.Engine) -> set[str]:
    with reading(engine) as session:
        return set(session.execute(sa.select(holds.c.subject).where(holds.c.released_at.is_(None))).scalars())
