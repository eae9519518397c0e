import http.client
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from inline_snapshot import snapshot

from reelkeeper.adapters.s3 import r2, seaweed
from reelkeeper.adapters.s3.r2 import Bucket
from reelkeeper.adapters.s3.seaweed import Endpoint
from reelkeeper.errors import StorageError
from tests.marks import marked

KEY = "videos/ann/one.mp4"
HOLDER = """
import sys, time
from pathlib import Path
from reelkeeper.adapters.s3 import seaweed
with seaweed.running(Path(sys.argv[1])) as endpoint:
    print(endpoint.endpoint_url, flush=True)
    sys.stdin.read()
"""


def bucket_at(at: Endpoint) -> Bucket:
    return r2.connect(at.endpoint_url, at.access_key_id, at.secret_access_key, "reelkeeper", "videos/")


def servers(folder: Path) -> list[psutil.Process]:
    """The running servers over `folder`."""
    flag = f"-dir={folder / 'data'}"
    return [item for item in psutil.process_iter(["cmdline"]) if flag in (item.info["cmdline"] or ())]


@contextmanager
def another_process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the server over `folder` until its input is closed."""
    command: list[str | Path] = [sys.executable, "-c", HOLDER, folder]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline().startswith("http://127.0.0.1:")
            yield process
        finally:
            process.kill()


def eventually(true: str, seconds: float = 240, **names: object) -> None:
    """Wait until an expression over `names` is true."""
    deadline = time.monotonic() + seconds
    while not eval(true, names):  # noqa: S307  a literal of this file
        assert time.monotonic() < deadline, true
        time.sleep(0.05)


@pytest.mark.long
def test_objects_and_the_endpoint_outlive_a_restart(tmp_path: Path) -> None:
    with seaweed.running(tmp_path) as first:
        bucket_at(first).put_bytes_once(KEY, b"one", "video/mp4")
    assert not servers(tmp_path)
    with seaweed.running(tmp_path) as second:
        assert second == first
        assert bucket_at(second).read_bytes(KEY) == b"one"


@pytest.mark.long
def test_a_server_that_is_killed_comes_back_with_what_it_had(tmp_path: Path) -> None:
    with seaweed.running(tmp_path) as endpoint:
        bucket = bucket_at(endpoint)
        bucket.put_bytes_once(KEY, b"one", "video/mp4")
        (server,) = servers(tmp_path)
        server.kill()
        assert bucket.read_bytes(KEY) == b"one"  # the attempts of one request outlast the restart
        (successor,) = servers(tmp_path)
        assert successor.pid != server.pid


@pytest.mark.long
def test_the_server_dies_with_its_owner_and_leaves_nothing_locked(tmp_path: Path) -> None:
    with another_process(tmp_path) as owner:
        (server,) = servers(tmp_path)
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    eventually("not server.is_running() or server.status() == 'zombie'", server=server, seconds=5)
    with seaweed.running(tmp_path) as endpoint:
        assert bucket_at(endpoint).head(KEY) is None


@pytest.mark.long
def test_a_second_process_shares_the_server_and_takes_it_over(tmp_path: Path) -> None:
    with another_process(tmp_path) as owner, seaweed.running(tmp_path) as endpoint:
        bucket = bucket_at(endpoint)
        bucket.put_bytes_once(KEY, b"one", "video/mp4")
        (theirs,) = servers(tmp_path)
        assert theirs.ppid() == owner.pid
        owner.communicate("", timeout=240)
        assert bucket.read_bytes(KEY) == b"one"
        (ours,) = servers(tmp_path)
        assert ours.ppid() == os.getpid()
    assert not servers(tmp_path)


@pytest.mark.long
def test_the_server_listens_only_on_loopback_and_requires_credentials_everywhere(tmp_path: Path) -> None:
    with seaweed.running(tmp_path) as endpoint:
        bucket_at(endpoint).put_bytes_once(KEY, b"one", "video/mp4")
        (server,) = servers(tmp_path)
        listening = [c.laddr for c in server.net_connections("inet") if c.status == psutil.CONN_LISTEN]
        assert listening
        assert {address.ip for address in listening} <= {"127.0.0.1", "::1"}
        ports = json.loads((tmp_path / "endpoint.json").read_text())["ports"]
        for port, path in (("s3.port", f"/reelkeeper/{KEY}"), ("filer.port", f"/buckets/reelkeeper/{KEY}")):
            connection = http.client.HTTPConnection("127.0.0.1", ports[port])
            connection.request("GET", path)
            assert connection.getresponse().status in {401, 403}
            connection.close()
    assert stat.S_IMODE((tmp_path / "endpoint.json").stat().st_mode) == 0o600
    assert {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "config").iterdir()} == {0o600}
    assert endpoint.secret_access_key not in repr(endpoint)


@pytest.mark.long
def test_a_port_taken_by_another_process_is_replaced(tmp_path: Path) -> None:
    with seaweed.running(tmp_path) as first:
        bucket_at(first).put_bytes_once(KEY, b"one", "video/mp4")
    address = ("127.0.0.1", int(first.endpoint_url.rpartition(":")[2]))
    with socket.create_server(address), seaweed.running(tmp_path) as second:
        assert second.endpoint_url != first.endpoint_url
        assert bucket_at(second).read_bytes(KEY) == b"one"


@pytest.mark.long
def test_a_long_path_and_keys_of_the_environment_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "stranger")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "stranger")
    folder = tmp_path / ("a name with spaces " * 6).strip() / "s3"
    with seaweed.running(folder) as endpoint:
        stranger = Endpoint(endpoint.endpoint_url, "stranger", "stranger")
        with pytest.raises(StorageError, match="InvalidAccessKeyId"):
            bucket_at(stranger).put_bytes_once(KEY, b"x", "video/mp4")
        bucket_at(endpoint).put_bytes_once(KEY, b"one", "video/mp4")


@pytest.mark.long
def test_a_server_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "weed"
    broken.write_text("#!/bin/sh\necho no space left on device\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(seaweed, "_binary", lambda: str(broken))
    running = seaweed.running(tmp_path / "s3")
    with pytest.raises(StorageError) as refused:
        running.__enter__()
    assert marked(refused.value, FOLDER=tmp_path) == snapshot(
        "the embedded S3 server ended 5 times in a row; see FOLDER/s3/log; it ends with: no space left on device"
    )


def test_keys_of_a_thousand_bytes_are_taken_as_r2_does(endpoint: Endpoint, prefix: str) -> None:
    bucket = r2.connect(endpoint.endpoint_url, endpoint.access_key_id, endpoint.secret_access_key, "reelkeeper", prefix)
    key = prefix + "a" * (1024 - len(prefix))
    bucket.put_bytes_once(key, b"x", "video/mp4")
    assert bucket.head(key) is not None
