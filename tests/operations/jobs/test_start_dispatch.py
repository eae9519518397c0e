"""A run is started if a job waits without an active worker, once, and its window ends as the next run's begins."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from reelkeeper.adapters.orchestrator import Orchestrator
from reelkeeper.adapters.providers import LocalGenerator
from reelkeeper.model.jobs import JobState
from reelkeeper.operations.alerts.alerts import observe, report_run
from reelkeeper.operations.jobs import queue as module
from reelkeeper.operations.jobs.claim import claim
from reelkeeper.operations.jobs.queue import may_rest, offer_to_start, start_dispatch
from reelkeeper.operations.jobs.worker import Shift, work
from reelkeeper.rules.alerts import alerting
from reelkeeper.rules.alerts.alerting import Trouble
from reelkeeper.store.core.engine import Clock, reading, transaction
from reelkeeper.store.jobs.slots import give, has_starter
from reelkeeper.store.jobs.slots import is_there as is_worker_there
from reelkeeper.store.tables import controls, jobs
from tests.doubles.prefect_api import PrefectDouble
from tests.faults.world import World
from tests.operations.books import make_user
from tests.operations.queue import enqueue, make_due, row

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.fixture
def server() -> Iterator[PrefectDouble]:
    with PrefectDouble().serving() as double:
        yield double


@pytest.fixture
def waiting(engine: sa.Engine) -> sa.Engine:
    """A store in which a job waits."""
    make_user(engine, "ann")
    enqueue(engine, row("j1"))
    return engine


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> list[datetime]:
    """The time by the database's clock, which a test sets."""
    moments = [NOON + timedelta(seconds=60)]
    monkeypatch.setattr(module, "now", lambda _session: moments[-1])
    return moments


def is_there(engine: sa.Engine) -> bool:
    with reading(engine) as session:
        return is_worker_there(session)


def give_sign(engine: sa.Engine, seconds_ago: float) -> None:
    with transaction(engine, "test") as session:
        give(session)
        session.execute(sa.update(controls).where(controls.c.name == "workers").values(updated_at=Clock(-seconds_ago)))


def test_the_window_ends_as_the_next_scheduled_run_begins(
    waiting: sa.Engine, server: PrefectDouble, at: list[datetime]
) -> None:
    orchestrator = Orchestrator(server.url)
    assert start_dispatch(waiting, orchestrator) == "run-0"
    (run,) = server.runs.values()
    assert run["parameters"] == {"seconds": 300 - 60}
    at.append(NOON + timedelta(seconds=205))
    assert start_dispatch(waiting, orchestrator) == "run-0"  # another process, or again: no machine takes it
    at.append(NOON + timedelta(seconds=291))
    assert start_dispatch(waiting, orchestrator) is None  # the scheduled one is about to begin
    assert len(server.runs) == 1


@pytest.mark.usefixtures("at")
def test_a_run_is_requested_where_the_last_sign_of_a_worker_is_old_once_for_each(
    waiting: sa.Engine, server: PrefectDouble
) -> None:
    orchestrator = Orchestrator(server.url)
    give_sign(waiting, 25)
    assert start_dispatch(waiting, orchestrator) is None
    assert server.asked == []
    give_sign(waiting, 31)
    assert start_dispatch(waiting, orchestrator) == start_dispatch(waiting, orchestrator) == "run-0"
    give_sign(waiting, 61)  # of that run, which was killed as well
    assert start_dispatch(waiting, orchestrator) == "run-1"


@pytest.mark.usefixtures("at")
def test_a_run_is_requested_for_a_dead_workers_job_and_none_where_nothing_is_due(
    waiting: sa.Engine, server: PrefectDouble
) -> None:
    orchestrator = Orchestrator(server.url)
    make_due(waiting, 60)
    assert start_dispatch(waiting, orchestrator) is None
    make_due(waiting)
    assert claim(waiting, "w", [None], limit=1)
    assert start_dispatch(waiting, orchestrator) is None
    with transaction(waiting, "test") as session:  # by the time that a run has begun, its claim has ended
        session.execute(sa.update(jobs).values(lease_until=Clock(29)))
    assert start_dispatch(waiting, orchestrator) == "run-0"


@pytest.mark.parametrize("minutes", [29, 31])
def test_a_worker_rests_half_an_hour_after_the_last_job_where_another_is_started_for_the_next(
    engine: sa.Engine, server: PrefectDouble, at: list[datetime], minutes: int
) -> None:
    make_user(engine, "ann")
    enqueue(engine, row("j0", state=JobState.DEAD, finished_at=datetime.now(UTC) - timedelta(minutes=minutes)))
    assert not may_rest(engine)
    offer_to_start(engine, Orchestrator(server.url))
    assert may_rest(engine) is is_there(engine) is (minutes > 30)
    enqueue(engine, row("j1", due_at=datetime.now(UTC) + timedelta(minutes=9)))
    assert not may_rest(engine)
    make_due(engine)
    at.append(NOON)
    assert start_dispatch(engine, Orchestrator(server.url)) == "run-0"


@pytest.mark.parametrize("trouble", Trouble)
def test_a_run_that_failed_is_repeated_until_one_succeeds(
    engine: sa.Engine, server: PrefectDouble, trouble: Trouble
) -> None:
    """A run that is left out counts as a success: the alert would be over, and no run would fail again."""
    offer_to_start(engine, Orchestrator(server.url))
    report_run(engine, trouble, "sync-catalog", "r1", run_name="r1", message="", url="")
    assert may_rest(engine)
    report_run(engine, trouble, "dispatch-jobs", "r2", run_name="r2", message="its vendors need a key", url="")
    assert not may_rest(engine)
    observe(engine, [], rules=alerting.RULES, scope=alerting.scope("dispatch_jobs"), run_id="r3")
    assert may_rest(engine)


def test_a_worker_is_not_there_once_nothing_starts_it_any_more(engine: sa.Engine, server: PrefectDouble) -> None:
    offer_to_start(engine, Orchestrator(server.url))
    assert may_rest(engine)
    with transaction(engine, "test") as session:
        session.execute(sa.update(controls).where(controls.c.name == "starters").values(updated_at=Clock(-121)))
    assert not is_there(engine)
    assert not may_rest(engine)


@pytest.mark.usefixtures("at")
@pytest.mark.parametrize("which", ["paused", "unscheduled"])
def test_no_run_is_requested_while_its_deployment_is_paused(
    waiting: sa.Engine, server: PrefectDouble, which: str
) -> None:
    getattr(server, which).add("dispatch-jobs/every-5-minutes")
    assert start_dispatch(waiting, Orchestrator(server.url)) is None
    assert server.runs == {}
    offer_to_start(waiting, Orchestrator(server.url))
    with reading(waiting) as session:
        assert not has_starter(session)
    getattr(server, which).clear()
    assert start_dispatch(waiting, Orchestrator(server.url)) == "run-0"


def test_a_worker_records_itself_while_it_claims_jobs(world: World, tmp_path: Path) -> None:
    engine, seen = world.workspace.engine, list[bool]()
    assert not is_there(engine)

    def limit() -> int:
        seen.append(is_there(engine))
        return 1

    shift, scratch = Shift(slots=1, seconds=60, until_idle=True), tmp_path / "scratch"
    work(world.workspace, LocalGenerator(tmp_path), shift, run_id="run", scratch=scratch, limit=limit)
    assert seen == [True] * len(seen) != []
    assert is_there(engine)  # for half a minute more, in which the next run begins
