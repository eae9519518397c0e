"""`reelkeeper up`: from nothing to a completed run within a minute; killed, it goes on; stopped, it is gone."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from inline_snapshot import snapshot

from deployments import forkserver
from tests.e2e.installation import Running, completed, lives, until

pytestmark = pytest.mark.long("`up` starts a whole installation each time, and again after a kill")
MAX_SECONDS, MAX_STOP_SECONDS = 60.0, 10.0  # on a machine that has nothing else to do


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder on a machine where Reelkeeper is installed, and has never run."""
    running: list[Running] = []
    tmp_path.joinpath("said").touch()
    yield tmp_path
    for running_job in running:
        running_job.close()


def test_one_command_one_minute_and_no_process_afterwards(folder: Path) -> None:
    load = max(1.0, 1.5 * os.getloadavg()[0] / (os.cpu_count() or 1))  # others are at work here, too
    up = Running(folder)
    try:
        ready = up.ready()
        until(lambda: completed(ready["ui_url"]), 300, "a first run completes")
        took = time.monotonic() - up.began
        print(f"up to the first run that completed: {took:.1f} s; ready after {ready['seconds']} s; load {load:.1f}")  # noqa: T201  the figure
        assert took < MAX_SECONDS * load
        assert httpx.get(f"{ready['api_url']}/healthz", timeout=60).json() == {"status": "ok"}
        assert httpx.get(f"{ready['ui_url']}/", timeout=60).is_success
        with_origin = httpx.get(
            f"{ready['ui_url']}/api/health", headers={"Origin": "http://elsewhere.example"}, timeout=60
        )
        assert "access-control-allow-origin" not in with_origin.headers  # no other page of a browser may ask
        at_work(ready)
        up.note_family()
        run = next(up.those_of("deployments.engine"))  # where the fork server refuses it, it loads all libraries itself
        assert str(Path(forkserver.__file__)) in run.cmdline()
        began = time.monotonic()
        up.process.send_signal(signal.SIGINT)
        assert up.process.wait(120) == 0
        took = time.monotonic() - began
        print(f"stopped in {took:.1f} s")  # noqa: T201  the figure
        assert took < MAX_STOP_SECONDS * load
        assert up.said("stopped")
        until(up.nobody_is_left, 10, f"no process is left of {up.family}")
    finally:
        up.close()


def test_up_continues_after_a_kill_and_restart(folder: Path) -> None:
    up = Running(folder)
    again = None
    try:
        ready = up.ready()
        run = at_work(ready)
        up.note_family()
        up.process.kill()
        up.process.wait()
        until(up.nobody_is_left, 30, f"nothing outlives it: {up.family}")
        again = Running(folder)
        ready = again.ready()
        assert state(ready, run) == snapshot(("CRASHED", "It died with the `reelkeeper up` that ran it"))
        assert (begun_at_once(ready, "deliver-alerts"), begun_at_once(ready, "sync-catalog")) == (2, 1)  # per start
        again.note_family()
        next(again.those_of("deployments.server")).kill()
        until(lambda: again.said("part"), 60, "the death of a part is said")
        until(lambda: answers(f"{ready['ui_url']}/api/health"), 200, "the part is started again")
        forked = list(again.those_of("deployments.forkserver"))
        next(item for item in forked if item.ppid() == again.process.pid).kill()  # and with it worker, API and runs
        until(lambda: not any(map(lives, forked)), 10, "what it had forked is gone")
        until(lambda: answers(f"{ready['api_url']}/healthz"), 200, "the API is started again")
        again.process.send_signal(signal.SIGTERM)
        assert again.process.wait(200) == 0
    finally:
        for running_job in (up, again):
            if running_job:
                running_job.close()


def at_work(ready: dict[str, Any]) -> str:
    """Start a long run of the queue, as its schedule may be minutes away; return the id of one that is at work."""
    url = f"{ready['ui_url']}/api/deployments"
    found = httpx.get(f"{url}/name/dispatch-jobs/every-5-minutes", timeout=60).json()
    asked = {"parameters": {"seconds": 3_000}, "idempotency_key": "long"}

    def begun() -> bool:
        return httpx.post(f"{url}/{found['id']}/create_flow_run", json=asked, timeout=60).is_success

    until(begun, 120, "a run is made: Prefect's server on SQLite answers 503 while it is busy")
    body = {"flows": {"name": {"any_": ["dispatch-jobs"]}}, "flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}}

    def running() -> str:
        answer = httpx.post(f"{ready['ui_url']}/api/flow_runs/filter", json=body, timeout=60)
        return next((item["id"] for item in answer.json()), "") if answer.is_success else ""

    return until(running, 200, "a run of the queue is at work")


def begun_at_once(ready: dict[str, Any], flow: str) -> int:
    body = {"flows": {"name": {"any_": [flow]}}, "flow_runs": {"tags": {"all_": ["first-run"]}}}
    return len(httpx.post(f"{ready['ui_url']}/api/flow_runs/filter", json=body, timeout=60).json())


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=10).is_success
    except httpx.HTTPError:
        return False


def state(ready: dict[str, Any], run_id: str) -> tuple[str, str]:
    found = httpx.get(f"{ready['ui_url']}/api/flow_runs/{run_id}", timeout=60).json()["state"]
    return found["type"], found["message"]
