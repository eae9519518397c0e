"""The cache in the store: entries go with their videos, come back trusted, and are pruned unless they are used."""

from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa

from reelkeeper.errors import LeaseLost
from reelkeeper.model.jobs import CacheQueue
from reelkeeper.operations.core.freeze import require_permission
from reelkeeper.operations.jobs import prune_cache
from reelkeeper.operations.jobs.prune_cache import Done
from reelkeeper.rules.jobs.pruning import PrunePolicy
from reelkeeper.store.core import leases
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.tables import audit_events, cache_entries, cache_ghosts
from reelkeeper.store.videos import cache
from tests.operations.books import make_user, store_video

SMALL, MAIN = CacheQueue.SMALL, CacheQueue.MAIN


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


def entries(engine: sa.Engine) -> dict[str, tuple[str, int, int]]:
    """Give queue, frequency and hits by key, in the order of their turns."""
    columns = cache_entries.c
    with reading(engine) as session:
        rows = session.execute(
            sa.select(columns.key, columns.queue, columns.frequency, columns.hits).order_by(
                columns.queue, columns.position
            )
        )
        return {row.key: (row.queue, row.frequency, row.hits) for row in rows}


def at(engine: sa.Engine) -> datetime:
    with reading(engine) as session:
        return now(session)


def run(engine: sa.Engine, lease: Lease, **policy: object) -> Done:
    plan = prune_cache.draw(engine, PrunePolicy.model_validate(policy), at(engine))
    return prune_cache.carry_out(engine, plan.moves, lease=lease, run_id="run")


@pytest.fixture
def lease(filled: sa.Engine) -> Lease:
    (lease,) = leases.acquire(filled, ["flow/prune_cache"], "test")
    return lease


def test_new_entries_are_on_trial_in_the_order_they_came(filled: sa.Engine) -> None:
    assert list(entries(filled)) == [f"k{n}" for n in range(10)]
    assert set(entries(filled).values()) == {(SMALL, 0, 0)}


def test_over_the_budget_what_was_not_hit_goes_and_what_was_hit_twice_is_proven(
    filled: sa.Engine, lease: Lease
) -> None:
    hit(filled, 0, 2)
    hit(filled, 1, 1)
    assert run(filled, lease, budget_bytes=700) == Done(3, 300, 0)
    assert entries(filled)["k0"] == (MAIN, 0, 2)
    assert not {"k1", "k2", "k3"} & entries(filled).keys()
    with reading(filled) as session:
        ghosts = session.execute(sa.select(cache_ghosts.c.key).order_by(cache_ghosts.c.position)).scalars().all()
        told = session.execute(sa.select(audit_events.c.detail).where(audit_events.c.event == "prune")).scalars().all()
    assert ghosts == ["k1", "k2", "k3"]
    assert told == [{"entries": 3, "bytes": 300, "rules": ["budget"]}]


def test_what_comes_back_soon_is_trusted_at_once_and_forgotten_ghosts_are_not(filled: sa.Engine, lease: Lease) -> None:
    run(filled, lease, budget_bytes=700)
    assert prune_cache.forget(filled, PrunePolicy(budget_bytes=200), lease=lease) == 1  # the oldest of three
    put(filled, 0)
    put(filled, 2)
    assert entries(filled)["k0"][0] == SMALL
    assert entries(filled)["k2"][0] == MAIN
    assert prune_cache.forget(filled, PrunePolicy(budget_bytes=200), lease=lease) == 0


def test_an_entry_that_is_used_after_the_plan_stays(filled: sa.Engine, lease: Lease) -> None:
    plan = prune_cache.draw(filled, PrunePolicy(budget_bytes=500), at(filled))
    hit(filled, 1)
    assert prune_cache.carry_out(filled, plan.moves, lease=lease, run_id="run") == Done(4, 400, 1)
    assert "k1" in entries(filled)
    assert prune_cache.carry_out(filled, plan.moves, lease=lease, run_id="run") == Done(0, 0, 5)  # safe to repeat


def test_a_run_that_lost_its_lease_changes_nothing(filled: sa.Engine, lease: Lease) -> None:
    plan = prune_cache.draw(filled, PrunePolicy(budget_bytes=500), at(filled))
    with pytest.raises(LeaseLost):
        prune_cache.carry_out(filled, plan.moves, lease=lease._replace(token=lease.token + 1), run_id="run")
    assert len(entries(filled)) == 10


def test_the_seeds_rule_drops_what_is_hardly_used_for_three_days(filled: sa.Engine, lease: Lease) -> None:
    hit(filled, 0, 2)
    plan = prune_cache.draw(filled, PrunePolicy(rule="seed"), at(filled) + timedelta(days=3, minutes=1))
    assert len(plan.moves) == 9
    assert prune_cache.carry_out(filled, plan.moves, lease=lease, run_id="run").dropped == 9
    with reading(filled) as session:  # S3-FIFO's ghosts are of what left for want of room
        assert session.execute(sa.select(sa.func.count()).select_from(cache_ghosts)).scalar_one() == 0


def test_entries_go_with_their_videos(filled: sa.Engine) -> None:
    with transaction(filled, "test") as session:
        assert cache.drop(session, ["v1", "v2", "elsewhere"]) == 2
        assert cache.take(session, "k1", None) is None
    assert len(entries(filled)) == 8
