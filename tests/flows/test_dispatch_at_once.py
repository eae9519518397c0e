"""A run of `dispatch_jobs` is started once by Prefect's API, with its window, on a real server, and none at rest."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.settings import PREFECT_API_URL
from prefect.states import Scheduled

from deployments.bootstrap import bootstrap
from deployments.deploy import declared_deployments
from deployments.machine import Machine
from deployments.worker import Worker
from reelkeeper.adapters.orchestrator import Orchestrator
from reelkeeper.errors import OrchestratorError
from reelkeeper.operations.jobs import queue as module
from reelkeeper.operations.jobs.queue import start_dispatch
from reelkeeper.settings import settings
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.jobs.slots import is_there, offer
from reelkeeper.store.tables import heartbeats
from tests.flows.scenes import Scene
from tests.operations.books import make_user
from tests.operations.queue import enqueue, row

WRITTEN = Path(__file__).parent.parent.parent / "prefect.yaml"


def started(engine: sa.Engine, orchestrator: Orchestrator) -> str | None:
    """Start it as the API does, which asks again under the same key where Prefect's SQLite was busy."""
    for _ in range(20):
        try:
            return start_dispatch(engine, orchestrator)
        except OrchestratorError as error:
            if "503" not in str(error):
                raise
            time.sleep(0.5)
    return start_dispatch(engine, orchestrator)


@pytest.mark.long
@pytest.mark.usefixtures("prefect_server")
def test_the_deployment_of_prefect_yaml_is_found_and_run(
    sqlite_engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_user(sqlite_engine, "ann")
    enqueue(sqlite_engine, row("j1"))
    monkeypatch.setattr(module, "now", lambda _session: datetime(2026, 11, 24, 12, 1, tzinfo=UTC))
    (declared,) = (
        deployment
        for deployment in declared_deployments(WRITTEN)
        if str(deployment.entrypoint).endswith("dispatch_jobs")
    )
    orchestrator = Orchestrator(str(PREFECT_API_URL.value()))
    with get_client(sync_client=True) as client:
        deployment_id = declared.apply()
        try:
            run_id = started(sqlite_engine, orchestrator)
            assert run_id is not None
            assert run_id == started(sqlite_engine, orchestrator)
            run = client.read_flow_run(UUID(run_id))
            assert run.deployment_id == deployment_id
            assert run.parameters == {"dry_run": False, "seconds": 240}
            assert run.state is not None
            assert run.state.is_scheduled()
            made = client.read_deployment(str(deployment_id))
            (schedule,) = made.schedules
            client.update_deployment_schedule(made.id, schedule.id, active=False)
            assert orchestrator.is_paused("dispatch_jobs", str(declared.name))
            client.update_deployment_schedule(made.id, schedule.id, active=True)
            assert not orchestrator.is_paused("dispatch_jobs", str(declared.name))
            client.pause_deployment(str(deployment_id))
            assert orchestrator.is_paused("dispatch_jobs", str(declared.name))
            assert started(sqlite_engine, orchestrator) is None
        finally:
            client.request("DELETE", "/deployments/{id}", path_params={"id": deployment_id})


@pytest.mark.long
@pytest.mark.parametrize(("is_offered", "is_dry"), [(True, False), (False, False), (True, True)])
def test_a_scheduled_run_has_succeeded_at_once_where_no_job_is_and_one_would_be_started(
    scene: Scene, client: SyncPrefectClient, *, is_offered: bool, is_dry: bool
) -> None:
    is_at_rest = is_offered and not is_dry  # a schedule of dry runs makes no job, and none of them is a success
    list(bootstrap(engine=scene.engine))
    if is_offered:
        with transaction(scene.engine, "test") as session:
            offer(session)
    flow_id = client.create_flow_from_name("dispatch-jobs")
    soon = DeploymentScheduleCreate(schedule=IntervalSchedule(interval=timedelta(hours=9)))
    name, parameters = f"rest-{uuid4().hex}", {"dry_run": is_dry}
    made = client.create_deployment(
        flow_id, name, work_pool_name="main", schedules=[soon], parameters=parameters, enforce_parameter_schema=False
    )
    client.request(
        "POST", "/deployments/{id}/schedule", path_params={"id": str(made)}, json={"min_runs": 1, "max_runs": 1}
    )
    asked = client.create_flow_run_from_deployment(made).id

    async def taken() -> set[UUID]:
        async with Worker("main", 9, Machine(settings())) as worker:
            return {found.flow_run.id for found in await worker._get_scheduled_flow_runs()}

    body = {"deployments": {"id": {"any_": [str(made)]}}, "flow_runs": {"id": {"not_any_": [str(asked)]}}}
    (scheduled,) = client.request("POST", "/flow_runs/filter", json=body).json()
    client.set_flow_run_state(UUID(scheduled["id"]), Scheduled(), force=True)  # it is due
    found = asyncio.run(taken())
    assert asked in found, "a person wants it"
    assert (UUID(scheduled["id"]) in found) is not is_at_rest
    state = client.read_flow_run(UUID(scheduled["id"])).state
    assert state
    assert state.is_completed() is is_at_rest
    with reading(scene.engine) as session:
        assert is_there(session) is is_at_rest
        beats = session.execute(sa.select(heartbeats.c.flow)).scalars().all()
    assert ("dispatch_jobs" in beats) is is_at_rest, "the watchdog awaits its successes"
