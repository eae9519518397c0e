"""A tenth of a day of the default schedules on a real Prefect server: both databases stay small."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from deployments import orchestration
from tests.deployments.day import HOURS, ROOT, due
from tests.ports import free_port

MAX_PREFECT_BYTES = 2 * 10**9  # with runs and events deleted as we configure Prefect: acceptable for a small disk
MAX_STORE_BYTES = 10**6  # a day, of a service in which nothing happens but the schedules and a job each quarter
PART = 1 / 10  # of a day


@pytest.mark.long
def test_neither_database_grows_without_end(tmp_path: Path) -> None:
    with prefect_server(tmp_path) as environment:
        command = [sys.executable, "-m", "tests.deployments.day", str(HOURS * PART), str(tmp_path)]
        told = subprocess.run(
            command, env=environment, cwd=ROOT, check=True, stdout=subprocess.PIPE, timeout=7200
        ).stdout
    day = json.loads(told.splitlines()[-1])
    assert day["failed"] == {}
    assert day["runs"] > 80
    events = sum(day["prefect"].get(table, 0) for table in ("events", "event_resources"))
    others = sum(day["prefect"].values()) - events
    kept = events * orchestration.EVENT_DAYS + others * orchestration.RUN_DAYS
    assert kept / PART < MAX_PREFECT_BYTES
    assert sum(day["store"].values()) < 3 * PART * MAX_STORE_BYTES  # the daily flows are in this tenth
    assert not any(day["left"].values()), "Prefect keeps what is old"


def test_a_part_of_a_day_has_the_daily_flows() -> None:
    monday = datetime(2026, 11, 23, tzinfo=UTC)
    flows = {flow for _, flow in due(monday, HOURS / 10)}
    assert {"tier_storage", "expire_videos", "sync_catalog"} <= flows
    assert len(due(monday, HOURS)) >= 845


@contextmanager
def prefect_server(folder: Path) -> Iterator[dict[str, str]]:
    """Start a Prefect server with our usual settings; yield the environment of its clients."""
    port = free_port()
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "REELKEEPER_"))}
    environment = clean | orchestration.SERVER | {
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_LOOP_SECONDS": "5",  # by default it looks each hour
        "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false",  # the day below is the schedule
        "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
        "REELKEEPER_STATE_DIR": str(folder / "state"),
        "REELKEEPER_WORKERS": "2",
    }  # fmt: skip
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    try:
        _await(f"http://127.0.0.1:{port}/api/health", server)
        yield environment
    finally:
        server.terminate()
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _await(url: str, server: subprocess.Popen[bytes], seconds: float = 300) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310  our own server, on loopback
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise RuntimeError(f"no Prefect server at {url} after {seconds:.0f} s; it has ended with {server.poll()}")
