import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelkeeper.rules.forecast import bands
from reelkeeper.rules.forecast.series import Values


def test_a_sum_is_surer_the_nearer_the_weeks_of_the_history_are_to_one_another() -> None:
    rng, agreed = np.random.default_rng(3), np.full(5, 100.0)
    noise, week = rng.normal(0, 0.03, 200), np.array([1.2, 1.1, 1.1, 1.0, 1.0, 0.8, 0.8])
    steady = np.resize(100 * week, 200) * np.exp(noise)
    wandering = steady * np.exp(np.cumsum(noise))
    grown = steady * np.exp(0.01 * np.arange(200))
    near, far, growing = (bands.unit(each, agreed, (0, 20)) for each in (steady, wandering, grown))
    assert growing == pytest.approx(near, rel=0.1)
    assert far > 1.5 * near


def test_a_sum_that_lies_further_ahead_is_less_sure() -> None:
    wandering = 100 * np.exp(np.cumsum(np.random.default_rng(3).normal(0, 0.03, 365)))
    agreed = np.full(5, 100.0)
    scales = [bands.unit(wandering, agreed, (start, start + 20)) for start in (0, 20, 120)]
    assert scales == sorted(scales)


@given(st.integers(1, 60), st.integers(0, 40), st.integers(0, 62))
def test_every_history_gives_a_sum_a_unit(length: int, start: int, steps: int) -> None:
    kinds: tuple[Values, ...] = (np.zeros(length), np.ones(length), np.resize([0.0, 1.0, 2.0], length))
    for values in kinds:
        assert 0 < bands.unit(values, np.array([1.0, 2.0]), (start, start + steps)) < np.inf


@given(st.floats(0, 98), st.floats(0.1, 1.0))
def test_a_higher_level_never_has_a_smaller_quantile(level: float, more: float) -> None:
    assert bands.quantile(level + more) >= bands.quantile(level) >= 0


def test_members_that_disagree_and_days_that_jump_widen_the_band_of_a_sum() -> None:
    calm, wild = np.full(240, 100.0), np.array([50.0, 150.0] * 120)
    agreed, apart = np.array([100.0, 100.0, 100.0]), np.array([70.0, 100.0, 140.0])
    assert bands.unit(calm, apart, (0, 10)) > bands.unit(calm, agreed, (0, 10))
    assert bands.unit(wild, agreed, (0, 10)) > bands.unit(calm, agreed, (0, 10))
    assert bands.unit(wild, agreed, (0, 30)) < bands.unit(wild, agreed, (0, 10))
