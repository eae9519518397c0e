"""A machine that is not of the deployment, or cannot work, does nothing, says why, and leaves the work to others.

Slow: each case takes a deployment of its own at a Prefect server.
"""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import Abort
from prefect.logging import disable_run_logger
from prefect.states import Scheduled
from prefect.workers.process import ProcessWorker

from deployments.bootstrap import bootstrap
from deployments.machine import Machine
from deployments.worker import Worker, work
from flows.dispatch_jobs import dispatch_jobs
from flows.monitor_costs import monitor_costs
from flows.tier_storage import tier_storage
from flows.transcode_videos import transcode_videos
from reelkeeper.adapters import ffmpeg
from reelkeeper.errors import DiskFull, IdentityMismatch, PartialFailure, SchemaError, ToolMissing
from reelkeeper.model.jobs import JobState
from reelkeeper.model.requests import GenerationRequest, Queued
from reelkeeper.operations.billing import ledger
from reelkeeper.operations.core import machine
from reelkeeper.operations.jobs.admit import admit
from reelkeeper.rules.policies import TERMS, Policies, terms_in
from reelkeeper.settings import settings
from reelkeeper.store.core import leases as store_leases
from reelkeeper.store.core import policies
from reelkeeper.store.core.engine import newest_schema, reading, transaction
from reelkeeper.store.lifecycle.plan_progress import plan_lease
from reelkeeper.store.lifecycle.plans import begin_applying
from reelkeeper.store.tables import alerts, blobs, jobs, leases, videos
from tasks import plans, runs, transcodes
from tasks.runs import PREFIX, RECORD, recorded
from tests.disks import fill, small_disk
from tests.faults.world import LONG_AGO
from tests.flows.scenes import Scene
from tests.shrinking import AT_ANY_PRICE

LIGHT_AND_NOT: list[Any] = [monitor_costs, tier_storage, transcode_videos, dispatch_jobs]
COLD = [f"cold{number}" for number in range(3)]


@pytest.fixture
def ours(scene: Scene, client: SyncPrefectClient) -> Scene:
    """Three cold videos, at a server that is recorded as this deployment's."""
    for video_id in COLD:
        scene.video(video_id, age_days=10)
    list(bootstrap(engine=scene.engine))
    assert recorded(client)[RECORD] == scene.world.workspace.deployment_id
    return scene


def without_settings(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """Be a process that was started in the wrong folder; return the state folder that it would make."""
    for name in ("DATABASE_URL", "S3_ENDPOINT_URL", "S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY", "BUCKET", "PREFIX"):
        monkeypatch.delenv(f"REELKEEPER_{name}")
    state = folder / "wrong"
    monkeypatch.setenv("REELKEEPER_STATE_DIR", str(state))
    settings.cache_clear()
    return state


def without_ffmpeg(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("REELKEEPER_FFMPEG", str(folder / "nowhere"))
    settings.cache_clear()


def told(scene: Scene) -> list[tuple[str, str]]:
    """Return the open alerts about machines: scope, and the code in the title."""
    with reading(scene.engine) as session:
        chosen = sa.select(alerts.c.scope, alerts.c.title).where(
            alerts.c.rule == "unfit_machine", alerts.c.state == "firing"
        )
        return [(row.scope, row.title.rpartition(" ")[2]) for row in session.execute(chosen)]


def test_a_second_deployment_is_refused_until_it_claims_the_server(
    client: SyncPrefectClient, sqlite_engine: sa.Engine, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = scene.world.workspace.deployment_id
    with sqlite_engine.begin() as connection:  # all stores of the tests are copies of one
        connection.execute(sa.text("UPDATE deployment SET id = 'another'"))
    list(bootstrap(engine=scene.engine))
    list(bootstrap(engine=scene.engine))
    with pytest.raises(IdentityMismatch):
        list(bootstrap(engine=sqlite_engine))
    assert recorded(client)[RECORD] == first
    list(bootstrap(engine=sqlite_engine, claim=True))
    assert recorded(client)[RECORD] != first
    with pytest.raises(IdentityMismatch):
        tier_storage()
    monkeypatch.setattr(runs, "has_own_server", True)  # on the database of one that `up` had there
    assert tier_storage().dry_run


def test_a_run_without_settings_ends_before_it_makes_anything(
    ours: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = ours.everything()
    state = without_settings(monkeypatch, tmp_path)
    for flow in (tier_storage, transcode_videos, dispatch_jobs, monitor_costs):
        with pytest.raises(IdentityMismatch):
            flow(dry_run=False)
    assert not state.exists()
    assert ours.everything() == before


def test_a_server_without_a_record_is_anybodys(scene: Scene, client: SyncPrefectClient) -> None:
    scene.video("cold0", age_days=10)
    assert recorded(client) == {}
    assert tier_storage().plan.compress.objects == 1


def test_a_worker_without_settings_leaves_word_and_the_next_healthy_one_alerts_people(
    ours: Scene, client: SyncPrefectClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    healthy = Machine(settings())
    healthy.require()
    state = without_settings(monkeypatch, tmp_path)
    with pytest.raises(IdentityMismatch):
        Machine(settings()).require()
    assert not state.exists()
    assert len([name for name in recorded(client) if name.startswith(f"{PREFIX}unfit")]) == 1
    assert told(ours) == []
    for _ in range(2):
        healthy.look()
        assert told(ours) == [(f"machine:{machine.name()}", "IdentityMismatch")]
    assert set(recorded(client)) == {RECORD}


def test_a_worker_of_another_schema_takes_nothing_and_changes_nothing(ours: Scene) -> None:
    worker = Machine(settings())
    worker.require()
    with transaction(ours.engine, "test") as session:
        session.execute(sa.text("UPDATE alembic_version SET version_num = '0001'"))
    try:
        with pytest.raises(SchemaError):
            worker.look()
    finally:
        with transaction(ours.engine, "test") as session:
            session.execute(sa.text("UPDATE alembic_version SET version_num = :head"), {"head": newest_schema()})
    worker.look()


def test_a_worker_that_does_not_know_new_policies_takes_no_more_runs(ours: Scene) -> None:
    worker = Machine(settings())
    worker.require()
    with transaction(ours.engine, "test") as session:
        version, _ = policies.in_force(session)
        policies.put_in_force(session, {"later": 1}, "later", after=version, author="test", reason="a test")
    with pytest.raises(SchemaError):
        worker.look()


def test_a_worker_whose_machine_cannot_work_takes_no_runs_on_videos_until_it_can(
    ours: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "scratch", 64) as scratch:
        monkeypatch.setenv("REELKEEPER_SCRATCH_DIR", str(scratch))
        settings.cache_clear()
        worker = Machine(settings())
        worker.require()
        filler = fill(scratch, 1_000_000)
        worker.look()
        assert [type(worker.unfit)] == [DiskFull]
        assert told(ours) == [(f"machine:{machine.name()}", "DiskFull")]
        filler.unlink()
        worker.look()
        assert told(ours) == []
        assert [worker.unfit] == [None]
    without_ffmpeg(monkeypatch, tmp_path)
    with pytest.raises(ToolMissing):
        Machine(settings()).require()
    assert told(ours) == [(f"machine:{machine.name()}", "ToolMissing")]


def test_a_run_is_given_back_by_a_machine_that_cannot_do_it_and_by_no_other(
    ours: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_ffmpeg(monkeypatch, tmp_path)
    with pytest.raises(ToolMissing):
        tier_storage(dry_run=False)
    monkeypatch.setattr(runs, "is_given_back", True)
    with pytest.raises(Abort):
        tier_storage(dry_run=False)
    assert plans.under_way(ours.world.workspace.engine) is None


def gone_after(monkeypatch: pytest.MonkeyPatch, folder: Path, scene: Scene) -> Path:
    """Take ffmpeg away as soon as a video is fetched."""
    program = folder / f"ffmpeg-{uuid4().hex}"
    shutil.copyfile(ffmpeg.tools().ffmpeg, program)
    program.chmod(0o700)
    monkeypatch.setenv("REELKEEPER_FFMPEG", str(program))
    monkeypatch.setenv("REELKEEPER_WORKERS", "1")
    settings.cache_clear()
    scene.when_a_video_is_fetched(program.unlink)
    return program


def test_ffmpeg_that_vanishes_fails_no_clip_and_gives_all_back(
    ours: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone_after(monkeypatch, tmp_path, ours)
    monkeypatch.setattr("tasks.transcodes._OTHERS_SECONDS", 0.0)
    with pytest.raises(ToolMissing):
        tier_storage(dry_run=False)
    assert set(ours.outcomes(ours.last_plan().id).values()) == {None}
    with reading(ours.engine) as session:
        held = session.scalars(sa.select(leases.c.name).where(leases.c.holder != "", leases.c.name.like("video/%")))
        assert list(held) == []
    assert told(ours) == [(f"machine:{machine.name()}", "ToolMissing")]
    monkeypatch.delenv("REELKEEPER_FFMPEG")
    settings.cache_clear()
    tier_storage(dry_run=False)
    assert ours.outcomes(ours.last_plan().id) == dict.fromkeys(COLD, "compressed")
    ours.world.check()


def test_a_video_for_which_the_disk_has_no_room_keeps_no_other_from_being_compressed(
    ours: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "scratch", 100) as scratch:
        monkeypatch.setenv("REELKEEPER_SCRATCH_DIR", str(scratch))
        settings.cache_clear()
        grown = blobs.c.id == sa.select(videos.c.blob_id).where(videos.c.id == COLD[1]).scalar_subquery()
        with transaction(ours.engine, "test") as session:
            session.execute(sa.update(blobs).where(grown).values(size_bytes=100_000_000))
        with pytest.raises(PartialFailure):
            tier_storage(dry_run=False)
    done = dict.fromkeys(COLD, "compressed") | {COLD[1]: "failed"}
    assert ours.outcomes(ours.last_plan().id) == done
    assert told(ours) == []


@pytest.mark.parametrize("when", ["before a claim", "within a job"])
def test_jobs_are_handed_back_by_a_machine_without_ffmpeg(
    ours: Scene, when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with transaction(ours.engine, "test") as session:
        ledger.grant(session, "ann", 10**6, "first", run_id="test")
    wanted = {"model": "a", "prompt": "a cat", "width": 64, "height": 64, "duration_seconds": 0.5, "fps": 8}
    asked = admit(ours.engine, GenerationRequest.model_validate(wanted), user_id="ann", client_key="a cat")
    assert isinstance(asked, Queued)
    without_ffmpeg(monkeypatch, tmp_path)
    if when == "within a job":
        monkeypatch.setattr("reelkeeper.operations.jobs.worker.require_fit", lambda *_: None)
    with pytest.raises(ToolMissing):
        dispatch_jobs(dry_run=False, until_idle=True)
    with reading(ours.engine) as session:
        (job,) = session.execute(sa.select(jobs.c.state, jobs.c.attempts)).all()
    assert (job.state, job.attempts) == (JobState.QUEUED, 0)
    monkeypatch.delenv("REELKEEPER_FFMPEG")
    settings.cache_clear()
    assert dispatch_jobs(dry_run=False, until_idle=True).succeeded == 1


def nothing_is_claimed(*_: object, **__: object) -> None:
    raise AssertionError("it claims")


def test_a_machine_that_cannot_work_claims_neither_videos_nor_jobs(
    ours: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan_id = begun(ours)
    without_ffmpeg(monkeypatch, tmp_path)
    monkeypatch.setattr("tasks.transcodes.claim", nothing_is_claimed)
    monkeypatch.setattr("reelkeeper.operations.jobs.claim.claim", nothing_is_claimed)
    worked = transcodes.work.fn(order(ours, plan_id), 1, ours.world.workspace)
    assert (worked.outcomes, worked.machine, type(worked.fault)) == ([], machine.name(), ToolMissing)
    with pytest.raises(ToolMissing):
        dispatch_jobs(dry_run=False, until_idle=True)


def begun(scene: Scene) -> str:
    """Begin a plan, as a run on another machine does; return its id."""
    plan = tier_storage().plan
    terms = terms_in(Policies(recipe=AT_ANY_PRICE), TERMS["tier_storage"])
    with transaction(scene.engine, "test") as session:
        begin_applying(session, plan.id, "tier_storage", terms, "elsewhere")
    store_leases.acquire(scene.engine, [plan_lease(plan.id)], "elsewhere")
    return plan.id


def order(scene: Scene, plan_id: str, lease: str = "") -> transcodes.WorkOrder:
    """Give an order under the lease of a helper, or that of the plan's run."""
    (held,) = store_leases.acquire(scene.engine, [lease or f"transcode_videos/{uuid4().hex}"], "here")
    return transcodes.WorkOrder(plan_id, held, scene.world.workspace.deployment_id)


def test_a_dask_worker_without_settings_makes_nothing_and_says_so(
    ours: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = order(ours, begun(ours))
    state = without_settings(monkeypatch, tmp_path)
    worked = transcodes.work.fn(wanted, 1, None)
    assert (worked.outcomes, type(worked.fault)) == ([], IdentityMismatch)
    assert not state.exists()


@pytest.mark.parametrize("are_there", [True, False])
def test_a_run_whose_machine_cannot_go_on_waits_while_others_do_the_rest(
    ours: Scene, are_there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan_id = begun(ours)
    with transaction(ours.engine, "test") as session:
        session.execute(sa.update(leases).where(leases.c.name == plan_lease(plan_id)).values(expires_at=LONG_AGO))
    own = order(ours, plan_id, plan_lease(plan_id))
    faults = {"m1": ToolMissing("no ffmpeg"), "m2": ToolMissing("no ffmpeg")}
    settled: list[str] = []
    if are_there:
        store_leases.acquire(ours.engine, ["video/cold2"], "another machine")

    class Progress:
        def show(self) -> None:
            with transaction(ours.engine, "test") as session:
                session.execute(sa.text("UPDATE verdicts SET outcome = 'compressed' WHERE action = 'compress'"))
            settled.append("all")

    with disable_run_logger():
        if are_there:
            transcodes._leave_to_others(ours.world.workspace, own, faults, Progress(), 1.0)  # type: ignore[arg-type]  # all that is asked of one
        else:
            monkeypatch.setattr(Progress, "show", lambda _: None)
            with pytest.raises(ToolMissing):
                transcodes._leave_to_others(ours.world.workspace, own, faults, Progress(), 1.0)  # type: ignore[arg-type]  # all that is asked of one
    assert settled == ["all"] * are_there
    assert told(ours) == [("machine:m1", "ToolMissing"), ("machine:m2", "ToolMissing")]


@pytest.fixture
def pool(client: SyncPrefectClient) -> Iterator[str]:
    name = f"machines-{uuid4().hex[:8]}"
    template = ProcessWorker.get_default_base_job_template()
    client.create_work_pool(WorkPoolCreate(name=name, type="process", base_job_template=template))
    yield name
    client.delete_work_pool(name)


def test_a_worker_whose_store_gets_another_schema_ends_before_its_next_run(
    ours: Scene, client: SyncPrefectClient, pool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REELKEEPER_HOME", ".")
    place = Machine(settings())
    place.require()
    run = client.create_flow_run(monitor_costs, state=Scheduled(), work_pool_name=pool)
    with transaction(ours.engine, "test") as session:
        session.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    try:
        with pytest.raises(SchemaError):
            asyncio.run(work([pool], limit=1, patience=0, healthcheck=False, say=lambda _: None, machine=place))
    finally:
        with transaction(ours.engine, "test") as session:
            session.execute(sa.text("UPDATE alembic_version SET version_num = :head"), {"head": newest_schema()})
    assert client.read_flow_run(run.id).state_name == "Scheduled"
    place.look()
    assert told(ours) == [(f"machine:{machine.name()}", "SchemaError")]


def test_a_worker_on_an_unfit_machine_leaves_runs_on_videos_to_others(
    ours: Scene, client: SyncPrefectClient, pool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    due = {flow.name: client.create_flow_run(flow, state=Scheduled(), work_pool_name=pool).id for flow in LIGHT_AND_NOT}
    place = Machine(settings())

    async def found() -> set[UUID]:
        async with Worker(pool, 1, place) as worker:
            await worker.sync_with_backend()
            return {each.flow_run.id for each in await worker._get_scheduled_flow_runs()}

    assert asyncio.run(found()) == set(due.values())
    without_ffmpeg(monkeypatch, tmp_path)
    assert asyncio.run(found()) == {due["monitor-costs"]}
    assert told(ours) == [(f"machine:{machine.name()}", "ToolMissing")]
