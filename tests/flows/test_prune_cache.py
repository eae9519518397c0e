"""`prune_cache`: a dry run changes nothing; a run drops entries that are not worth keeping, and videos stay."""

import pytest
import sqlalchemy as sa

from flows.expire_videos import expire_videos
from flows.prune_cache import prune_cache
from reelkeeper.errors import Frozen
from reelkeeper.operations.core.freeze import freeze
from reelkeeper.rules.jobs.pruning import Pruned, PrunePolicy
from reelkeeper.store.core.engine import Clock, reading, transaction
from reelkeeper.store.tables import cache_entries
from reelkeeper.store.videos import cache
from tests.flows.scenes import Scene


@pytest.fixture
def cached(scene: Scene) -> Scene:
    """Three videos that requests may be answered with, and one whose entry is over."""
    for name in ("v1", "v2", "v3", "v4"):
        scene.video(name, age_days=1)
        with transaction(scene.engine, "test") as session:
            cache.insert(session, f"k-{name}", name, user_id="ann", cost_microusd=20_000, ttl_seconds=600)
    with transaction(scene.engine, "test") as session:
        over = sa.update(cache_entries).where(cache_entries.c.key == "k-v4")
        session.execute(over.values(expires_at=Clock(-3600)))
    return scene


def keys(scene: Scene) -> set[str]:
    with reading(scene.engine) as session:
        return set(session.execute(sa.select(cache_entries.c.key)).scalars())


@pytest.mark.long
def test_a_dry_run_only_looks(cached: Scene) -> None:
    before = cached.everything()
    report = prune_cache()
    size = cached.world.clip.stat().st_size
    assert (report.entries, report.size_bytes, report.dropped) == (4, 4 * size, 0)
    assert [(pruned_item.rule, pruned_item.entries, pruned_item.remake_microusd) for pruned_item in report.rules] == [
        ("expired", 1, 20_000)
    ]
    assert cached.everything() == before
    assert len(keys(cached)) == 4


@pytest.mark.long
def test_a_run_drops_what_the_rules_and_the_budget_say_and_no_video(cached: Scene) -> None:
    size, states = cached.world.clip.stat().st_size, cached.states()
    with transaction(cached.engine, "test") as session:
        for _ in range(2):
            cache.take(session, "k-v1", 600)
    report = prune_cache(pruning=PrunePolicy(budget_bytes=2 * size), dry_run=False)
    assert [type(pruned_item) for pruned_item in report.rules] == [Pruned, Pruned]
    assert (report.dropped, report.stayed) == (2, 0)
    assert keys(cached) == {"k-v1", "k-v3"}
    assert cached.states() == states
    assert prune_cache(pruning=PrunePolicy(budget_bytes=2 * size), dry_run=False).dropped == 0


def test_frozen_it_drops_nothing(cached: Scene) -> None:
    freeze(cached.engine, by="eve", reason="something is odd")
    with pytest.raises(Frozen, match="something is odd"):
        prune_cache(dry_run=False)
    assert len(keys(cached)) == 4


@pytest.mark.long
def test_an_entry_goes_with_a_video_that_expires(cached: Scene) -> None:
    cached.video("old", age_days=400)
    with transaction(cached.engine, "test") as session:
        cache.insert(session, "k-old", "old", user_id="ann", cost_microusd=20_000, ttl_seconds=None)
    expire_videos(dry_run=False)
    assert cached.states()["old"] == "retired"
    assert keys(cached) == {"k-v1", "k-v2", "k-v3", "k-v4"}
