"""Fixtures: a small deployment for tests, and what happens there at a failpoint."""

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from reelkeeper import failpoints
from reelkeeper.adapters.s3.seaweed import Endpoint
from tests.doubles.r2 import R2Double
from tests.faults.world import World

AtFailpoint = Callable[[str, Callable[[], object]], None]


@pytest.fixture
def world(engine: sa.Engine, endpoint: Endpoint, double: R2Double, tiny_clip: Path, tmp_path: Path) -> World:
    """A small deployment, once on SQLite and once on PostgreSQL."""
    folder = tmp_path / secrets.token_hex(6)
    folder.mkdir()
    return World.make(folder, engine.url.render_as_string(hide_password=False), endpoint, double, clip=tiny_clip)


@pytest.fixture
def at_failpoint() -> Iterator[AtFailpoint]:
    """Run a function once, when the process passes a failpoint."""

    def arrange(point: str, act: Callable[[], object]) -> None:
        def observer(name: str) -> None:
            if name == point:
                failpoints.observe(None)
                act()

        failpoints.observe(observer)

    yield arrange
    failpoints.observe(None)
