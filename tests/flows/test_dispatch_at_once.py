"""A run of `dispatch_jobs` started through Prefect's API is on a real server, with its window, once."""

import time
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
import sqlalchemy as sa
from prefect import get_client
from prefect.settings import PREFECT_API_URL

from deployments.deploy import declared_deployments
from reelkeeper.adapters.orchestrator import Orchestrator
from reelkeeper.errors import OrchestratorError
from reelkeeper.operations.jobs import queue as module
from reelkeeper.operations.jobs.queue import start_dispatch
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
        finally:
            client.request("DELETE", "/deployments/{id}", path_params={"id": deployment_id})
