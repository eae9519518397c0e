"""The quality of anomaly detection on synthetic cost series; the benchmark also uses real ones."""

from dataclasses import replace
from random import Random

import pytest

from bench.anomaly import detectors
from bench.anomaly.score import score
from bench.anomaly.sets import KINDS, synthetic


@pytest.mark.long
def test_odd_days_are_found_with_few_false_alarms() -> None:
    series = list(synthetic(Random(11)))
    ours = score(series, detectors.ours(series))
    assert ours.events == 181
    assert {event.kind for item in series for event in item.events} == {*KINDS}
    assert ours.precision >= 0.90
    assert ours.recall >= 0.85
    assert ours.false_a_month <= 0.05
    assert ours.f1 > score(series, detectors.three_sigma(series)).f1
    assert ours.f1 > score(series, detectors.static(series)).f1


@pytest.mark.long
def test_monthly_recurrences_are_learnt_and_other_odd_days_still_found() -> None:
    series = list(synthetic(Random(12), monthly=True))
    ours = score(series, detectors.ours(series))
    assert ours.f1 >= 0.90
    assert ours.false_a_month <= 0.1


@pytest.mark.long
def test_an_anomaly_of_all_series_of_an_account_is_reported_for_the_total_only() -> None:
    (alone,) = synthetic(Random(11), count=1)
    account = [replace(alone, name=name, family="account") for name in "abc"]
    alerts, wholes = detectors.accounts(account)
    assert alerts == [[], [], []]
    assert [(day - alone.start).days for _, day in wholes] == detectors.ours([alone])[0]
    assert score(account, alerts, wholes).recall == score([alone], detectors.ours([alone])).recall
