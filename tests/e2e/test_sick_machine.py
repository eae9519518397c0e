"""Three machines, one of them sick: the others do every clip once, none fails for its sake, and one alert names it."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest
import sqlalchemy as sa

from reelkeeper.adapters import ffmpeg
from reelkeeper.errors import IdentityMismatch, SchemaError
from reelkeeper.store.core.engine import reading
from reelkeeper.store.core.schema import VERSIONS
from reelkeeper.store.tables import alerts, audit_events
from tests.disks import fill, small_disk
from tests.e2e.conftest import Install
from tests.e2e.installation import BIN, ROOT, Installation, until
from tests.earlier import EARLIER, unpack
from tests.effort import cpu_seconds
from tests.flows.scenes import Scene

pytestmark = pytest.mark.long
VIDEOS: Final = 6
WORK: Final = {"no settings": IdentityMismatch.exit_code, "another version": SchemaError.exit_code}  # ends at its start
SECONDS: Final = 240


class Machines:
    """Processes with separate host names, folders and settings, around one installation."""

    def __init__(self, installation: Installation, folder: Path) -> None:
        self._installation, self._folder = installation, folder

    def start(self, name: str, pool: str = "encode", **settings: str | None) -> subprocess.Popen[bytes]:
        """Start a worker of one run at a time on a new machine; a setting that is None is not set there."""
        home = self._folder / name
        home.mkdir()
        given = self._installation.environment | {
            "REELKEEPER_STATE_DIR": str(home / "state"),
            "REELKEEPER_HOME": str(home),
            "REELKEEPER_WORKERS": "1",
            "PREFECT_HOME": str(home / "prefect"),
        }
        environment = {key: value for key, value in (given | settings).items() if value is not None}
        script = f'hostname {name}; exec "$@"'
        command = ["unshare", "--uts", "sh", "-c", script, "sh", str(BIN / "reelkeeper"), "worker", pool]
        with (self._folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [*command, "--limit", "1", "--patience", "1"],
                cwd=home,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._installation.processes[name] = process
        return process

    def log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text(errors="replace")[-4_000:]


@pytest.fixture
def machines(install: Install, tiny_clip: Path, tmp_path: Path) -> Iterator[tuple[Machines, Scene, Installation]]:
    alone = [shutil.which("unshare") or pytest.skip("there is no unshare here"), "--uts", sys.executable, "-c", ""]
    if subprocess.run(alone, check=False, capture_output=True).returncode:
        pytest.skip("a machine cannot have a name of its own here")
    installation, world = install(tiny_clip)
    scene = Scene(world)
    for number in range(VIDEOS):
        scene.video(f"cold{number}", age_days=10)
    installation.start_server()
    yield Machines(installation, tmp_path), scene, installation
    installation.close()


def swapped(scene: Scene) -> list[str]:
    with reading(scene.engine) as session:
        return sorted(session.scalars(sa.select(audit_events.c.video_id).where(audit_events.c.event == "swap")))


def told(scene: Scene) -> list[tuple[str, str]]:
    with reading(scene.engine) as session:
        return [(row.rule, row.scope) for row in session.execute(sa.select(alerts.c.rule, alerts.c.scope))]


def workers_of(installation: Installation, pool: str) -> list[str]:
    return [found["name"] for found in installation.ask("POST", f"/work_pools/{pool}/workers/filter", {})]


def older_version(folder: Path) -> str:
    """Copy the package without its newest schema; return what finds that copy first."""
    for room in ("reelkeeper", "tasks", "flows", "deployments"):
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    newest = max(path.name for path in VERSIONS.glob("[0-9]*.py"))
    (folder / "reelkeeper" / "store" / "migrations" / "versions" / newest).unlink()
    return str(folder)


def set_up_earlier(installation: Installation, tree: Path) -> None:
    """Set up Prefect's server as 0.1.0 did, with a store of its own."""
    kept = {name: value for name, value in installation.environment.items() if not name.startswith("REELKEEPER_")}
    settings = {"PYTHONPATH": str(tree), "REELKEEPER_STATE_DIR": str(tree / "state")}
    for words in (["deployments.bootstrap"], ["prefect", "--no-prompt", "deploy", "--all"]):
        subprocess.run([sys.executable, "-m", *words], cwd=tree, env=kept | settings, check=True, capture_output=True)


@pytest.mark.parametrize(  # of the first four the long suite draws one; each takes 70 to 110 s of CPU
    "sickness",
    ["no settings", "no ffmpeg", "another version", EARLIER, pytest.param("a full disk", marks=pytest.mark.soak)],
)
def test_the_others_do_every_clip_once_and_one_alert_names_the_sick_machine(
    sickness: str,
    machines: tuple[Machines, Scene, Installation],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    place, scene, installation = machines
    with ExitStack() as stack:
        falls_ill, unset = _sickness(sickness, installation, tmp_path, stack)
        installation.set_up()
        installation.hold_schedules()
        for run in installation.runs("", "SCHEDULED"):  # due since they were deployed, and nobody polls their pool here
            installation.ask("DELETE", f"/flow_runs/{run['id']}")
        sick = place.start("sick", "transcode" if sickness == EARLIER else "encode", **unset)
        if sickness in WORK:
            assert sick.wait(SECONDS) == WORK[sickness], place.log("sick")
            installation.begin("tier-storage", "night", helpers=1)
        elif sickness == EARLIER:
            until(lambda: workers_of(installation, "transcode"), SECONDS, f"it polls: {place.log('sick')}")
            installation.begin("tier-storage", "night", helpers=1)
        else:
            installation.begin("tier-storage", "night", helpers=1)
            until(lambda: swapped(scene), SECONDS, f"it works while it can: {place.log('sick')}")
            falls_ill()
        before = len(swapped(scene))
        for name, pool in (("well1", "encode"), ("well2", "transcode")):  # as in a unit of 0.1.0
            place.start(name, pool)

        def is_over() -> bool:
            return len(swapped(scene)) >= VIDEOS and not installation.runs("", "PENDING", "RUNNING", "SCHEDULED")

        until(is_over, SECONDS, f"{swapped(scene)} {[place.log(name) for name in ('sick', 'well1', 'well2')]}")
        until(lambda: told(scene), SECONDS, "people are told")
        states = sorted({run["state"]["type"] for run in installation.runs()})
        record_property("clips by the sick machine", before)
        record_property("states of all runs", states)
        record_property("alerts", told(scene))
        record_property("CPU seconds", round(cpu_seconds()))
        assert swapped(scene) == [f"cold{number}" for number in range(VIDEOS)]
        assert set(scene.outcomes(scene.last_plan().id).values()) == {"compressed"}
        assert told(scene) == [("unfit_machine", "machine:sick")]
        assert states == ["COMPLETED"]
        assert not list((tmp_path / "sick" / "state").rglob("store.sqlite3"))
        scene.world.check()
        for name in ("well1", "well2", *(["sick"] if sick.poll() is None else [])):
            assert installation.stop(name, signal.SIGTERM) == 0, place.log(name)


def _sickness(
    kind: str, installation: Installation, folder: Path, stack: ExitStack
) -> tuple[Callable[[], object], dict[str, str | None]]:
    """Return what makes a machine sick after it has begun, and its settings."""
    if kind == "no settings":
        ours = [name for name in installation.environment if name.startswith("REELKEEPER_")]
        return str, dict.fromkeys(ours) | {"REELKEEPER_HOME": None}
    if kind == EARLIER:  # its server is upgraded, and one of its workers is not
        tree = unpack(folder)
        set_up_earlier(installation, tree)
        return str, {"PYTHONPATH": str(tree)}
    if kind == "another version":
        return str, {"PYTHONPATH": older_version(folder / "older")}
    if kind == "a full disk":
        scratch = stack.enter_context(small_disk(folder / "scratch", 100))
        return lambda: fill(scratch), {"REELKEEPER_SCRATCH_DIR": str(scratch)}
    program = folder / "ffmpeg"
    shutil.copyfile(ffmpeg.tools().ffmpeg, program)
    program.chmod(0o700)
    return program.unlink, {"REELKEEPER_FFMPEG": str(program)}
