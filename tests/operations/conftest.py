"""Fixtures of the operations' tests: a world on each database, and the right to work on it."""

from collections.abc import Iterator

import pytest

from reelkeeper.operations.lease import Keeper
from reelkeeper.store.leases import Grant
from tests.faults.world import World


@pytest.fixture
def grant(world: World) -> Iterator[Grant]:
    """A lease: the operations ask only that it is current."""
    with Keeper(world.depot.engine) as keeper:
        yield keeper.take(["test"])[0]
