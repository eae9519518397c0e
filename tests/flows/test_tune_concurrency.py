"""`tune_concurrency`: its limits are saved, set in Prefect, and explained; a dry run changes nothing."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from inline_snapshot import snapshot
from prefect import get_client

from flows.tune_concurrency import tune_concurrency
from reelkeeper.errors import LeaseLost
from reelkeeper.model.jobs import GLOBAL_LIMIT, JobState
from reelkeeper.rules.jobs.attempts import give_up_error
from reelkeeper.rules.jobs.concurrency import ConcurrencyPolicy
from reelkeeper.rules.jobs.steering import Lanes
from reelkeeper.store.core.controls import keep, kept
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.jobs.slots import CONCURRENCY, jobs_at_once, lane_limits
from tasks import limits
from tests.flows.scenes import Scene
from tests.jobs import dead, made, put, waiting
from tests.marks import marked
from tests.reading import as_read

NOW = datetime.now(UTC)


@pytest.fixture
def finished(scene: Scene) -> Scene:
    """Twelve jobs have ended since noon, each as quick as on an idle server."""
    scene.video("v1", age_days=1)
    put(scene.engine, [made(f"j{n}", NOW - timedelta(minutes=n + 1), concurrency=8.0) for n in range(12)])
    return scene


@pytest.fixture(autouse=True)
def no_limit_left() -> Iterator[None]:
    """Leave no limit at Prefect behind."""
    yield
    with get_client(sync_client=True) as client:
        if any(limit.name == GLOBAL_LIMIT for limit in client.read_global_concurrency_limits()):
            client.delete_global_concurrency_limit_by_name(GLOBAL_LIMIT)


def limit_at_prefect() -> int | None:
    with get_client(sync_client=True) as client:
        found = [limit.limit for limit in client.read_global_concurrency_limits() if limit.name == GLOBAL_LIMIT]
    return found[0] if found else None


def limit_kept(scene: Scene) -> int | None:
    with reading(scene.engine) as session:
        return jobs_at_once(session)


def test_a_dry_run_says_what_the_step_would_be(finished: Scene) -> None:
    report = tune_concurrency(as_of=NOW)
    assert (report.before, report.limit, report.jobs) == (8, 10, 12)
    assert [(lane.lane, lane.reason) for lane in report.lanes] == [("", "room_to_grow")]
    assert as_read(report.explained) == snapshot("""\
The limit goes from 8 to 10. A higher limit increases throughput. 12 jobs ended, with 8.0 at
  once; each took 1.00 times as long as alone, and cost $0.0100 of at most $0.0200. At 10 at once
  the model expects the work of 9.1 idle servers, at $0.0110 a job.\
""")
    assert (limit_kept(finished), limit_at_prefect()) == (None, None)


@pytest.mark.long
def test_a_run_sets_the_limit_and_counts_each_job_once(finished: Scene) -> None:
    assert tune_concurrency(dry_run=False, as_of=NOW).limit == 10
    assert (limit_kept(finished), limit_at_prefect()) == (10, 10)
    again = tune_concurrency(dry_run=False, as_of=NOW + timedelta(minutes=15))
    assert (again.before, again.limit, again.jobs) == (10, 10, 0)
    assert [lane.reason for lane in again.lanes] == ["too_few_jobs"]


@pytest.mark.long
def test_a_limit_that_a_person_changed_or_lost_at_prefect_is_set_again_within_the_policy(finished: Scene) -> None:
    tune_concurrency(dry_run=False, as_of=NOW)
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(GLOBAL_LIMIT, 99)
    later = NOW + timedelta(minutes=15)
    tune_concurrency(dry_run=False, as_of=later)
    assert limit_at_prefect() == 10
    tune_concurrency(ConcurrencyPolicy(max_limit=3), dry_run=False, as_of=later)
    assert (limit_kept(finished), limit_at_prefect()) == (3, 3)


def test_a_limit_at_which_nothing_ends_is_left(scene: Scene) -> None:
    scene.video("v1", age_days=1)
    hour_ago = NOW - timedelta(hours=1)
    put(scene.engine, [waiting(f"r{n}", hour_ago, state=JobState.RUNNING, started_at=hour_ago) for n in range(8)])
    report = tune_concurrency(as_of=NOW)
    assert (report.before, report.limit, [lane.reason for lane in report.lanes]) == (8, 4, ["nothing_ends"])
    assert as_read(report.explained) == snapshot("""\
The limit goes from 8 to 4. Hardly any job ends with a video at this limit, so a lower one is
  tried. 0 jobs ended; 8 jobs at work.\
""")


def test_each_provider_gets_a_limit_and_prefect_their_sum(scene: Scene) -> None:
    scene.video("v1", age_days=1)
    ends = [NOW - timedelta(minutes=n + 1) for n in range(20)]
    error = give_up_error(5, "the provider reports it as failed: out of memory", by_generator=True)
    put(scene.engine, [dead(f"f{n}", end, error, concurrency=8.0, lane="fal") for n, end in enumerate(ends)])
    put(scene.engine, [made(f"l{n}", end, concurrency=8.0, lane="ltx") for n, end in enumerate(ends)])
    report = tune_concurrency(dry_run=False, as_of=NOW)
    limits_by_lane = {lane.lane: lane.limit for lane in report.lanes}
    assert limits_by_lane["fal"] < 8 < limits_by_lane["ltx"]
    assert limit_kept(scene) == limit_at_prefect() == sum(limits_by_lane.values())
    with reading(scene.engine) as session:
        assert lane_limits(session) == limits_by_lane
    put(scene.engine, [made("f20", NOW + timedelta(minutes=1), lane="fal")])
    again = tune_concurrency(as_of=NOW + timedelta(minutes=15))
    assert [(lane.lane, lane.jobs) for lane in again.lanes] == [("fal", 1), ("ltx", 0)]


def test_attempts_that_the_generator_failed_count(finished: Scene) -> None:
    error = give_up_error(5, "the provider reports it as failed: out of memory", by_generator=True)
    put(finished.engine, [dead(f"d{n}", NOW - timedelta(minutes=n + 1), error, attempts=5) for n in range(8)])
    report = tune_concurrency(as_of=NOW)
    assert report.jobs == 20
    assert as_read(report.explained) == snapshot("""\
The limit goes from 8 to 10. A higher limit increases throughput. 12 jobs ended with a video, by
  52 attempts, with 6.4 at once; each took 1.00 times as long as alone, and cost $0.0100 of at
  most $0.0200. At 10 at once the model expects the work of 9.1 idle servers, at $0.0110 a job.\
""")


def test_the_second_of_two_concurrent_runs_changes_nothing(finished: Scene) -> None:
    with transaction(finished.engine, "test") as session:
        before = kept(session, CONCURRENCY)
        assert keep(session, CONCURRENCY, {"limit": 5}, before)
    with pytest.raises(LeaseLost) as refused:
        limits.remember.fn(finished.engine, None, Lanes(limit=9))
    assert marked(refused.value) == snapshot(
        "another run of tune_concurrency has changed the limits meanwhile; nothing was changed"
    )
    assert limit_kept(finished) == 5
