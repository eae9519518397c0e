"""A run on a Dask cluster gives the same result as threads of one process."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from distributed import LocalCluster
from inline_snapshot import snapshot

from flows.tier_storage import tier_storage
from reelkeeper.errors import Frozen, Misconfigured
from reelkeeper.operations.core import freeze
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy
from reelkeeper.rules.lifecycle.report import Report
from reelkeeper.settings import settings
from reelkeeper.store.core.engine import reading
from reelkeeper.store.tables import blobs, operations, videos
from tests.clips import MakeClip
from tests.flows.conftest import MakeScene
from tests.flows.scenes import Scene
from tests.marks import marked
from tests.reading import as_read

COLD = [f"cold{number}" for number in range(6)]


@pytest.fixture
def make_cold(make_scene: MakeScene, make_clip: MakeClip) -> MakeScene:
    """Make scenes that are alike: cold videos, one of them small already, and one to be retired."""
    clips = [make_clip(size=f"{64 + 16 * number}x64") for number in range(5)]
    clips.append(make_clip(codec="libx264 -crf 45"))

    def make() -> Scene:
        scene = make_scene()
        for video_id, clip in zip(COLD, clips, strict=True):
            scene.video(video_id, age_days=10, clip=clip)
        scene.video("forgotten", age_days=40)
        for number in range(20):
            scene.video(f"new{number}", age_days=1)
        return scene

    return make


@contextmanager
def cluster() -> Iterator[Any]:
    """Two processes on this machine, with the settings of the moment."""
    made: Any = LocalCluster  # it ships no types
    with made(n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0") as cluster:
        yield cluster


def results(scene: Scene, report: Report) -> tuple[object, ...]:
    """Return a run's result, without ids and times."""
    with reading(scene.engine) as session:
        now = session.execute(
            sa.select(
                videos.c.id, videos.c.state, videos.c.generation, blobs.c.size_bytes, blobs.c.codec, blobs.c.sha256
            )
            .join(blobs, blobs.c.id == videos.c.blob_id)
            .order_by(videos.c.id)
        ).all()
        swaps = session.execute(
            sa.select(operations.c.video_id, operations.c.state, operations.c.outcome).order_by(operations.c.video_id)
        ).all()
    plan = report.plan.kept, report.plan.population, report.plan.compress, report.plan.retire, report.planned
    return plan, scene.outcomes(report.plan.id), report.done, now, swaps


@pytest.mark.long("a cluster of processes, each of which loads Prefect")
def test_dask_gives_what_threads_give(make_cold: MakeScene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = make_cold()
    by_threads = results(scene, tier_storage(dry_run=False))
    scene = make_cold()
    with cluster() as dask:
        monkeypatch.setenv("REELKEEPER_DASK_ADDRESS", dask.scheduler_address)
        settings.cache_clear()
        by_dask = results(scene, tier_storage(dry_run=False))
    assert by_dask == by_threads
    outcomes = by_dask[1]
    assert outcomes == dict.fromkeys(COLD[:5], "compressed") | {
        COLD[5]: "refused",
        "forgotten": "retired",
    }
    scene.world.check()


@pytest.mark.long
def test_videos_of_a_killed_cluster_worker_are_done_by_the_others(
    make_cold: MakeScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = make_cold()
    with cluster() as dask:
        monkeypatch.setenv("REELKEEPER_DASK_ADDRESS", dask.scheduler_address)
        settings.cache_clear()
        doomed = dask.workers[0].pid
        scene.when_a_video_is_fetched(lambda: os.kill(doomed, signal.SIGKILL))
        report = tier_storage(dry_run=False)
    assert {outcome.outcome: outcome.objects for outcome in report.done} == {
        "compressed": 5,
        "refused": 1,
        "retired": 1,
    }
    scene.world.check()


@pytest.mark.long
def test_a_freeze_reaches_the_workers_of_the_cluster(make_cold: MakeScene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = make_cold()
    with cluster() as dask:
        monkeypatch.setenv("REELKEEPER_DASK_ADDRESS", dask.scheduler_address)
        settings.cache_clear()
        scene.when_a_video_is_fetched(lambda: freeze.freeze(scene.engine, by="ops", reason="stop"))
        with pytest.raises(Frozen, match="stop"):
            tier_storage(LifecyclePolicy(retire_below_views=None), dry_run=False)
    assert set(scene.outcomes(scene.last_plan().id).values()) == {None}


@pytest.mark.long
def test_an_unreachable_cluster_is_reported_before_any_change(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.video("cold", age_days=10)
    before = scene.everything()
    monkeypatch.setenv("REELKEEPER_DASK_ADDRESS", "tcp://127.0.0.1:1")
    settings.cache_clear()
    with pytest.raises(Misconfigured) as refused:
        tier_storage(dry_run=False)
    assert as_read(refused.value) == snapshot("""\
no Dask scheduler answers at REELKEEPER_DASK_ADDRESS tcp://127.0.0.1:<port>: Timed out trying to
  connect to tcp://127.0.0.1:<port> after 10 s\
""")
    assert scene.everything() == before


@pytest.mark.long
def test_without_the_extra_the_error_names_it(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.video("cold", age_days=10)
    monkeypatch.setenv("REELKEEPER_DASK_ADDRESS", "tcp://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "prefect_dask.task_runners", None)
    settings.cache_clear()
    with pytest.raises(Misconfigured) as refused:
        tier_storage(dry_run=False)
    assert marked(refused.value) == snapshot(
        "REELKEEPER_DASK_ADDRESS is tcp://127.0.0.1:1, but prefect-dask is not installed: pip install 'reelkeeper[dask]'"
    )
