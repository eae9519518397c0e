"""Monthly patterns of a series: learnt from two months on, removed and added back, forgotten when they stop."""

from datetime import date, timedelta

import numpy as np
import pytest

from reelkeeper.rules.forecast.series import learn
from reelkeeper.rules.spend.residuals import places

FIRST = date(2026, 1, 5)
DAYS = [FIRST + timedelta(days=at) for at in range(300)]
WEEK = np.array([1.1, 1.15, 1.1, 1.05, 1.0, 0.8, 0.8])
PLAIN = 1000 * WEEK[np.arange(300) % 7] * np.exp(np.random.default_rng(3).normal(0, 0.04, 300))


def with_job(place: str, factor: float, until: date = DAYS[-1]) -> np.ndarray:
    return np.array(
        [
            value * (factor if place in places(day) and day <= until else 1)
            for value, day in zip(PLAIN, DAYS, strict=True)
        ]
    )


def test_nothing_is_learnt_from_a_series_without_recurrence() -> None:
    found = learn(PLAIN, DAYS)
    assert found.differences == {}
    assert np.array_equal(found.values, PLAIN)
    assert learn(np.ones(300), DAYS).differences == {}
    assert learn(np.zeros(300), DAYS).differences == {}


@pytest.mark.parametrize("place", ["day 1", "day 17", "last day", "last working day"])
@pytest.mark.parametrize("factor", [0.3, 3.0])
def test_a_place_of_the_month_is_learnt_taken_off_and_put_back(place: str, factor: float) -> None:
    found = learn(with_job(place, factor)[:200], DAYS[:200])
    assert found.differences == {place: pytest.approx(np.log(factor), abs=0.1)}
    assert found.values == pytest.approx(PLAIN[:200], rel=0.2)
    ahead = DAYS[200:260]
    assert list(found.put_back(np.ones(60), ahead) != 1) == [place in places(day) for day in ahead]


def test_two_months_are_enough_and_one_is_not() -> None:
    values = with_job("day 1", 3)
    once, twice = (DAYS.index(date(2026, month, 9)) for month in (2, 3))
    assert learn(values[:once], DAYS[:once]).differences == {}
    assert learn(values[:twice], DAYS[:twice]).differences.keys() == {"day 1"}


def test_a_recurrence_that_stopped_for_two_months_is_forgotten() -> None:
    values = with_job("day 1", 3, until=date(2026, 6, 1))
    one, two = (DAYS.index(date(2026, month, 9)) for month in (7, 8))
    assert learn(values[:one], DAYS[:one]).differences.keys() == {"day 1"}
    assert learn(values[:two], DAYS[:two]).differences == {}


def test_two_holidays_that_fall_on_one_number_are_no_job() -> None:
    values = PLAIN.copy()
    values[DAYS.index(date(2026, 4, 17))] *= 0.2
    values[DAYS.index(date(2026, 5, 17))] *= 0.7
    seen = DAYS.index(date(2026, 6, 9))
    assert learn(values[:seen], DAYS[:seen]).differences == {}
    values[DAYS.index(date(2026, 5, 17))] *= 0.4
    assert learn(values[:seen], DAYS[:seen]).differences.keys() == {"day 17"}
