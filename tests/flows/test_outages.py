"""Seconds without the store pause a run and end nothing; a longer outage ends it with an error of its own."""

import itertools
import random
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.context import TaskRunContext

from deployments.automations import FAILED_BY
from deployments.bootstrap import bootstrap
from flows.back_up_store import back_up_store
from flows.deliver_alerts import deliver_alerts
from flows.dispatch_jobs import dispatch_jobs
from flows.expire_videos import expire_videos
from flows.forecast_costs import forecast_costs
from flows.monitor_costs import monitor_costs
from flows.monitor_performance import monitor_performance
from flows.prune_cache import prune_cache
from flows.purge_retired import purge_retired
from flows.settle_accounts import settle_accounts
from flows.sync_catalog import sync_catalog
from flows.tier_storage import tier_storage
from flows.tune_concurrency import tune_concurrency
from reelkeeper.adapters.s3 import transport
from reelkeeper.errors import Unavailable
from reelkeeper.model import BlobState, VideoState
from reelkeeper.store.core.engine import open_engine, reading
from reelkeeper.store.core.schema import upgrade
from reelkeeper.store.tables import audit_events, heartbeats
from tasks import runs
from tasks.runs import RECORD, recorded
from tests.databases import Server
from tests.flows.conftest import MakeScene
from tests.flows.scenes import Scene

FLOWS = [
    back_up_store,
    deliver_alerts,
    expire_videos,
    forecast_costs,
    monitor_costs,
    monitor_performance,
    prune_cache,
    purge_retired,
    settle_accounts,
    sync_catalog,
    tier_storage,
    tune_concurrency,
]
# What is not done again by itself, since the answer to its commit may be what was lost: the run ends, and is repeated.
ONCE = ("claim plan", "save the limits", "post the chart", "take over plan", "keep the slots full")
COLD = [f"cold{number}" for number in range(4)]
MANY = 100  # statements that the workers send for four videos, at least
AWAY_SECONDS = 5.0


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A PostgreSQL server that the tests of this file stop and start."""
    with tempfile.TemporaryDirectory(prefix="reelkeeper-away-", ignore_cleanup_errors=True) as folder:
        made = Server(Path(folder))
        engine = open_engine(made.url())
        upgrade(engine)
        engine.dispose()
        yield made
        made.stop()


def four_cold_videos(make_scene: MakeScene, url: str) -> Scene:
    scene = make_scene(url)
    for video_id in COLD:
        scene.video(video_id, age_days=10)
    return scene


def swapped(scene: Scene) -> list[str]:
    with reading(scene.engine) as session:
        chosen = sa.select(audit_events.c.video_id).where(audit_events.c.event == "swap")
        return sorted(session.scalars(chosen))


@pytest.fixture
def lasting(server: Server, make_scene: MakeScene) -> Scene:
    """Four cold videos on the server that stops; its database is made anew."""
    base = sa.create_engine(server.url(database="template1"), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with base.connect() as connection:
        connection.execute(sa.text("DROP DATABASE IF EXISTS lasting WITH (FORCE)"))
        connection.execute(sa.text("CREATE DATABASE lasting TEMPLATE postgres"))
    return four_cold_videos(make_scene, server.url(database="lasting"))


def stop_for(server: Server, seconds: float) -> threading.Timer:
    server.stop()
    back = threading.Timer(seconds, server.start)
    back.start()
    return back


@pytest.mark.long("a PostgreSQL server of its own, away for five seconds")
def test_seconds_without_the_store_end_no_run_and_nothing_is_done_twice(lasting: Scene, server: Server) -> None:
    began: list[threading.Timer] = []
    lasting.when_a_video_is_fetched(lambda: began.append(stop_for(server, AWAY_SECONDS)))
    report = tier_storage(dry_run=False)
    began[0].join()
    assert (report.failed, swapped(lasting)) == (0, COLD)
    lasting.world.check()


@pytest.mark.long("the same server")
@pytest.mark.parametrize("run", [monitor_costs, partial(dispatch_jobs, until_idle=True)], ids=["steps", "dispatcher"])
def test_a_run_that_begins_during_an_outage_waits_until_it_is_over(
    run: Callable[..., Any], lasting: Scene, server: Server, client: SyncPrefectClient
) -> None:
    list(bootstrap(engine=lasting.engine))  # so a run asks the store first whose it is
    assert RECORD in recorded(client)
    lasting.engine.dispose()
    back = stop_for(server, AWAY_SECONDS)
    assert not run(dry_run=False).dry_run
    back.join()


@pytest.mark.long("the same server")
def test_an_outage_that_outlasts_the_patience_ends_the_run_as_one(
    lasting: Scene, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "PATIENCE_SECONDS", 1.0)
    lasting.engine.dispose()
    back = stop_for(server, AWAY_SECONDS)
    state = monitor_costs(dry_run=False, return_state=True)
    back.join()
    assert str(state.message).startswith(f"{FAILED_BY}{Unavailable.__name__}:")  # by which it is repeated


@pytest.mark.long("a run with many statements, each of which can be the last of its session")
def test_a_session_that_ends_at_any_statement_of_a_worker_ends_no_plan(
    postgresql_engine: sa.Engine, make_scene: MakeScene
) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")  # noqa: T201  to try it again
    fatal, ended, numbers = random.Random(seed).sample(range(MANY), 2), list[str](), itertools.count()
    scene = four_cold_videos(make_scene, postgresql_engine.url.render_as_string(hide_password=False))
    outside = sa.create_engine(postgresql_engine.url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)

    def end_it(connection: sa.Connection, _cursor: object, statement: str, *_: object) -> None:
        works = threading.current_thread().name.startswith("ThreadPoolExecutor")
        ours = connection.engine.url.database == postgresql_engine.url.database
        if works and ours and next(numbers) in fatal:
            pid = connection.connection.dbapi_connection.info.backend_pid  # type: ignore[union-attr]  # psycopg's
            with outside.connect() as other:
                other.execute(sa.select(sa.func.pg_terminate_backend(pid, 5_000)))
            ended.append(statement)

    sa.event.listen(sa.Engine, "after_cursor_execute", end_it)
    try:
        report = tier_storage(dry_run=False)
    finally:
        sa.event.remove(sa.Engine, "after_cursor_execute", end_it)
    assert next(numbers) > MANY
    assert (report.failed, swapped(scene), len(ended)) == (0, COLD, 2), (seed, ended)
    scene.world.check()


@pytest.mark.long("a run of each flow, on PostgreSQL")
@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.fn.__name__)
def test_sessions_that_end_within_the_steps_of_a_flow_end_no_run(
    flow: Flow[..., Any], postgresql_engine: sa.Engine, make_scene: MakeScene
) -> None:
    scene = make_scene(postgresql_engine.url.render_as_string(hide_password=False))
    scene.video("cold", age_days=10)
    scene.video("old", age_days=4_000)
    scene.world.video("gone", state=VideoState.RETIRED, blob_state=BlobState.RETIRED, due=True)
    outside = sa.create_engine(postgresql_engine.url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    ended: dict[str, str] = {}

    def end_it(connection: sa.Connection, _cursor: object, statement: str, *_: object) -> None:
        run = TaskRunContext.get()
        step = run.task_run.name if run else "its opening"
        ours = connection.engine.url.database == postgresql_engine.url.database
        heart = threading.current_thread().name == "lease-heartbeat"
        if step not in ended and ours and not heart and connection.engine is not outside and not step.startswith(ONCE):
            ended[step] = statement
            pid = connection.connection.dbapi_connection.info.backend_pid  # type: ignore[union-attr]  # psycopg's
            with outside.connect() as other:
                other.execute(sa.select(sa.func.pg_terminate_backend(pid, 5_000)))

    sa.event.listen(sa.Engine, "after_cursor_execute", end_it)
    try:
        state: Any = flow(dry_run=False, return_state=True)
    finally:
        sa.event.remove(sa.Engine, "after_cursor_execute", end_it)
    assert state.is_completed(), (state.message, ended)
    assert len(ended) > 1
    with reading(scene.engine) as session:  # of the run's end, too
        assert session.scalars(sa.select(heartbeats.c.flow)).all() == [flow.fn.__name__]
    scene.world.check()


@pytest.mark.long("Prefect's server")
def test_a_run_that_begins_while_the_bucket_is_away_waits_for_it(
    make_scene: MakeScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "MAX_WAIT_SECONDS", 0)
    make_scene().double.faults.fail("*", 503, times=transport.ATTEMPTS - 1)
    assert not monitor_costs(dry_run=False).dry_run
