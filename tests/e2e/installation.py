"""Reelkeeper as its users run it: real processes, each started by the command that people use."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import yaml

from tests.buckets import BUCKET
from tests.faults.world import Address
from tests.ports import free_port

ROOT = Path(__file__).parent.parent.parent
BIN = Path(sys.executable).parent
AUTH = "ann:a password of the tests"
T = TypeVar("T")
WRITTEN = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
NAMES = {item["entrypoint"].rpartition(".")[2].replace("_", "-"): item["name"] for item in WRITTEN}  # by flow


def until(holds: Callable[[], T], seconds: float, what: str, pause: float = 0.25) -> T:
    """Wait for something to be true, and return it."""
    ends = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < ends, f"not within {seconds} s: {what}"
        time.sleep(pause)
    return found


def lives(process: psutil.Process) -> bool:
    """Check whether a process runs; one that is dead and not yet waited for does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


# As a company's, where nothing answers.
PROXY = dict.fromkeys(("HTTP_PROXY", "http_proxy"), "http://127.0.0.1:9") | {"ALL_PROXY": "socks5://127.0.0.1:9"}


def bare_environment() -> dict[str, str]:
    """Return the environment without anything that is meant for Prefect or for us."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "REELKEEPER_"))}


class Running:
    """One `up` at work in a folder, and what it says."""

    def __init__(
        self, folder: Path, program: Path = BIN / "reelkeeper", environment: Mapping[str, str] | None = None
    ) -> None:
        self.folder, self.began = folder, time.monotonic()
        words = ["up", "--json", "--port", str(free_port()), "--api-port", str(free_port())]
        self.process = subprocess.Popen(
            [program, *words],
            cwd=folder,
            env=environment or bare_environment() | PROXY,
            stdin=subprocess.DEVNULL,
            stdout=(folder / "said").open("ab"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._from = (folder / "said").stat().st_size
        self.family: list[psutil.Process] = []

    def said(self, event: str) -> dict[str, Any] | None:
        text = (self.folder / "said").read_bytes()[self._from :].decode()
        lines = [json.loads(line) for line in text.splitlines() if line.startswith("{") and line.endswith("}")]
        return next((line for line in lines if line["event"] == event), None)

    def ready(self) -> dict[str, Any]:
        def said() -> dict[str, Any] | None:
            assert self.process.poll() is None, (self.folder / "said").read_text()
            return self.said("ready")

        found = until(said, 400, "up is ready")
        assert found
        return found

    def note_family(self) -> None:
        self.family = psutil.Process(self.process.pid).children(recursive=True)
        assert len(self.family) >= 3  # server, worker, API; and what they have started

    def those_of(self, module: str) -> Iterator[psutil.Process]:
        for item in self.family:
            with suppress(psutil.NoSuchProcess):
                if module in item.cmdline():
                    yield item

    def nobody_is_left(self) -> bool:
        return not [item for item in self.family if item.is_running() and item.status() != psutil.STATUS_ZOMBIE]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def completed(ui_url: str, **filters: Any) -> list[dict[str, Any]]:  # noqa: ANN401  Prefect's
    body = {"flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}, **filters}}
    found: list[dict[str, Any]] = httpx.post(f"{ui_url}/api/flow_runs/filter", json=body, timeout=60).json()
    return found


@dataclass
class Installation:
    """Its processes by name, their environment, and Prefect's API as a client has it."""

    folder: Path
    prefect_url: str  # SQLAlchemy's, of Prefect's database
    address: Address
    more: dict[str, str] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.port, self.api_port = free_port(), free_port()
        self.ui_url, self.api_url = f"http://127.0.0.1:{self.port}", f"http://127.0.0.1:{self.api_port}"
        at = self.address
        self.environment = {
            **bare_environment(),
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_API_URL": f"{self.ui_url}/api",
            "PREFECT_API_AUTH_STRING": AUTH,
            "PREFECT_SERVER_API_AUTH_STRING": AUTH,
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": self.prefect_url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
            "PREFECT_SERVER_DATABASE_SQLALCHEMY_POOL_SIZE": "20",
            "PREFECT_SERVER_DATABASE_SQLALCHEMY_MAX_OVERFLOW": "40",
            "PREFECT_SERVER_UI_ENABLED": "false",
            "PREFECT_UI_URL": self.ui_url,
            "REELKEEPER_API_URL": self.api_url,
            "REELKEEPER_PREFECT_API_URL": f"{self.ui_url}/api",
            "REELKEEPER_PREFECT_API_AUTH": AUTH,
            "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",
            "REELKEEPER_DATABASE_URL": at.store_url,
            "REELKEEPER_S3_ENDPOINT_URL": at.endpoint_url,
            "REELKEEPER_S3_ACCESS_KEY_ID": at.access_key_id,
            "REELKEEPER_S3_SECRET_ACCESS_KEY": at.secret_access_key,
            "REELKEEPER_BUCKET": BUCKET,
            "REELKEEPER_PREFIX": at.prefix,
            "REELKEEPER_STATE_DIR": at.folder,
            "REELKEEPER_HOME": str(self.folder),
            **self.more,
        }
        self.http = httpx.Client(
            base_url=f"{self.ui_url}/api",
            auth=tuple(AUTH.split(":", 1)),  # type: ignore[arg-type]  # a pair
            timeout=60,
            trust_env=False,
        )

    def start(self, name: str, *words: str, home: Path | None = None) -> subprocess.Popen[bytes]:
        """Start a command of the environment, in its own session; with another `home`, as another machine has one."""
        own = {"PREFECT_HOME": f"{home}/prefect", "REELKEEPER_STATE_DIR": f"{home}/state"} if home else {}
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [BIN / words[0], *words[1:]],
                cwd=self.folder,
                env=self.environment | own,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self.processes[name]

    def start_server(self) -> None:
        """Start Prefect's server and wait until it answers."""
        process = self.start("server", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port))
        until(lambda: self._answers(process), 180, "Prefect's server answers")

    def _answers(self, process: subprocess.Popen[bytes]) -> bool:
        assert process.poll() is None, self.log("server")
        try:
            return self.http.get("/health").is_success
        except httpx.HTTPError:
            return False

    def start_worker(self, *options: str) -> subprocess.Popen[bytes]:
        """Start a worker of both pools."""
        return self.start("worker", "reelkeeper", "worker", "main", "encode", *options)

    def set_up(self) -> None:
        """Follow the first steps of the README."""
        self.command("reelkeeper", "bootstrap")
        self.command("reelkeeper", "deploy")

    def command(self, *words: str) -> str:
        """Run a command to its end, and return what it said."""
        done = subprocess.run(
            [BIN / words[0], *words[1:]],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-4_000:] + done.stderr[-4_000:]
        return done.stdout

    def kill(self, name: str) -> list[psutil.Process]:
        """Kill a process as the kernel does where memory runs out; return what it had started."""
        process = self.processes.pop(name)
        started = [] if process.poll() is not None else psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        return started

    def stop(self, name: str, number: signal.Signals = signal.SIGTERM, seconds: float = 120) -> int:
        """Stop a process in order; return its exit code."""
        process = self.processes.pop(name)
        process.send_signal(number)
        return process.wait(seconds)

    def close(self) -> None:
        """Leave nothing behind."""
        self.http.close()
        for name in list(self.processes):
            for child in self.kill(name):
                if child.is_running():
                    child.kill()

    def log(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace")[-6_000:] if path.exists() else ""

    def ask(self, method: str, path: str, body: Any = None) -> Any:  # noqa: ANN401  whatever Prefect's API has
        """Call Prefect's API; as its documentation says, a 503 is tried again."""
        for _ in range(60):
            try:
                answer = self.http.request(method, path, json=body)
            except httpx.TransportError:
                time.sleep(0.5)
                continue
            if answer.status_code != 503:
                assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
                return answer.json() if answer.content else None
            time.sleep(0.5)
        raise AssertionError(f"{method} {path} is not answered")

    def deployment(self, flow: str) -> str:
        """Find a deployment by its name, as a client does; return its id."""
        found: str = self.ask("GET", f"/deployments/name/{flow}/{NAMES[flow]}")["id"]
        return found

    def begin(self, flow: str, key: str, **parameters: Any) -> str:  # noqa: ANN401  a flow's own
        """Create a run of a deployment through Prefect's REST API; return its id."""
        body = {"parameters": parameters, "idempotency_key": key}
        run: str = self.ask("POST", f"/deployments/{self.deployment(flow)}/create_flow_run", body)["id"]
        return run

    def repeat(self, flow: str, seconds: int, **parameters: Any) -> None:  # noqa: ANN401  a flow's own
        """Add a schedule to a deployment, so that a test need not wait for the real one."""
        schedule = {"interval": seconds, "timezone": "UTC", "anchor_date": "2026-01-01T00:00:00Z"}
        added = {"schedule": schedule, "active": True, "parameters": parameters}
        self.ask("POST", f"/deployments/{self.deployment(flow)}/schedules", [added])

    def hold_schedules(self) -> None:
        """Stop the true schedules: which of them is due during a test is a matter of the hour."""
        for flow in NAMES:
            at = f"/deployments/{self.deployment(flow)}/schedules"
            for schedule in self.ask("GET", at):
                self.ask("PATCH", f"{at}/{schedule['id']}", {"active": False})

    def run(self, run_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ask("GET", f"/flow_runs/{run_id}")
        return found

    def runs(self, flow: str = "", *types: str) -> list[dict[str, Any]]:
        """Return the runs of a flow, or of all, that are in one of these types of state, the first due first."""
        body: dict[str, Any] = {"sort": "EXPECTED_START_TIME_ASC", "limit": 200}
        if types:
            body["flow_runs"] = {"state": {"type": {"any_": types}}}
        if flow:
            body["flows"] = {"name": {"any_": [flow]}}
        found: list[dict[str, Any]] = self.ask("POST", "/flow_runs/filter", body)
        return found
