"""Anomalies in a series: each day judged by earlier days and known patterns."""

from collections.abc import Sequence
from datetime import date, timedelta
from math import exp, log
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelkeeper.rules.spend.residuals import LEAST_DAYS, Bounds, Judged, judge

FIRST = date(2025, 1, 6)  # a Monday
BOUNDS = Bounds(4.5, log(1.25), log(0.75))
WEEK = (1.0, 1.1, 1.1, 1.2, 1.3, 0.6, 0.5)


def usual(days: int, *, seed: int = 1, growth: float = 0.0, noise: float = 0.04) -> list[float | None]:
    rng = Random(seed)
    return [100 * WEEK[n % 7] * exp(growth * n + rng.gauss(0, noise)) for n in range(days)]


def odd(values: Sequence[float | None], **known: Any) -> dict[int, int]:  # noqa: ANN401  as `judge` takes them
    judged = judge(values, FIRST, BOUNDS, **known)
    return {n: verdict.direction for n, verdict in enumerate(judged) if verdict and verdict.direction}


def times(values: Sequence[float | None], factor: float, *days: int) -> list[float | None]:
    return [value and value * factor if n in days else value for n, value in enumerate(values)]


def test_weekends_and_growth_are_usual() -> None:
    assert odd(usual(400, growth=0.005)) == {}


@pytest.mark.parametrize(("factor", "direction"), [(1.5, 1), (3, 1), (0.6, -1), (0, -1)])
def test_a_day_that_is_much_more_or_less_is_odd_and_the_next_is_not(factor: float, direction: int) -> None:
    assert odd(times(usual(120), factor, 100)) == {100: direction}


def test_a_steady_series_must_still_change_by_a_quarter() -> None:
    flat = [100.0] * 60
    assert odd(times(flat, 1.24, 50)) == {}
    assert odd(times(flat, 1.26, 50)) == {50: 1}
    assert odd(times(flat, 0.76, 50)) == {}
    assert odd(times(flat, 0.74, 50)) == {50: -1}


def test_an_unsteady_series_must_change_by_more() -> None:
    assert odd(times(usual(120, seed=2, noise=0.03), 1.4, 100)) == {100: 1}
    assert odd(times(usual(120, seed=2, noise=0.15), 1.4, 100)) == {}


def test_a_new_level_is_odd_until_it_is_usual_and_its_end_is_not_odd() -> None:
    raised = times(usual(150), 1.8, *range(100, 110))
    days = odd(raised)
    assert set(days.values()) == {1}
    assert min(days) == 100
    assert max(days) < 110  # from day 110 on it is as it was lately


def test_a_leak_is_seen_before_its_two_weeks_are_over() -> None:
    leaking = usual(130)
    for n in range(14):
        leaking = times(leaking, 1 + 0.7 * (n + 1) / 14, 100 + n)
    assert min(odd(leaking)) in range(102, 114)


def test_a_residual_of_a_year_ago_may_repeat() -> None:
    christmas = 353
    twice = times(usual(760), 0.3, christmas, christmas + 365)
    assert odd(twice) == {christmas: -1}
    assert odd(times(twice, 0.1, christmas + 365)) == {christmas: -1, christmas + 365: -1}  # and this much more is odd


def test_last_years_neighbouring_days_and_same_weekday_count_too() -> None:
    for ago in (363, 364, 365, 366, 367):
        assert odd(times(usual(760), 0.3, 300, 300 + ago)) == {300: -1}
    assert odd(times(usual(760), 0.3, 300, 300 + 370)) == {300: -1, 670: -1}


def test_a_day_of_the_calendar_may_be_as_quiet_as_a_sunday_and_no_busier_than_usual() -> None:
    quiet = usual(120)
    quiet[100] = quiet[97]  # Wednesday as Sunday
    known = {"calendar": {FIRST + timedelta(days=100)}}
    assert odd(quiet) == {100: -1}
    assert odd(quiet, **known) == {}
    assert odd(times(usual(120), 0.1, 100), **known) == {100: -1}
    assert odd(times(usual(120), 1.6, 100), **known) == {100: 1}


MONTH_STARTS = [(date(2025, month, 1) - FIRST).days for month in range(2, 12)]


@pytest.mark.parametrize(
    ("shift", "place"),
    [(0, "the first"), (-1, "the last"), (11, "the twelfth"), (None, "the last day from Monday to Friday")],
)
def test_a_residual_recurring_in_two_months_at_a_place_of_the_month_becomes_usual(
    shift: int | None, place: str
) -> None:
    days = [start + shift if shift is not None else working_day_before(start) for start in MONTH_STARTS]
    found = odd(times(usual(300), 2, *(day for day in days if day < 300)))
    assert list(found) == days[:2], place


def test_a_monthly_recurrence_is_forgotten_when_it_stops_and_a_larger_value_is_odd() -> None:
    stopped, again, more = MONTH_STARTS[4], MONTH_STARTS[7], MONTH_STARTS[3]
    days = [start for start in MONTH_STARTS if start < stopped or start == again]
    values = times(times(usual(300), 2, *days), 1.6, more)
    assert list(odd(values)) == [*days[:2], more, again]


def working_day_before(start: int) -> int:
    return start - 1 - max(0, (FIRST + timedelta(days=start - 1)).weekday() - 4)


def test_explained_days_do_not_lower_the_level() -> None:
    holidays = range(100, 110)
    quiet = times(usual(120), 0.45, *(n for n in holidays if n % 7 < 5))
    assert odd(quiet, calendar={FIRST + timedelta(days=n) for n in holidays}) == {}


def test_a_dear_day_among_many_of_nothing_is_odd_and_the_usual_ones_are_not() -> None:
    rng = Random(8)
    some = [0.0 if rng.random() < 0.5 else 20 * exp(rng.gauss(0, 0.3)) for _ in range(120)]
    some[90], some[110] = 300, 300
    assert odd(some) == {90: 1, 110: 1}


def test_unknown_days_are_not_judged_and_not_taken_for_zero() -> None:
    holes = [None if n % 5 == 0 else value for n, value in enumerate(usual(200))]
    assert odd(holes) == {}
    assert odd(times(holes, 2, 151)) == {151: 1}
    judged = judge(holes, FIRST, BOUNDS)
    assert all(verdict is None for n, verdict in enumerate(judged) if n % 5 == 0)


def test_two_weeks_are_needed() -> None:
    judged = judge(usual(20), FIRST, BOUNDS)
    assert [verdict is not None for verdict in judged] == [n >= LEAST_DAYS for n in range(20)]


def test_the_expectation_is_in_the_unit_of_the_series() -> None:
    judged = judge(times([100.0] * 60, 2, 50), FIRST, BOUNDS)[50]
    assert isinstance(judged, Judged)
    assert judged.day == FIRST + timedelta(days=50)
    assert (judged.actual, round(judged.expected, 6)) == (200, 100)


VALUES = st.lists(st.none() | st.floats(0, 1e15) | st.integers(0, 10**15), max_size=90)


@given(values=VALUES)
def test_any_series_is_judged_and_only_by_what_was_before(values: list[float | None]) -> None:
    judged = judge(values, FIRST, BOUNDS)
    assert len(judged) == len(values)
    assert judge(values[:40], FIRST, BOUNDS) == judged[:40]


@given(seed=st.integers(0, 10**6), scale=st.floats(1e-3, 1e9))
def test_the_currency_does_not_matter(seed: int, scale: float) -> None:
    values = times(usual(60, seed=seed, noise=0.1), 1.6, 40, 50)
    assert odd([value and value * scale for value in values]) == odd(values)
