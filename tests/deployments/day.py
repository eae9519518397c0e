"""Make the runs of a day as the scheduler and a worker would, in a process against its own Prefect server.

Each run of prefect.yaml's day passes the same states as with a scheduler and a worker (Scheduled, Pending, Running,
Completed, with its deployment and logs). A run that is due at 02:00 judges as of 02:00. Heartbeats of long runs and
polling are left out, as they depend on real time.
"""

import importlib
import json
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import sqlalchemy as sa
import yaml
from cronsim import CronSim
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import ConcurrencyOptions, State
from prefect.flow_engine import run_flow
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.states import Pending, Scheduled

from deployments import orchestration
from deployments.orchestration import EVENT_DAYS, RUN_DAYS
from reelkeeper.model import Grace
from reelkeeper.model.requests import GenerationRequest, Incoming
from reelkeeper.operations.billing import ledger
from reelkeeper.operations.core.lease import LeaseManager
from reelkeeper.operations.core.workspace import open_workspace
from reelkeeper.operations.jobs.admit import admit
from reelkeeper.operations.videos.upload import upload
from reelkeeper.settings import settings
from reelkeeper.store.core.engine import open_store, transaction
from reelkeeper.store.tables import users, view_days
from tests.clips import cut
from tests.policies import put_in_force
from tests.shrinking import AT_ANY_PRICE

ROOT = Path(__file__).parents[2]
HOURS = 24
_FIRST_HOUR = 2  # of a part of a day: the daily flows run from 02:00 on
_JOB_MINUTES = 15  # between two jobs
_FORGOTTEN = ("flow_run", "flow_run_state", "task_run", "task_run_state", "log", "artifact")
_FORGETTING_SECONDS = 120.0
_OURS = {"dispatch_jobs": {"until_idle": True, "seconds": 60}}  # does not wait for its window to end


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


class Runs:
    """Deploys every flow, and runs one on demand. Failures are in `failed`, by flow and time."""

    def __init__(self) -> None:
        self.failed: dict[str, str] = {}
        self._deployments: dict[str, Any] = {}
        with open_store(settings()) as engine, transaction(engine, "test") as session:
            ledger.grant(session, "u", 10**9, "test", run_id="test")
        deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
        with get_client(sync_client=True) as client:
            for deployment in deployments:
                module, _, name = deployment["entrypoint"].rpartition(".")
                flow = getattr(importlib.import_module(module), name)
                parameters = deployment["parameters"] | _OURS.get(name, {})
                flow_id = client.create_flow_from_name(flow.name)
                limit = deployment["concurrency_limit"]
                options = ConcurrencyOptions.model_validate({key: limit[key] for key in limit if key != "limit"})
                made = client.create_deployment(
                    flow_id,
                    "day",
                    parameters=parameters,
                    tags=deployment["tags"],
                    concurrency_limit=limit["limit"],
                    concurrency_options=options,
                )
                self._deployments[name] = (flow, made, parameters)

    def one(self, name: str, at: datetime) -> None:
        """Run a flow that was due at a moment of the past."""
        if name == "dispatch_jobs" and at.minute % _JOB_MINUTES == 0:
            self._ask_for_a_video(at)
        flow, deployment_id, parameters = self._deployments[name]
        with (
            temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
            get_client(sync_client=True) as client,
        ):
            run = client.create_flow_run_from_deployment(deployment_id, state=Scheduled(scheduled_time=at))
            client.set_flow_run_state(run.id, Pending())
            ended = run_flow(flow, client.read_flow_run(run.id), parameters=parameters, return_type="state")
        state = cast("State[Any]", ended)
        if not state.is_completed():
            self.failed[f"{name} at {at:%H:%M}"] = str(state.message)
        sys.stderr.write(f"\r{at:%H:%M} {name:20}")

    def settle(self) -> None:
        """Wait until Prefect has recorded everything, since late writes belong to this day, too."""
        with get_client(sync_client=True) as client:
            before, until = -1, time.monotonic() + 120
            while time.monotonic() < until:
                count = client.request("POST", "/task_runs/count", json={}).json()
                if count == before:
                    break
                before = count
                time.sleep(4)
        time.sleep(6)  # events are written 5 s late at most, logs 2

    def _ask_for_a_video(self, at: datetime) -> None:
        wanted = {"model": "a", "prompt": f"a cat at {at:%H:%M}", "width": 64, "height": 64}
        request = GenerationRequest.model_validate(wanted | {"duration_seconds": 0.5, "fps": 8})
        with open_store(settings()) as engine:
            admit(engine, request, user_id="u", client_key=str(at))


@contextmanager
def _deployed(folder: Path) -> Iterator[None]:
    """Set up an embedded deployment in `folder`, as the environment says, with four cold videos."""
    orchestration.prepare(folder)
    with open_workspace(settings()) as workspace, LeaseManager(workspace.engine) as manager:
        now = datetime.now(UTC)
        put_in_force(workspace.engine, recipe=AT_ANY_PRICE)  # so short, none of them would pay for its CPU
        with transaction(workspace.engine, "test") as session:
            session.execute(sa.insert(users).values(id="u", tier="pro"))
            days = [{"day": (now - timedelta(days=age)).date()} for age in range(1, 40)]
            session.execute(sa.insert(view_days), days)
        for number in range(4):
            clip = cut("city", folder / f"{number}.mp4", start=number / 5, seconds=1.5, encoder="-crf 18")
            incoming = Incoming("u", f"v{number}", now - timedelta(days=10))
            (lease,) = manager.take([f"video/v{number}"])
            scratch = settings().scratch
            upload(workspace, clip, incoming, scratch=scratch, lease=lease, run_id="test", grace=Grace())
            manager.release([lease])
    yield


def _sizes(file: Path) -> Counter[str]:
    """Add up the bytes of each table of a SQLite file, its indexes included."""
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=60)) as connection:
        rows = connection.execute(
            "SELECT tbl_name, SUM(pgsize) FROM dbstat JOIN sqlite_schema USING (name) GROUP BY tbl_name"
        )
        return Counter({name: int(size) for name, size in rows})


def main(hours: float, folder: Path) -> dict[str, Any]:
    """Run some hours of last Monday, on which every flow is due; return bytes grown by table, and what failed."""
    monday = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    monday -= timedelta(days=monday.weekday() or 7)
    plan = due(monday, hours)
    with _deployed(folder / "state"):
        runs = Runs()
        for flow in dict.fromkeys(flow for _, flow in plan):  # what is made once for all is not a day's
            runs.one(flow, monday - timedelta(hours=1))
        runs.settle()
        files = folder / "prefect" / "prefect.db", folder / "state" / "store.sqlite3"
        before = [_sizes(file) for file in files]
        for at, flow in plan:
            runs.one(flow, at)
        runs.settle()
        prefect, store = (_sizes(file) - start for file, start in zip(files, before, strict=True))
        left = _grow_old(files[0])
    return {"runs": len(plan), "failed": runs.failed, "prefect": prefect, "store": store, "left": left}


def _grow_old(file: Path) -> dict[str, int]:
    """Make all runs and events older than Prefect's retention, and return the rows left within two minutes."""
    columns = {"flow_run": ("end_time", RUN_DAYS), "events": ("occurred", EVENT_DAYS)}
    columns["event_resources"] = columns["events"]
    with closing(sqlite3.connect(file, timeout=60)) as connection, connection:
        for table, (column, days) in columns.items():
            earlier = f"strftime('%Y-%m-%d %H:%M:%f', {column}, '-{days + 1} days') || '000'"
            connection.execute(f"UPDATE {table} SET {column} = {earlier}")  # noqa: S608  names of ours
    until = time.monotonic() + _FORGETTING_SECONDS
    while any(left := _rows(file)) and time.monotonic() < until:
        time.sleep(1)
    return dict(zip(_FORGOTTEN, left, strict=True))


def _rows(file: Path) -> list[int]:
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=60)) as connection:
        counts = (connection.execute(f"SELECT COUNT(*) FROM {table}") for table in _FORGOTTEN)  # noqa: S608  the same
        return [int(count.fetchone()[0]) for count in counts]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(float(sys.argv[1]), Path(sys.argv[2]))) + "\n")
