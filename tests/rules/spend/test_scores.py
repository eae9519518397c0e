"""Score the detection of odd days on made-up costs; the benchmark has more of them, public series and a peer."""

from random import Random

import pytest

from bench.anomalies import made_up, ours, score, three_sigma


@pytest.mark.long("years of days, judged one by one")
@pytest.mark.parametrize("monthly", [False, True], ids=["plain", "with a job each month"])
def test_odd_days_are_found_with_few_false_alerts(monthly: bool) -> None:
    series = list(made_up(Random(11), monthly=monthly))
    missed, wrong, false = score(series, ours)
    assert missed <= 0.15
    assert false <= 0.1
    assert wrong < score(series, three_sigma)[1]
