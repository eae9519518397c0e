"""Run `reelkeeper api` in a separate process, on a free port, on a test's world."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil

from tests.buckets import BUCKET
from tests.faults.world import World


class Served(NamedTuple):
    """A server that runs."""

    host: str
    port: int
    process: psutil.Process

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def megabytes(self) -> float:
        """Return its resident memory."""
        return float(self.process.memory_info().rss / 1e6)


@contextmanager
def served(world: World, folder: Path, *options: str, log: str = "api.log", before: str = "") -> Iterator[Served]:
    """Start the server, after the code of `before`, and wait until it says where it listens.

    At the end it must stop by itself within 30 s.
    """
    at = world.address
    environment = {
        **os.environ,
        "REELKEEPER_DATABASE_URL": at.store_url,
        "REELKEEPER_S3_ENDPOINT_URL": at.endpoint_url,
        "REELKEEPER_S3_ACCESS_KEY_ID": at.access_key_id,
        "REELKEEPER_S3_SECRET_ACCESS_KEY": at.secret_access_key,
        "REELKEEPER_BUCKET": BUCKET,
        "REELKEEPER_PREFIX": at.prefix,
        "REELKEEPER_STATE_DIR": str(folder / "state"),
    }
    command = [
        sys.executable,
        "-c",
        f"{before}\nfrom reelkeeper.cli import app; app()",
        "api",
        "--port",
        "0",
        *options,
    ]
    with (folder / log).open("w") as written:
        server = subprocess.Popen(command, env=environment, cwd=folder, stderr=written, stdout=written)
    try:
        with (folder / log).open() as read:
            yield Served("127.0.0.1", _port(server, read), psutil.Process(server.pid))
    finally:
        server.terminate()
        try:
            server.wait(timeout=30)
        finally:
            server.kill()
    assert server.returncode in (0, -15)


def _port(server: "subprocess.Popen[bytes]", read: Iterator[str]) -> int:
    said = ""
    while server.poll() is None:
        for line in read:
            said += line
            if found := re.search(r"http://127\.0\.0\.1:(\d+)", said):
                return int(found[1])
        time.sleep(0.05)
    raise AssertionError(said)
