"""Fixtures: a small deployment for tests."""

import secrets
from pathlib import Path

import pytest
import sqlalchemy as sa

from reelkeeper.adapters.s3.seaweed import Endpoint
from tests.doubles.r2 import R2Double
from tests.faults.world import World


@pytest.fixture
def world(engine: sa.Engine, endpoint: Endpoint, double: R2Double, tiny_clip: Path, tmp_path: Path) -> World:
    """A small deployment, once on SQLite and once on PostgreSQL."""
    folder = tmp_path / secrets.token_hex(6)
    folder.mkdir()
    return World.make(folder, engine.url.render_as_string(hide_password=False), endpoint, double, clip=tiny_clip)
