from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from inline_snapshot import snapshot

from reelkeeper.model.money import TOO_SHORT, StorageClass
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.forecast import lines
from reelkeeper.rules.forecast.costs import TOTAL, Cost, Stored, predict, rows, totals
from reelkeeper.rules.forecast.lines import UsageLine
from reelkeeper.rules.forecast.storage import Stock

AS_OF = date(2026, 11, 21)
GB = 10**9
BOOK = PriceBook()


def daily(each: float, days: int = 27, noise: float = 0.05, seed: int = 11) -> "pd.Series[float]":
    values = each * (1 + np.random.default_rng(seed).normal(0, noise, days))
    return pd.Series(values, pd.date_range(end=AS_OF - timedelta(days=1), periods=days))


def costs(
    *some: UsageLine, stored: Stored | None = None, months: int = 1, growth: float | None = None
) -> dict[str, Cost]:
    found = predict(some, stored or Stored(Stock(0), {}), AS_OF, months, growth)
    return {cost.service: cost for cost in found if cost.month == date(2026, 11, 1) or months > 1}


def test_jobs_cost_what_the_price_book_says_of_compute_and_api() -> None:
    found = costs(lines.jobs("", daily(100), BOOK))
    assert found["compute"].mean_usd == pytest.approx(3000 * 0.01, rel=0.04)
    assert found["api"].mean_usd == pytest.approx(3000 * 0.005, rel=0.04)
    assert found[TOTAL].mean_usd == pytest.approx(found["compute"].mean_usd + found["api"].mean_usd)
    low, high = found[TOTAL].bounds[80]
    assert low < found[TOTAL].mean_usd < high
    assert found[TOTAL].bounds[95][0] < low
    assert found[TOTAL].bounds[95][1] > high


def test_compute_and_api_of_the_same_jobs_err_together() -> None:
    found = costs(lines.jobs("", daily(100), BOOK))
    parts = sum(found[name].bounds[80][1] - found[name].mean_usd for name in ("compute", "api"))
    assert found[TOTAL].bounds[80][1] - found[TOTAL].mean_usd == pytest.approx(parts)


def test_lines_of_their_own_err_partly_together() -> None:
    usage_line, other = lines.jobs("a", daily(100), BOOK), lines.jobs("b", daily(100, seed=12), BOOK)
    found = costs(usage_line, other)
    alone = [costs(each)[TOTAL] for each in (usage_line, other)]
    whole = found[TOTAL].bounds[80][1] - found[TOTAL].mean_usd
    apart = [each.bounds[80][1] - each.mean_usd for each in alone]
    assert max(apart) < whole < sum(apart)


def test_operations_within_the_allowance_cost_nothing_and_beyond_it_whole_millions() -> None:
    free = costs(lines.operations("A", StorageClass.STANDARD, daily(10_000)))
    assert free["r2-class-a"].mean_usd == 0
    assert free["r2-class-a"].bounds[95] == (0, 0)
    dear = costs(lines.operations("A", StorageClass.STANDARD, daily(80_000, noise=0.01)))  # 2.4 million in November
    assert dear["r2-class-a"].mean_usd == pytest.approx(2 * 4.5)


def test_near_the_allowance_the_expected_price_is_that_of_what_may_happen() -> None:
    history = daily(33_200, noise=0.2)
    history *= 33_200 / history.iloc[-20:].mean()
    found = costs(lines.operations("A", StorageClass.STANDARD, history))["r2-class-a"]
    assert 0 < found.mean_usd < 4.5  # 0.996 million are expected, which cost nothing
    assert found.bounds[95][1] == 4.5


def test_stored_bytes_are_the_known_peaks_what_lives_and_what_is_uploaded() -> None:
    peaks = {date(2026, 11, day): 100 * GB for day in range(1, 21)}
    stock = Stock(100 * GB, {date(2026, 11, 24): 30 * GB})
    still = costs(stored=Stored(stock, peaks))
    months = (20 * 100 + 4 * 100 + 6 * 70) / 30  # of a day the peak counts: what leaves on it was there in the morning
    assert still["r2-storage"].mean_usd == pytest.approx(float(int(months - 10 + 0.999)) * 0.015)
    growing = costs(stored=Stored(stock, peaks, daily(20 * GB)))
    assert growing["r2-storage"].mean_usd > still["r2-storage"].mean_usd
    assert growing["r2-storage"].method == snapshot(
        "stock and flow; uploads: weekday level: 27 days are too few for a trend"
    )


def test_next_months_follow_and_growth_can_be_asked_for() -> None:
    line = lines.jobs("", daily(100, noise=0.0), BOOK)
    plain = predict([line], Stored(Stock(0), {}), AS_OF, 3)
    asked = predict([line], Stored(Stock(0), {}), AS_OF, 3, 20.0)
    totals = [cost for cost in plain if cost.service == TOTAL]
    assert [cost.month for cost in totals] == [date(2026, 11, 1), date(2026, 12, 1), date(2027, 1, 1)]
    grown = [cost for cost in asked if cost.service == TOTAL]
    assert grown[2].mean_usd / totals[2].mean_usd == pytest.approx(1.2 ** (56.5 / 30.44), rel=0.03)


def test_a_line_without_history_is_left_out() -> None:
    empty = pd.Series(dtype=float, index=pd.DatetimeIndex([]))
    assert set(costs(lines.jobs("", empty, BOOK))) == {TOTAL, "r2-storage"}


@pytest.mark.parametrize(("days", "said"), [(1, True), (6, True), (7, False)])
def test_less_than_a_week_of_usage_gives_no_range(days: int, said: bool) -> None:
    found = costs(lines.jobs("", daily(100, days), BOOK), months=2)
    assert {name: cost.method == TOO_SHORT for name, cost in found.items()} == dict.fromkeys(found, said)
    assert (TOO_SHORT in found[TOTAL].between(80)) is said
    assert (TOO_SHORT in totals([found[TOTAL]])[0]) is said
    assert {row.has_range for row in rows(list(found.values()), datetime(2026, 11, 21, tzinfo=UTC))} == {not said}
    joined = costs(lines.jobs("", daily(100), BOOK), lines.operations("A", StorageClass.STANDARD, daily(9, days)))
    assert {name for name, cost in joined.items() if cost.method == TOO_SHORT} == ({"r2-class-a"} if said else set())


def test_infrequent_access_and_retrieval_are_priced() -> None:
    found = costs(lines.retrieval(daily(GB, noise=0.0)), stored=Stored(Stock(0), {}, None, 50 * GB))
    assert found["r2-storage"].mean_usd == pytest.approx(0.5)
    assert found["r2-retrieval"].mean_usd == pytest.approx(0.30, abs=0.01)


def test_costs_become_rows_in_micro_dollars() -> None:
    at = datetime(2026, 11, 21, 6, tzinfo=UTC)
    made = rows([Cost(date(2026, 11, 1), TOTAL, 1.5, {80: (1.0, 2.0), 95: (0.5, 2.5)}, "how")], at)
    assert made == [(date(2026, 11, 1), "", at, 1_500_000, 1_000_000, 2_000_000, 500_000, 2_500_000, "how")]


def test_the_first_sketchs_table_of_storage_is_reproduced() -> None:
    """100, 500, 1,000 and 5,000 users with 5 videos of 30 MB: $0.08, 0.98, 2.10 and 11.10, before rounding up."""
    sizes = [users * 5 * 30 * 10**6 for users in (100, 500, 1000, 5000)]
    for size, usd in zip(sizes, (0.075, 0.975, 2.10, 11.10), strict=True):
        peaks = {date(2026, 11, day): size for day in range(1, 21)}
        found = costs(stored=Stored(Stock(size), peaks))["r2-storage"].mean_usd
        assert usd <= found < usd + 0.015  # rounded up to a whole GB-month


def test_parts_by_model_and_provider_are_listed_beside_the_services_without_adding_to_the_sum() -> None:
    of_models = [lines.clips("veo", daily(2e6)), lines.clips("wan", daily(1e6, seed=12))]
    apart = costs(*of_models)
    found = costs(*of_models, lines.provider("provider:fal", daily(3e6, seed=13)))
    assert found["model:veo"].mean_usd == pytest.approx(60, rel=0.05)
    assert found["model:veo"].mean_usd + found["model:wan"].mean_usd == pytest.approx(found["api"].mean_usd)
    assert found["provider:fal"].mean_usd == pytest.approx(90, rel=0.05)
    assert found[TOTAL] == apart[TOTAL]


def test_a_flat_price_is_of_its_model_with_compute_and_api_together() -> None:
    found = costs(lines.jobs("dream", daily(100), BOOK))
    both = found["compute"].mean_usd + found["api"].mean_usd
    assert found["model:dream"].mean_usd == pytest.approx(both)
