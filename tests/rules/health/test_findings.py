"""Findings about performance: the missed goal, by how much, and advice with figures."""

from datetime import timedelta
from typing import Any

import pytest
from inline_snapshot import snapshot

from reelkeeper.model.alerts import Finding, Severity
from reelkeeper.model.jobs import JobState
from reelkeeper.model.performance import Filled, FinishedJob, InFlight
from reelkeeper.rules.health.findings import ServiceState, judge
from reelkeeper.rules.health.performance import PerformancePolicy
from tests.jobs import NOON, at
from tests.marks import marked

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
    assert judged[:2] == ([], ["long_wait"])
    dear = judge(ServiceState([job(9_000)] * 9 + [job(cost_microusd=None)], [], None, None), POLICY, NOON)
    assert "dear_jobs" not in dear.rules  # of nine the cost is known
    assert [finding.rule for finding in dear.findings] == ["slow_jobs"]


def test_a_model_that_is_found_replaces_what_was_found_of_all() -> None:
    (of_all,) = found([job(900)] * 9 + [job(900, model="wan")] * 9)
    (of_one,) = found([job(900)] * 10 + [job(900, model="wan")] * 9)
    assert (of_all.scope, of_one.scope) == ("total", "model:svd")
    assert of_one.replaces == ((of_all.rule, of_all.scope, of_all.period),)


def test_a_model_with_few_jobs_is_not_judged_beside_one_with_many() -> None:
    jobs = [dead()] * 9 + [job(model="wan")] * 100
    judged = judge(ServiceState(jobs, [], 8, ROOMY), POLICY, NOON)
    assert judged.findings == []
    assert judged.unjudged == {("failing_jobs", "model:svd"), ("dear_jobs", "model:svd")}
    assert judge(ServiceState(jobs[9:], [], 8, ROOMY), POLICY, NOON).unjudged == set()


@pytest.mark.parametrize(("took", "is_slow"), [(300, False), (300.1, True)])
def test_slow_is_a_mean_over_five_minutes(took: float, is_slow: bool) -> None:
    assert [finding.rule for finding in found([job(took)] * 10)] == ["slow_jobs"] * is_slow


def test_jobs_that_slow_each_other_down_want_fewer_at_once() -> None:
    (slow,) = found([job(450, concurrency=11.0)] * 20)
    assert slow.title == snapshot("Jobs of svd take 450 s on average")
    assert slow.text == snapshot(
        "20 jobs of the last 60 minutes took 450 s on average once begun, and one in twenty over 450 s; the limit is 300 s. That is 3.0 times what was estimated, with 11.0 at once."
    )
    # slowdown grows by 0.2 a job: 2.0 times 150 s at 6
    assert slow.suggestion == snapshot(
        "They slow each other down, and more at once would make it worse. By these figures 6 at once keep the limit: concurrency.max_limit of tune_concurrency in prefect.yaml."
    )


def test_jobs_that_are_large_want_less_to_do() -> None:
    (slow,) = found([job(400, estimate_seconds=400.0, concurrency=11.0)] * 20)
    assert slow.suggestion == snapshot(
        "They take what their size asks for, and more at once makes none of them quicker. Requests with 25 % less to do (size, seconds, frames) would keep the limit."
    )


def test_the_model_that_is_slow_is_named_and_one_that_does_better() -> None:
    (slow,) = found([job(450, "svd")] * 10 + [job(80, "fast")] * 10)
    assert slow.scope == "model:svd"
    assert slow.suggestion == snapshot(
        "They take what their size asks for, and more at once makes none of them quicker. Requests with 33 % less to do (size, seconds, frames) would keep the limit. fast takes 80 s."
    )
    (both,) = found([job(450, "svd")] * 5 + [job(400, "other")] * 5)
    assert (both.scope, both.title) == ("total", snapshot("Jobs take 425 s on average"))


def test_expensive_jobs_are_reported_with_their_dollars_a_month() -> None:
    (dear,) = found([job(200, cost_microusd=25_000)] * 9 + [dead(cost_microusd=25_000)])
    assert dear.title == snapshot("Jobs of svd cost $0.0250 each")
    assert dear.impact_microusd == 5_000 * 10 * 24 * 30
    assert "$36.00 a month" in dear.text
    assert dear.suggestion == snapshot(
        "$0.02 of $0.25 went into jobs that failed. At $0.00012 a second, one keeps the limit within 160 s; these took 200 s."
    )
    assert found([job(cost_microusd=20_000)] * 10) == []


def test_failures_are_reported_with_their_most_common_errors() -> None:
    jobs = [job()] * 16 + [dead()] * 3 + [dead("no answer\nTraceback ...")]
    (failing,) = found(jobs)
    assert failing.severity is Severity.WARNING
    assert failing.text == snapshot(
        "4 of 20 jobs of the last 60 minutes failed for good: 80 % succeeded, and 90 % should. out of memory (3 times); no answer (1 times). Nobody was charged for them."
    )
    assert failing.suggestion == snapshot("They cost us $0.04 all the same. See: reelkeeper queue --dead.")
    (mostly,) = found([job()] * 4 + [dead(cost_microusd=None)] * 6)
    assert mostly.severity is Severity.CRITICAL
    assert found([job()] * 9 + [dead()]) == []
    assert found([job()] * 9 + [dead()] + [dead()._replace(state=JobState.CANCELLED)] * 9) == []


def test_a_job_that_waits_too_long_is_reported_and_whether_any_runs() -> None:
    queue = [InFlight("free", "svd", JobState.QUEUED, 12, at(-70), 1800.0)]
    (stuck,) = found([job()] * 10, queue=queue)
    assert (stuck.severity, stuck.title) == (Severity.CRITICAL, snapshot("A job has waited 70 minutes"))
    assert marked(stuck.suggestion) == snapshot(
        "Nothing runs: see whether dispatch_jobs does, and how its last runs ended. reelkeeper watchdog knows."
    )
    running = InFlight("pro", "svd", JobState.RUNNING, 3, at(-1), 450.0)
    (long,) = found([job()] * 10, queue=[*queue, running])
    assert long.severity is Severity.WARNING
    assert long.suggestion == snapshot(
        "What waits is 30 minutes of work for one slot, 10 for 3. Why a job waits: reelkeeper queue --explain JOB."
    )
    assert found([], queue=[queue[0]._replace(oldest_at=at(-60))]) == []


def test_storage_above_80_percent_is_reported_with_the_excess_bytes() -> None:
    (full,) = found([], filled=Filled(90 * 10**9, 100 * 10**9, 3))
    assert full.title == snapshot("Storage is 90 % full")
    assert full.text == snapshot(
        "90.00 GB are stored of 100.00, what all users' quotas sum to: 90 %, and 80 % is the limit. 3 users are above it with their own quota."
    )
    assert full.suggestion == snapshot(
        "10.00 GB less keep the limit. reelkeeper plan tier_storage says what shrinks or goes now; with --param policy.compress_after_days=3, say, what more would."
    )
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
