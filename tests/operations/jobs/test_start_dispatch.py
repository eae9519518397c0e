"""A run is started if a job waits without an active worker, and its window ends before the next run's."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from reelkeeper.adapters.orchestrator import Orchestrator
from reelkeeper.adapters.providers import LocalGenerator
from reelkeeper.operations.jobs import queue as module
from reelkeeper.operations.jobs.queue import start_dispatch
from reelkeeper.operations.jobs.worker import Shift, work
from reelkeeper.store.core.engine import Clock, reading, transaction
from reelkeeper.store.jobs.slots import give
from reelkeeper.store.jobs.slots import is_there as is_worker_there
from reelkeeper.store.tables import controls
from tests.doubles.prefect_api import PrefectDouble
from tests.faults.world import World

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.fixture
def server() -> Iterator[PrefectDouble]:
    with PrefectDouble().serving() as double:
        yield double


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> list[datetime]:
    """The time by the database's clock, which a test sets."""
    moments = [NOON + timedelta(seconds=60)]
    monkeypatch.setattr(module, "now", lambda _session: moments[-1])
    return moments


def is_there(engine: sa.Engine) -> bool:
    with reading(engine) as session:
        return is_worker_there(session)


def test_the_window_ends_before_the_next_scheduled_run_begins(
    engine: sa.Engine, server: PrefectDouble, at: list[datetime]
) -> None:
    orchestrator = Orchestrator(server.url)
    assert start_dispatch(engine, orchestrator) == "run-0"
    (run,) = server.runs.values()
    assert run["parameters"] == {"seconds": 300 - 60 - 30}
    at.append(NOON + timedelta(seconds=65))
    assert start_dispatch(engine, orchestrator) == "run-0"  # another process, at about the same time
    at.append(NOON + timedelta(seconds=270))
    assert start_dispatch(engine, orchestrator) is None  # the scheduled one is about to begin
    assert len(server.runs) == 1


@pytest.mark.usefixtures("at")
def test_with_a_worker_present_no_run_is_requested(engine: sa.Engine, server: PrefectDouble) -> None:
    with transaction(engine, "test") as session:
        give(session)
    assert start_dispatch(engine, Orchestrator(server.url)) is None
    assert server.asked == []
    with transaction(engine, "test") as session:  # it was killed a minute ago
        session.execute(sa.update(controls).values(updated_at=Clock(-60)))
    assert start_dispatch(engine, Orchestrator(server.url)) == "run-0"


def test_a_worker_records_itself_while_it_claims_jobs(world: World, tmp_path: Path) -> None:
    engine, seen = world.workspace.engine, list[bool]()
    assert not is_there(engine)

    def limit() -> int:
        seen.append(is_there(engine))
        return 1

    shift, scratch = Shift(slots=1, seconds=60, until_idle=True), tmp_path / "scratch"
    work(world.workspace, LocalGenerator(tmp_path), shift, run_id="run", scratch=scratch, limit=limit)
    assert seen
    assert not is_there(engine)
