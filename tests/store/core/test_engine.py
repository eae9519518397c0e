"""Transactions have the same meaning on both databases."""

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy as sa

from reelkeeper import failpoints
from reelkeeper.errors import Misconfigured
from reelkeeper.store.core.engine import Clock, group_commit, limit_lock_waits, now, open_engine, reading, transaction
from reelkeeper.store.tables import users


def test_a_transaction_commits_between_two_failpoints(engine: sa.Engine) -> None:
    passed = list[str]()
    failpoints.observe(passed.append)
    with transaction(engine, "test.write") as session:
        session.execute(sa.insert(users).values(id="ada"))
    failpoints.observe(None)
    assert passed == ["test.write.before_commit", "test.write.after_commit"]
    with reading(engine) as session:
        assert session.scalars(sa.select(users.c.id)).all() == ["ada"]


def test_an_error_inside_rolls_everything_back(engine: sa.Engine) -> None:
    def fail() -> None:
        with transaction(engine, "test.write") as session:
            session.execute(sa.insert(users).values(id="ada"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with reading(engine) as session:
        assert session.scalars(sa.select(users.c.id)).all() == []


def test_reading_sees_one_snapshot_while_others_write(engine: sa.Engine) -> None:
    with reading(engine) as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(users)) == 0
        with transaction(engine, "test.write") as writer:
            writer.execute(sa.insert(users).values(id="ada"))
        assert session.scalar(sa.select(sa.func.count()).select_from(users)) == 0


def test_writes_in_a_reading_session_are_not_kept(engine: sa.Engine) -> None:
    with reading(engine) as session:
        session.execute(sa.insert(users).values(id="ada"))
    with reading(engine) as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(users)) == 0


def test_writers_that_read_first_wait_for_one_another(engine: sa.Engine) -> None:
    with transaction(engine, "test.write") as session:
        session.execute(sa.insert(users).values(id="counter", tier="0"))

    def add_one() -> None:
        for _ in range(10):
            with transaction(engine, "test.add") as session:
                tier = session.scalars(sa.select(users.c.tier).with_for_update()).one()
                session.execute(sa.update(users).values(tier=str(int(tier) + 1)))

    threads = [threading.Thread(target=add_one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with reading(engine) as session:
        assert session.scalar(sa.select(users.c.tier)) == "40"


def test_the_clock_is_the_databases_and_aware(engine: sa.Engine) -> None:
    with reading(engine) as session:
        earlier, later = session.execute(sa.select(Clock(-90), Clock(30.5))).one()
        assert now(session).tzinfo is UTC
        assert abs(datetime.now(UTC) - now(session)) < timedelta(seconds=5)
    assert later - earlier == pytest.approx(timedelta(seconds=120.5), abs=timedelta(seconds=1))


def test_the_clock_compares_with_a_stored_time(engine: sa.Engine) -> None:
    with transaction(engine, "test.write") as session:
        session.execute(sa.insert(users).values(id="ada", created_at=Clock()))
        assert session.scalar(
            sa.select(users.c.id).where(users.c.created_at <= Clock(1), users.c.created_at > Clock(-60))
        )
        assert session.scalar(sa.select(users.c.id).where(users.c.created_at > Clock(60))) is None


def test_sqlite_is_set_up_for_money_and_crowds(sqlite_engine: sa.Engine) -> None:
    with reading(sqlite_engine) as session:
        asked = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout", "trusted_schema")
        found = [session.execute(sa.text(f"PRAGMA {name}")).scalar() for name in asked]
    assert found == ["wal", 2, 1, 30_000, 0]


@pytest.mark.parametrize(
    "url",
    [
        "mysql://localhost/x",
        "sqlite://",
        "sqlite:///:memory:",
        "postgresql://any:with@hidden@localhost/x",
        "postgresql://any:hidden@localhost/x?pgbouncer=true",
        "postgresql://any:hidden@localhost/x?schema=app",
    ],
)
def test_what_names_no_store_of_ours_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(Misconfigured) as refused:
        open_engine(url)
    assert "hidden" not in str(refused.value)


def test_a_url_may_have_the_scheme_and_the_options_that_hosts_write() -> None:
    engine = open_engine("postgres://any@localhost/x?sslmode=require&channel_binding=require")
    assert engine.url.drivername == "postgresql+psycopg"


def test_the_folder_of_a_sqlite_file_is_made(tmp_path: Path) -> None:
    open_engine(f"sqlite:///{tmp_path}/a/b/store.sqlite3").connect().close()
    assert (tmp_path / "a/b/store.sqlite3").exists()


def test_a_grouped_commit_is_on_disk_at_the_transactions_end(postgresql_engine: sa.Engine) -> None:
    for _ in range(20):  # the server flushes by itself too, some times a second
        with transaction(postgresql_engine, "test") as session:
            group_commit(session)
            session.execute(sa.insert(users).values(id=uuid4().hex))
            written = session.execute(sa.text("SELECT pg_current_wal_insert_lsn()")).scalar_one()
        with reading(postgresql_engine) as session:
            flushed = session.execute(sa.text(f"SELECT pg_current_wal_flush_lsn() > '{written}'::pg_lsn")).scalar_one()
        assert flushed


def test_a_grouped_commit_is_a_transaction_like_others_on_both_databases(engine: sa.Engine) -> None:
    def fail() -> None:
        with transaction(engine, "test") as session:
            group_commit(session)
            session.execute(sa.insert(users).values(id="ben"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with transaction(engine, "test") as session:
        group_commit(session)
        session.execute(sa.insert(users).values(id="ann"))
    with reading(engine) as session:
        assert session.execute(sa.select(users.c.id)).scalar_one() == "ann"


def test_a_statement_that_waits_for_a_lock_gives_up_after_the_limit(engine: sa.Engine) -> None:
    with transaction(engine, "test.write") as session:
        session.execute(sa.insert(users).values(id="ada"))
    hasty = open_engine(engine.url.render_as_string(hide_password=False))
    with reading(hasty) as session:
        session.execute(sa.select(users.c.id))  # on a connection from before
    limit_lock_waits(hasty, 0.2)
    change = sa.update(users).values(tier="pro")
    with transaction(engine, "test.hold") as holder:
        holder.execute(change)
        for _ in range(2):  # on the same connection too
            with pytest.raises(sa.exc.OperationalError), transaction(hasty, "test.wait") as session:
                session.execute(change)
    with transaction(hasty, "test.write") as session:
        session.execute(change)
    hasty.dispose()
