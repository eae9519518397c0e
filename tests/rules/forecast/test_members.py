"""Forecast days ahead from any history: short, constant, negative, with gaps."""

import os
import subprocess
import sys
from datetime import date

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from reelkeeper.rules.forecast.members import fan
from reelkeeper.rules.forecast.series import Values, regular

WEEK = np.array([1.1, 1.15, 1.1, 1.05, 1.0, 0.8, 0.8])


def daily(days: int, growth: float = 0.0, noise: float = 0.05) -> Values:
    at = np.arange(days)
    noises = np.random.default_rng(20261124).normal(0, noise, days)
    values: Values = 1000 * WEEK[at % 7] * np.exp(growth * at + noises)
    return values


def test_a_weekday_keeps_its_profile_and_growth_continues() -> None:
    found = fan(daily(200, growth=0.005, noise=0.02), 28).middle
    expected = 1000 * WEEK[np.arange(200, 228) % 7] * np.exp(0.005 * np.arange(200, 228))
    assert np.abs(found / expected - 1).mean() < 0.05


def test_matrices_are_multiplied_without_threads_that_wait_for_each_other() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    multiply = "import reelkeeper, numpy; numpy.ones((500, 500)) @ numpy.ones((500, 500))"
    script = f"{multiply}; print(open('/proc/self/status').read())"
    words = [sys.executable, "-c", script]
    status = subprocess.run(words, env=environment, check=True, capture_output=True, text=True).stdout
    assert "Threads:\t1\n" in status


@pytest.mark.parametrize(
    ("days", "said"),
    [(1, "constant"), (3, "mean: 3 days"), (9, "weekday level: 9"), (28, "median of"), (400, "median of")],
)
def test_a_short_history_has_a_forecast_and_the_method_says_so(days: int, said: str) -> None:
    found = fan(daily(days), 10)
    assert found.method.startswith(said)
    assert ((found.middle > 600) & (found.middle < 1500)).all()


def test_a_constant_series_stays_and_a_negative_one_may() -> None:
    assert fan(np.full(60, 7.0), 5).middle.tolist() == [7.0] * 5
    assert (fan(-daily(90), 14).middle < -500).all()


def test_gaps_are_filled_by_their_weekday_and_values_later_than_the_day_are_left_out() -> None:
    history = pd.Series(np.resize(WEEK, 70), pd.date_range("2026-01-05", periods=70))
    holed = history.drop(history.index[[10, 11, 40, 50]]).sample(frac=1, random_state=1)
    holed.iloc[5] = np.nan
    found = regular(holed, date(2026, 3, 9))
    assert found.to_numpy() == pytest.approx(history.iloc[:63].to_numpy())
    with pytest.raises(ValueError, match="2026-01-05"):
        regular(history, date(2026, 1, 5))


@settings(max_examples=30, deadline=None)
@given(
    values=arrays.arrays(float, st.integers(1, 45), elements=st.floats(-1e9, 1e12) | st.just(0.0)),
    horizon=st.integers(1, 40),
)
def test_any_series_has_a_forecast(values: Values, horizon: int) -> None:
    found = fan(values, horizon).middle
    assert len(found) == horizon
    assert np.isfinite(found).all()
    if values.min() >= 0:
        assert (found >= 0).all()
