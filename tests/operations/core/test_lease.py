"""A lease manager renews its leases, releases them, and notices when it has lost one."""

import time

import pytest
import sqlalchemy as sa

from reelkeeper.errors import LeaseLost
from reelkeeper.operations.core.lease import GIVE_UP_SECONDS, HEARTBEAT_SECONDS, LeaseManager
from reelkeeper.operations.jobs.worker import LOOK_SECONDS
from reelkeeper.store.core.engine import Clock, reading, transaction
from reelkeeper.store.core.leases import LEASE_SECONDS, acquire
from reelkeeper.store.jobs import claims, slots
from reelkeeper.store.tables import leases


def expiry(engine: sa.Engine) -> object:
    with reading(engine) as session:
        return session.execute(sa.select(leases.c.expires_at)).scalar_one()


def expire(engine: sa.Engine) -> None:
    with transaction(engine, "test.expire") as session:
        session.execute(sa.update(leases).values(expires_at=Clock(-1)))


def wait_for(condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_leases_are_renewed_while_working_and_released_at_the_end(sqlite_engine: sa.Engine) -> None:
    with LeaseManager(sqlite_engine, heartbeat_seconds=0.05) as manager:
        (lease,) = manager.take(["a"])
        first = expiry(sqlite_engine)
        wait_for(lambda: expiry(sqlite_engine) != first)
        manager.check(lease)
        with LeaseManager(sqlite_engine) as other:
            assert other.take(["a"]) == []
    with LeaseManager(sqlite_engine) as other:
        assert len(other.take(["a"])) == 1


def test_a_run_that_is_done_ends_well_although_its_session_ends_as_it_gives_its_lease_back(
    postgresql_engine: sa.Engine,
) -> None:
    outside = sa.create_engine(postgresql_engine.url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    ended = list[str]()

    def end_it(connection: sa.Connection, _cursor: object, statement: str, *_: object) -> None:
        if not ended:
            ended.append(statement)
            pid = connection.connection.dbapi_connection.info.backend_pid  # type: ignore[union-attr]  # psycopg's
            with outside.connect() as other:
                other.execute(sa.select(sa.func.pg_terminate_backend(pid, 5_000)))

    with LeaseManager(postgresql_engine) as manager:
        assert manager.take(["a"])
        sa.event.listen(postgresql_engine, "after_cursor_execute", end_it)
    assert ended[0].startswith("UPDATE leases")
    with LeaseManager(postgresql_engine) as other:
        assert other.take(["a"])


def test_a_lease_taken_over_is_noticed_at_the_next_heartbeat(sqlite_engine: sa.Engine) -> None:
    with LeaseManager(sqlite_engine, heartbeat_seconds=0.05) as manager:
        (lease,) = manager.take(["a"])
        with transaction(sqlite_engine, "test.steal") as session:
            session.execute(sa.update(leases).values(holder="bob", token=leases.c.token + 1))

        def lost() -> bool:
            try:
                manager.check(lease)
            except LeaseLost:
                return True
            return False

        wait_for(lost)
        with pytest.raises(LeaseLost, match=r"'a' \(token 1\)"):
            manager.check(lease)


def test_one_heartbeat_may_fail_and_who_is_silent_stops_long_before_another_may_begin() -> None:
    assert 2 * HEARTBEAT_SECONDS < GIVE_UP_SECONDS <= LEASE_SECONDS - 20
    assert LEASE_SECONDS == 60  # a dead run holds others up for no longer
    assert slots.LASTS_SECONDS == 2 * HEARTBEAT_SECONDS


def test_a_dead_workers_jobs_are_taken_up_within_a_minute_and_a_late_one_keeps_its_own() -> None:
    assert claims.LEASE_SECONDS + 2 * LOOK_SECONDS <= 60
    assert GIVE_UP_SECONDS - HEARTBEAT_SECONDS >= 25  # so late may a heartbeat be, on a busy machine
    assert claims.LEASE_SECONDS - GIVE_UP_SECONDS >= 15  # and so long has its worker to stop


def test_without_a_renewal_the_holder_stops_itself(sqlite_engine: sa.Engine) -> None:
    with LeaseManager(sqlite_engine, heartbeat_seconds=60, give_up_seconds=1.0) as manager:
        (lease,) = manager.take(["a"])
        manager.check(lease)
        time.sleep(1.05)
        with pytest.raises(LeaseLost, match=r"'a' \(token 1\)"):
            manager.check(lease)


def test_a_lease_released_early_is_free_for_others(sqlite_engine: sa.Engine) -> None:
    with LeaseManager(sqlite_engine) as manager:
        taken = manager.take(["a", "b"])
        manager.release(taken[:1])
        assert [lease.name for lease in acquire(sqlite_engine, ["a", "b"], "bob")] == ["a"]
        with pytest.raises(LeaseLost):
            manager.check(taken[0])


def test_leaving_does_not_release_a_lease_that_another_has_taken(sqlite_engine: sa.Engine) -> None:
    with LeaseManager(sqlite_engine) as manager:
        manager.take(["a"])
        expire(sqlite_engine)
        (theirs,) = acquire(sqlite_engine, ["a"], "bob")
    assert acquire(sqlite_engine, ["a"], "cyd") == []
    assert theirs.token == 2
