"""Performance figures from the store, on both databases, and the limit that only one run may write at a time."""

import sqlalchemy as sa

from reelkeeper.model.jobs import JobState
from reelkeeper.model.performance import Filled, InFlight, Window
from reelkeeper.rules.core.tiers import GIB, MIB, SHIPPED
from reelkeeper.store.core import controls
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.health import performance
from reelkeeper.store.jobs.slots import CONCURRENCY, jobs_at_once
from reelkeeper.store.tables import storage_accounts, users
from tests.jobs import NOON, at, dead, hit, made, put, waiting


def make_users(engine: sa.Engine, **tiers: str | None) -> None:
    with transaction(engine, "test") as session:
        session.execute(sa.insert(users), [{"id": user, "tier": tier} for user, tier in tiers.items()])


def test_jobs_that_ended_in_a_time_and_how_each_was_answered(engine: sa.Engine) -> None:
    make_users(engine, ann="free")
    put(engine, [made("m", at(-2)), dead("d", at(-1)), hit("h", at(-15)), made("late", NOON), made("early", at(-15.1))])
    follower = waiting("f", at(-9), leader_id="m", state=JobState.SUCCEEDED, finished_at=at(-2), tier=None)
    put(engine, [follower, waiting("w")])
    with reading(engine) as session:
        found = performance.ended(session, at(-15), NOON)
    assert [(job.is_hit, job.is_follower, job.is_made, job.state) for job in found] == [
        (True, False, False, JobState.SUCCEEDED),
        (False, True, False, JobState.SUCCEEDED),
        (False, False, True, JobState.SUCCEEDED),
        (False, False, False, JobState.DEAD),
    ]
    assert found[1].tier is None
    assert (found[2].processing_seconds, found[2].concurrency, found[2].cost_microusd) == (150, 4, 10_000)
    assert found[2].finished_at == at(-2)


def test_jobs_in_flight_by_tier_model_and_state_without_those_that_follow(engine: sa.Engine) -> None:
    make_users(engine, ann="free")
    rows = [waiting("a"), waiting("b", at(-9)), waiting("c", tier=None), waiting("f", leader_id="a")]
    put(engine, [*rows, waiting("r", state=JobState.RUNNING, started_at=NOON), hit("h", NOON)])
    with reading(engine) as session:
        found = performance.in_flight(session)
    assert {(flight.tier, flight.state): flight for flight in found} == {
        ("free", JobState.QUEUED): InFlight("free", "svd", JobState.QUEUED, 2, at(-9), 300.0),
        (None, JobState.QUEUED): InFlight(None, "svd", JobState.QUEUED, 1, NOON, 150.0),
        ("free", JobState.RUNNING): InFlight("free", "svd", JobState.RUNNING, 1, NOON, 150.0),
    }


def test_stored_bytes_are_compared_with_quotas(engine: sa.Engine) -> None:
    make_users(engine, ann="free", ben="premium", cat=None, dan="free")
    with transaction(engine, "test") as session:
        rows = [("ann", 90 * MIB, None), ("ben", 10, 5), ("cat", 7, None)]
        session.execute(
            sa.insert(storage_accounts),
            [
                {"user_id": user, "used_bytes": used, "reserved_bytes": 0, "quota_bytes": quota}
                for user, used, quota in rows
            ],
        )
    tiers = SHIPPED.quota_bytes()
    with reading(engine) as session:
        assert performance.filled(session, tiers, None, 80) == Filled(90 * MIB + 17, 200 * MIB + 5, 3)
        assert performance.filled(session, tiers, GIB, None) == Filled(90 * MIB + 17, GIB, 0)


def test_windows_are_kept_once_and_read_in_order(engine: sa.Engine) -> None:
    windows = [Window(at(n), 900, "", "", {"ended": n, "wait_mean_seconds": None}) for n in (15, 0)]
    of_a_tier = Window(NOON, 900, "free", "", {"ended": 1.5})
    with transaction(engine, "test") as session:
        assert performance.last_window(session) is None
        performance.record(session, [*windows, of_a_tier])
        performance.record(session, [windows[0]._replace(figures={"ended": 7})])
        performance.record(session, [])
    with reading(engine) as session:
        assert performance.last_window(session) == at(15)
        assert [window.figures["ended"] for window in performance.recorded(session, NOON)] == [0, 7]
        assert performance.recorded(session, NOON, tier="free") == [of_a_tier]
        assert performance.recorded(session, at(16)) == []


def test_a_limit_is_not_written_over_one_that_another_run_has_written(engine: sa.Engine) -> None:
    with transaction(engine, "test") as session:
        never = controls.kept(session, CONCURRENCY)
        assert jobs_at_once(session) is None
        assert controls.keep(session, CONCURRENCY, {"limit": 4}, never)
        assert not controls.keep(session, CONCURRENCY, {"limit": 5}, never)
    with transaction(engine, "test") as session:
        first = controls.kept(session, CONCURRENCY)
    with transaction(engine, "test") as session:
        assert controls.keep(session, CONCURRENCY, {"limit": 6}, first)
    with transaction(engine, "test") as session:
        assert not controls.keep(session, CONCURRENCY, {"limit": 7}, first)
        assert jobs_at_once(session) == 6
