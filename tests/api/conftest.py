"""Fixtures of the API's tests: the app on a world, and clients with the tokens that they need."""

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from fastapi.testclient import TestClient

from reelkeeper.adapters.s3.seaweed import Endpoint
from reelkeeper.api import load
from reelkeeper.api.app import create_app
from reelkeeper.api.app_state import AppState
from reelkeeper.api.load import Load
from reelkeeper.model.token_scopes import Scope
from reelkeeper.operations.billing import ledger
from reelkeeper.operations.core import tokens
from reelkeeper.store.core.engine import transaction
from tests.doubles.r2 import R2Double
from tests.faults.world import World

NewClient = Callable[..., TestClient]


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prevent refusals because this machine was busy for a second, which only the load tests are about."""
    monkeypatch.setattr(Load, "check", lambda _: None)
    monkeypatch.setattr(load, "WAIT_SECONDS", 60.0)


@pytest.fixture
def app_state(world: World) -> AppState:
    return AppState(world.workspace, scratch=Path(world.address.folder) / "scratch")


@pytest.fixture
def app(app_state: AppState) -> FastAPI:
    return create_app(app_state)


@pytest.fixture
def client_for(app: FastAPI, world: World) -> Iterator[NewClient]:
    """Make a client whose token has these scopes; all of them if none is named."""
    opened: list[TestClient] = []

    def make(*scopes: Scope) -> TestClient:
        _, text = tokens.create(world.workspace.engine, "a test", scopes or tuple(Scope), author="test")
        client = TestClient(
            app, headers={"Authorization": f"Bearer {text}"}, follow_redirects=False, raise_server_exceptions=False
        )
        opened.append(client)
        return client

    yield make
    for client in opened:
        client.close()


@pytest.fixture
def client(client_for: NewClient) -> TestClient:
    """A client that may do everything."""
    return client_for()


@pytest.fixture
def sqlite_world(
    sqlite_engine: sa.Engine, endpoint: Endpoint, double: R2Double, tiny_clip: Path, tmp_path: Path
) -> World:
    """A world that a server in another process opens too; ann has ten thousand dollars."""
    # A prefix of its own: what a server of an earlier test puts late, such as an epoch, would be another copy's here.
    folder = tmp_path / secrets.token_hex(6)
    folder.mkdir()
    made = World.make(folder, str(sqlite_engine.url), endpoint, double, clip=tiny_clip)
    with transaction(made.workspace.engine, "test") as session:
        ledger.grant(session, "ann", 10**10, "first", run_id="test")
    return made
