"""Anomalous days in the spend, and the texts about them."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from math import exp
from random import Random
from typing import Any

import pytest
from inline_snapshot import snapshot
from pydantic import ValidationError

from reelkeeper.model.alerts import Finding, Severity
from reelkeeper.model.money import Charge, JobTotal
from reelkeeper.rules.spend.anomaly import AnomalyPolicy, findings
from tests.marks import marked
from tests.rules.charges import NOW, ago, charge

POLICY = AnomalyPolicy()
USUAL = {"compute": 20.0, "api": 10.0, "r2-class-a": 2.0}


def spend(days: int = 120, odd: Mapping[tuple[str, int], float] | None = None, **columns: Any) -> list[Charge]:  # noqa: ANN401  any column
    """So many days of three services, today included; `odd` gives (service, days ago) a factor."""
    rng, charges = Random(3), []
    for n in range(days):
        for service, usual in USUAL.items():
            usd = usual * exp(rng.gauss(0, 0.03)) * (odd or {}).get((service, n), 1)
            charges.append(charge(f"{usd:.9f}", ago(n), service=service, **columns))
    return charges


def found(charges: list[Charge], policy: AnomalyPolicy = POLICY, as_of: datetime = NOW) -> list[tuple[str, str]]:
    return [(finding.scope, finding.period) for finding in findings(charges, policy, as_of)]


def only(charges: list[Charge], policy: AnomalyPolicy = POLICY) -> Finding:
    (finding,) = findings(charges, policy, NOW)
    return finding


def test_usual_days_are_not_odd() -> None:
    assert found(spend()) == []
    assert found([]) == []


def test_an_odd_service_that_does_not_move_the_total_is_reported() -> None:
    finding = only(spend(odd={("r2-class-a", 1): 3}))
    assert (finding.rule, finding.scope, finding.period, finding.level) == (
        "anomaly",
        "service:r2-class-a",
        "2026-11-23",
        "",
    )
    assert finding.severity is Severity.WARNING
    assert finding.title == snapshot(
        "The spend of service r2-class-a is odd: $5.95 on 2026-11-23, 193 % more than usual"
    )
    assert finding.impact_microusd == pytest.approx(30 * 3_920_000, rel=0.01)
    assert finding.text == snapshot(
        "$5.95 at list price on 2026-11-23, where $2.03 is usual. A month of such days costs $117.54 more."
    )


def test_an_odd_total_is_reported_once_with_the_services_that_caused_it() -> None:
    finding = only(spend(odd={("compute", 1): 3}))
    assert (finding.scope, finding.period) == ("total", "2026-11-23")
    assert finding.text == snapshot(
        "$73.72 at list price on 2026-11-23, where $31.80 is usual. Most of the difference: compute $41.86. A month of such days costs $1,257.63 more."
    )
    assert finding.figures[-1][0] == "compute"


def test_all_services_at_once_are_one_finding() -> None:
    assert found(spend(odd={(service, 1): 2 for service in USUAL})) == [("total", "2026-11-23")]


def test_too_little_is_a_notice_without_a_price() -> None:
    finding = only(spend(odd={("api", 1): 0.2, ("compute", 1): 0.2}))
    assert (finding.severity, finding.impact_microusd) == (Severity.NOTICE, None)
    assert finding.title == snapshot("The spend is odd: $8.09 on 2026-11-23, 75 % less than usual")


def test_today_is_not_over_so_it_can_only_be_too_much() -> None:
    assert found(spend(odd={(service, 0): 0.1 for service in USUAL})) == []
    finding = only(spend(odd={(service, 0): 2 for service in USUAL}))
    assert (finding.scope, finding.period) == ("total", "2026-11-24")
    assert marked(finding.title) == snapshot("The spend is odd: $64.77 on DAY so far, 104 % more than usual")


def test_a_low_morning_does_not_hide_what_yesterday_was() -> None:
    odd = {(service, 0): 0.1 for service in USUAL} | {(service, 1): 2 for service in USUAL}
    assert found(spend(odd=odd)) == [("total", "2026-11-23")]


def test_an_anomaly_ends_when_yesterday_was_usual_again() -> None:
    assert found(spend(odd={("compute", 2): 3})) == []
    finding = only(spend(odd={("compute", 1): 3, ("compute", 2): 3}))
    assert finding.period == "2026-11-22"
    assert finding.text == snapshot(
        "$75.56 at list price on 2026-11-22, where $31.85 is usual. It has gone on since: $85.63 more in all. Most of the difference: compute $43.67, api $0.24, r2-class-a $0.03. A month of such days costs $1,311.41 more."
    )


def test_an_anomaly_that_continues_after_the_quiet_days_is_news_again() -> None:
    assert found(spend(odd={("compute", n): 3 for n in range(1, 6)})) == [("total", "2026-11-23")]


def test_what_was_odd_while_nobody_looked_is_told_as_daily_checks_would_have() -> None:
    odd = {("compute", n): 3.0 for n in (20, 19, 12, 11, 10, 9, 8, 7)} | {("compute", 3): 9.0, ("r2-class-a", 5): 3.0}
    charges, daily = spend(odd=odd), set[tuple[str, str]]()
    for n in range(15, -1, -1):
        daily |= {*found([one for one in charges if one.day <= ago(n)], as_of=NOW - timedelta(days=n))}
    told = [(one.scope, one.period) for one in findings(charges, POLICY, NOW, since=ago(16))]
    assert {*told} == daily
    assert len(told) == len(daily) == 4  # the longest, which goes on after the quiet days, twice
    assert {period for _, period in told} == {f"{ago(n)}" for n in (12, 8, 5, 3)}


def test_each_day_of_a_new_account_since_the_last_check_is_compared_with_the_day_before() -> None:
    charges = [charge(usd, ago(n), service="api") for n, usd in enumerate(["3", "3", "3", "30", "3", "3"])]
    assert found(charges) == []
    assert {one.period for one in findings(charges, POLICY, NOW, since=ago(4))} == {f"{ago(3)}"}
    assert findings(charges, POLICY, NOW, since=ago(2)) == []


def test_a_few_cents_are_no_news() -> None:
    cheap = [item._replace(list_nanousd=item.list_nanousd // 100) for item in spend(odd={("compute", 1): 5})]
    assert found(cheap) == []
    assert found(cheap, AnomalyPolicy(floor_usd=Decimal("0.10"))) == [("total", "2026-11-23")]


def test_allowances_and_rounding_are_not_odd_since_list_price_is_judged() -> None:
    charges = [*spend(), charge("0", ago(1), list_nanousd=0, billed_nanousd=-30 * 10**9)]
    assert found(charges) == []


def test_a_service_that_is_odd_first_is_replaced_by_the_total_once_that_is_odd_too() -> None:
    alone, all_of_it = spend(odd={("r2-class-a", 0): 3}), spend(odd={("r2-class-a", 0): 30})
    (first,), (later,) = findings(alone, POLICY, NOW), findings(all_of_it, POLICY, NOW)
    assert (first.scope, later.scope) == ("service:r2-class-a", "total")
    assert later.replaces == ((first.rule, first.scope, first.period),)
    assert first.replaces == ()


def test_tiers_are_judged_like_services() -> None:
    free = [charge("3", ago(n), user="bob", tier="free", service="api") for n in range(2, 120)]
    bought = [*free, charge("9", ago(1), user="bob", tier="free", service="api")]
    assert found([*spend(), *bought]) == [("service:api", "2026-11-23"), ("tier:free", "2026-11-23")]


def test_a_service_without_a_charge_on_a_charged_day_cost_nothing() -> None:
    charges = [item for item in spend() if (item.service, item.day) != ("api", ago(1))]
    assert found(charges) == [("total", "2026-11-23")]


def test_an_unknown_day_is_not_odd() -> None:
    assert found([item for item in spend() if item.day != ago(1)]) == []


def test_a_new_account_compares_with_the_day_before() -> None:
    assert found(spend(days=8, odd={("compute", 1): 8})) == [("total", "2026-11-23")]
    assert found(spend(days=8, odd={("compute", 1): 2.5})) == []
    assert found(spend(days=1)) == []


@pytest.mark.parametrize("days", [2, 8, 60])
def test_a_day_on_which_more_was_taken_back_than_spent_is_compared_with_nothing(days: int) -> None:
    """A vendor states the next day that a clip which had been counted cost nothing."""
    taken_back = charge("-30", ago(1), service="api")
    assert found([*spend(days=days), *[taken_back] * 2]) in ([], [("total", "2026-11-23")])


def test_a_service_that_begins_is_odd_when_it_costs_something() -> None:
    finding = only([*spend(), charge("5", ago(1), service="r2-class-b")])
    assert finding.scope == "service:r2-class-b"
    assert finding.text == snapshot(
        "$5.00 at list price on 2026-11-23, where next to nothing is usual. A month of such days costs $150.00 more."
    )
    assert "%" not in finding.title


def test_a_day_that_was_meant_goes_into_the_calendar() -> None:
    quiet = spend(odd={(service, 1): 0.6 for service in USUAL})
    weekends = [
        item._replace(list_nanousd=item.list_nanousd // 2) if item.day.weekday() > 4 else item for item in quiet
    ]
    assert found(weekends) == [("total", "2026-11-23")]
    for entry in ("11-23", "2026-11-23", "2026-11-20/2026-11-30"):
        assert found(weekends, AnomalyPolicy(calendar=(entry,))) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"calendar": ["13-01"]},
        {"calendar": ["2026-02-30"]},
        {"calendar": ["12-25/12-31"]},
        {"calendar": ["2026-12-31/2026-12-20"]},
        {"calendar": ["Christmas"]},
        {"change_percent": 100},
        {"floor_usd": -1},
        {"floor_usd": "NaN"},
        {"holidays": []},
    ],
)
def test_invalid_thresholds_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AnomalyPolicy.model_validate(wrong)


def test_the_policy_survives_json_as_a_flow_run_sends_it() -> None:
    policy = AnomalyPolicy(calendar=("02-29", "2026-12-20/2026-12-31"))
    assert AnomalyPolicy.model_validate(policy.model_dump(mode="json")) == policy


@pytest.mark.long("two years, judged twice")
def test_two_years_are_judged_in_a_moment() -> None:
    charges = spend(days=800)
    assert found(charges) == []
    assert found(charges, as_of=NOW - timedelta(days=400)) == []


def test_an_odd_provider_or_model_is_reported_if_there_are_several() -> None:
    rng = Random(9)
    jobs = [
        JobTotal(scope, f"{ago(n)}", round(usd * 10**6 * exp(rng.gauss(0, 0.03)) * (3 if (scope, n) == odd else 1)), 0)
        for n in range(120)
        for odd in [("provider:fal", 1)]
        for scope, usd in (("provider:fal", 4), ("provider:runway", 6), ("model:veo", 10))
    ]
    odd_ones = findings(spend(), POLICY, NOW, jobs)
    assert [(finding.scope, finding.period) for finding in odd_ones] == [("provider:fal", "2026-11-23")]
    assert odd_ones[0].title == snapshot(
        "The spend of provider fal is odd: $12.57 on 2026-11-23, 215 % more than usual"
    )
    alone = [total for total in jobs if total.scope != "provider:runway"]
    assert findings(spend(), POLICY, NOW, alone) == []
