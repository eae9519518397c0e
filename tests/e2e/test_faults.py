"""Ten kills of the worker in the middle of its runs, five of Prefect's server, and a while without any worker.

Everything finishes without anybody's help: dead runs are found out and their slots freed, the schedules go on, what was
missed is caught up once, and the master property holds: nothing is lost, stuck or done twice.
"""

import time
from datetime import UTC, datetime
from typing import Any

import psutil
import pytest
import sqlalchemy as sa

from reelkeeper.model import BlobState, VideoState
from reelkeeper.model.jobs import JobState
from reelkeeper.model.requests import GenerationRequest, Queued
from reelkeeper.operations.billing import ledger
from reelkeeper.operations.jobs.admit import admit
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.tables import jobs, users, view_days
from tests.clips import MakeClip
from tests.e2e.conftest import Install
from tests.e2e.installation import Installation, lives, until
from tests.faults.world import World
from tests.flows.scenes import recorded_days
from tests.operations.books import DOLLAR
from tests.policies import put_in_force
from tests.shrinking import AT_ANY_PRICE

pytestmark = [pytest.mark.long, pytest.mark.soak]
KILLS: list[tuple[str, str]] = [  # the flow, and the moment: a request to the bucket, or a media tool at work
    ("tier-storage", "ffmpeg"),
    ("dispatch-jobs", "PutObject"),
    ("purge-retired", "DeleteObjects"),
    ("sync-catalog", "ListObjectsV2"),
    ("expire-videos", "GetObject"),
    ("settle-accounts", "GetObject"),
    ("prune-cache", "GetObject"),
    ("forecast-costs", "GetObject"),
    ("monitor-costs", "GetObject"),
    ("transcode-videos", "GetObject"),
]
REPEATED = {"tier-storage": 60, "purge-retired": 60, "dispatch-jobs": 60, "sync-catalog": 15}
WANTED = GenerationRequest(model="a", prompt="a cat", width=64, height=64, duration_seconds=0.5, fps=8)
TOOLS = ("ffmpeg", "ffprobe")
SHORT = {"dispatch-jobs": {"until_idle": True}}


@pytest.fixture(scope="module")
def shaken(install: Install, make_clip: MakeClip) -> tuple[Installation, World]:
    """Cold videos to compress, one to retire, one whose bytes are due to be purged, and a waiting job."""
    installation, world = install(make_clip(size="320x240", seconds=3.0))
    put_in_force(world.workspace.engine, recipe=AT_ANY_PRICE)  # clips so short do not pay
    with transaction(world.workspace.engine, "test") as session:
        session.execute(sa.update(users).values(tier="pro"))
        session.execute(sa.insert(view_days), recorded_days())
        ledger.grant(session, "ann", DOLLAR, "first", run_id="test")
    for name in ("cold0", "cold1"):
        world.video(name)
    world.video("gone", state=VideoState.RETIRED, blob_state=BlobState.RETIRED, due=True)
    answer = admit(world.workspace.engine, WANTED, user_id="ann", client_key="once")
    assert isinstance(answer, Queued)
    installation.start_server()
    installation.set_up()
    installation.hold_schedules()
    return installation, world


def test_ten_dead_workers_and_five_dead_servers_cost_nothing(shaken: tuple[Installation, World]) -> None:
    installation, world = shaken
    if "worker" in installation.processes:
        installation.stop("worker", seconds=200)
    installation.hold_schedules()
    for number, (flow, moment) in enumerate(KILLS):
        installation.start_worker()
        _kill_in_the_middle(installation, world, flow, moment, number)
        if number % 2:
            installation.kill("server")
            installation.start_server()
    installation.start_worker()
    killed = datetime.now(UTC).isoformat()
    for flow, seconds in REPEATED.items():
        installation.repeat(flow, seconds)

    def all_over() -> bool:
        dead = [run for run in installation.runs("", "RUNNING", "PENDING") if (run["start_time"] or "~") < killed]
        return not dead

    until(all_over, 300, "every dead run is found out")
    assert len(installation.runs("", "CRASHED")) >= len(KILLS) - 1  # one may have ended in its last second

    def healed() -> bool:
        return all(_completed_after(installation, flow, killed) for flow in REPEATED)

    until(healed, 400, "every schedule has gone on by itself")
    until(lambda: _states(world) == [JobState.SUCCEEDED], 300, "the job is done")
    until(lambda: _settled(world), 300, "what was begun is finished")
    assert len(world.double.deleted()) >= 1


def _kill_in_the_middle(installation: Installation, world: World, flow: str, moment: str, number: int) -> None:
    """Kill the worker at that moment of a run of `flow`, and see that nothing of it lives on."""
    faults, left = world.double.faults, list[psutil.Process]()
    if moment != "ffmpeg":
        faults.before(moment, lambda _: left.extend(installation.kill("worker")))
    run = installation.begin(flow, f"kill {number}", **SHORT.get(flow, {}))
    worker = psutil.Process(installation.processes["worker"].pid)
    if moment == "ffmpeg":
        until(lambda: _tools(worker), 180, "a media tool is at work", pause=0.01)
        left.extend(installation.kill("worker"))

    def met() -> bool:
        nonlocal run
        if "worker" not in installation.processes:
            return bool(left)
        if installation.run(run)["state"]["type"] == "CANCELLED":  # beside another of its flow that was not over yet
            run = installation.begin(flow, f"kill {number} instead of {run}", **SHORT.get(flow, {}))
        return False

    until(met, 180, f"{flow} meets {moment}", pause=1)
    faults.clear()
    until(lambda: not [item for item in left if lives(item)], 30, f"nothing of it lives on: {left}")


def _tools(worker: psutil.Process) -> list[psutil.Process]:
    found = []
    for child in worker.children(recursive=True):
        try:
            if child.name().startswith(TOOLS) and "-version" not in child.cmdline():  # which a worker asks for first
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


def _states(world: World) -> list[str]:
    with reading(world.workspace.engine) as session:
        return list(session.execute(sa.select(jobs.c.state)).scalars())


def _settled(world: World) -> bool:
    try:
        world.check()
    except AssertionError as error:
        if "STUCK" in str(error):
            return False
        raise
    return True


def test_one_of_the_missed_runs_is_caught_up(shaken: tuple[Installation, World]) -> None:
    installation, world = shaken
    if "worker" in installation.processes:
        installation.stop("worker", seconds=200)
    installation.repeat("sync-catalog", 15)
    gone = datetime.now(UTC).isoformat()
    time.sleep(1)

    def missed() -> list[dict[str, Any]]:
        now = datetime.now(UTC).isoformat()
        return [run for run in installation.runs("sync-catalog") if gone < run["expected_start_time"] < now]

    until(lambda: len(missed()) >= 3, 120, "three of its schedule are missed")
    back = datetime.now(UTC).isoformat()
    installation.start_worker()

    def caught_up() -> list[dict[str, Any]]:
        then = [run for run in installation.runs("sync-catalog") if gone < run["expected_start_time"] < back]
        waiting = [run for run in then if run["state"]["type"] in ("SCHEDULED", "PENDING", "RUNNING")]
        return [] if waiting else then

    runs = until(caught_up, 200, "what was missed is caught up")
    assert len(runs) >= 3
    ran = [run for run in runs if run["state"]["type"] != "CANCELLED"]
    assert len(ran) <= 1, [(run["expected_start_time"], run["state"]["name"]) for run in runs]
    until(lambda: _completed_after(installation, "sync-catalog", back), 200, "the schedule goes on")
    world.check(settled=False)


def _completed_after(installation: Installation, flow: str, moment: str) -> bool:
    return bool([run for run in installation.runs(flow, "COMPLETED") if run["start_time"] > moment])
