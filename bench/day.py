"""Measure the growth of both databases in a day of the default schedules, on a real Prefect server without waiting.

Each run of prefect.yaml's day passes the same states as with a scheduler and a worker (Scheduled, Pending, Running,
Completed, with its deployment and logs), and runs in one process. A run that is due at 02:00 judges as of 02:00.
Heartbeats of long runs and polling are left out, as they depend on real time.
"""

import json
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import yaml
from cronsim import CronSim

from bench.report import Row
from reelkeeper.cli import orchestration

ROOT = Path(__file__).parents[1]
HOURS = 24
_EVENTS = ("events", "event_resources")
_MB = 10**6
MAX_PREFECT_MB = 2_000.0  # with runs and events deleted as we configure Prefect: acceptable for a small disk
MAX_STORE_MB = 1.0  # a day, of a service in which nothing happens but the schedules and a job each hour
_FIRST_HOUR = 2  # of a part of a day: the daily flows run from 02:00 on


class Day(NamedTuple):
    """The result of a day, or a part of one. Growth is in bytes, by table with its indexes."""

    hours: float
    runs: Counter[str]
    seconds: float
    prefect: Counter[str]
    store: Counter[str]
    failed: dict[str, str]
    left: dict[str, int]  # Prefect's rows that are left after everything has reached its maximum age

    @property
    def prefect_events(self) -> int:
        """The part of Prefect's growth that is events."""
        return sum(size for name, size in self.prefect.items() if name in _EVENTS)

    @property
    def prefect_runs(self) -> int:
        """The part of Prefect's growth that is runs, their states, logs and artifacts."""
        return self.prefect.total() - self.prefect_events

    @property
    def prefect_at_most(self) -> float:
        """The final size of Prefect's database in bytes, if all retained days are like this one."""
        days = self.hours / HOURS
        kept = self.prefect_events * orchestration.EVENT_DAYS + self.prefect_runs * orchestration.RUN_DAYS
        return kept / days


def measure() -> list[Row]:
    """Run the whole day."""
    day = live(HOURS)
    if day.failed:
        raise RuntimeError(f"{len(day.failed)} runs failed: {next(iter(day.failed.items()))}")
    if any(day.left.values()):
        raise RuntimeError(f"Prefect has not deleted old rows: {day.left}")
    for name, growth in (("Prefect", day.prefect), ("store", day.store)):
        print(f"{name}, kB by table: {', '.join(f'{table} {size / 1000:,.0f}' for table, size in _largest(growth))}")
    seconds = day.seconds / day.runs.total()
    at_most, store = day.prefect_at_most / _MB, day.store.total() / _MB
    return [
        Row(f"Prefect's database in the end, {day.runs.total()} runs a day", at_most, MAX_PREFECT_MB,
            at_most / MAX_PREFECT_MB, 1.0, "MB"),
        Row("Prefect a day, events", day.prefect_events / _MB, 1, day.prefect_events / _MB, None, "MB"),
        Row("Prefect a day, runs with states, logs, artifacts", day.prefect_runs / _MB, 1,
            day.prefect_runs / _MB, None, "MB"),
        Row("store a day", store, MAX_STORE_MB, store / MAX_STORE_MB, 1.0, "MB"),
        Row("a run, server and all", seconds, 1, seconds, None),
    ]  # fmt: skip


def live(hours: float) -> Day:
    """Run some hours of the day, in a separate process, against its own server."""
    with tempfile.TemporaryDirectory(prefix="reelkeeper-day-") as folder, prefect_server(Path(folder)) as environment:
        told = subprocess.run(
            [sys.executable, "-m", "tests.bench.day_runs", str(hours), folder],
            env=environment,
            cwd=ROOT,
            check=True,
            stdout=subprocess.PIPE,
            timeout=7200,
        )
    said = json.loads(told.stdout.splitlines()[-1])
    return Day(**said | {name: Counter(said[name]) for name in ("runs", "prefect", "store")})


def _largest(growth: Counter[str]) -> list[tuple[str, int]]:
    return [(name, size) for name, size in growth.most_common(12) if size]


@contextmanager
def prefect_server(folder: Path) -> Iterator[dict[str, str]]:
    """Start a Prefect server with our usual settings; yield the environment of its clients."""
    port = _free_port()
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


def _free_port() -> int:
    with closing(socket.socket()) as opened:
        opened.bind(("127.0.0.1", 0))
        port: int = opened.getsockname()[1]
        return port


def _await(url: str, server: subprocess.Popen[bytes], seconds: float = 300) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310  our own server, on loopback
                if answer.status == 200:  # noqa: PLR2004  HTTP's OK
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise RuntimeError(f"no Prefect server at {url} after {seconds:.0f} s; it has ended with {server.poll()}")


def due(day: datetime, hours: float) -> list[tuple[datetime, str]]:
    """List when each flow is due on `day`; a part of a day begins at 02:00, with the daily flows."""
    begin = day if hours >= HOURS else day + timedelta(hours=_FIRST_HOUR)
    end, found = begin + timedelta(hours=hours), []
    for deployment in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]:
        times = set[datetime]()
        for schedule in deployment.get("schedules", []):
            cron = CronSim(schedule["cron"], begin - timedelta(seconds=1))
            while (at := next(cron)) < end:
                times.add(at)
        found += [(at, deployment["entrypoint"].rpartition(".")[2]) for at in times]
    return sorted(found)


def sizes(file: Path) -> Counter[str]:
    """Add up the bytes of each table of a SQLite file, its indexes included."""
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=60)) as connection:
        rows = connection.execute(
            "SELECT tbl_name, SUM(pgsize) FROM dbstat JOIN sqlite_schema USING (name) GROUP BY tbl_name"
        )
        return Counter({name: int(size) for name, size in rows})
