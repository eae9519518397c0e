from datetime import date, timedelta

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from reelkeeper.rules.forecast.storage import Stock, daily_peaks

FIRST = date(2026, 11, 24)


def test_live_bytes_stay_until_they_expire() -> None:
    stock = Stock(1000, {FIRST + timedelta(days=2): 300, FIRST - timedelta(days=5): 100})
    assert daily_peaks(stock, FIRST, [0, 0, 0, 0]).tolist() == [1000, 900, 900, 600]


def test_uploads_arrive_and_leave_after_their_retention() -> None:
    stock = Stock(0, {}, {2: 0.5})
    assert daily_peaks(stock, FIRST, [100, 100, 100, 100]).tolist() == [100, 200, 250, 300]


def test_expiries_beyond_the_days_asked_for_do_not_matter() -> None:
    stock = Stock(10, {FIRST + timedelta(days=30): 10}, {40: 1.0})
    assert daily_peaks(stock, FIRST, [0.0] * 5).tolist() == [10] * 5


@given(
    alive=st.integers(0, 10**15),
    uploads=st.lists(st.integers(0, 10**12), min_size=1, max_size=60),
    leaving=st.lists(st.tuples(st.integers(-5, 80), st.integers(0, 10**12)), max_size=20),
    after=st.integers(1, 90),
)
def test_stored_bytes_never_exceed_the_stock_plus_uploads(
    alive: int, uploads: list[int], leaving: list[tuple[int, int]], after: int
) -> None:
    expiries: dict[date, int] = {}
    for days, size in leaving:
        expiries[FIRST + timedelta(days=days)] = size
    peaks = daily_peaks(Stock(alive, expiries, {after: 1.0}), FIRST, [float(each) for each in uploads])
    assert len(peaks) == len(uploads)
    assert (peaks >= 0).all()
    assert (peaks <= alive + np.cumsum(uploads) + 1).all()
