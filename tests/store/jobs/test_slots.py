"""The slots of the queue: how many there are, and the share of them that is taken."""

import pytest
import sqlalchemy as sa

from reelkeeper.model.jobs import JobState
from reelkeeper.store.core.engine import Clock, reading, transaction
from reelkeeper.store.jobs.slots import CONCURRENCY, give, is_served, load_now, slots_of
from reelkeeper.store.tables import controls, jobs, users
from tests.jobs import waiting


@pytest.mark.parametrize(("running", "share"), [(0, 0.0), (2, 0.25), (8, 1.0), (9, 1.0)])
def test_the_load_is_the_share_of_slots_that_jobs_at_work_take(engine: sa.Engine, running: int, share: float) -> None:
    with transaction(engine, "test") as session:
        session.execute(sa.insert(users).values(id="ann", tier="free"))
        rows = [waiting(f"j{n}", state=JobState.RUNNING) for n in range(running)]
        follower = waiting("follower", state=JobState.RUNNING, leader_id="j0") if running else waiting("follower")
        for row in (*rows, follower, waiting("in line")):
            session.execute(sa.insert(jobs).values(row))
    with reading(engine) as session:
        assert load_now(session, 8) == (share, 8)


@pytest.mark.parametrize(("tuned", "slots"), [({"limit": 3}, 3), ({"limit": 0}, 8), ({"limit": None}, 8), ({}, 8)])
def test_there_are_as_many_slots_as_was_tuned_last_and_never_none(tuned: dict[str, int | None], slots: int) -> None:
    assert slots_of({CONCURRENCY: tuned}, 8) == slots


@pytest.mark.parametrize(("seconds", "is_there"), [(0, True), (7_100, True), (7_300, False)])
def test_a_provider_is_served_by_a_worker_that_said_so_in_the_last_two_hours(
    sqlite_engine: sa.Engine, seconds: int, *, is_there: bool
) -> None:
    with transaction(sqlite_engine, "test") as session:
        give(session, ["fal"])
        session.execute(sa.update(controls).values(updated_at=Clock(-seconds)))
        served = [session.scalar(sa.select(is_served(sa.literal(name)))) for name in ("fal", "replicate")]
    assert served == [is_there, False]
