"""The curve of slowdown over concurrency: from a prior before any job, and from the times of jobs thereafter."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelkeeper.rules.jobs.curve import add, fit, near_peak, products, slowdown

NOTHING = [0.0] * 5
AT = 20
PRIOR = 1 + 0.02 * (AT - 1) + 0.0005 * AT * (AT - 1)  # contention 2 %, coherence .05 %
Jobs = list[tuple[int, float]]  # how many ran, and the slowdown


def seen(jobs: Jobs) -> list[float]:
    """Sum observations as the rule does: in proportion, so that fast and slow jobs weigh alike."""
    sums = NOTHING
    for n, slow in jobs:
        sums = add(sums, products(n - 1, n * (n - 1), slow - 1, slow**-2))
    return sums


def test_before_any_job_twenty_slow_each_other_down_as_much_as_the_prior_says() -> None:
    assert slowdown(*fit(NOTHING), AT) == pytest.approx(PRIOR)


@pytest.mark.parametrize("slow", [1.0, 1.2, 3.0])
def test_two_jobs_at_twenty_weigh_as_much_as_the_prior(slow: float) -> None:
    weights = (PRIOR**-2, slow**-2)
    between = (PRIOR * weights[0] + slow * weights[1]) / sum(weights)
    assert slowdown(*fit(seen([(AT, slow)] * 2)), AT) == pytest.approx(between)


@given(st.floats(0.001, 0.5), st.floats(0.0001, 0.05))
def test_the_times_of_many_jobs_outweigh_the_prior_and_give_back_the_law_that_they_follow(a: float, b: float) -> None:
    jobs = [(n, slowdown(a, b, n)) for n in (2, 4, 8, 16, 32)]
    found = fit([total * 1e6 for total in seen(jobs)])
    assert slowdown(*found, 12) == pytest.approx(slowdown(a, b, 12), rel=0.01)


@given(st.lists(st.tuples(st.integers(1, 64), st.floats(0.2, 50)), max_size=8))
def test_more_jobs_are_never_taken_to_speed_each_other_up(jobs: Jobs) -> None:
    assert min(fit(seen(jobs))) >= 0


def test_the_smallest_limit_near_the_peak_is_taken() -> None:
    limits = range(1, 101)
    rates = [n / slowdown(0.02, 0.0005, n) for n in limits]
    assert near_peak(0.02, 0.0005, limits, 1.0) == 1 + rates.index(max(rates))
    assert near_peak(0.02, 0.0005, limits, 0.8) == next(n for n in limits if rates[n - 1] >= 0.8 * max(rates))
    assert near_peak(0.0, 0.0, limits, 1.0) == 100
