import os
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from inline_snapshot import snapshot

from reelkeeper.rules.forecast import forecast


def daily(days: int, growth: float = 0.0, noise: float = 0.05, start: str = "2025-01-01") -> "pd.Series[float]":
    at = np.arange(days)
    weekday = np.array([1.1, 1.15, 1.1, 1.05, 1.0, 0.8, 0.8])[at % 7]
    values = 1000 * weekday * np.exp(growth * at + np.random.default_rng(20261124).normal(0, noise, days))
    return pd.Series(values, pd.date_range(start, periods=days))


def test_a_weekday_keeps_its_profile_and_growth_continues() -> None:
    history = daily(200, growth=0.005, noise=0.02)
    found = forecast(history, 28)
    expected = 1000 * np.array([1.1, 1.15, 1.1, 1.05, 1.0, 0.8, 0.8])[np.arange(200, 228) % 7]
    expected = expected * np.exp(0.005 * np.arange(200, 228))
    assert np.abs(found.mean.to_numpy() / expected - 1).mean() < 0.05
    assert found.method == snapshot("median of ETS, Theta, STL-ETS, weekday level, weekday trend")


def test_matrices_are_multiplied_without_threads_that_wait_for_each_other() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    multiply = "import reelkeeper, numpy; numpy.ones((500, 500)) @ numpy.ones((500, 500))"
    script = f"{multiply}; print(open('/proc/self/status').read())"
    words = [sys.executable, "-c", script]
    status = subprocess.run(words, env=environment, check=True, capture_output=True, text=True).stdout
    assert "Threads:\t1\n" in status


def test_the_answer_continues_the_index_whatever_kind_it_has() -> None:
    values = np.linspace(10, 30, 9)
    for index, following in (
        (pd.date_range("2025-04-30", periods=9, freq="ME"), [pd.Timestamp("2026-01-31"), pd.Timestamp("2026-02-28")]),
        (
            pd.date_range("2025-04-01", periods=9, freq="MS", tz="UTC"),
            [pd.Timestamp("2026-01-01", tz="UTC"), pd.Timestamp("2026-02-01", tz="UTC")],
        ),
        (pd.period_range("2021Q4", periods=9, freq="Q"), [pd.Period("2024Q1"), pd.Period("2024Q2")]),
        (pd.date_range("2012-12-31", periods=9, freq="YE"), [pd.Timestamp("2021-12-31"), pd.Timestamp("2022-12-31")]),
        (pd.RangeIndex(9), [9, 10]),
    ):
        found = forecast(pd.Series(values, index), 2)
        assert found.mean.index.tolist() == following
        assert found.interval(80).index.equals(found.mean.index)


@pytest.mark.parametrize(
    ("days", "said"),
    [
        (0, "none"), (1, "constant"), (3, "mean: 3 days"), (9, "weekday level: 9 days"), (20, "mean: 20 days"),
        (28, "median of"), (400, "median of"),
    ],
)  # fmt: skip
def test_a_short_history_has_a_forecast_and_the_method_says_so(days: int, said: str) -> None:
    found = forecast(daily(days) if days else pd.Series(dtype=float), 10)
    assert found.method.startswith(said)
    assert len(found.mean) == 10
    assert found.mean.isna().all() if days == 0 else found.mean.between(600, 1500).all()


def test_one_value_is_no_certainty() -> None:
    band = forecast(daily(1), 5).interval(80)
    assert (band["upper"] - band["lower"]).min() > 100


def test_no_history_is_unknown_and_not_zero() -> None:
    found = forecast(pd.Series([np.nan, np.nan], pd.date_range("2026-01-01", periods=2)), 3)
    assert found.mean.isna().all()
    assert found.interval(95)["upper"].isna().all()


def test_a_constant_series_stays_and_a_negative_one_may() -> None:
    flat = forecast(pd.Series(7.0, pd.date_range("2026-01-01", periods=60)), 5)
    assert flat.mean.tolist() == [7.0] * 5
    assert flat.method == "constant"
    assert forecast(-daily(90), 14).mean.lt(-500).all()
    assert forecast(pd.Series(0.0, pd.date_range("2026-01-01", periods=60)), 5).interval(95)["upper"].eq(0).all()


def test_gaps_are_filled_and_named_in_the_method() -> None:
    history = daily(70, noise=0.01)
    holed = history.drop(history.index[[10, 11, 40, 50]])
    holed.iloc[60] = np.nan
    found = forecast(holed, 7)
    assert found.method.endswith("5 gaps filled")
    assert np.abs(found.mean / forecast(history, 7).mean - 1).max() < 0.03


def test_a_holiday_at_the_end_is_no_new_level_but_a_shift_that_lasts_is() -> None:
    history = daily(70, noise=0.01)
    usual = forecast(history, 28).mean.sum()
    closed = history.copy()
    closed.iloc[-2:] *= 0.3
    assert abs(forecast(closed, 28).mean.sum() / usual - 1) < 0.05
    shifted = history.copy()
    shifted.iloc[-21:] *= 1.5
    assert forecast(shifted, 28).mean.sum() / usual > 1.35


def test_a_wider_level_is_wider_and_far_steps_are_less_sure() -> None:
    found = forecast(daily(200), 60, levels=(50, 80, 95, 99))
    widths = [(found.interval(level)["upper"] - found.interval(level)["lower"]) for level in (50, 80, 95, 99)]
    assert all((wide > narrow).all() for narrow, wide in pairwise(widths))
    assert widths[1].iloc[40:].mean() > widths[1].iloc[:7].mean()
    with pytest.raises(KeyError):
        found.interval(90)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda: forecast(daily(30), 0), snapshot("a horizon of 0 steps: at least 1 is needed")),
        (
            lambda: forecast(daily(30), 5, levels=(0.8,)),
            snapshot("a level of 0.8: it is percent, at least 1 and below 100, such as 80"),
        ),
        (
            lambda: forecast(daily(30), 5, levels=(100,)),
            snapshot("a level of 100: it is percent, at least 1 and below 100, such as 80"),
        ),
        (
            lambda: forecast(pd.concat([daily(5), daily(5)]), 5),
            snapshot("the history has two values for 2025-01-01 00:00:00: sum them first"),
        ),
    ],
    ids=["no horizon", "a share in place of percent", "certainty", "two values for a day"],
)
def test_invalid_arguments_are_refused(wrong: Callable[[], object], told: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011  its sentence is asserted
        wrong()
    assert str(refused.value) == told


@settings(max_examples=30, deadline=None)
@given(
    values=arrays.arrays(float, st.integers(0, 45), elements=st.floats(-1e9, 1e12) | st.just(np.nan) | st.just(0.0)),
    freq=st.sampled_from(["D", "W", "MS", "QS", "YS"]),
    horizon=st.integers(1, 40),
)
def test_any_regular_series_has_an_answer_within_its_own_bounds(
    values: "np.typing.NDArray[np.float64]", freq: str, horizon: int
) -> None:
    found = forecast(pd.Series(values, pd.date_range("2001-01-01", periods=len(values), freq=freq)), horizon)
    assert len(found.mean) == horizon
    if not np.isnan(values).all():
        assert np.isfinite(found.mean).all()
        for level in (80, 95):
            band = found.interval(level)
            assert (band["lower"] <= found.mean).all()
            assert (found.mean <= band["upper"]).all()
    if np.nanmin(values, initial=0) >= 0:
        assert not (found.mean < 0).any()


def test_the_same_history_always_gives_the_same_answer_and_is_left_alone() -> None:
    history = daily(40)
    before = history.copy()
    found = forecast(history, 9).mean
    assert history.equals(before)
    assert forecast(history, 9).mean.equals(found)
    assert forecast(history.sample(frac=1, random_state=1), 9).mean.equals(found)
