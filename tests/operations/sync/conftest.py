"""Fixtures of the sync's tests."""

from collections.abc import Iterator

import pytest

from reelkeeper.operations.sync import orphans
from tests.doubles.queue import QueueDouble
from tests.faults.world import World
from tests.operations.sync.queue_scene import Service


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """LastModified cannot be dated back, so the ages that an orphan must have are taken away."""
    monkeypatch.setattr(orphans, "ORPHAN_MIN_AGE", orphans.ORPHAN_MIN_AGE * 0)
    monkeypatch.setattr(orphans, "ORPHAN_MIN_WATCH", orphans.ORPHAN_MIN_WATCH * 0)


@pytest.fixture(scope="session")
def queue_of_session() -> Iterator[QueueDouble]:
    with QueueDouble().serving() as double:
        yield double


@pytest.fixture
def service(world: World, queue_of_session: QueueDouble) -> Service:
    """The video service, whose bucket was listed once, and an empty queue."""
    queue_of_session.reset()
    service = Service(world, queue_of_session)
    service.listed()
    return service
