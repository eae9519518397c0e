"""Fixtures of the end-to-end tests: PostgreSQL, SeaweedFS behind R2's rules, Slack's double, and processes on them."""

import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import pytest
import sqlalchemy as sa

from reelkeeper.adapters.s3.seaweed import Endpoint
from reelkeeper.store.core.engine import open_engine
from reelkeeper.store.core.schema import upgrade
from tests.databases import create_database, drop_database
from tests.doubles import slack
from tests.doubles.r2 import R2Double
from tests.doubles.slack import SlackDouble
from tests.e2e.installation import Installation
from tests.e2e.postgresql import running
from tests.faults.world import World


class Install(Protocol):
    """Create an installation around a clip, with its store at a URL of its own or in a new database."""

    def __call__(self, clip: Path, store_url: str = "") -> tuple[Installation, World]: ...


@pytest.fixture(scope="module")
def at_slack() -> Iterator[SlackDouble]:
    with SlackDouble().serving() as double:
        yield double


@pytest.fixture(scope="session")
def database() -> Iterator[sa.URL]:
    """The PostgreSQL of these tests, as an operator installs it."""
    with running() as url:
        yield url


@pytest.fixture(scope="module")
def install(
    database: sa.URL,
    endpoint: Endpoint,
    at_slack: SlackDouble,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Install]:
    """Create an installation around a clip: separate databases for store and Prefect's server, nothing running."""
    with ExitStack() as stack:

        def make(clip: Path, store_url: str = "") -> tuple[Installation, World]:
            names = [f"{whose}_{uuid4().hex}" for whose in (["prefect"] if store_url else ["prefect", "store"])]
            urls = [create_database(database, name, "template1") for name in names]
            for name in names:
                stack.callback(drop_database, database, name)
            at_store = store_url or urls[-1]
            engine = open_engine(at_store)
            upgrade(engine)
            engine.dispose()
            double = stack.enter_context(R2Double(endpoint).serving())
            folder = tmp_path_factory.mktemp("installation")
            state = folder / secrets.token_hex(6)
            state.mkdir()
            world = World.make(state, at_store, endpoint, double, clip=clip)
            stack.callback(world.workspace.engine.dispose)
            told = {
                "REELKEEPER_SLACK_BOT_TOKEN": slack.TOKEN,
                "REELKEEPER_SLACK_CHANNEL": slack.CHANNEL,
                "REELKEEPER_SLACK_API_URL": at_slack.api_url,
            }
            url = database.set(drivername="postgresql+asyncpg", database=names[0])
            made = Installation(folder, url.render_as_string(hide_password=False), world.address, told)
            stack.callback(made.close)
            return made, world

        yield make
