"""Fixtures of the operations' tests: a world on each database, and the right to work on it."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from reelkeeper.adapters.seaweed import Endpoint
from reelkeeper.operations.lease import Keeper
from reelkeeper.store.leases import Grant
from tests.doubles.r2 import R2Double
from tests.faults.world import World


@pytest.fixture
def world(engine: sa.Engine, endpoint: Endpoint, double: R2Double, tiny_clip: Path, tmp_path: Path) -> World:
    """A small deployment, once on SQLite and once on PostgreSQL."""
    folder = tmp_path / secrets.token_hex(6)
    folder.mkdir()
    return World.make(folder, engine.url.render_as_string(hide_password=False), endpoint, double, clip=tiny_clip)


@pytest.fixture
def grant(world: World) -> Iterator[Grant]:
    """A lease: the operations ask only that it is current."""
    with Keeper(world.depot.engine) as keeper:
        yield keeper.take(["test"])[0]
