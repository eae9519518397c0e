"""Make the runs of a day as the scheduler and a worker would. `bench.day` starts this process."""

import importlib
import json
import sqlite3
import sys
import time
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import ConcurrencyOptions, State
from prefect.flow_engine import run_flow
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.states import Pending, Scheduled

from bench.day import ROOT, Day, due, sizes
from bench.tiering import clips, deployed
from reelkeeper.cli.orchestration import EVENT_DAYS, RUN_DAYS
from reelkeeper.model.requests import GenerationRequest
from reelkeeper.operations.billing import ledger
from reelkeeper.operations.jobs.admit import admit
from reelkeeper.settings import settings
from reelkeeper.store.core.engine import open_store, transaction

_JOB_MINUTES = 15  # between two jobs
_FORGOTTEN = ("flow_run", "flow_run_state", "task_run", "task_run_state", "log", "artifact")
_FORGETTING_SECONDS = 120.0
_OURS = {"dispatch_jobs": {"until_idle": True, "seconds": 60}}  # does not wait for its window to end


class Runs:
    """Deploys every flow, and runs one on demand. Failures are in `failed`, by flow and time."""

    def __init__(self) -> None:
        self.failed: dict[str, str] = {}
        self._deployments: dict[str, Any] = {}
        with open_store(settings()) as engine, transaction(engine, "bench") as session:
            ledger.grant(session, "u", 10**9, "bench", run_id="bench")
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


def main(hours: float, folder: Path) -> Day:
    """Run some hours of last Monday, on which every flow is due."""
    monday = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    monday -= timedelta(days=monday.weekday() or 7)
    plan = due(monday, hours)
    with deployed(folder / "state", clips()[:4]):
        runs = Runs()
        for flow in dict.fromkeys(flow for _, flow in plan):  # what is made once for all is not a day's
            runs.one(flow, monday - timedelta(hours=1))
        runs.settle()
        files = folder / "prefect" / "prefect.db", folder / "state" / "store.sqlite3"
        before, started = [sizes(file) for file in files], time.monotonic()
        for at, flow in plan:
            runs.one(flow, at)
        runs.settle()
        seconds = time.monotonic() - started
        prefect, store = (sizes(file) - start for file, start in zip(files, before, strict=True))
        left = _grow_old(files[0])
    return Day(hours, Counter(flow for _, flow in plan), seconds, prefect, store, runs.failed, left)


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
    sys.stdout.write(json.dumps(main(float(sys.argv[1]), Path(sys.argv[2]))._asdict()) + "\n")
