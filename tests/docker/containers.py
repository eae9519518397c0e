"""Containers of compose.yaml as plain processes: command, environment, secrets and health, with real servers.

What Docker would do is done here as it would: the environment is that of the image and of compose.yaml and nothing
else, secrets are files, the entrypoint comes before the command, the user is nobody, and the walls of walls.py stand.
Only addresses differ: a path in a container is a folder of its own here, a host is loopback, and a port is a free one.
"""

import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.docker import walls
from tests.docker.image import FOLDER, ROOT, SERVICES, image_environment, secrets_of
from tests.ports import free_port

PATIENCE_SECONDS: Final = 240.0
_NOBODY: Final = pwd.getpwnam("nobody").pw_uid
# The system's: Prefect's migrations ask for the extension pg_trgm, which the wheel of the other tests has not.
_POSTGRESQL: Final = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path("/usr/bin"))
_HOSTS: Final = "postgres|redis|prefect-api|api"
_WRITTEN: Final = ("/tmp", "/var/lib/reelkeeper", "/data", "/var/lib/postgresql", "/var/run/postgresql")  # noqa: S108  as compose.yaml mounts them
_PORTS: Final = ("5432", "6379", "4200", "8787")


class ContainerError(Exception):
    """A container did not do as it should; the message ends with what it said."""


@dataclass
class Host:
    """The machine: a folder with the secrets and a folder for each container, and the ports that were free."""

    folder: Path
    settings: Mapping[str, str]  # reelkeeper.env
    ports: dict[str, int] = field(default_factory=lambda: {port: free_port() for port in _PORTS})

    def __post_init__(self) -> None:
        """Make the secrets as a user would."""
        shutil.copy(FOLDER / "secrets.sh", self.folder)
        subprocess.run(["/bin/sh", str(self.folder / "secrets.sh")], check=True, capture_output=True)

    def secret(self, name: str) -> str:
        """Give what stands in a secret's file."""
        return (self.folder / "secrets" / name).read_text().strip()

    def url(self, port: str) -> str:
        """Give where a published port is."""
        return f"http://127.0.0.1:{self.ports[port]}"


class Container:
    """A service of compose.yaml on this machine. `running` starts it; `run` waits for its end."""

    def __init__(self, host: Host, service: str) -> None:
        self.host, self.service = host, SERVICES[service]
        self.home = host.folder / service
        self.home.mkdir()
        self.ports = host.ports | {"8080": free_port()}
        self.places = {place: self.home / place.strip("/").replace("/", "-") for place in (*_WRITTEN, "/run/secrets")}
        self.secrets = self.places["/run/secrets"]
        for place in self.places.values():
            place.mkdir()
        for target, source in secrets_of(service).items():
            (self.secrets / target).write_text(self.here(host.secret(source)) + "\n")
        programs = self.home / "bin"
        programs.mkdir()
        for script in (path for path in FOLDER.glob("*") if path.suffix in {".sh", ".py"}):
            (programs / script.name).write_text(self.here(script.read_text()))
            (programs / script.name).chmod(0o555)
        self.log = self.home / "log"
        self.log.touch()
        for path in _WRITTEN:
            os.chown(self.places[path], self.user, -1)
        search = [str(one) for one in (programs, Path(sys.executable).parent, _POSTGRESQL, "/usr/bin", "/bin")]
        self.environment = {"PATH": ":".join(search), "TMPDIR": str(self.places["/tmp"])}  # noqa: S108  its own
        ours = {name: value for name, value in image_environment().items() if name != "PATH"} | (
            dict(host.settings) if "env_file" in self.service else {}
        )
        for name, value in ((ours if "build" in self.service else {}) | self.service.get("environment", {})).items():
            self.environment[name] = self.here(value)

    @property
    def entrypoint(self) -> list[str]:
        """Give our image's; what PostgreSQL's does, `postgres` below does, and Redis's only gives up root."""
        return ["entrypoint.sh"] if "build" in self.service else []

    def here(self, text: str) -> str:
        """Put the addresses of this machine into a text of a container."""
        for place, folder in self.places.items():
            text = re.sub(rf"(?<![\w.]){place}(?=$|[/\s\"':)}}])", str(folder), text)
        text = text.replace("/srv/reelkeeper", str(ROOT))
        text = re.sub(rf"^(?:postgres|0\.0\.0\.0)$|(?:(?<=//)|(?<=@))(?:{_HOSTS})(?=[:/])", "127.0.0.1", text)
        return re.sub(rf"\b({'|'.join(self.ports)})\b", lambda found: str(self.ports[found[0]]), text)

    @property
    def user(self) -> int:
        """Whose processes these are: nobody's, where we may choose and Python is not in a folder closed to nobody."""
        if os.geteuid() != 0:
            return os.geteuid()
        folders = Path(sys.executable).resolve().parents if "build" in self.service else []
        return _NOBODY if all(folder.stat().st_mode & 0o001 for folder in folders) else 0

    def start(self, command: list[str], out: int) -> subprocess.Popen[bytes]:
        """Start a command in this container, as whom and where compose.yaml says."""
        drop = ["--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"]
        become = [f"--reuid={self.user}", f"--regid={self.user}", "--clear-groups"]
        nobody = ["/usr/bin/setpriv", *drop, *become] if os.geteuid() == 0 else []
        with walls.put_up(self.places[path] for path in _WRITTEN) as enter:
            return subprocess.Popen(
                [*nobody, *command],
                env=self.environment,
                cwd=ROOT if "build" in self.service else self.home,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                preexec_fn=enter,  # noqa: PLW1509  there are no other threads here
                start_new_session=True,
            )

    def execute(self, *command: str, within: float = PATIENCE_SECONDS) -> tuple[int, str]:
        """Run a command in this container, as `docker compose run` does; give its exit code and what it said."""
        began = self.log.stat().st_size
        with self.log.open("ab") as out:
            ended = self.start([*self.entrypoint, *command], out.fileno()).wait(within)
        return ended, self.log.read_bytes()[began:].decode()

    def run(self) -> str:
        """Run what this container is there for, to its end."""
        code, said = self.execute(*map(self.here, self.service["command"]))
        if code:
            raise ContainerError(f"exit code {code}: {said[-3000:]}")
        return said

    def is_healthy(self) -> bool:
        """Ask the healthcheck, which Docker runs without the entrypoint."""
        kind, *test = map(self.here, self.service["healthcheck"]["test"])
        asked = ["/bin/sh", "-c", *test] if kind == "CMD-SHELL" else test
        return self.start(asked, subprocess.DEVNULL).wait(60) == 0

    @contextmanager
    def running(self, command: list[str] | None = None) -> Iterator[Callable[[], None]]:
        """Start it, and stop it as Docker does; give what waits until it is healthy."""
        asked = command or [*self.entrypoint, *map(self.here, self.service["command"])]
        with self.log.open("ab") as out:
            process = self.start(asked, out.fileno())
        try:
            yield lambda: until(self.is_healthy, lambda: self._well(process))
        finally:
            self._stop(process)

    def _stop(self, process: subprocess.Popen[bytes]) -> None:
        """Ask it to end as Docker does; it shall end of itself, or at once by that signal, and not by SIGKILL."""
        asked = signal.Signals[self.service.get("stop_signal", "SIGTERM")]
        process.send_signal(asked)
        try:
            ended = process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        if ended not in {0, -asked}:
            raise ContainerError(f"ended with {ended}: {self.log.read_text()[-3000:]}")

    def _well(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is not None:
            raise ContainerError(f"ended with {process.returncode}: {self.log.read_text()[-3000:]}")


def postgres(host: Host) -> tuple[Container, list[str]]:
    """Make PostgreSQL's container and do what its image does on an empty volume; give what the image then runs."""
    made = Container(host, "postgres")
    data = made.places["/var/lib/postgresql"] / "data"
    password = made.secrets / "postgres_password"
    arguments = made.environment["POSTGRES_INITDB_ARGS"].split()
    sockets = made.places["/var/run/postgresql"]
    script = made.home / "databases.sql"
    script.write_text(made.here((FOLDER / "postgres" / "databases.sql").read_text()))
    for step in (
        ["initdb", f"--pgdata={data}", "--username=postgres", f"--pwfile={password}", *arguments],
        ["pg_ctl", f"--pgdata={data}", "-w", "-o", f"-c listen_addresses='' -k {sockets}", "start"],
        [
            "psql",
            "-v",
            "ON_ERROR_STOP=1",
            "--no-psqlrc",
            f"--host={sockets}",
            "--username=postgres",
            f"--file={script}",
        ],
        ["pg_ctl", f"--pgdata={data}", "-w", "-m", "fast", "stop"],
    ):
        code, said = made.execute(*step)
        if code:
            raise ContainerError(f"{step[0]}: exit code {code}: {said}")
    port = str(host.ports["5432"])
    return made, ["postgres", "-D", str(data), "-p", port, "-c", "listen_addresses=127.0.0.1", "-k", str(sockets)]


def until(holds: Callable[[], bool], check: Callable[[], None] = lambda: None) -> None:
    """Wait until something holds; `check` raises when it no longer can."""
    ends = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        check()
        if time.monotonic() > ends:
            raise ContainerError(f"not so within {PATIENCE_SECONDS:.0f} s")
        time.sleep(1)  # a look costs half a second of CPU itself
