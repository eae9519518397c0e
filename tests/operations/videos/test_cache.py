"""The cache in the store: entries are dropped with their videos, restored with them, and pruned unless used."""

from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa

from reelkeeper.errors import LeaseLost
from reelkeeper.operations.core.freeze import require_permission
from reelkeeper.operations.jobs import prune_cache
from reelkeeper.operations.jobs.prune_cache import Done
from reelkeeper.rules.jobs.pruning import PrunePolicy
from reelkeeper.store.core import leases
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.tables import audit_events, cache_entries, jobs, videos
from reelkeeper.store.videos import cache
from tests.jobs import made
from tests.operations.books import make_user, store_video


@pytest.fixture
def filled(engine: sa.Engine) -> sa.Engine:
    """Ten videos of 100 bytes in the cache, 0 to 9, each dear to make."""
    make_user(engine, "ann")
    with transaction(engine, "test") as session:
        for number in range(10):
            store_video(session, "ann", f"v{number}", 100)
    for number in range(10):
        put(engine, number)
    return engine


def put(engine: sa.Engine, number: int) -> None:
    with transaction(engine, "test") as session:
        require_permission(session)
        cache.insert(session, f"k{number}", f"v{number}", user_id="ann", cost_microusd=20_000, ttl_seconds=None)


def hit(engine: sa.Engine, number: int, times: int = 1) -> None:
    with transaction(engine, "test") as session:
        for _ in range(times):
            assert cache.take(session, f"k{number}", None) == f"v{number}"


def entries(engine: sa.Engine) -> dict[str, int]:
    """Return hits by key."""
    with reading(engine) as session:
        rows = session.execute(sa.select(cache_entries.c.key, cache_entries.c.hits).order_by(cache_entries.c.key))
        return {row.key: row.hits for row in rows}


def at(engine: sa.Engine) -> datetime:
    with reading(engine) as session:
        return now(session)


def run(engine: sa.Engine, lease: Lease, **policy: object) -> Done:
    plan = prune_cache.draw(engine, PrunePolicy.model_validate(policy), at(engine))
    return prune_cache.carry_out(engine, plan.leaving, lease=lease, run_id="run")


@pytest.fixture
def lease(filled: sa.Engine) -> Lease:
    (lease,) = leases.acquire(filled, ["flow/prune_cache"], "test")
    return lease


def test_over_the_budget_what_saves_the_least_goes_and_videos_stay(filled: sa.Engine, lease: Lease) -> None:
    hit(filled, 0, 2)
    with transaction(filled, "test") as session:
        session.execute(
            sa.update(cache_entries).where(cache_entries.c.key.in_(["k1", "k2", "k3"])).values(cost_microusd=9)
        )
    assert run(filled, lease, budget_bytes=700) == Done(3, 300, 0)
    assert entries(filled) == {"k0": 2} | {f"k{n}": 0 for n in range(4, 10)}
    with reading(filled) as session:
        told = session.execute(sa.select(audit_events.c.detail).where(audit_events.c.event == "prune")).scalars().all()
        assert session.execute(sa.select(sa.func.count()).select_from(videos)).scalar_one() == 10
    assert told == [{"entries": 3, "bytes": 300, "rules": ["budget"]}]


def test_an_entry_has_the_requests_that_its_jobs_recorded(filled: sa.Engine) -> None:
    today = at(filled)
    with transaction(filled, "test") as session:
        for days in (30, 20, 10):
            when = today - timedelta(days=days)
            session.execute(sa.insert(jobs).values(made(f"j{days}", when, wait=0, took=0, cache_key="k0")))
    with reading(filled) as session:
        found = {item.key: item for item in cache.stream(session)}
        recorded = list(cache.requests(session))
    assert (found["k0"].requests, found["k0"].first_at) == (3, today - timedelta(days=30))
    assert (found["k1"].requests, found["k1"].first_at) == (1, found["k1"].used_at)
    assert [(request.key, (today - request.at).days) for request in recorded] == [("k0", 30), ("k0", 20), ("k0", 10)]


def test_an_entry_that_is_used_after_the_plan_stays(filled: sa.Engine, lease: Lease) -> None:
    plan = prune_cache.draw(filled, PrunePolicy(budget_bytes=500), at(filled))
    hit(filled, 1)
    assert prune_cache.carry_out(filled, plan.leaving, lease=lease, run_id="run") == Done(4, 400, 1)
    assert "k1" in entries(filled)
    assert prune_cache.carry_out(filled, plan.leaving, lease=lease, run_id="run") == Done(0, 0, 5)  # safe to repeat


def test_a_run_that_lost_its_lease_changes_nothing(filled: sa.Engine, lease: Lease) -> None:
    plan = prune_cache.draw(filled, PrunePolicy(budget_bytes=500), at(filled))
    with pytest.raises(LeaseLost):
        prune_cache.carry_out(filled, plan.leaving, lease=lease._replace(token=lease.token + 1), run_id="run")
    assert len(entries(filled)) == 10


def test_the_seeds_rule_drops_what_is_hardly_used_for_three_days(filled: sa.Engine, lease: Lease) -> None:
    hit(filled, 0, 2)
    plan = prune_cache.draw(filled, PrunePolicy(rule="seed"), at(filled) + timedelta(days=3, minutes=1))
    assert len(plan.leaving) == 9
    assert prune_cache.carry_out(filled, plan.leaving, lease=lease, run_id="run").dropped == 9


def test_entries_go_with_their_videos(filled: sa.Engine) -> None:
    with transaction(filled, "test") as session:
        assert cache.drop(session, ["v1", "v2", "elsewhere"]) == 2
        assert cache.take(session, "k1", None) is None
    assert len(entries(filled)) == 8
