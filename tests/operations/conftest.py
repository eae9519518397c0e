"""Fixtures of the operations' tests: a world on each database, and a lease to work on it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from reelkeeper.errors import LeaseLost
from reelkeeper.operations.billing import ledger
from reelkeeper.operations.core.lease import LeaseManager
from reelkeeper.store.core.engine import transaction
from reelkeeper.store.core.leases import Lease
from tests.doubles.provider import ProviderDouble
from tests.faults.world import World
from tests.operations.books import DOLLAR


@pytest.fixture
def lease(world: World) -> Iterator[Lease]:
    """A lease: the operations ask only that it is current."""
    with LeaseManager(world.workspace.engine) as manager:
        yield manager.take(["test"])[0]


@pytest.fixture
def shop(world: World) -> Iterator[World]:
    """Ann has credits; at the end, whatever was done, everything adds up."""
    with transaction(world.workspace.engine, "test") as session:
        ledger.grant(session, "ann", DOLLAR, "first", run_id="test")
    yield world
    world.check()


@pytest.fixture
def provider(tiny_clip: Path) -> Iterator[ProviderDouble]:
    with ProviderDouble(tiny_clip.read_bytes()).serving() as double:
        yield double


def killed() -> None:
    """Raise what keeps a worker from recording anything more of its job, as if it had been killed."""
    raise LeaseLost("killed")
