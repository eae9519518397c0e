"""Findings about performance: the missed goal, by how much, and advice with figures."""

from datetime import timedelta
from typing import Any

import pytest

from reelkeeper.model.alerts import Finding, Severity
from reelkeeper.model.jobs import JobState
from reelkeeper.model.performance import Filled, FinishedJob, InFlight
from reelkeeper.rules.health.findings import ServiceState, judge
from reelkeeper.rules.health.performance import PerformancePolicy
from tests.jobs import NOON, at

POLICY = PerformancePolicy()
ROOMY = Filled(10, 100, 0)


def job(took: float = 150.0, model: str = "svd", **values: Any) -> FinishedJob:  # noqa: ANN401  fields of Ended
    begun = NOON - timedelta(seconds=took)
    finished_job = FinishedJob("free", model, JobState.SUCCEEDED, begun - timedelta(seconds=30), NOON, begun)
    values = {"processing_seconds": took, "estimate_seconds": 150.0, "cost_microusd": 10_000, **values}
    return finished_job._replace(**values)


def dead(error: str = "out of memory", **values: Any) -> FinishedJob:  # noqa: ANN401  fields of Ended
    return job(state=JobState.DEAD, processing_seconds=None, error=error, **values)


def found(
    jobs: list[FinishedJob],
    policy: PerformancePolicy = POLICY,
    *,
    queue: list[InFlight] | None = None,
    filled: Filled = ROOMY,
) -> list[Finding]:
    return judge(ServiceState(jobs, queue or [], 8, filled), policy, NOON).findings


def test_a_service_that_keeps_its_goals_has_no_findings_and_every_rule_was_judged() -> None:
    judged = judge(ServiceState([job()] * 10, [], 8, ROOMY), POLICY, NOON)
    assert judged.findings == []
    assert judged.rules == ["slow_jobs", "dear_jobs", "failing_jobs", "long_wait", "full_storage"]


def test_rules_with_few_jobs_are_not_evaluated_and_keep_their_alerts() -> None:
    judged = judge(ServiceState([job(9_000, cost_microusd=None)] * 9, [], None, None), POLICY, NOON)
    assert judged == ([], ["long_wait"])
    dear = judge(ServiceState([job(9_000)] * 9 + [job(cost_microusd=None)], [], None, None), POLICY, NOON)
    assert "dear_jobs" not in dear.rules  # of nine the cost is known
    assert [finding.rule for finding in dear.findings] == ["slow_jobs"]


@pytest.mark.parametrize(("took", "is_slow"), [(300, False), (300.1, True)])
def test_slow_is_a_mean_over_five_minutes(took: float, is_slow: bool) -> None:
    assert [finding.rule for finding in found([job(took)] * 10)] == ["slow_jobs"] * is_slow


def test_jobs_that_slow_each_other_down_want_fewer_at_once() -> None:
    (slow,) = found([job(450, concurrency=11.0)] * 20)
    assert slow.title == "Jobs of svd take 450 s on average"
    assert "20 jobs of the last 60 minutes took 450 s" in slow.text
    assert "3.0 times what was estimated, with 11.0 at once" in slow.text
    assert "6 at once keep the limit" in slow.suggestion  # slowdown grows by 0.2 a job: 2.0 times 150 s at 6


def test_jobs_that_are_large_want_less_to_do() -> None:
    (slow,) = found([job(400, estimate_seconds=400.0, concurrency=11.0)] * 20)
    assert "more at once makes none of them quicker" in slow.suggestion
    assert "25 % less to do" in slow.suggestion


def test_the_model_that_is_slow_is_named_and_one_that_does_better() -> None:
    (slow,) = found([job(450, "svd")] * 10 + [job(80, "fast")] * 10)
    assert slow.scope == "model:svd"
    assert slow.suggestion.endswith("fast takes 80 s.")
    (both,) = found([job(450, "svd")] * 5 + [job(400, "other")] * 5)
    assert (both.scope, both.title) == ("total", "Jobs take 425 s on average")


def test_expensive_jobs_are_reported_with_their_dollars_a_month() -> None:
    (dear,) = found([job(200, cost_microusd=25_000)] * 9 + [dead(cost_microusd=25_000)])
    assert dear.title == "Jobs of svd cost $0.0250 each"
    assert dear.impact_microusd == 5_000 * 10 * 24 * 30
    assert "$36.00 a month" in dear.text
    assert "of $0.25 went into jobs that failed" in dear.suggestion
    assert "keeps the limit within 160 s; these took 200 s" in dear.suggestion
    assert found([job(cost_microusd=20_000)] * 10) == []


def test_failures_are_reported_with_their_most_common_errors() -> None:
    jobs = [job()] * 16 + [dead()] * 3 + [dead("no answer\nTraceback ...")]
    (failing,) = found(jobs)
    assert failing.severity is Severity.WARNING
    assert "4 of 20 jobs" in failing.text
    assert "80 % succeeded" in failing.text
    assert "out of memory (3 times); no answer (1 times)" in failing.text
    assert "They cost us $0.04 all the same" in failing.suggestion
    (mostly,) = found([job()] * 4 + [dead(cost_microusd=None)] * 6)
    assert mostly.severity is Severity.CRITICAL
    assert found([job()] * 9 + [dead()]) == []
    assert found([job()] * 9 + [dead()] + [dead()._replace(state=JobState.CANCELLED)] * 9) == []


def test_a_job_that_waits_too_long_is_reported_and_whether_any_runs() -> None:
    queue = [InFlight("free", "svd", JobState.QUEUED, 12, at(-70), 1800.0)]
    (stuck,) = found([job()] * 10, queue=queue)
    assert (stuck.severity, stuck.title) == (Severity.CRITICAL, "A job has waited 70 minutes")
    assert "Nothing runs" in stuck.suggestion
    running = InFlight("pro", "svd", JobState.RUNNING, 3, at(-1), 450.0)
    (long,) = found([job()] * 10, queue=[*queue, running])
    assert long.severity is Severity.WARNING
    assert "30 minutes of work for one slot, 10 for 3." in long.suggestion
    assert found([], queue=[queue[0]._replace(oldest_at=at(-60))]) == []


def test_storage_above_80_percent_is_reported_with_the_excess_bytes() -> None:
    (full,) = found([], filled=Filled(90 * 10**9, 100 * 10**9, 3))
    assert full.title == "Storage is 90 % full"
    assert "3 users are above it" in full.text
    assert full.suggestion.startswith("10.00 GB less keep the limit")
    assert found([], filled=Filled(80 * 10**9, 100 * 10**9, 0)) == []
    assert "full_storage" not in judge(ServiceState([], [], None, Filled(5, 0, 0)), POLICY, NOON).rules


def test_a_goal_that_is_switched_off_finds_nothing_and_ends_what_it_had_found() -> None:
    off = PerformancePolicy(
        max_processing_seconds=None,
        max_cost_microusd=None,
        max_storage_percent=None,
        min_success_percent=None,
        max_wait_seconds=None,
    )
    jobs = [job(9_000, cost_microusd=10**6)] * 10 + [dead()] * 20
    queue = [InFlight("free", "svd", JobState.QUEUED, 12, at(-700), 1800.0)]
    judged = judge(ServiceState(jobs, queue, 8, Filled(99, 100, 1)), off, NOON)
    assert judged.findings == []
    assert len(judged.rules) == 5
