"""podman with its own storage, used by Debian's docker-compose as Docker's engine.

Images stay in FOLDER between runs, as a cache. Containers, networks and volumes are those of one test, and go with it.
"""

import fcntl
import json
import os
import resource
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tests.programs import skip_without

# On the disk, since images take some GB; what must not outlive a boot is under /run.
FOLDER: Final = Path("/var/tmp/reelkeeper-containers")  # noqa: S108  closed to others, and root's
_RUN: Final = Path("/run/reelkeeper-containers")
NEEDED: Final = ("podman", "runc", "docker-compose", "mmdebstrap", "nft", "catatonit")
_BUILD_SECONDS: Final = 900.0
_MAX_FILES, _MAX_PROCESSES = 20_000, 20_000
LOOK_SECONDS: Final = 3.0  # between two looks of whatever is waited for


class EngineError(Exception):
    """A program failed; the message ends with what it said."""


def environment() -> dict[str, str]:
    """Return podman's arguments: the suite's own storage, networks, limits and runtime."""
    FOLDER.mkdir(mode=0o700, exist_ok=True)
    _RUN.mkdir(mode=0o700, exist_ok=True)
    for name in ("tmp", "networks", "volumes"):
        (FOLDER / name).mkdir(exist_ok=True)

    def limit(kind: int, most: int) -> int:
        hard = resource.getrlimit(kind)[1]
        return most if hard == resource.RLIM_INFINITY else min(most, hard)

    files, processes = limit(resource.RLIMIT_NOFILE, _MAX_FILES), limit(resource.RLIMIT_NPROC, _MAX_PROCESSES)
    _write(
        FOLDER / "containers.conf",
        "[containers]\n"
        f'default_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]\n'
        "[engine]\n"
        'runtime = "runc"\n'  # crun refuses machines that have cgroups of both versions
        'cgroup_manager = "cgroupfs"\nevents_logger = "file"\nlock_type = "file"\n'
        "compat_api_enforce_docker_hub = false\n"  # names stay as they were given
        f'static_dir = "{FOLDER}/static"\nvolume_path = "{FOLDER}/volumes"\ntmp_dir = "{_RUN}/state"\n'
        f'[network]\nnetwork_config_dir = "{FOLDER}/networks"\n',
    )
    _write(
        FOLDER / "storage.conf",
        f'[storage]\ndriver = "overlay"\ngraphroot = "{FOLDER}/storage"\nrunroot = "{_RUN}/storage"\n',
    )
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("REELKEEPER_", "PREFECT_"))},
        "CONTAINERS_CONF": str(FOLDER / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(FOLDER / "storage.conf"),
        "PODMAN_IGNORE_CGROUPSV1_WARNING": "1",
        "DISABLE_HC_SYSTEMD": "true",  # timers of systemd ask healthchecks; here it is `asking_healthchecks`
        "TMPDIR": str(FOLDER / "tmp"),
    }


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all: a podman of another thread or process may be reading it."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        file.write(text)
    Path(file.name).replace(path)


def run(*words: str, within: float = 120, check: bool = True, **more: Any) -> subprocess.CompletedProcess[str]:  # noqa: ANN401  as subprocess takes it
    """Run a program with the suite's podman; EngineError, with what it said, if it failed."""
    options = {"env": environment(), **more} | ({} if "input" in more else {"stdin": subprocess.DEVNULL})
    done = subprocess.run(words, capture_output=True, text=True, timeout=within, check=False, **options)
    if check and done.returncode:
        said = (done.stdout + done.stderr)[-4000:]
        raise EngineError(f"{' '.join(words)[:300]}: exit code {done.returncode}: {said}")
    return done


def podman(*words: str, **more: Any) -> str:  # noqa: ANN401  as `run` takes it
    """Run podman, and give what it said."""
    return run("podman", *words, **more).stdout


@cache
def require_containers() -> None:
    """Skip the test where this machine runs no container at all; fail where CI has not installed what it needs."""
    lacking = [name for name in NEEDED if not shutil.which(name)] + (["root's rights"] if os.geteuid() else [])
    skip_without(lacking)
    tried = run("podman", "run", "--rm", "--network=none", "--rootfs", "/:O", "/bin/true", check=False)
    if tried.returncode:
        pytest.skip(f"this machine runs no containers: {tried.stderr[-500:]}")


@contextmanager
def alone() -> Iterator[None]:
    """Let only one process at a time build images, since all would build the same."""
    environment()
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def inspect(kind: str, name: str) -> Any:  # noqa: ANN401  JSON
    """Inspect a container, image, network or volume."""
    return json.loads(podman(kind, "inspect", name))[0]


@contextmanager
def serving() -> Iterator[str]:
    """Run the service that docker-compose speaks to; yield its address, and ask healthchecks as their time comes."""
    with tempfile.TemporaryDirectory(prefix="reelkeeper-podman-") as folder:
        socket = Path(folder) / "podman.sock"
        with (Path(folder) / "log").open("wb") as log:
            service = subprocess.Popen(
                ["podman", "system", "service", "--time=0", f"unix://{socket}"],  # noqa: S607  from Debian, wherever
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            until(socket.exists, 60, "podman's service is there")
            with _asking_healthchecks(socket):
                yield f"unix://{socket}"
        finally:
            service.terminate()
            service.wait(60)


@contextmanager
def _asking_healthchecks(socket: Path) -> Iterator[None]:
    """Ask each running container's healthcheck at its interval, and every few seconds while it starts."""
    leave = threading.Event()

    def ask() -> None:
        asked: dict[str, float] = {}
        transport = httpx.HTTPTransport(uds=str(socket))
        with httpx.Client(transport=transport, base_url="http://podman/v5.0.0/libpod", timeout=120) as client:
            while not leave.wait(1):
                try:
                    for raise_for_statu in client.get("/containers/json").raise_for_status().json():
                        _ask_if_due(client, raise_for_statu["Id"], asked)
                except httpx.HTTPError:
                    continue  # it ended between the list and the question

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield
    finally:
        leave.set()
        thread.join()


def _ask_if_due(client: httpx.Client, container: str, asked: dict[str, float]) -> None:
    found = client.get(f"/containers/{container}/json").raise_for_status().json()
    check = found["Config"].get("Healthcheck")
    if not check:
        return
    age = datetime.now(UTC) - datetime.fromisoformat(found["State"]["StartedAt"])
    starting = found["State"]["Health"]["Status"] == "starting" and age.total_seconds() < check["StartPeriod"] / 1e9
    pause = LOOK_SECONDS if starting else check["Interval"] / 1e9  # a failure while it starts does not count
    if time.monotonic() - asked.get(container, 0.0) >= pause:
        client.get(f"/containers/{container}/healthcheck")
        asked[container] = time.monotonic()


def until(holds: Callable[[], Any], seconds: float, what: str) -> Any:  # noqa: ANN401  whatever it gives
    """Wait until something holds, and give it; EngineError after `seconds`."""
    ends = time.monotonic() + seconds
    while not (found := holds()):
        if time.monotonic() > ends:
            raise EngineError(f"not so within {seconds:.0f} s: {what}")
        time.sleep(LOOK_SECONDS if seconds > 60 else 0.2)
    return found
