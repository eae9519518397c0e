"""Run compose.yaml: one project for each test, after secrets.sh, with an S3 server outside."""

import json
import os
import re
import secrets
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import boto3
import httpx

from reelkeeper.adapters.s3 import seaweed
from tests.docker.engine import environment, inspect, podman, require_containers, run, serving, until
from tests.docker.image import ONCE, ROOT
from tests.ports import free_port

UP_SECONDS: Final = 900.0  # it takes 100 s on two cores of its own
BUCKET: Final = "films"
OVER: Final = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
_LABEL: Final = "com.docker.compose"


@dataclass
class Stack:
    """A folder with compose.yaml, its secrets and settings, and the containers that were started from it."""

    folder: Path
    engine: str
    objects: seaweed.Endpoint
    project: str = field(default_factory=lambda: f"reelkeeper-{os.getpid()}-{secrets.token_hex(3)}")
    ports: dict[str, str] = field(
        default_factory=lambda: {"PREFECT_PORT": str(free_port()), "API_PORT": str(free_port())}
    )
    more: dict[str, str] = field(default_factory=dict)  # variables of compose.yaml

    def install(self, tree: Path = ROOT) -> None:
        """Put the files of a release in place, as an update does, and make the secrets that are not there yet."""
        for name in ("compose.yaml", "secrets.sh", "postgres"):
            source, target = tree / "docker" / name, self.folder / name
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True)
            else:
                shutil.copy(source, target)
        run("/bin/sh", str(self.folder / "secrets.sh"))
        (self.folder / "reelkeeper.env").write_text(
            f"REELKEEPER_S3_ENDPOINT_URL={self.objects.endpoint_url}\nREELKEEPER_BUCKET={BUCKET}\n"
        )
        for name, value in (
            ("access_key_id", self.objects.access_key_id),
            ("secret_access_key", self.objects.secret_access_key),
        ):
            (self.folder / "secrets" / f"reelkeeper_s3_{name}").write_text(value)

    def compose(self, *words: str, within: float = UP_SECONDS, check: bool = True) -> str:
        """Run docker-compose on this project."""
        variables = environment() | {"DOCKER_HOST": self.engine} | self.ports | self.more
        base = ("docker-compose", "--project-name", self.project, "--file", str(self.folder / "compose.yaml"))
        return run(*base, *words, within=within, check=check, env=variables).stdout

    def up(self, *services: str, **scale: int) -> None:
        """Start services, or all of them, and wait until each is healthy or has done its part."""
        scales = [f"--scale={name}={number}" for name, number in scale.items()]
        self.compose("up", "--detach", "--no-build", "--quiet-pull", *scales, *services)
        self.wait()

    def wait(self, seconds: float = UP_SECONDS) -> None:
        """Wait until every container is healthy, or has ended with 0 where it runs once."""
        try:
            until(lambda: not self.ill(), seconds, f"all of {self.project} is well")
        except Exception as error:
            raise AssertionError(f"{error}: {self.ill()}") from error

    def ill(self) -> dict[str, str]:
        """Return the state of each container that is not healthy or done."""
        found = {}
        for service, containers in self.containers().items():
            for container in containers:
                state = container["State"]
                told = f"{state['Status']} {state.get('Health', {}).get('Status', '')} {state['ExitCode']}"
                if told.split() != (["exited", "0"] if service in ONCE else ["running", "healthy", "0"]):
                    found[container["Name"]] = told
        return found

    def containers(self) -> dict[str, list[Any]]:
        """Inspect each container, by service."""
        names = podman("ps", "--all", "--quiet", f"--filter=label={_LABEL}.project={self.project}").split()
        found: dict[str, list[Any]] = {}
        for item in json.loads(podman("container", "inspect", *names)) if names else []:
            found.setdefault(item["Config"]["Labels"][f"{_LABEL}.service"], []).append(item)
        return found

    def execute(self, service: str, *command: str, check: bool = True, **more: Any) -> str:  # noqa: ANN401  as `run` takes it
        """Run a command in the first container of a service."""
        (first, *_) = self.containers()[service]
        done = run("podman", "exec", "--interactive", first["Id"], *command, check=check, **more)
        return done.stdout if check else done.stdout + done.stderr

    def secret(self, name: str) -> str:
        """Return the contents of a secret's file."""
        return (self.folder / "secrets" / name).read_text().strip()

    def secrets(self) -> set[str]:
        """Return every secret that is set, and the password in Prefect's."""
        found = {path.read_text().strip() for path in (self.folder / "secrets").iterdir()} - {""}
        return found | {text.partition(":")[2] for text in found if text.startswith("admin:")}

    def url(self, port: str) -> str:
        """Return the address of a published port."""
        return f"http://127.0.0.1:{self.ports[port]}"

    def down(self) -> None:
        """Remove all that was started, with its volumes and networks."""
        self.compose("down", "--volumes", "--remove-orphans", "--timeout=5", within=300, check=False)
        _remove(self.project)


def _remove(project: str) -> None:
    mine = f"--filter=label={_LABEL}.project={project}"
    for kind, remove in (("ps", "rm"), ("volume", "volume"), ("network", "network")):
        ask = ("ps", "--all", "--quiet", mine) if kind == "ps" else (kind, "ls", "--quiet", mine)
        if left := podman(*ask).split():
            words = ("rm", "--force", "--time=0", "--volumes") if remove == "rm" else (kind, "rm", "--force")
            podman(*words, *left, check=False)


def remove_abandoned() -> None:
    """Remove the projects of test runs that were killed: they work on, and their ports answer for others' servers."""
    labels = podman("ps", "--all", "--format={{.Labels}}")
    for project, process in set(re.findall(rf"{_LABEL}\.project:(reelkeeper-(\d+)-\w+)", labels)):
        if not Path("/proc", process).exists():
            _remove(project)


def kill(container: dict[str, Any]) -> None:
    """Kill a container as a crash does: by its first process, not through the engine, which would leave it stopped."""
    process: int = container["State"]["Pid"]
    assert process > 1, f"{container['Name']} does not run"  # 0 would be this process and its kin
    os.kill(process, signal.SIGKILL)
    until(lambda: inspect("container", container["Id"])["State"]["Pid"] != process, 60, "podman sees that it died")


def faults(container: dict[str, Any]) -> list[str]:
    """Return the forbidden rights that a container has."""
    host, ports = container["HostConfig"], container["HostConfig"]["PortBindings"] or {}
    checks = {
        "its root can be written": host["ReadonlyRootfs"],
        "it has capabilities": not (container["EffectiveCaps"] or container["BoundingCaps"]),
        "it may get privileges": any("no-new-privileges" in item for item in host["SecurityOpt"]),
        "it is privileged": not host["Privileged"],
        "it is root's": not container["Config"]["User"].startswith("0"),
        "it may take all memory": host["Memory"] > 0,
        "it may start any number of processes": host["PidsLimit"] > 0,
        "it listens beyond loopback": all(item["HostIp"] == "127.0.0.1" for many in ports.values() for item in many),
    }
    return [fault for fault, holds in checks.items() if not holds]


@contextmanager
def stack(objects: seaweed.Endpoint, **more: str) -> Iterator[Stack]:
    """Hold an engine and a project on it that nothing runs in yet; nothing of it is left afterwards."""
    require_containers()
    remove_abandoned()
    with tempfile.TemporaryDirectory(prefix="reelkeeper-compose-") as folder, serving() as engine:
        made = Stack(Path(folder), engine, objects, more=more)
        made.install()
        try:
            yield made
        finally:
            made.down()


@contextmanager
def outside(folder: Path) -> Iterator[seaweed.Endpoint]:
    """Run an S3 server that containers reach by the name that podman gives this machine."""
    with seaweed.running(folder, BUCKET) as at, socket.create_server(("0.0.0.0", 0)) as door:  # noqa: S104  containers come by a bridge; it asks for keys
        port = int(at.endpoint_url.rpartition(":")[2])
        threading.Thread(target=_pass_on, args=(door, port), daemon=True).start()
        url = f"http://host.containers.internal:{door.getsockname()[1]}"
        yield seaweed.Endpoint(url, at.access_key_id, at.secret_access_key)
        door.shutdown(socket.SHUT_RDWR)


def _pass_on(door: socket.socket, port: int) -> None:
    """Forward connections to the loopback port."""
    with suppress(OSError):  # the door was closed
        while True:
            caller, _ = door.accept()
            server = socket.create_connection(("127.0.0.1", port))
            for source, target in ((caller, server), (server, caller)):
                threading.Thread(target=_copy, args=(source, target), daemon=True).start()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def bucket(objects: seaweed.Endpoint) -> Any:  # noqa: ANN401  untyped, as boto3's users have it
    """Make a client of the bucket, as this machine reaches it."""
    return boto3.client(
        "s3",
        endpoint_url=objects.endpoint_url.replace("host.containers.internal", "127.0.0.1"),
        aws_access_key_id=objects.access_key_id,
        aws_secret_access_key=objects.secret_access_key,
        region_name="auto",
    )


class Prefect:
    """A person at Prefect's API: with the password, and a token against forged requests."""

    def __init__(self, made: Stack) -> None:
        user, _, password = made.secret("prefect_auth").partition(":")
        self.client = httpx.Client(base_url=made.url("PREFECT_PORT") + "/api/", auth=(user, password), timeout=60)

    def __enter__(self) -> Self:
        token = self.client.get("csrf-token", params={"client": "test"}).raise_for_status().json()["token"]
        self.client.headers.update({"Prefect-Csrf-Token": token, "Prefect-Csrf-Client": "test"})
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def ask(self, path: str, **body: object) -> Any:  # noqa: ANN401  JSON
        """Post a question."""
        return self.client.post(path, json=body).raise_for_status().json()

    def hold_schedules(self) -> None:
        """Pause all schedules, since a run that is due while another is active is cancelled."""
        for deployment in self.ask("deployments/filter", limit=200):
            self.client.post(f"deployments/{deployment['id']}/pause_deployment").raise_for_status()

    def begin(self, flow: str, parameters: dict[str, object] | None = None, state: str = "SCHEDULED") -> str:
        """Create a run of a deployment; return its id."""
        found = self.ask("deployments/filter", limit=200)
        (deployment,) = (item["id"] for item in found if item["entrypoint"].endswith(f".{flow.replace('-', '_')}"))
        ask = f"deployments/{deployment}/create_flow_run"
        made: str = self.ask(ask, parameters=parameters or {}, state={"type": state})["id"]
        return made

    def state(self, run_id: str) -> str:
        """Return the type of a run's state, or an empty text while the server is unreachable."""
        try:
            found: str = self.client.get(f"flow_runs/{run_id}").raise_for_status().json()["state"]["type"]
        except httpx.HTTPError:
            return ""
        return found

    def finish(self, flow: str, seconds: float, **parameters: object) -> None:
        """Create a run of a deployment and wait for its completion; repeat if it collided with a scheduled run."""
        for _ in range(2):
            made = self.begin(flow, parameters)
            if self.end(made, seconds) != "CANCELLED":
                break
        assert self.state(made) == "COMPLETED", self.logs(made)

    def end(self, run_id: str, seconds: float) -> str:
        """Wait until a run is over; return the type of its last state."""
        until(lambda: self.state(run_id) in OVER, seconds, f"run {run_id} ends")
        return self.state(run_id)

    def logs(self, run_id: str) -> str:
        """Return a run's log messages."""
        found = self.ask("logs/filter", logs={"flow_run_id": {"any_": [run_id]}}, limit=200)
        return "\n".join(item["message"] for item in found)[-3000:]
