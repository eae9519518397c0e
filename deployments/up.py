"""`reelkeeper up`: everything on one machine, by one command. `_live` lists the parts."""

import fcntl
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import httpx
import yaml
from pydantic import BaseModel, ValidationError

from deployments.folder import HOME
from deployments.forkserver import FORKSERVER, client
from deployments.supervisor import Part, Supervisor
from reelkeeper import disk
from reelkeeper.adapters.ffmpeg.intake import SCRATCH, SCRATCH_REMEDY
from reelkeeper.disk import make_folder, tighten_state
from reelkeeper.errors import DiskFull, LeaseLost, Misconfigured, ReelkeeperError
from reelkeeper.operations.core import workspace
from reelkeeper.rules.alerts.cadence import FLOWS
from reelkeeper.settings import Settings
from reelkeeper.store.core import schema

UI_PORT, API_PORT = 4200, 8787
_PREFECT_YAML: Final = "prefect.yaml"
KEPT: Final = "up.json"  # in the state folder
WATCHDOG_SECONDS, FIRST_WATCHDOG_SECONDS = 300.0, 600.0  # longer at first, while missed runs are caught up
DRAIN_MARGIN_SECONDS: Final = 45.0  # beyond its patience, for a worker to hand over its runs and end
TICK_SECONDS: Final = 0.5
_ANSWER_SECONDS: Final = 2.0
ROOM_SECONDS: Final = 10.0  # between two checks of the disks
_LOCAL: Final = "127.0.0.1"
LOOKS_ONLY: Final = "--looks-only"  # to `deployments.deploy` and the worker
_NOT_CREATED: Final = "it did not create this bucket"
_ELSEWHERE: Final = "it went live at {},\n  and the settings name another address"
_ONLY_LOOKS: Final = (
    "A trial: {}, so it only reads it, as does\n"
    "  every command with these settings but doctor --contract, which writes in scratch folders that it removes.\n"
    "  Each hour it takes what is stored into the catalogue; every run that would change a stored video is a dry run\n"
    "  or refused, and the API takes no uploads and no jobs.\n"
    "  To see now what it would do: reelkeeper run sync_catalog --apply; reelkeeper videos import, for tiers\n"
    "  and ages, without which videos are kept, and for views; then reelkeeper plan tier_storage\n"
    "  To go live, stop this and start it once with: reelkeeper up --live\n"
)


class _Last(BaseModel):
    """Record of the last `reelkeeper up` of a state folder: its ports."""

    port: int = UI_PORT
    api_port: int = API_PORT


def is_live(settings: Settings) -> bool:
    """Check whether `up --live` was confirmed at the configured bucket, or `up` makes it; upgrade the store first."""
    if settings.database_url:
        schema.upgrade_at(settings.store_url)
    return workspace.is_live(settings)


class Up:
    """One `reelkeeper up`. `tell` receives each event: a word for programs, a sentence for people."""

    def __init__(
        self,
        settings: Settings,
        tell: Callable[..., None],
        *,
        port: int | None,
        api_port: int | None,
        patience: float,
        live: bool = False,
    ) -> None:
        self.settings, self.tell = settings, tell
        self.state = settings.state_dir.absolute()
        self.logs = self.state / "logs"
        self.forkserver = str(self.state / "forkserver.sock") if sys.platform == "linux" else ""
        self.written = find_prefect_yaml()
        self.stop_signals = 0  # signals to stop that it received
        self.began = self.room_due = time.monotonic()
        self.without_room: set[str] = set()  # the disks that were reported as full
        self.moment = datetime.now(UTC)
        last, self.is_first = _last(self.state / KEPT), not (self.state / KEPT).exists()
        self.port, self.api_port = _ports(last, port, api_port)
        self.looks_only = not live and not is_live(settings)
        self.patience = 0 if self.looks_only else patience  # dry runs are made again
        fresh = self.state / f"{KEPT}.new"  # a full disk or a power cut damages this one, not the one that is read
        fresh.write_text(_Last(port=self.port, api_port=self.api_port).model_dump_json())
        fresh.replace(self.state / KEPT)
        self.ui_url, self.api_url = f"http://{_LOCAL}:{self.port}", f"http://{_LOCAL}:{self.api_port}"
        self.supervisor = Supervisor(self._environment(), lambda text: tell("part", text))

    def run(self) -> None:
        """Start everything, keep it alive until a signal to stop, and stop it in order."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._count_signal)
        takes = "; a first start takes a minute" if self.is_first else ""
        self.tell("starting", f"Starting in {self.state}{takes}.", first=self.is_first)
        start, patience = self.supervisor.start, str(self.patience)
        try:
            server = [sys.executable, "-m", "deployments.server", "--host", _LOCAL, "--port", str(self.port)]
            start(self._part("server", "Prefect's server", server, 10))
            if self.forkserver:
                forks = [sys.executable, "-m", "deployments.forkserver", self.forkserver]
                start(self._part("forkserver", "The fork server", forks, 5))
            # This creates the store, and starts the embedded S3 server, which the parts share.
            is_live = not self.looks_only
            with workspace.open_workspace(self.settings, claims=is_live, goes_live=is_live) as opened:
                embedded = self.settings.endpoint_url is None
                workspace.note_trial(opened.engine, opened.bucket, begins=self.looks_only, embedded=embedded)
                if where := workspace.misplaced(opened.bucket):
                    self.tell("misplaced", f"{where}. To read those, set REELKEEPER_PREFIX, and start again.")
                worker = client(self.forkserver, *_ours("worker"), "main", "encode", "--patience", patience)
                # guard up.deployed_first: a run that was due before changes a bucket that it did not create
                if self.looks_only:
                    worker.append(LOOKS_ONLY)
                    self._deploy()
                start(self._part("worker", "The worker", worker, self.patience + DRAIN_MARGIN_SECONDS))
                api = client(self.forkserver, *_ours("api"), "--port", str(self.api_port))
                start(self._part("api", "The API", api, 5))
                if not self.looks_only:
                    self._deploy()
                if not self.stop_signals:
                    self._say_ready(opened.live_at)
                self._watch()
                self._drain()
        finally:
            self.supervisor.stop(hurried=lambda: self.stop_signals > 1)
        self.tell("stopped", "Stopped. All data is kept; reelkeeper up continues from here.")

    def _deploy(self) -> None:
        words = [sys.executable, "-m", "deployments.deploy", str(self.written), self.moment.isoformat()]
        words += [LOOKS_ONLY] if self.looks_only else []
        part = self._part("deploy", "The deployment", words, 5)
        if self.supervisor.run(part, until=lambda: bool(self.stop_signals), tick=self._tick):
            raise ReelkeeperError(f"prefect.yaml could not be deployed: {part.last_line()}. See {part.log}")

    def _watch(self) -> None:
        due = time.monotonic() + FIRST_WATCHDOG_SECONDS
        watchdog = self._part("watchdog", "The watchdog", client(self.forkserver, *_ours("watchdog")), 5)
        while not self.stop_signals:
            self._tick()
            if time.monotonic() >= due:
                due = time.monotonic() + WATCHDOG_SECONDS
                if self.supervisor.run(watchdog, until=lambda: bool(self.stop_signals), tick=self._tick):
                    self.tell("watchdog", f"The watchdog found a problem: see {watchdog.log}")

    def _tick(self) -> None:
        self.supervisor.look()
        if time.monotonic() >= self.room_due:
            self.room_due = time.monotonic() + ROOM_SECONDS
            self._tell_of_full_disks()
        time.sleep(TICK_SECONDS)

    def _tell_of_full_disks(self) -> None:
        """Report once which disk is full, and once that it has room again, when the parts go on by themselves."""
        for path, role, remedy in (
            (self.state, "the disk of the state folder", disk.STATE_REMEDY),
            (self.settings.scratch, SCRATCH, SCRATCH_REMEDY),
        ):
            try:
                disk.require(path, role, remedy)
            except DiskFull as error:
                if role not in self.without_room:
                    self.without_room.add(role)
                    self.tell("full", f"{str(error)[0].upper()}{str(error)[1:]}")
            else:
                if role in self.without_room:
                    self.without_room.remove(role)
                    self.tell("room", f"There is room again on {role}.")

    def _drain(self) -> None:
        active = self._active()
        waits = f"waits up to {self.patience:.0f} s for {', '.join(active)}; what is not done by then is handed over"
        dry = f"{', '.join(active)}: a dry run, which the next start makes again"
        runs = f"{waits} to the next start" if self.patience else dry
        self.tell(
            "stopping",
            f"Stopping: {runs if active else 'no run is active'}. Its processes take some seconds to end; press Ctrl-C "
            "again to stop at once.",
            active=active,
            patience_seconds=self.patience,
        )
        self.supervisor.stop(["worker", "api"], hurried=lambda: self.stop_signals > 1)

    def _active(self) -> list[str]:
        """Ask Prefect's server for the names of active runs; return none where it does not answer."""
        secret = os.environ.get("PREFECT_SERVER_API_AUTH_STRING", ":").partition(":")
        asked = {"flow_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING"]}}}}
        try:
            answer = httpx.post(
                f"{self.ui_url}/api/flow_runs/filter", json=asked, auth=(secret[0], secret[2]), timeout=_ANSWER_SECONDS
            )
            return sorted({str(run["name"]) for run in answer.raise_for_status().json()})
        except (httpx.HTTPError, ValueError):
            return []

    def _say_ready(self, live_at: str | None) -> None:
        objects = "objects, " if self.settings.endpoint_url is None else ""
        trial = _ONLY_LOOKS.format(_ELSEWHERE.format(live_at) if live_at else _NOT_CREATED)
        self.tell(
            "ready",
            f"Ready after {time.monotonic() - self.began:.0f} s.\n"
            f"  Prefect  {self.ui_url}/v2   what runs, and when\n"
            f"  API      {self.api_url}   tokens: reelkeeper tokens create NAME --scope jobs\n"
            f"  State    {self.state}   store, {objects}Prefect's database\n"
            f"  Logs     {self.logs}\n" + (trial if self.looks_only else "") + "Ctrl-C stops it in order.",
            looks_only=self.looks_only,
            live_at=live_at,
            ui_url=self.ui_url,
            api_url=self.api_url,
            state=str(self.state),
            seconds=round(time.monotonic() - self.began, 1),
        )

    def _count_signal(self, *_: object) -> None:
        self.stop_signals += 1

    def _part(self, name: str, does: str, argv: list[str], stop_seconds: float) -> Part:
        return Part(name, does, argv, self.logs / f"{name}.log", stop_seconds)

    def _environment(self) -> dict[str, str]:
        local = f"http://localhost:{self.port}"
        secret = os.environ.get("PREFECT_SERVER_API_AUTH_STRING", "")
        return {
            **(dict.fromkeys(("PREFECT_API_AUTH_STRING", "REELKEEPER_PREFECT_API_AUTH"), secret) if secret else {}),
            "MALLOC_ARENA_MAX": "1",  # else each thread of a server keeps memory for itself
            HOME: os.getcwd(),  # noqa: PTH109  as it is written, links and all
            **os.environ,
            **dict.fromkeys(("PREFECT_API_URL", "REELKEEPER_PREFECT_API_URL"), f"{self.ui_url}/api"),
            "PREFECT_UI_URL": self.ui_url,
            "PREFECT_SERVER_UI_API_URL": "/api",  # else the page queries port 4200
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"{self.ui_url},{local}",  # no page of another origin in a browser
            "REELKEEPER_STATE_DIR": str(self.state),
            "REELKEEPER_API_URL": self.api_url,
            FORKSERVER: self.forkserver,
        }


@contextmanager
def alone(state: Path) -> Iterator[None]:
    """Lock the state folder. Raises LeaseLost while another `up` holds it."""
    tighten_state(make_folder(state))
    with (state / "up.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise LeaseLost(
                f"reelkeeper up already runs in {state}, as process {lock.read().strip()}: stop that one first"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _last(kept: Path) -> _Last:
    """Read what the last `up` left. A damaged file counts as none: then runs are dry again where it did not create."""
    try:
        return _Last.model_validate_json(kept.read_bytes())
    except (FileNotFoundError, ValidationError):
        return _Last()


def _ports(last: _Last, port: int | None, api_port: int | None) -> tuple[int, int]:
    """Choose ports: those given, those of the last time, the defaults, or free ones, in this order."""
    first = _free("--port", port, last.port, {api_port})
    return first, _free("--api-port", api_port, last.api_port, {first})


def _free(option: str, wanted: int | None, usual: int, others: set[int | None]) -> int:
    for port in (wanted,) if wanted else (usual, 0, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((_LOCAL, port))
            except OSError:
                continue
            found: int = probe.getsockname()[1]
            if found not in others:
                return found
    raise Misconfigured(f"port {wanted} is taken; give another {option}, or leave it out for a free one")


def find_prefect_yaml() -> Path:
    """Find prefect.yaml: this folder's if it deploys a flow of ours, else the checkout's or the wheel's.

    Raises Misconfigured where this folder's cannot be read.
    """
    here, module = Path.cwd() / _PREFECT_YAML, Path(__file__)
    # guard outages.others_prefect_yaml: `up` deploys the flows of the service's own project, and none of ours
    if here.exists() and _deploys_ours(here):
        return here
    checkout = module.parents[1] / _PREFECT_YAML
    return checkout if checkout.exists() else module.with_name(_PREFECT_YAML)


def _deploys_ours(written: Path) -> bool:
    try:
        document = yaml.safe_load(written.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise Misconfigured(f"{written} cannot be read: {error}") from error
    entries = document.get("deployments") if isinstance(document, dict) else ()
    entrypoints = [str(entry.get("entrypoint")) for entry in entries or () if isinstance(entry, dict)]
    return any(re.split("[.:]", entrypoint)[-1] in FLOWS for entrypoint in entrypoints)


def _ours(command: str) -> list[str]:
    return [str(Path(sys.executable).with_name("reelkeeper")), command]
