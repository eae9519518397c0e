import math
from datetime import date

import numpy as np
import pandas as pd
import pytest
from inline_snapshot import snapshot

from reelkeeper.rules.forecast.month import outlook
from reelkeeper.rules.spend.residuals import places

WEEK = np.array([1.1, 1.15, 1.1, 1.05, 1.0, 0.8, 0.8])  # 2026-01-05 is a Monday


def daily(days: int, growth: float = 0.0, noise: float = 0.04) -> "pd.Series[float]":
    at = np.arange(days)
    values = 1000 * WEEK[at % 7] * np.exp(growth * at + np.random.default_rng(7).normal(0, noise, days))
    return pd.Series(values, pd.date_range("2026-01-05", periods=days))


def test_a_total_is_what_is_known_and_a_forecast_of_the_rest() -> None:
    whole = daily(27 + 28)
    as_of = date(2026, 2, 21)
    found = outlook(whole, as_of, 1).months[0]
    assert found.month == date(2026, 2, 1)
    assert found.so_far == pytest.approx(whole["2026-02-01":"2026-02-20"].sum())
    actual = whole["2026-02-01":"2026-02-28"].sum()
    assert abs(found.mean / actual - 1) < 0.03
    low, high = found.bounds(95)
    assert found.so_far < low < found.mean < high


def test_values_after_the_day_of_the_forecast_are_not_used() -> None:
    history = daily(80)
    as_of = date(2026, 3, 16)
    found, cut = outlook(history, as_of), outlook(history[:"2026-03-15"], as_of)
    assert found.months == cut.months
    assert found.method == cut.method


def test_uncounted_days_are_forecast_too() -> None:
    history = daily(50)[:"2026-02-16"]
    found = outlook(history, date(2026, 2, 20), 1)
    assert found.path.index[0] == pd.Timestamp("2026-02-17")
    assert found.months[0].mean == pytest.approx(1000 * 28, rel=0.05)


def test_months_ahead_follow_and_are_less_sure() -> None:
    found = outlook(daily(45), date(2026, 2, 19), 4)
    assert [month.month for month in found.months] == [date(2026, month, 1) for month in (2, 3, 4, 5)]
    widths = [math.log(high / low) for low, high in (month.bounds(80) for month in found.months)]
    assert widths == sorted(widths)


def test_bounds_are_quantiles_and_wider_for_a_higher_level() -> None:
    month = outlook(daily(30), date(2026, 2, 4), 1).months[0]
    probabilities = [0.025, 0.1, 0.3, 0.5, 0.7, 0.9, 0.975]
    quantiles = [month.quantile(each) for each in probabilities]
    assert quantiles == sorted(quantiles)
    assert month.quantile(0.5) == pytest.approx(month.mean)
    assert month.bounds(80) == (month.quantile(0.1), month.quantile(0.9))


def test_growth_is_seen_where_a_run_rate_is_left_behind() -> None:
    history = daily(70, growth=0.01, noise=0.02)
    found = outlook(history, date(2026, 3, 16), 1)
    rest = 1000 * sum(WEEK[at % 7] * math.exp(0.01 * at) for at in range(70, 86))
    actual = float(history["2026-03-01":].sum()) + rest
    rate = float(history["2026-03-01":].sum()) + float(history.iloc[-30:].mean()) * 16
    assert abs(found.months[0].mean - actual) < 0.5 * abs(rate - actual)


def test_growth_can_be_asked_for() -> None:
    history = daily(50, noise=0.0)
    plain, asked = outlook(history, date(2026, 2, 24), 3), outlook(history, date(2026, 2, 24), 3, 10.0)
    assert asked.months[2].mean / plain.months[2].mean == pytest.approx(1.1 ** ((5 + 31 + 15) / 30.44), rel=0.02)
    assert asked.method == snapshot("last level with 10 % growth a month")


def test_a_history_without_a_day_before_is_refused() -> None:
    with pytest.raises(ValueError, match="before 2026-07-01"):
        outlook(pd.Series([1.0, 2.0], pd.date_range("2026-08-01", periods=2)), date(2026, 7, 1))


def test_one_day_of_history_has_an_outlook_that_is_not_sure() -> None:
    month = outlook(pd.Series([100.0], pd.DatetimeIndex(["2026-07-01"])), date(2026, 7, 2), 1).months[0]
    assert month.mean == pytest.approx(3100)
    assert month.bounds(80)[1] - month.bounds(80)[0] > 300


def test_the_cost_of_a_job_on_the_last_day_of_the_month_is_in_the_total() -> None:
    history = daily(116)
    last_days = [at for at, day in enumerate(history.index) if "last day" in places(day.date())]
    history.iloc[last_days] *= 8
    found = outlook(history, date(2026, 4, 21), 1)
    assert found.months[0].mean == pytest.approx(history["2026-04-01":"2026-04-30"].sum(), rel=0.03)
    assert found.method == snapshot("median of weekday level, ETS, STL-ETS; times what recurs on last day")


def test_a_job_on_one_day_of_the_month_and_none_on_the_others_is_in_each_total() -> None:
    days = pd.date_range("2026-01-05", periods=150)
    history = pd.Series([1e8 * (day.day == 1) for day in days], days)
    found = outlook(history, date(2026, 6, 4), 3)
    assert [month.mean for month in found.months] == pytest.approx([1e8] * 3)
    assert "day 1" in found.method


@pytest.mark.parametrize("idle", [0.2, 0.4, 0.6, 0.8])
def test_a_day_of_use_after_idle_ones_does_not_recur_as_a_multiple_of_nothing(idle: float) -> None:
    rng, days = np.random.default_rng(3), pd.date_range("2026-01-05", periods=150)
    for nothing in (0.0, 1.0):
        values = np.where(rng.random(150) < idle, nothing, rng.uniform(7e7, 13e7, 150))
        july = outlook(pd.Series(values, days), date(2026, 6, 4), 2).months[1]
        assert july.mean == pytest.approx(values[-56:].mean() * 31, rel=0.5)
