"""A starting worker ends runs whose process here has died; one that only looks refuses runs that make changes."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from uuid import UUID, uuid4

import httpx
import pytest
from prefect import flow, get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.states import Running
from prefect.workers.process import ProcessWorker

from deployments.deploy import storage_flows
from deployments.machine import Machine
from deployments.up import find_prefect_yaml
from deployments.worker import Worker, _drain
from reelkeeper.settings import settings

HERE = socket.gethostname()


@flow
def sleep() -> None:
    """It is never called."""


@pytest.fixture
def pool(prefect_server: None) -> Iterator[str]:  # noqa: ARG001  it must be up
    name = f"restart-{uuid4().hex[:8]}"
    template = ProcessWorker.get_default_base_job_template()
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name=name, type="process", base_job_template=template))
        yield name
        client.delete_work_pool(name)


def begun(client: SyncPrefectClient, pool: str, place: str | None) -> UUID:
    """Begin a run, as a worker does: running, and written down where."""
    run = client.create_flow_run(sleep, state=Running(), work_pool_name=pool)
    if place is not None:
        client.update_flow_run(run.id, infrastructure_pid=place)
    return run.id


@pytest.mark.long
def test_runs_that_died_here_are_marked_crashed_and_the_others_continue(
    pool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployments.worker.LEASE_SECONDS", 0.0)
    with get_client(sync_client=True) as client:
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        dead = begun(client, pool, f"{HERE}:{ended.pid}")
        reused = begun(client, pool, f"{HERE}:{os.getpid()}")  # another process has the number of one that is gone
        elsewhere = begun(client, pool, f"another-machine:{ended.pid}")
        unknown = [begun(client, pool, place) for place in (None, str(ended.pid), f"{HERE}:x")]
        alive = begun(client, pool, None)
        environment = os.environ | {"PREFECT__FLOW_RUN_ID": str(alive)}
        with subprocess.Popen(["/bin/sleep", "600"], env=environment) as process:
            client.update_flow_run(alive, infrastructure_pid=f"{HERE}:{process.pid}")
            asyncio.run(Worker(pool, 1).start(run_once=True, printer=lambda _: None))
            process.kill()
        states = {run: str(client.read_flow_run(run).state_name) for run in (dead, reused, elsewhere, *unknown, alive)}
    assert {run for run, state in states.items() if state == "Crashed"} == {dead, reused}
    assert {state for run, state in states.items() if run not in (dead, reused)} == {"Running"}


def test_a_run_that_begins_while_its_worker_stops_is_handed_over_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.worker.TERMINATE_TIMEOUT_SECONDS", 60.0)  # then it would be killed

    async def act() -> int | None:
        worker, run, handing_over = Worker("encode", 1), uuid4(), asyncio.Event()
        worker._submitting_flow_run_ids.add(run)
        draining = asyncio.create_task(_drain([worker], 0.0, asyncio.Event(), lambda _: handing_over.set()))
        await handing_over.wait()
        process = await asyncio.create_subprocess_exec("/bin/sleep", "600")
        worker._pids[run] = process.pid
        code = await process.wait()
        worker._submitting_flow_run_ids.clear()
        await draining
        return code

    assert asyncio.run(act()) == -signal.SIGUSR1


@pytest.mark.long
def test_a_server_that_is_away_is_asked_for_dead_runs_again(pool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.worker.LEASE_SECONDS", 0.0)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()

    async def away(*_: object, **_options: object) -> None:
        raise httpx.ConnectError("it is away")

    async def act() -> None:
        async with Worker(pool, 1) as worker:
            with pytest.MonkeyPatch.context() as outage:
                outage.setattr(worker.client, "read_flow_runs", away)
                assert await worker.get_and_submit_flow_runs() == []
            await worker.get_and_submit_flow_runs()

    with get_client(sync_client=True) as client:
        dead = begun(client, pool, f"{HERE}:{ended.pid}")
        asyncio.run(act())
        assert client.read_flow_run(dead).state_name == "Crashed"


@pytest.mark.parametrize(("name", "queries"), [("main", 4), ("encode", 2)])
def test_the_pool_whose_runs_take_minutes_is_asked_for_half_as_often(
    monkeypatch: pytest.MonkeyPatch, name: str, queries: int
) -> None:
    asked = list[object]()

    async def note(worker: ProcessWorker) -> list[object]:
        asked.append(worker)
        return []

    monkeypatch.setattr(ProcessWorker, "get_and_submit_flow_runs", note)

    async def act() -> None:
        worker = Worker(name, 1)
        worker._has_successfully_synced = True
        await worker.get_and_submit_flow_runs()
        assert len(asked) == 1
        for _ in range(3):
            await worker.get_and_submit_flow_runs()

    asyncio.run(act())
    assert len(asked) == queries


@pytest.mark.long
def test_a_worker_that_only_looks_refuses_runs_that_make_changes_whoever_asks(pool: str) -> None:
    """As from a form, the API or an automation: with other parameters, and by deployments of their own."""
    storage = storage_flows(find_prefect_yaml())
    assert storage == {"tier-storage", "transcode-videos", "expire-videos", "purge-retired"}
    asked: dict[UUID, bool] = {}  # whether it is refused

    class Fit(Machine):
        """A machine that takes whatever it is asked to look at."""

        def look(self) -> None:
            self.unfit = None

    machine = Fit(settings())
    machine.dry_only = storage

    async def act() -> list[UUID]:
        async with Worker(pool, 9, machine) as worker:
            return [found.flow_run.id for found in await worker._get_scheduled_flow_runs()]

    with get_client(sync_client=True) as client:
        for name in ("tier-storage", "purge-retired", "deliver-alerts"):
            flow_id = client.create_flow_from_name(name)
            made = client.create_deployment(
                flow_id, f"{pool}-{name}", work_pool_name=pool, parameters={"dry_run": True}
            )
            for given in ({}, {"dry_run": False}, {"dry_run": "false"}, {"dry_run": None}):
                run = client.create_flow_run_from_deployment(made, parameters=given)
                asked[run.id] = bool(given) and name in storage
            bare = client.create_deployment(flow_id, f"{pool}-{name}-bare", work_pool_name=pool)
            asked[client.create_flow_run_from_deployment(bare).id] = name in storage
        taken = asyncio.run(act())
        states = {run_id: client.read_flow_run(run_id).state for run_id in asked}
    assert set(taken) == {run_id for run_id, refused in asked.items() if not refused}
    refused = [state for run_id, state in states.items() if asked[run_id]]
    assert {(state.type, state.name) for state in refused if state} == {(StateType.FAILED, "Refused")}
    assert len(refused) == 8
