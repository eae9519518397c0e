"""Four worker processes on one plan: every video is done once, even if workers are killed."""

import json
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from prefect.settings import PREFECT_API_URL

from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.tables import audit_events, leases
from tasks import plans
from tests.clips import AAC, natural, tool
from tests.faults.world import LONG_AGO
from tests.flows.conftest import MakeScene
from tests.flows.scenes import Scene
from tests.flows.workers import workers
from tests.policies import put_in_force
from tests.shrinking import AT_ANY_PRICE

VIDEOS = 12
PATIENCE_SECONDS = 400

pytestmark = pytest.mark.long("four workers, each of which starts a process with Prefect for a run")


@pytest.fixture(scope="session")
def small_clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Cut a second and a half of each natural clip, small, as x264 CRF 18."""
    folder = tmp_path_factory.mktemp("small")
    coded = ["-vf", "scale=320:180:flags=area,setsar=1", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "18", *AAC]
    return [
        tool("-ss", "1", "-t", "1.5", "-i", str(natural(name)), *coded, str(folder / f"{name}.mp4"))
        for name in ("bunny", "bikes", "city")
    ]


@pytest.fixture
def make_backlog(make_scene: MakeScene, small_clips: list[Path], monkeypatch: pytest.MonkeyPatch) -> MakeScene:
    """Make deployments with twelve cold videos, of which a worker compresses one at a time."""
    monkeypatch.setenv("REELKEEPER_WORKERS", "1")

    def make() -> Scene:
        scene = make_scene()
        # x264 refuses most of such small clips at once, and is done with the rest before anybody else comes.
        put_in_force(scene.engine, recipe=AT_ANY_PRICE.model_copy(update={"codec": "av1"}))
        for number in range(VIDEOS):
            scene.video(f"cold{number:02}", age_days=10, clip=small_clips[number % len(small_clips)])
        return scene

    return make


def running(*flows: str) -> AbstractContextManager[list[subprocess.Popen[str]]]:
    return workers(list(flows), {"PREFECT_API_URL": str(PREFECT_API_URL.value())})


def ended(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait until a worker ends well; return what it says of itself."""
    said, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, said
    told: dict[str, Any] = json.loads(said)
    return told


def swapped(scene: Scene) -> list[str]:
    with reading(scene.engine) as session:
        return list(session.scalars(sa.select(audit_events.c.video_id).where(audit_events.c.event == "swap")))


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def kill(scene: Scene, process: subprocess.Popen[str]) -> None:
    """Kill a worker with SIGKILL, and advance time until its leases have expired."""
    process.kill()
    process.wait()
    with transaction(scene.engine, "test") as session:
        its_own = leases.c.holder.contains(f":{process.pid}:")
        session.execute(sa.update(leases).where(its_own).values(expires_at=LONG_AGO))


def test_four_workers_compress_each_video_once_and_share_the_work(make_backlog: MakeScene) -> None:
    scene = make_backlog()
    with running("tier_storage", *["transcode_videos"] * 3) as processes:
        told, *helped = [ended(process) for process in processes]
    assert sorted(swapped(scene)) == [f"cold{number:02}" for number in range(VIDEOS)]
    assert told["done"] == {"compressed": VIDEOS}
    at_work = [entry for entry in helped if entry["plan_id"]]  # on a busy machine, some begin when all is done
    assert {entry["plan_id"] for entry in at_work} <= {told["plan_id"]}
    assert any(entry["done"].get("compressed") for entry in at_work)
    scene.world.check()


def test_two_of_four_workers_are_killed_the_run_itself_among_them_and_the_others_end_its_plan(
    make_backlog: MakeScene,
) -> None:
    scene = make_backlog()
    with running("tier_storage", *["transcode_videos"] * 3) as (leader, doomed, *others):
        wait_until(lambda: len(swapped(scene)) >= 2)
        kill(scene, doomed)
        wait_until(lambda: len(swapped(scene)) >= 5)
        kill(scene, leader)
        helped = [ended(process) for process in others]
    assert sorted(swapped(scene)) == [f"cold{number:02}" for number in range(VIDEOS)]
    assert set(scene.outcomes(helped[0]["plan_id"]).values()) == {"compressed"}
    assert plans.under_way(scene.world.workspace.engine) is None  # one of them has written the report
    with reading(scene.engine) as session:
        in_whose_name = set(session.scalars(sa.select(audit_events.c.run_id).where(audit_events.c.event == "swap")))
    assert in_whose_name == {scene.last_plan().run_id}
    scene.world.check()


def test_interrupting_a_run_stops_its_helpers_before_their_next_video(make_backlog: MakeScene) -> None:
    scene = make_backlog()
    with running("tier_storage", "transcode_videos") as (leader, helper):
        wait_until(lambda: len(swapped(scene)) >= 2)
        leader.send_signal(signal.SIGINT)
        leader.communicate(timeout=PATIENCE_SECONDS)
        helped = ended(helper)
    assert leader.returncode != 0
    assert len(swapped(scene)) >= 2
    assert helped["left"] >= VIDEOS - len(swapped(scene)) > 0  # the run ends its own video, too
    assert plans.under_way(scene.world.workspace.engine) is None
    scene.world.check()
