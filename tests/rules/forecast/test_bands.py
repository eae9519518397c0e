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
    near, far, growing = (bands.sum_scale(each, 7, agreed, (0, 20)) for each in (steady, wandering, grown))
    assert growing == pytest.approx(near, rel=0.1)
    assert far > 1.5 * near


def test_a_sum_that_lies_further_ahead_or_holds_more_that_recurs_monthly_is_less_sure() -> None:
    wandering = 100 * np.exp(np.cumsum(np.random.default_rng(3).normal(0, 0.03, 365)))
    agreed = np.full(5, 100.0)
    scales = [bands.sum_scale(wandering, 7, agreed, (start, start + 20)) for start in (0, 20, 120)]
    assert scales == sorted(scales)
    assert bands.sum_scale(wandering, 7, agreed, (0, 20), 0.5) > scales[0]


@given(st.integers(1, 60), st.integers(0, 40), st.integers(0, 62))
def test_every_history_gives_a_sum_a_unit(length: int, start: int, steps: int) -> None:
    kinds: tuple[Values, ...] = (np.zeros(length), np.ones(length), np.resize([0.0, 1.0, 2.0], length))
    for values in kinds:
        assert 0 < bands.sum_scale(values, 7, np.array([1.0, 2.0]), (start, start + steps)) < np.inf


@given(st.integers(1, 400), st.floats(1, 98), st.floats(0.1, 1.0))
def test_a_higher_level_and_a_later_step_never_have_a_smaller_quantile(step: int, level: float, more: float) -> None:
    for length, season in ((10, 7), (400, 7), (60, 12), (40, 4), (20, 1)):
        at = bands.step_quantiles(length, season, step, level)
        assert (bands.step_quantiles(length, season, step, level + more) >= at).all()
        assert len(at) == step
        assert np.isfinite(at).all()


def test_a_short_daily_history_is_less_sure() -> None:
    assert bands.sum_quantile(20, 7, 31, 80) > bands.sum_quantile(200, 7, 31, 80)


def test_members_that_disagree_and_days_that_jump_widen_the_band_of_a_sum() -> None:
    calm, wild = np.full(240, 100.0), np.array([50.0, 150.0] * 120)
    agreed, apart = np.array([100.0, 100.0, 100.0]), np.array([70.0, 100.0, 140.0])
    assert bands.sum_scale(calm, 7, apart, (0, 10)) > bands.sum_scale(calm, 7, agreed, (0, 10))
    assert bands.sum_scale(wild, 7, agreed, (0, 10)) > bands.sum_scale(calm, 7, agreed, (0, 10))
    assert bands.sum_scale(wild, 7, agreed, (0, 30)) < bands.sum_scale(wild, 7, agreed, (0, 10))


def test_a_long_history_that_was_forecast_well_has_a_narrower_band_of_its_own() -> None:
    at, noise = np.arange(72), np.random.default_rng(4).normal(0, 0.3, 72)
    smooth = 100.0 + at + 20 * np.sin(2 * np.pi * at / 12) + noise / 10
    turned = np.where(at < 58, smooth, smooth[57] * 1.5 ** ((at - 57) / 4))
    assert bands.own_factor(smooth, 12) < 0.5
    assert bands.own_factor(turned, 12) > 2


def test_a_short_history_and_a_daily_one_take_the_errors_on_public_series_as_they_are() -> None:
    values = 100.0 + np.random.default_rng(5).normal(0, 1, 90)
    assert bands.own_factor(values[:35], 12) == bands.own_factor(values, 7) == 1
    assert bands.own_factor(values[:36], 12) != 1


def test_a_history_without_any_error_is_not_promised_to_have_none() -> None:
    assert bands.own_factor(np.full(60, 7.0), 12) > 0
