"""The whole of it, with real parts: PostgreSQL, Prefect's server with auth, SeaweedFS, a worker, the API, Slack."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from inline_snapshot import snapshot

from deployments.automations import FAILED_BY
from reelkeeper.model import BlobState, VideoState
from reelkeeper.operations.alerts import alerts
from reelkeeper.store.core.engine import transaction
from tests.doubles.slack import HANG, SlackDouble
from tests.e2e.conftest import Install
from tests.e2e.installation import NAMES, Installation, until
from tests.faults.world import World

pytestmark = pytest.mark.long("five servers, and flows in processes of their own")
SHORT = {"dispatch-jobs": {"until_idle": True}}
REFUSED = {"policy": {"compress_below_views": "never", "retire_below_views": "never"}}
ROUTES = [
    ("GET", "/admin/version"),
    ("GET", "/flows/0b0c1cd1-0000-4000-8000-000000000000"),
    ("POST", "/flows/filter"),
    ("POST", "/flow_runs/filter"),
    ("POST", "/flow_runs/"),
    ("POST", "/flow_runs/count"),
    ("POST", "/task_runs/filter"),
    ("GET", "/deployments/name/purge-retired/daily"),
    ("POST", "/deployments/filter"),
    ("POST", "/deployments/0b0c1cd1-0000-4000-8000-000000000000/create_flow_run"),
    ("POST", "/block_documents/filter"),
    ("POST", "/block_types/filter"),
    ("POST", "/variables/filter"),
    ("POST", "/work_pools/filter"),
    ("GET", "/work_pools/main"),
    ("POST", "/automations/filter"),
    ("POST", "/automations/"),
    ("POST", "/artifacts/filter"),
    ("POST", "/logs/filter"),
    ("POST", "/v2/concurrency_limits/filter"),
    ("POST", "/events/filter"),
]


@pytest.fixture(scope="module")
def whole(install: Install, tiny_clip: Path) -> tuple[Installation, World]:
    """Everything runs: one live video, one whose bytes are due to be purged, and the first steps are done."""
    installation, world = install(tiny_clip)
    world.video("live")
    world.video("gone", state=VideoState.RETIRED, blob_state=BlobState.RETIRED, due=True)
    installation.start_server()
    installation.set_up()
    installation.hold_schedules()
    installation.start("api", "reelkeeper", "api", "--port", str(installation.api_port))
    installation.start_worker("--limit", "6")
    return installation, world


def test_a_run_of_each_deployment_created_by_name_through_the_rest_api_completes(
    whole: tuple[Installation, World],
) -> None:
    installation, world = whole
    begun = {flow: installation.begin(flow, f"first {flow}", **SHORT.get(flow, {})) for flow in NAMES}
    assert len(begun) >= 12
    again = {flow: installation.begin(flow, f"first {flow}", **SHORT.get(flow, {})) for flow in NAMES}
    assert again == begun
    ids = set(begun.values())
    until(lambda: all(_is_over(installation, run_id) for run_id in ids), 400, "all of them end")
    for flow, run_id in begun.items():
        ended = installation.run(run_id)
        assert ended["state"]["type"] == "COMPLETED", f"{flow}: {ended['state']} {installation.log('worker')}"
        assert ended["deployment_id"] == installation.deployment(flow)
    world.check()


def _is_over(installation: Installation, run_id: str) -> bool:
    return installation.run(run_id)["state"]["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def test_a_schedule_fires_by_itself_and_an_alert_reaches_slack(
    whole: tuple[Installation, World], at_slack: SlackDouble
) -> None:
    installation, _ = whole
    installation.begin("tier-storage", "refused", **REFUSED)
    until(lambda: installation.runs("tier-storage", "FAILED"), 120, "a run that is refused fails")
    installation.repeat("deliver-alerts", 15)

    def fired() -> bool:
        return any(run["auto_scheduled"] for run in installation.runs("deliver-alerts", "COMPLETED"))

    until(fired, 180, "a schedule fires")
    until(lambda: "A run of tier_storage failed" in " ".join(at_slack.titles()), 120, "Slack hears of it")
    _end_schedules(installation)
    installation.ask("POST", "/flow_runs/filter", {"limit": 1})


def _end_schedules(installation: Installation) -> None:
    """Remove schedules that a test has added, and their runs, before the next test."""
    installation.hold_schedules()
    until(lambda: not installation.runs("", "PENDING", "RUNNING"), 120, "what schedules began is over")


@pytest.mark.parametrize(
    ("kind", "message"), [("CRASHED", ""), ("FAILED", f"{FAILED_BY}Unavailable: PostgreSQL")], ids=["crash", "outage"]
)
def test_daily_work_that_crashed_or_that_an_outage_ended_runs_again_once_and_nothing_that_a_person_began(
    whole: tuple[Installation, World], kind: str, message: str
) -> None:
    installation, _ = whole
    refused = _due_in_2099(installation, "expire-videos", "auto-scheduled")
    asked = _due_in_2099(installation, "expire-videos")
    # The tag is the scheduler's. Of its own runs the first events are evaluated minutes later where they are this new.
    due = _due_in_2099(installation, "expire-videos", "auto-scheduled")
    known = {run["id"] for run in installation.runs("expire-videos")}
    ends = {"type": kind, "name": kind.capitalize(), "message": message}
    fault = {"type": "FAILED", "name": "Failed", "message": f"{FAILED_BY}PartialFailure: one"}
    for run_id, state in ((refused, fault), (asked, ends), (due, ends)):
        installation.ask("POST", f"/flow_runs/{run_id}/set_state", {"state": state, "force": True})

    def again() -> list[dict[str, Any]]:
        return [
            run for run in installation.runs("expire-videos") if run["id"] not in known and not run["auto_scheduled"]
        ]

    (found,) = until(again, 120, "one run takes its place")
    assert found["parameters"] == {"dry_run": False}
    assert (
        found["expected_start_time"] > datetime.now(UTC).isoformat()
    )  # in two minutes: the dead run's leases are over
    over = {"state": {"type": "CANCELLED", "name": "Cancelled"}, "force": True}  # other tests run this flow
    installation.ask("POST", f"/flow_runs/{found['id']}/set_state", over)


def _due_in_2099(installation: Installation, flow: str, *tags: str) -> str:
    """Create a run that no worker takes, whose state the test sets; return its id."""
    state = {"type": "SCHEDULED", "state_details": {"scheduled_time": "2099-01-01T00:00:00Z"}}
    create = f"/deployments/{installation.deployment(flow)}/create_flow_run"
    run: str = installation.ask("POST", create, {"state": state, "tags": tags})["id"]
    return run


def _begins(installation: Installation, flow: str) -> str:
    """Create a run that begins, of a flow that is not ours; return its id."""
    flow_id = installation.ask("POST", "/flows/", {"name": flow})["id"]
    run: str = installation.ask("POST", "/flow_runs/", {"flow_id": flow_id, "state": {"type": "PENDING"}})["id"]
    return run


def test_a_run_without_a_worker_raises_an_alert_and_one_that_never_begins_crashes(
    whole: tuple[Installation, World], at_slack: SlackDouble
) -> None:
    installation, _ = whole
    with _impatient(installation, "tell of late runs"), _impatient(installation, "a run that never began has crashed"):
        installation.repeat("deliver-alerts", 20)
        installation.ask("PATCH", "/work_pools/encode", {"is_paused": True})
        late = installation.begin("transcode-videos", "taken by nobody")
        dead = _due_in_2099(installation, "prune-cache")
        theirs = _begins(installation, "nightly-etl")
        for name in ("Pending", "Submitting"):  # the states that a worker sets before it starts a process for the run
            taken = {"type": "PENDING", "name": name}
            installation.ask("POST", f"/flow_runs/{dead}/set_state", {"state": taken, "force": True})

        def told() -> bool:
            titles = " ".join(at_slack.titles())
            return "A run of transcode_videos has not begun" in titles and "A run of prune_cache crashed" in titles

        until(told, 180, "Slack hears of both")
    assert installation.run(late)["state"]["name"] == "Late"
    assert installation.run(theirs)["state"]["type"] == "PENDING", "others use this server, too"
    ends = {"state": {"type": "CANCELLED"}, "force": True}
    installation.ask("POST", f"/flow_runs/{theirs}/set_state", ends)
    assert installation.run(dead)["state"]["message"] == snapshot("A worker accepted it, and never started it")
    installation.ask("PATCH", "/work_pools/encode", {"is_paused": False})
    until(lambda: _is_over(installation, late), 120, "with the pool at work again it runs")
    _end_schedules(installation)


def test_a_crash_of_which_the_api_never_heard_is_told_by_the_next_delivery_or_by_the_api_when_it_is_back(
    whole: tuple[Installation, World], at_slack: SlackDouble
) -> None:
    installation, _ = whole
    installation.kill("api")
    _crash_unheard(installation, "sync-catalog", 1)
    installation.begin("deliver-alerts", "after it")
    until(lambda: "A run of sync_catalog crashed" in " ".join(at_slack.titles()), 60, "a delivery tells of it")
    _crash_unheard(installation, "forecast-costs", 2)
    installation.start("api", "reelkeeper", "api", "--port", str(installation.api_port))
    until(lambda: "A run of forecast_costs crashed" in " ".join(at_slack.titles()), 60, "the API tells of it")


def _crash_unheard(installation: Installation, flow: str, count: int) -> None:
    """Have a run crash, and wait until Prefect's server has called the API in vain, for `count` runs in all."""
    dead = _due_in_2099(installation, flow)
    ends = {"type": "CRASHED", "name": "Crashed", "message": "its machine is gone"}
    installation.ask("POST", f"/flow_runs/{dead}/set_state", {"state": ends, "force": True})
    failed = {"filter": {"event": {"name": ["prefect.automation.action.failed"]}}}
    until(
        lambda: len(installation.ask("POST", "/events/filter", failed)["events"]) >= count, 60, "its calls are in vain"
    )


@contextmanager
def _impatient(installation: Installation, name: str) -> Iterator[None]:
    """Set an automation's waiting time to Prefect's minimum of ten seconds, and back.

    On a busy machine a run may take longer to begin: those of other tests need the time that it has.
    """
    every = installation.ask("POST", "/automations/filter", {})
    (found,) = [item for item in every if item["name"] == f"Reelkeeper: {name}"]
    kept = ("name", "description", "enabled", "actions", "actions_on_trigger", "actions_on_resolve", "trigger")
    was = {field: found[field] for field in kept}
    path = f"/automations/{found['id']}"
    installation.ask("PUT", path, was | {"trigger": found["trigger"] | {"within": 10}})
    try:
        yield
    finally:
        installation.ask("PUT", path, was)


def test_alerts_are_out_within_a_minute_though_the_worker_that_delivers_them_dies_while_it_sends(
    whole: tuple[Installation, World], at_slack: SlackDouble
) -> None:
    installation, world = whole
    engine = world.workspace.engine
    installation.processes["api"].send_signal(signal.SIGSTOP)  # it would be the first to send
    at_slack.reset()
    at_slack.queue = [HANG]
    with transaction(engine, "test") as session:
        alerts.post(session, "In the dead worker's hands", "")
    run_id = installation.begin("deliver-alerts", "dies")
    until(at_slack.asked_at, 120, "it sends")
    for child in installation.kill("worker"):
        child.kill()
    died = time.monotonic()
    with transaction(engine, "test") as session:
        alerts.post(session, "Left behind", "")
    installation.processes["api"].send_signal(signal.SIGCONT)

    def sent(*words: str) -> bool:
        return all(any(word in title for title in at_slack.titles()) for word in words)

    until(lambda: sent("hands", "Left behind"), 60, "Slack has both")
    print(f"sent {time.monotonic() - died:.0f} s after the death")  # noqa: T201  as its figure
    until(lambda: sent("A run of deliver_alerts crashed"), 180, "Slack hears of the dead run")
    crashed = datetime.fromisoformat(installation.run(run_id)["state"]["timestamp"])
    took = (datetime.now(UTC) - crashed).total_seconds()
    print(f"told {took:.0f} s after Prefect's server knew, {time.monotonic() - died:.0f} s after the death")  # noqa: T201  as above
    assert took < 60
    assert len(at_slack.titles()) == len(set(at_slack.titles()))
    installation.start_worker("--limit", "6")


def test_without_the_password_every_route_says_401(whole: tuple[Installation, World]) -> None:
    installation, _ = whole
    assert len(ROUTES) >= 20
    with httpx.Client(base_url=f"{installation.ui_url}/api", trust_env=False) as nobody:
        for method, path in ROUTES:
            for auth in (None, ("ann", "a guess")):
                answer = nobody.request(method, path, json={}, auth=auth)
                assert answer.status_code == 401, f"{method} {path}: {answer.status_code}"
        assert nobody.get("/health").status_code == 200


def test_a_stopping_worker_waits_for_its_run(whole: tuple[Installation, World]) -> None:
    installation, _ = whole
    run_id = installation.begin("dispatch-jobs", "waited for", seconds=10)
    until(lambda: installation.run(run_id)["state"]["type"] == "RUNNING", 120, "it runs")
    assert installation.stop("worker") == 0  # its patience is longer than the run
    installation.start_worker("--limit", "6")
    assert any("60 s" in line and "dispatch-jobs" in line for line in installation.log("worker").splitlines())
    assert installation.run(run_id)["state"]["type"] == "COMPLETED"


@pytest.mark.parametrize("ends_in_order", [pytest.param(True, marks=pytest.mark.soak), False])
def test_a_worker_without_time_to_drain_hands_over_and_the_next_one_continues(
    ends_in_order: bool, whole: tuple[Installation, World]
) -> None:
    installation, _ = whole
    installation.kill("worker")
    worker = installation.start_worker("--patience", "0")
    run_id = installation.begin("dispatch-jobs", f"handed over {ends_in_order}", seconds=30)  # a busy stop takes ten
    until(lambda: installation.run(run_id)["state"]["type"] == "RUNNING", 120, "it runs")
    if not ends_in_order:  # it hears nothing, and has to be killed
        for process in psutil.Process(worker.pid).children(recursive=True):
            if "deployments.engine" in process.cmdline():  # the worker's own sandbox has to end with it
                process.suspend()
    assert installation.stop("worker", signal.SIGINT) == 0
    handed_over = installation.run(run_id)["state"]["name"]
    installation.start_worker("--limit", "6")
    assert handed_over == "AwaitingRetry"
    until(lambda: installation.run(run_id)["state"]["type"] == "COMPLETED", 180, "another worker ends it")
