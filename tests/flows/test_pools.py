"""`bootstrap` empties and pauses the pools of 0.1.0, loses nothing that waits there, and people are told who polls."""

import asyncio
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.filters import WorkPoolFilter, WorkPoolFilterName
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.states import AwaitingRetry, Scheduled
from prefect.workers.process import ProcessWorker

from deployments.bootstrap import bootstrap
from deployments.machine import EARLIER, Machine
from deployments.pools import POOLS, RENAMED
from deployments.worker import Worker
from reelkeeper.settings import settings
from reelkeeper.store.core.engine import reading
from reelkeeper.store.tables import alerts
from tests.docker.cluster import template
from tests.docker.image import FOLDER
from tests.flows.scenes import Scene

HOUR = timedelta(hours=1)
MIGRATE = yaml.safe_load((FOLDER / "kubernetes" / "migrate.yaml").read_text())["spec"]["template"]["spec"][
    "containers"
][0]
TEMPLATE = ProcessWorker.get_default_base_job_template()


def earlier(client: SyncPrefectClient, is_paused: bool = False) -> None:
    """Make the pools of 0.1.0, with values that people have set."""
    client.create_work_pool(
        WorkPoolCreate(name="default", type="process", base_job_template=TEMPLATE, concurrency_limit=3)
    )
    client.create_work_pool(
        WorkPoolCreate(
            name="transcode", type="kubernetes", base_job_template=TEMPLATE, concurrency_limit=50, is_paused=is_paused
        )
    )


def deployment(client: SyncPrefectClient, flow: str, pool: str) -> UUID:
    """Deploy a flow to a pool, each hour; its schedule has made runs for the last three hours and the next three."""
    begins = datetime.now(UTC) - 3 * HOUR - timedelta(minutes=1)
    made = client.create_deployment(
        client.create_flow_from_name(flow),
        "ours",
        work_pool_name=pool,
        parameters={"dry_run": False},
        schedules=[
            DeploymentScheduleCreate(schedule=IntervalSchedule(interval=HOUR, anchor_date=begins), slug="hourly")
        ],
    )
    client.request(
        "POST",
        "/deployments/{id}/schedule",
        path_params={"id": made},
        json={"start_time": begins.isoformat(), "end_time": (begins + 6 * HOUR).isoformat(), "min_runs": 6},
    )
    return made


def waiting(client: SyncPrefectClient, *pools: str) -> list[FlowRun]:
    found = client.read_flow_runs(work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=list(pools))), limit=200)
    return [run for run in found if run.state_type == StateType.SCHEDULED]


def shape(client: SyncPrefectClient) -> dict[str, tuple[str, int | None, bool]]:
    return {pool.name: (pool.type, pool.concurrency_limit, pool.is_paused) for pool in client.read_work_pools()}


def test_what_waits_in_the_pools_of_0_1_0_is_moved_to_pools_like_them(client: SyncPrefectClient) -> None:
    earlier(client)
    tiering, sync = deployment(client, "tier-storage", "transcode"), deployment(client, "sync-catalog", "default")
    at = datetime.now(UTC) + timedelta(days=2)
    words: dict[str, Any] = {"parameters": {"dry_run": True, "helpers": 2}, "tags": ["ann's"], "name": "ann's night"}
    asked = client.create_flow_run_from_deployment(tiering, state=Scheduled(scheduled_time=at), **words)
    retried = client.create_flow_run_from_deployment(sync, idempotency_key="job-1")
    client.set_flow_run_state(retried.id, AwaitingRetry(), force=True)
    assert len(waiting(client, *RENAMED)) == 14

    list(bootstrap())

    assert shape(client) == {
        "default": ("process", 3, True),
        "transcode": ("kubernetes", 50, True),
        "main": ("process", 3, False),
        "encode": ("kubernetes", 50, False),
    }
    assert client.read_deployment(tiering).work_pool_name == "encode"
    assert client.read_deployment(sync).work_pool_name == "main"
    assert waiting(client, *RENAMED) == []
    now = {pool: waiting(client, pool) for pool in POOLS}
    (copy,) = [run for run in now["encode"] if run.name == "ann's night"]
    assert (copy.parameters, copy.tags, copy.next_scheduled_start_time) == (words["parameters"], words["tags"], at)
    assert str(copy.id) in (client.read_flow_run(asked.id).state or Scheduled()).message  # type: ignore[operator]  # has one
    due = {pool: [run for run in runs if run.expected_start_time < datetime.now(UTC)] for pool, runs in now.items()}  # type: ignore[operator]  # a scheduled run has a time
    assert len(due["encode"]) == 1  # of three that were missed, the last
    assert len(due["main"]) == 2  # and the one to be tried again
    before = {run.id for runs in now.values() for run in runs}

    list(bootstrap())
    assert {run.id for run in waiting(client, *POOLS)} == before


def test_a_killed_move_is_ended_by_the_next_without_a_second_run(
    client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier(client)
    tiering = deployment(client, "tier-storage", "transcode")
    client.create_flow_run_from_deployment(tiering, name="ann's night")

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(SyncPrefectClient, "set_flow_run_state", killed)
        with pytest.raises(KeyboardInterrupt):
            list(bootstrap())
    list(bootstrap())
    assert waiting(client, *RENAMED) == []
    assert len([run for run in waiting(client, "encode") if run.name == "ann's night"]) == 1


def test_a_pool_that_people_have_paused_stays_so_and_one_with_other_work_stays_open(client: SyncPrefectClient) -> None:
    earlier(client, is_paused=True)
    others = deployment(client, "not-ours", "default")
    list(bootstrap())
    assert {name: paused for name, (_, _, paused) in shape(client).items()} == {
        "default": False,
        "transcode": True,
        "main": False,
        "encode": True,
    }
    assert client.read_deployment(others).work_pool_name == "default"
    assert len(waiting(client, "default")) == 6
    client.update_work_pool("encode", WorkPoolUpdate(is_paused=False))
    list(bootstrap())
    assert shape(client)["encode"][2] is False


def test_a_worker_that_polls_an_emptied_pool_is_told_of_once_and_one_that_has_ended_never(
    scene: Scene, client: SyncPrefectClient
) -> None:
    earlier(client)
    list(bootstrap(engine=scene.engine))

    def beat(name: str) -> None:
        path = {"work_pool_name": "transcode"}
        client.request("POST", "/work_pools/{work_pool_name}/workers/heartbeat", path_params=path, json={"name": name})

    async def heartbeats() -> None:
        async with Worker("encode", 1, Machine(settings())) as worker:
            await worker._sync_and_initialize()
            assert told(scene) == []
            for _ in range(2):
                beat("transcode old 7")
                await worker._sync_and_initialize()
                assert told(scene) == [("machine:old", EARLIER)]

    for name in ("transcode old 7", "transcode stopped 8"):
        beat(name)
    asyncio.run(heartbeats())


def told(scene: Scene) -> list[tuple[str, str]]:
    with reading(scene.engine) as session:
        rows = session.execute(sa.select(alerts.c.scope, alerts.c.title).where(alerts.c.rule == "unfit_machine"))
        return [(row.scope, row.title.rpartition(" ")[2]) for row in rows]


@pytest.mark.long("runs of Prefect's command")
@pytest.mark.parametrize("is_upgrade", [False, True], ids=["new", "from 0.1.0"])
def test_each_rollout_to_a_cluster_gives_the_pool_its_image_and_keeps_its_limit_and_pause(
    client: SyncPrefectClient, tmp_path: Path, is_upgrade: bool
) -> None:
    if is_upgrade:
        earlier(client, is_paused=True)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    given = os.environ | {"PREFECT_API_URL": str(client.api_url), "PATH": path}
    lines = MIGRATE["args"][-1].replace("/tmp", str(tmp_path)).splitlines()  # noqa: S108  the pod's
    first = next(number for number, line in enumerate(lines) if "work-pool" in line)
    made = lines.index("reelkeeper bootstrap")
    for image, limit in (("reelkeeper:6", 50 if is_upgrade else None), ("reelkeeper:7", 50)):
        (tmp_path / "transcode.json").write_text(json.dumps(template(image)))
        subprocess.run(["/bin/sh", "-ec", "\n".join(lines[first:made])], env=given, check=True, timeout=120)
        list(bootstrap())
        rest = [line for line in lines[made:] if "work-pool" in line]
        subprocess.run(["/bin/sh", "-ec", "\n".join(rest)], env=given, check=True, timeout=120)
        pool = client.read_work_pool("encode")
        assert pool.type == "kubernetes"
        assert pool.base_job_template["variables"]["properties"]["image"]["default"] == image
        assert (pool.concurrency_limit, pool.is_paused) == (limit, limit is not None)
        client.update_work_pool("encode", WorkPoolUpdate(concurrency_limit=50, is_paused=True))
