"""Slow leaks: growth beyond the trend, without an anomalous day."""

from datetime import timedelta
from decimal import Decimal
from math import exp
from random import Random

import pytest
from inline_snapshot import snapshot

from reelkeeper.model.alerts import Severity
from reelkeeper.model.money import Charge
from reelkeeper.rules.spend.anomaly import AnomalyPolicy
from reelkeeper.rules.spend.drift import drift, findings
from tests.rules.charges import NOW, ago, charge

POLICY = AnomalyPolicy()


def growing(days: int, *, trend: float = 0.0, leak: float = 0.0) -> list[Charge]:
    """$10 a day, that grow by `trend` each day, and since 30 days by `leak` more."""
    rng = Random(4)
    amounts = [10 * exp(trend * -n + leak * max(30 - n, 0) + rng.gauss(0, 0.05)) for n in range(days)]
    return [charge(f"{usd:.9f}", ago(n)) for n, usd in enumerate(amounts)]


def test_a_leak_is_reported_once_a_week_with_its_monthly_cost() -> None:
    charges = growing(150, leak=0.02)
    (finding,) = findings(charges, POLICY, NOW)
    assert (finding.rule, finding.scope, finding.period) == ("drift", "service:compute", "2026-W47")
    assert finding.severity is Severity.NOTICE
    assert finding.title == snapshot("The spend of service compute has grown by 57 % in four weeks")
    assert finding.text == snapshot(
        "$15.63 a day at list price in the two weeks to 2026-11-22, $9.92 four weeks before: 58 % beyond its trend. That is $172.60 a month."
    )
    assert finding.impact_microusd == pytest.approx(172_600_000, rel=0.01)
    later = NOW + timedelta(days=5)
    assert [finding.period for finding in findings(charges, POLICY, later)] == ["2026-W47"]  # the same Sunday


def test_a_leak_that_goes_on_replaces_what_was_told_of_the_week_before() -> None:
    charges = growing(150, leak=0.04)
    before, now = (findings(charges, POLICY, NOW - timedelta(days=days))[0] for days in (7, 0))
    assert (before.period, now.period) == ("2026-W46", "2026-W47")
    assert ("drift", before.scope, before.period) in now.replaces
    assert ("drift", "total", before.period) in now.replaces


def test_drift_of_the_total_is_reported_only_if_no_service_has_it() -> None:
    rng, charges = Random(4), []
    for n in range(150):
        for service in range(8):  # each begins to leak when it is large enough to matter and too small to be told
            usd = 2.2 * exp(0.02 * max(30 - n, 0) + rng.gauss(0, 0.02))
            charges.append(charge(f"{usd:.9f}", ago(n), service=f"s{service}"))
    assert [finding.scope for finding in findings(charges, AnomalyPolicy(floor_usd=Decimal(3)), NOW)] == ["total"]


def test_usual_growth_is_the_trend() -> None:
    assert findings(growing(200, trend=0.012), POLICY, NOW) == []
    assert len(findings(growing(200, trend=0.012, leak=0.02), POLICY, NOW)) == 1


def test_shrinking_or_constant_cost_is_not_news() -> None:
    assert findings(growing(150), POLICY, NOW) == []
    assert findings(growing(150, leak=-0.03), POLICY, NOW) == []


def test_weeks_in_which_more_was_taken_back_than_spent_are_compared_with_nothing() -> None:
    assert drift([10.0] * 77 + [-20.0] * 14) is None
    assert drift([10.0] * 63 + [-20.0] * 14 + [10.0] * 28) is None
    assert drift([10.0] * 84 + [-20.0] * 14 + [10.0] * 77) == (10.0, 10.0, 0.0)


def test_three_months_are_needed() -> None:
    assert findings(growing(85, leak=0.02), POLICY, NOW) == []
    assert findings([], POLICY, NOW) == []


def test_a_week_of_which_little_is_known_says_nothing() -> None:
    weeks = [10.0] * 77 + [None] * 3 + [20.0] * 4 + [20.0] * 7
    assert drift(weeks) is None
    assert drift([10.0] * 77 + [20.0] * 14) == (10.0, 20.0, 0.0)


def test_no_drift_is_found_without_cost_four_weeks_ago() -> None:
    assert drift([0.0] * 77 + [20.0] * 14) is None
