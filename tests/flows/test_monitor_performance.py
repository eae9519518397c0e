"""`monitor_performance`: records each quarter of an hour, judges the last hour, and alerts once."""

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from flows.monitor_performance import monitor_performance
from reelkeeper.rules.health.performance import window_start
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.health import performance
from reelkeeper.store.tables import alerts, jobs, outbox, performance_windows
from tests.flows.scenes import Scene
from tests.jobs import hit, made, put, waiting

NOW = window_start(datetime.now(UTC)) + timedelta(minutes=1)


def ago(minutes: float) -> datetime:
    return NOW - timedelta(minutes=minutes)


@pytest.fixture
def busy(scene: Scene) -> Scene:
    """In the last hour twelve jobs took 400 s each, at twice what was estimated; one waits."""
    scene.video("v1", age_days=1)
    slow = [made(f"j{n}", ago(2 + 4 * n), took=400, estimate_seconds=200.0, wait=60) for n in range(12)]
    put(scene.engine, [*slow, hit("h", ago(2)), waiting("w", ago(20))])
    return scene


def rows(scene: Scene, table: sa.Table) -> int:
    with reading(scene.engine) as session:
        return len(session.execute(sa.select(table)).all())


def test_a_dry_run_judges_and_neither_records_nor_tells(busy: Scene) -> None:
    report = monitor_performance(as_of=NOW)
    assert (report.ended, report.mean_processing, report.mean_wait, report.succeeded) == (13, "400 s", "60 s", "100 %")
    assert (report.queued, report.mean_cost, report.windows) == (1, "$0.0100", 0)
    assert [text.partition(".")[0] for text in report.found] == snapshot(["warning: Jobs of svd take 400 s on average"])
    assert [rows(busy, table) for table in (performance_windows, alerts, outbox)] == [0, 0, 0]


@pytest.mark.long
def test_a_run_records_the_quarter_of_an_hour_and_tells_once(busy: Scene) -> None:
    assert (monitor_performance(dry_run=False, as_of=NOW).windows, rows(busy, outbox)) == (1, 1)
    again = monitor_performance(dry_run=False, as_of=NOW)
    assert (again.windows, again.news, rows(busy, outbox)) == (0, 0, 1)
    with reading(busy.engine) as session:
        (window,) = performance.recorded(session, ago(60))
        (of_the_model,) = performance.recorded(session, ago(60), model="svd")
    assert window.start_at == ago(16)
    assert (window.figures["queued"], window.figures["oldest_wait_seconds"]) == (1, 1200)
    assert window.figures["made"] == of_the_model.figures["made"] == 4
    assert window.figures["processing_p99_seconds"] == 400


@pytest.mark.long
def test_windows_of_missed_runs_are_recorded_and_a_corrected_problem_is_resolved(busy: Scene) -> None:
    monitor_performance(dry_run=False, as_of=ago(45))
    with transaction(busy.engine, "test") as session:
        session.execute(sa.update(jobs).values(processing_seconds=100.0))
    report = monitor_performance(dry_run=False, as_of=NOW)
    assert (report.found, report.windows) == ((), 3)


@pytest.mark.long
def test_an_alert_is_resolved_within_the_limit_and_stays_without_figures(busy: Scene) -> None:
    assert monitor_performance(dry_run=False, as_of=NOW).news == 1
    quiet = monitor_performance(dry_run=False, as_of=NOW + timedelta(hours=3))
    assert (quiet.over, [text.partition(".")[0] for text in quiet.found]) == snapshot(
        (0, ["critical: A job has waited 200 minutes"])
    )
    with transaction(busy.engine, "test") as session:
        session.execute(sa.update(jobs).values(processing_seconds=100.0))
    assert monitor_performance(dry_run=False, as_of=NOW).over >= 1


@pytest.mark.long
@pytest.mark.parametrize(("minutes", "over"), [(30, 0), (65, 1)])
def test_an_alert_of_a_model_stays_while_few_of_its_jobs_end_beside_many_of_another(
    busy: Scene, minutes: int, over: int
) -> None:
    assert monitor_performance(dry_run=False, as_of=NOW).news == 1
    put(busy.engine, [made(f"w{n}", NOW + timedelta(minutes=20), model="wan", took=9) for n in range(90)])
    assert monitor_performance(dry_run=False, as_of=NOW + timedelta(minutes=minutes)).over == over
