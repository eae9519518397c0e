"""A worker whose store is temporarily unreachable retries, and no job is lost."""

import threading
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from reelkeeper.adapters.providers import RemoteGenerator
from reelkeeper.model.jobs import End
from reelkeeper.operations.jobs import queue, worker
from tests.doubles.provider import ProviderDouble
from tests.doubles.vendor import Vendor
from tests.faults.world import World
from tests.operations.queue import expire_claims, find
from tests.operations.shop import ask, http, run, spent
from tests.worlds import AtFailpoint


@pytest.fixture
def engine(postgresql_engine: sa.Engine) -> sa.Engine:
    """PostgreSQL: it ends the sessions of others, which SQLite does not have."""
    return postgresql_engine


def cut(engine: sa.Engine, times: int, chosen: Callable[[str], bool], *, when: str = "after") -> list[int]:
    """Let PostgreSQL end sessions at such statements, as for a suspended worker; return which, as it happens."""
    cut: list[int] = []
    outside = sa.create_engine(engine.url, poolclass=sa.NullPool)

    @sa.event.listens_for(engine, f"{when}_cursor_execute")
    def end_it(connection: sa.Connection, _cursor: object, statement: str, *_: object) -> None:
        if len(cut) < times and chosen(statement):
            session = connection.connection.dbapi_connection.info.backend_pid  # type: ignore[union-attr]  # psycopg's
            cut.append(session)
            with outside.connect() as other:
                other.execute(sa.select(sa.func.pg_terminate_backend(session, 5_000)))

    return cut


def claims(statement: str) -> bool:
    return "FROM controls" in statement and "FOR UPDATE" in statement


def is_a_jobs(_: str) -> bool:
    return threading.current_thread().name.startswith("job_")


@pytest.mark.long
def test_a_session_that_ends_within_a_claim_ends_that_claim_alone(shop: World, provider: ProviderDouble) -> None:
    ask(shop, "a cat", "a dog")
    ended = cut(shop.workspace.engine, 2, claims)
    assert run(shop, http(provider)) == {End.SUCCEEDED: 2}
    assert len(ended) == 2
    assert len(provider.submitted) == 2
    assert spent(shop) > 0


@pytest.mark.long
def test_a_session_that_ends_as_the_limit_is_read_ends_no_worker(shop: World, provider: ProviderDouble) -> None:
    made = ask(shop, "a cat", "a dog")
    engine = shop.workspace.engine
    ended = cut(
        engine, 2, lambda statement: "FROM controls" in statement and "FOR UPDATE" not in statement, when="before"
    )
    assert run(shop, http(provider), limit=lambda: queue.jobs_at_once(engine) or 4) == {End.SUCCEEDED: len(made)}
    assert (len(ended), len(provider.submitted)) == (2, 2)


def test_a_session_that_ends_as_the_running_jobs_are_counted_costs_no_attempt(
    shop: World, provider: ProviderDouble
) -> None:
    (job_id,) = ask(shop, "a cat")
    counts = "SELECT coalesce(jobs.lane"
    ended = cut(shop.workspace.engine, 1, lambda said: said.startswith(counts) and "lease_until" in said, when="before")
    assert run(shop, http(provider)) == {End.SUCCEEDED: 1}
    assert (len(ended), find(shop.workspace.engine, job_id).attempts) == (1, 1)


@pytest.mark.long
def test_a_lasting_outage_of_the_store_ends_the_worker_with_its_error(
    shop: World, provider: ProviderDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "GIVE_UP_SECONDS", 1.0)
    ask(shop, "a cat")
    ended = cut(shop.workspace.engine, 2, claims)
    with pytest.raises(sa.exc.OperationalError, match="terminating connection"):
        run(shop, http(provider))
    assert len(ended) == 2
    assert run(shop, http(provider)) == {End.SUCCEEDED: 1}


@pytest.mark.parametrize("format_", ["runway"], indirect=True)  # it looks no job up: its id is all that finds one
def test_the_id_of_a_paid_clip_is_not_lost_with_the_connection_that_was_to_record_it(
    shop: World, vendor: Vendor, generator: RemoteGenerator
) -> None:
    (job_id,) = ask(shop, "a cat")
    ended = cut(shop.workspace.engine, 1, lambda said: said.startswith("UPDATE jobs SET provider_job_id"))
    assert run(shop, generator) == {End.SUCCEEDED: 1}
    assert (len(ended), len(vendor.submitted)) == (1, 1)
    assert spent(shop) == find(shop.workspace.engine, job_id).price_microusd


@pytest.mark.parametrize("format_", ["runway"], indirect=True)  # it looks no job up: one in doubt is dead after a day
def test_a_job_is_in_no_doubt_whose_announcement_was_committed_as_the_connection_was_lost(
    shop: World, vendor: Vendor, generator: RemoteGenerator, at_failpoint: AtFailpoint
) -> None:
    (job_id,) = ask(shop, "a cat")

    def lost() -> None:
        raise sa.exc.OperationalError("COMMIT", {}, Exception("closed"), connection_invalidated=True)

    at_failpoint("jobs.announce.after_commit", lost)
    assert run(shop, generator) == {End.SUCCEEDED: 1}
    assert len(vendor.submitted) == 1
    assert spent(shop) == find(shop.workspace.engine, job_id).price_microusd


@pytest.mark.long
def test_a_job_that_loses_the_store_goes_on_at_the_next_worker_and_fails_no_run(
    shop: World, provider: ProviderDouble
) -> None:
    ask(shop, "a cat")
    ended = cut(shop.workspace.engine, 20, is_a_jobs)
    assert run(shop, http(provider)) == {End.LOST: 1}
    ended += [0] * 20  # it is back
    expire_claims(shop.workspace.engine)
    assert run(shop, http(provider)) == {End.SUCCEEDED: 1}
    assert len(provider.submitted) == 1
