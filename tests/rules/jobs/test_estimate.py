"""The size and duration of a job: prior and learnt estimates."""

import random
from decimal import Decimal
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelkeeper.model.requests import GenerationRequest
from reelkeeper.rules.jobs.admission import AdmissionPolicy, wait_seconds
from reelkeeper.rules.jobs.estimate import (
    KEPT_FACTORS,
    complexity,
    estimate_processing_time,
    expected_bytes,
    factor,
    learned,
    prior_seconds,
)

PLAIN = GenerationRequest(model="m", prompt="x")


@pytest.mark.parametrize(("units", "load", "seconds"), [(0, 0, 120), (2, 0, 180), (0, 1, 180), (4, 0.5, 270)])
def test_the_prior_is_the_first_sketchs(units: int, load: float, seconds: float) -> None:
    assert estimate_processing_time(units, load).seconds == prior_seconds(units, load) == seconds


def test_size_length_and_rate_of_the_video_and_its_prompts_make_a_job_complex() -> None:
    assert complexity(PLAIN) == Decimal("0.001")
    double = PLAIN.model_copy(update={"duration_seconds": 10.0})
    assert complexity(double) == Decimal("1.001")
    assert complexity(PLAIN.model_copy(update={"fps": 48})) == Decimal("1.001")
    assert complexity(PLAIN.model_copy(update={"prompt": "x" * 3000})) == 3
    assert complexity(PLAIN.model_copy(update={"width": 64, "height": 64})) == Decimal("0.001")


@given(
    st.builds(
        GenerationRequest,
        model=st.just("m"),
        prompt=st.text("ab ", min_size=1, max_size=50),
        width=st.integers(32, 2048).map(lambda half: 2 * half),
        height=st.integers(32, 2048).map(lambda half: 2 * half),
        duration_seconds=st.floats(0.5, 120),
        fps=st.integers(1, 60),
    )
)
def test_every_request_has_a_complexity_a_price_can_be_asked_for(request: GenerationRequest) -> None:
    assert 0 <= complexity(request) <= 1000
    assert expected_bytes(request, 0.5) >= 1


def test_a_model_that_takes_three_times_as_long_is_learned_with_its_error() -> None:
    chance, factors = random.Random(7), list[float]()
    for _ in range(100):
        units, load = chance.uniform(0, 4), chance.random()
        took = 3 * prior_seconds(units, load) * chance.lognormvariate(0, 0.2)
        factors = learned(factors, factor(units, load, took))
    assert len(factors) == KEPT_FACTORS
    found = estimate_processing_time(1.0, 0.5, factors)
    assert found.seconds == pytest.approx(3 * 180, rel=0.15)
    assert found.low_seconds < found.seconds < found.high_seconds
    assert found.error_percent == pytest.approx(13.5, abs=5)  # half of a lognormal of sigma 0.2 lies within 0.1349


@given(st.lists(st.floats(0.01, 100), max_size=80), st.floats(0, 1000), st.floats(0, 1))
def test_an_estimate_lies_between_the_prior_and_the_median_of_what_was_seen(
    factors: list[float], units: float, load: float
) -> None:
    prior, found = prior_seconds(units, load), estimate_processing_time(units, load, factors)
    ends = sorted([prior, prior * median(factors or [1.0])])
    assert ends[0] - 0.1 <= found.seconds <= ends[1] + 0.1
    assert found.low_seconds <= found.seconds <= found.high_seconds
    assert found.jobs == len(factors)


@pytest.mark.parametrize("took", [0.0, -1.0, float("inf"), float("nan")])
def test_a_time_that_cannot_be_teaches_nothing(took: float) -> None:
    assert factor(1, 0.5, took) is None
    assert learned([1.0], None) == [1.0]


def test_the_wait_is_zero_if_a_slot_is_free_and_nothing_ahead() -> None:
    assert wait_seconds(0, running=7, mean_seconds=200, slots=8) == 0
    assert wait_seconds(0, running=8, mean_seconds=200, slots=8) == 100
    assert wait_seconds(1600, running=8, mean_seconds=200, slots=8) == 300


def test_a_hit_costs_its_share_of_the_price() -> None:
    assert AdmissionPolicy().hit_charge(22_500) == 0
    assert AdmissionPolicy(hit_charge_percent=33).hit_charge(101) == 33
