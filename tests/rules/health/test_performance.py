"""Performance figures: of which jobs, over which time, and what is unknown."""

from datetime import timedelta
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelkeeper.model.jobs import JobState
from reelkeeper.model.performance import Filled, FinishedJob, InFlight
from reelkeeper.rules.health import performance
from reelkeeper.rules.health.performance import (
    by_group,
    figures,
    percentile,
    waiting,
    window_start,
    windows,
    with_present,
)
from reelkeeper.rules.health.performance_report import lines
from tests.jobs import NOON, at


def made(minute: float = 0, took: float = 150.0, wait: float = 60.0, **values: Any) -> FinishedJob:  # noqa: ANN401  fields of Ended
    begun = at(minute) - timedelta(seconds=took)
    job = FinishedJob("free", "svd", JobState.SUCCEEDED, begun - timedelta(seconds=wait), at(minute), begun)
    return job._replace(processing_seconds=took, estimate_seconds=150.0, **values)


HIT = FinishedJob("free", "svd", JobState.SUCCEEDED, NOON, NOON)
JOINED = HIT._replace(is_follower=True)
DEAD = made()._replace(state=JobState.DEAD, processing_seconds=None)


def test_waits_and_processing_are_those_of_jobs_that_were_run() -> None:
    jobs = [made(took=100, wait=10), made(took=200, wait=30), HIT, JOINED, DEAD, HIT._replace(state=JobState.CANCELLED)]
    found = figures(jobs)
    assert (found["ended"], found["made"], found["dead"], found["cancelled"]) == (6, 2, 1, 1)
    assert (found["processing_mean_seconds"], found["processing_p95_seconds"]) == (150, 200)
    assert found["wait_mean_seconds"] == pytest.approx((10 + 30 + 60) / 3)
    assert found["success_percent"] == pytest.approx(200 / 3)
    assert (found["cache_hits"], found["joined"], found["cache_hit_percent"]) == (1, 1, 25)


def test_unknown_figures_are_none() -> None:
    nothing = figures([])
    assert {name for name, value in nothing.items() if value is None} == {
        *(f"{name}_{kind}_seconds" for name in ("wait", "processing") for kind in ("mean", "p50", "p95", "p99")),
        *("success_percent", "cache_hit_percent", "cost_mean_microusd"),
    }
    assert figures([made(), made(cost_microusd=4_000)])["cost_mean_microusd"] == 4_000
    assert figures([made(), made(cost_microusd=0)])["cost_known_jobs"] == 1


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200), st.sampled_from([50, 95, 99, 100]))
def test_a_percentile_occurred_and_so_many_do_not_exceed_it(values: list[float], percent: int) -> None:
    found = percentile(values, percent)
    assert found in values
    assert sum(value <= found for value in values) >= len(values) * percent / 100
    assert sum(value < found for value in values) < len(values) * percent / 100
    assert percentile(values, 100) == max(values)


def test_each_job_counts_in_all_its_tier_and_its_model() -> None:
    groups = by_group([made(), made()._replace(tier=None, model="fast")])
    assert {group: len(jobs) for group, jobs in groups.items()} == {
        ("", ""): 2,
        ("free", ""): 1,
        ("unknown", ""): 1,
        ("", "svd"): 1,
        ("", "fast"): 1,
    }
    assert by_group([]) == {("", ""): []}
    assert [performance_line.of for performance_line in lines([made(), made()._replace(tier=None)])] == [
        "all",
        "model svd",
        "tier free",
        "tier unknown",
    ]


def test_every_whole_window_since_the_last_is_worked_out_and_an_empty_one_too() -> None:
    jobs = [made(minute) for minute in (-31, -30, -14.9, -0.1, 0, 3)]
    found = windows(jobs, NOON - timedelta(minutes=60), at(7))
    assert [
        (window.start_at, window.figures["ended"]) for window in found if (window.tier, window.model) == ("", "")
    ] == [
        (at(-45), 1),
        (at(-30), 1),
        (at(-15), 2),
    ]
    assert {window.seconds for window in found} == {performance.WINDOW_SECONDS}
    assert windows(jobs, at(-15), at(7)) == []


def test_missing_windows_of_the_last_day_are_computed() -> None:
    assert len(windows([], NOON - timedelta(days=9), NOON)) == 96
    assert [window.start_at for window in windows([], None, at(3))] == [at(-15)]


def test_the_last_window_says_what_waits_now_by_tier_and_model() -> None:
    queue = [
        InFlight("free", "svd", JobState.QUEUED, 3, at(-20), 450.0),
        InFlight("pro", "fast", JobState.QUEUED, 1, at(-5), 90.0),
        InFlight("pro", "fast", JobState.RUNNING, 2, at(-40), 180.0),
    ]
    found = with_present(windows([made(-1)], at(-45), NOON), queue, Filled(30, 120, 0), NOON)
    last = {(window.tier, window.model): window.figures for window in found if window.start_at == at(-15)}
    assert last.keys() == {("", ""), ("free", ""), ("pro", ""), ("", "svd"), ("", "fast")}
    assert {group: entry["queued"] for group, entry in last.items()} == {
        ("", ""): 4,
        ("free", ""): 3,
        ("pro", ""): 1,
        ("", "svd"): 3,
        ("", "fast"): 1,
    }
    assert (last["", ""]["oldest_wait_seconds"], last["pro", ""]["oldest_wait_seconds"]) == (1200, 300)
    assert (last["", ""]["running"], last["", ""]["storage_percent"]) == (2, 25)
    assert "storage_percent" not in last["free", ""]
    assert all("queued" not in window.figures for window in found if window.start_at != at(-15))
    assert with_present([], queue, None, NOON) == []
    assert waiting([], NOON)["oldest_wait_seconds"] == 0


@given(st.lists(st.floats(-2000, 0), max_size=40))
def test_no_job_is_counted_twice_or_left_out(minutes: list[float]) -> None:
    jobs = [made(minute) for minute in minutes]
    found = windows(jobs, window_start(NOON - timedelta(days=1)) - timedelta(minutes=15), NOON)
    counted = sum(window.figures["ended"] or 0 for window in found if (window.tier, window.model) == ("", ""))
    assert counted == sum(NOON - timedelta(days=1) <= job.finished_at < NOON for job in jobs)
    means = [window.figures["wait_mean_seconds"] for window in found if window.figures["wait_mean_seconds"] is not None]
    assert all(mean == pytest.approx(60) for mean in means)
    assert not means or fmean(means) == pytest.approx(60)
