"""A run is started at once for a queued job, and the request neither waits for it nor fails with it."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient
from inline_snapshot import snapshot

from reelkeeper.adapters.orchestrator import Orchestrator
from reelkeeper.api import dispatching
from reelkeeper.api.app import create_app
from reelkeeper.api.app_state import AppState
from reelkeeper.model.jobs import JobState
from reelkeeper.model.token_scopes import Scope
from reelkeeper.operations.billing import ledger
from reelkeeper.operations.core import tokens
from reelkeeper.operations.jobs import queue
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.jobs.slots import give, has_starter
from reelkeeper.store.tables import controls
from tests.doubles.prefect_api import PrefectDouble
from tests.faults.world import LONG_AGO, World
from tests.operations.books import DOLLAR
from tests.operations.queue import enqueue, row

AUTH = "admin:secret-word"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[PrefectDouble]:
    monkeypatch.setattr(queue, "seconds_until_next", lambda *_: 200.0)  # whatever the clock says
    monkeypatch.setattr(dispatching, "_LOOK_SECONDS", 0.05)
    monkeypatch.setattr(dispatching, "_START_SECONDS", 0.05)
    with PrefectDouble(AUTH).serving() as double:
        yield double
    assert eventually(lambda: all(thread.name != "dispatching" for thread in threading.enumerate())), (
        "it uses the store"
    )


@pytest.fixture
def client(world: World, app_state: AppState, server: PrefectDouble) -> Iterator[TestClient]:
    with transaction(world.workspace.engine, "test") as session:
        ledger.grant(session, "ann", 10 * DOLLAR, "first", run_id="test")
    _, text = tokens.create(world.workspace.engine, "a test", tuple(Scope), author="test")
    app = create_app(replace(app_state, orchestrator=Orchestrator(server.url, AUTH)))
    with TestClient(app, headers={"Authorization": f"Bearer {text}"}) as client:
        yield client


def ask(client: TestClient, key: str) -> None:
    asked = {"user_id": "ann", "request": {"model": "m", "prompt": key}}
    answer = client.post("/v1/jobs", json=asked, headers={"Idempotency-Key": key})
    assert answer.status_code == 202, answer.text


def eventually(condition: Callable[[], object]) -> bool:
    deadline = time.monotonic() + 240
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(condition())


def counted(client: TestClient, outcome: str) -> bool:
    return f'reelkeeper_dispatch_starts_total{{outcome="{outcome}"}} 0.0' not in client.get("/v1/metrics").text


def test_a_queued_job_has_a_run_started_off_the_requests_path(client: TestClient, server: PrefectDouble) -> None:
    ask(client, "k1")
    assert eventually(lambda: server.runs)
    (run,) = server.runs.values()
    assert run["parameters"] == {"seconds": 200}
    assert eventually(lambda: counted(client, "started"))


@pytest.mark.usefixtures("client")
def test_a_run_is_started_for_a_dead_workers_job_that_nobody_asks_about(world: World, server: PrefectDouble) -> None:
    enqueue(world.workspace.engine, row("j1", state=JobState.RUNNING, lease_token=1, lease_until=LONG_AGO))
    assert eventually(lambda: server.runs)


def test_a_server_that_is_away_is_logged_and_counted_and_no_matter_to_the_caller(
    client: TestClient, server: PrefectDouble, caplog: pytest.LogCaptureFixture
) -> None:
    server.status = 503
    ask(client, "k1")
    assert eventually(lambda: counted(client, "failed"))
    said = [record.message for record in caplog.records if record.name == dispatching.__name__]
    assert said[0] == snapshot(
        "no run of dispatch_jobs was started; the scheduled run will do the work: Prefect answered 503 to POST of a new run"
    )
    assert "secret-word" not in caplog.text
    server.status = 201
    ask(client, "k2")  # the thread has outlived it
    assert eventually(lambda: counted(client, "started"))


def offers(world: World) -> bool:
    with reading(world.workspace.engine) as session:
        return has_starter(session)


def withdraw(world: World) -> None:
    with transaction(world.workspace.engine, "test") as session:
        session.execute(sa.delete(controls).where(controls.c.name == "starters"))


def test_workers_rest_only_while_a_run_can_be_started_for_the_next_job(
    client: TestClient, world: World, server: PrefectDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatching, "OFFER_SECONDS", 0.0)
    assert eventually(lambda: offers(world))
    server.status = 503
    ask(client, "k1")
    assert eventually(lambda: counted(client, "failed"))
    withdraw(world)
    time.sleep(0.5)
    assert not offers(world)
    server.status = 201
    assert eventually(lambda: offers(world))


def test_workers_rest_again_after_a_moment_without_prefect_also_where_none_had_to_be_started(
    client: TestClient, world: World, server: PrefectDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until a worker rests, one is always there, so that this process starts none."""
    monkeypatch.setattr(dispatching, "_UNABLE_SECONDS", 0.1)
    server.status = 503
    ask(client, "k1")
    assert eventually(lambda: counted(client, "failed"))
    with transaction(world.workspace.engine, "test") as session:
        give(session)
    withdraw(world)
    assert eventually(lambda: offers(world))


@pytest.mark.parametrize("auth", ["admin:another-word", AUTH])
def test_workers_rest_only_where_prefect_lets_this_process_in(
    world: World, app_state: AppState, server: PrefectDouble, monkeypatch: pytest.MonkeyPatch, auth: str
) -> None:
    monkeypatch.setattr(dispatching, "OFFER_SECONDS", 0.0)
    with TestClient(create_app(replace(app_state, orchestrator=Orchestrator(server.url, auth)))):
        time.sleep(0.5)
        assert eventually(lambda: offers(world)) if auth == AUTH else not offers(world)
