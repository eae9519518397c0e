"""What `tune_concurrency` makes of jobs: which count, what an idle server is, what is kept, and how it is explained."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelkeeper.model.jobs import JobState
from reelkeeper.model.performance import FinishedJob
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.jobs.concurrency import ConcurrencyPolicy
from reelkeeper.rules.jobs.steering import Steered, Tuned, explain, learn, since, tune
from tests.jobs import NOON, at

POLICY, BOOK = ConcurrencyPolicy(), PriceBook()


def job(took: float = 150.0, concurrency: float | None = 4.0, **values: Any) -> FinishedJob:  # noqa: ANN401  fields of Ended
    begun = NOON - timedelta(seconds=took)
    finished_job = FinishedJob("free", "svd", JobState.SUCCEEDED, begun, NOON, begun, complexity=1.0)
    return finished_job._replace(
        **{"processing_seconds": took, "concurrency": concurrency, "cost_microusd": 8_000, **values}
    )


def step(jobs: list[FinishedJob], limit: int = 4, **kept: Any) -> Tuned:  # noqa: ANN401  fields of Steered
    return tune(Steered(limit=limit, **kept), jobs, BOOK, POLICY, at(15))


def test_only_jobs_whose_video_was_made_beside_a_known_number_count() -> None:
    left_out = [
        job(concurrency=None),
        job(processing_seconds=None),
        job(state=JobState.DEAD),
        job(started_at=None),
        job(is_follower=True),
    ]
    assert len(step([job()] * 12 + left_out).finished) == 12


def test_an_idle_server_takes_the_prior_until_jobs_have_run_alone() -> None:
    assert step([job()]).finished[0].estimate_seconds == 150  # 120 s and 30 s for one unit
    four_alone = [job(75, concurrency=1.0)] * 4
    assert step([*four_alone, job()]).finished[-1].estimate_seconds == 150
    assert step([*four_alone * 2, job()]).finished[-1].estimate_seconds == 75
    assert step([*four_alone * 2, job(model="other")]).finished[-1].estimate_seconds == 150


def test_a_crowd_says_nothing_of_an_idle_server_however_long_it_goes_on() -> None:
    assert learn({}, [job(900, concurrency=40.0)] * 100) == {}
    assert [len(ratios) for ratios in learn({}, [job(concurrency=1.0)] * 100).values()] == [32]


def test_a_cost_that_nobody_knows_is_what_the_book_says() -> None:
    (known, unknown) = step([job(cost_microusd=0), job(cost_microusd=None)]).finished
    assert (known.cost_microusd, unknown.cost_microusd) == (0, 15_000)


def test_too_few_jobs_are_left_for_the_next_step() -> None:
    tuned = step([job()] * 9, stepped_at=NOON)
    assert (tuned.step.limit, tuned.steered.stepped_at, tuned.steered.reason) == (4, NOON, "too few jobs finished")
    assert "9 jobs, and 10 are needed" in explain(tuned, POLICY)
    stepped = step([job()] * 10, stepped_at=NOON)
    assert (stepped.step.limit, stepped.steered.stepped_at) == (6, at(15))
    assert since(stepped.steered, at(30)) == at(15)
    assert (
        since(Steered(limit=4), NOON) == since(Steered(limit=4, stepped_at=at(-9999)), NOON) == NOON - timedelta(days=1)
    )


def test_a_limit_that_began_too_high_is_left_though_it_was_never_known_better() -> None:
    steered, limit = Steered(limit=100), 100
    for _ in range(30):
        slowdown = 1 + 0.03 * (limit - 1) + 0.0008 * limit * (limit - 1)  # a server whose peak is at 35
        tuned = tune(steered, [job(150 * slowdown, concurrency=float(limit))] * 20, BOOK, POLICY, NOON)
        steered, limit = tuned.steered, tuned.step.limit
    assert 20 <= limit <= 40


@pytest.mark.parametrize("wrong", [0.1, 3.0])
def test_a_prior_that_is_wrong_does_not_lead_past_the_peak(wrong: float) -> None:
    steered, limit = Steered(limit=8), 8
    for _ in range(60):
        slowdown = 1 + 0.03 * (limit - 1) + 0.0008 * limit * (limit - 1)
        tuned = tune(steered, [job(150 * wrong * slowdown, concurrency=float(limit))] * 20, BOOK, POLICY, NOON)
        steered, limit = tuned.steered, tuned.step.limit
    best, here = (
        35 / (1 + 0.03 * 34 + 0.0008 * 35 * 34),
        limit / (1 + 0.03 * (limit - 1) + 0.0008 * limit * (limit - 1)),
    )
    assert here > 0.85 * best


@given(st.lists(st.tuples(st.floats(0.1, 1e5), st.floats(1, 300)), min_size=10, max_size=30))
def test_what_is_remembered_comes_back_from_the_store_as_it_was(jobs: list[tuple[float, float]]) -> None:
    steered = step([job(took, concurrency=n) for took, n in jobs]).steered
    assert Steered.model_validate(steered.model_dump(mode="json")) == steered
    assert Steered.model_validate_json(steered.model_dump_json()) == steered
    assert Steered.model_validate({"limit": 3, "of a later version": 1}).limit == 3


def test_a_step_is_explained_with_its_figures() -> None:
    text = explain(step([job(300, concurrency=4.0)] * 20), POLICY)
    assert "20 jobs ended, with 4.0 at once; each took 2.00 times as long as alone" in text
    assert "cost $0.0080, of $0.0200 that it may" in text
    dear = step([job(cost_microusd=40_000)] * 20)
    assert dear.step.limit == 1
    assert explain(dear, POLICY).startswith("The limit goes from 4 to 1. More at once would cost more")
