"""Budgets: which are exceeded, at which level, and the texts about them."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inline_snapshot import snapshot
from pydantic import ValidationError

from reelkeeper.model.alerts import Severity
from reelkeeper.model.money import Charge
from reelkeeper.rules.spend.budget import Budget, BudgetPolicy, Period, findings
from tests.marks import marked
from tests.rules.charges import NOW, TODAY, ago, charge

DAILY = BudgetPolicy(monthly_usd=None)
MONTHLY = BudgetPolicy(daily_usd=None)


def crossed(charges: list[Charge], policy: BudgetPolicy) -> list[tuple[str, str, str]]:
    return [(finding.scope, finding.period, finding.level) for finding in findings(charges, policy, NOW)]


def of(scope: str, usd: str = "5", period: Period = Period.DAY) -> BudgetPolicy:
    return BudgetPolicy(
        daily_usd=None, monthly_usd=None, budgets=(Budget(scope=scope, period=period, usd=Decimal(usd)),)
    )


@pytest.mark.parametrize(
    ("usd", "level", "severity"),
    [
        ("4.999999999", None, None),
        ("5", "50", Severity.NOTICE),
        ("7.999999999", "50", Severity.NOTICE),
        ("8", "80", Severity.WARNING),
        ("10", "100", Severity.CRITICAL),
        ("14.999999999", "100", Severity.CRITICAL),
        ("15", "150", Severity.CRITICAL),
        ("5000", "150", Severity.CRITICAL),
    ],
)
def test_only_the_highest_level_of_ten_dollars_a_day_is_news(
    usd: str, level: str | None, severity: Severity | None
) -> None:
    found = findings([charge(usd)], DAILY, NOW)
    assert [(finding.level, finding.severity) for finding in found] == ([] if level is None else [(level, severity)])


def test_a_finding_says_what_was_spent_of_what_on_what_and_how_much_is_over() -> None:
    charges = [charge("8.10"), charge("3", service="r2-class-a"), charge("2.10", service="api"), charge("0.05", ago(1))]
    (found,) = findings(charges, DAILY, NOW)
    assert found.title == snapshot("Daily budget at 132 %: $13.20 of $10.00")
    assert found.text == snapshot(
        "$13.20 of $10.00 spent in 2026-11-24, as of 2026-11-24 14:15 UTC. That is $3.20 over. "
        "Most of it: compute $8.10, r2-class-a $3.00, api $2.10."
    )
    assert (found.rule, found.scope, found.period) == ("budget", "total", "2026-11-24")
    assert found.impact_microusd is None  # it is a figure a month
    assert found.figures[:2] == (("Spent", "$13.20"), ("Budget", "$10.00"))
    assert marked(found.suggestion) == snapshot("See what it went to: reelkeeper bill --by service, and --by user.")


def test_below_the_budget_nothing_is_over() -> None:
    (found,) = findings([charge("9.99")], DAILY, NOW)
    assert (found.level, found.impact_microusd) == ("80", None)
    assert "over" not in found.text


def test_yesterday_is_checked_again_as_its_last_usage_arrives_late() -> None:
    assert crossed([charge("12", ago(1)), charge("5")], DAILY) == [
        ("total", "2026-11-23", "100"),
        ("total", "2026-11-24", "50"),
    ]
    assert crossed([charge("12", ago(2))], DAILY) == []


def test_all_days_and_months_since_the_last_check_are_checked() -> None:
    charges = [charge("12", ago(n)) for n in (2, 4, 6)] + [charge("240", ago(30)), charge("9")]
    found = findings(charges, BudgetPolicy(), NOW, ago(4))
    assert [(one.period, one.level) for one in found] == [
        ("2026-11-20", "100"),
        ("2026-11-22", "100"),
        ("2026-11-24", "80"),
    ]
    found = findings(charges, BudgetPolicy(), NOW, ago(30))
    assert [one.period for one in found] == [
        "2026-10-25",
        "2026-11-18",
        "2026-11-20",
        "2026-11-22",
        "2026-11-24",
        "2026-10",
    ]
    assert crossed(charges, DAILY) == [("total", "2026-11-24", "80")]
    assert findings(charges, DAILY, NOW, TODAY) == findings(charges, DAILY, NOW)


def test_a_users_earlier_days_which_are_known_by_month_alone_are_not_checked() -> None:
    charges = [charge("12", ago(n), user="ann", tier="pro") for n in (1, 4)]
    assert [one.period for one in findings(charges, of("user:ann"), NOW, ago(5))] == ["2026-11-23"]
    assert [one.period for one in findings(charges, of("tier:pro"), NOW, ago(5))] == ["2026-11-20", "2026-11-23"]
    assert [one.period for one in findings(charges, of("user:ann", period=Period.MONTH), NOW, ago(40))] == ["2026-11"]


def test_only_an_excess_of_a_past_day_is_news() -> None:
    assert crossed([charge("9.99", ago(1))], DAILY) == []
    assert crossed([charge("16", ago(1))], DAILY) == [("total", "2026-11-23", "150")]


@pytest.mark.parametrize(
    ("levels", "usd", "level"),
    [
        ((50, 80), "9.999999999", None),
        ((50, 80), "10", "80"),
        ((50, 80, 150), "13", "80"),
        ((50, 80, 150), "15", "150"),
        ((150,), "13", None),
    ],
)
def test_an_excess_of_a_past_day_is_news_at_the_highest_level_that_is_reported_also_below_the_whole_budget(
    levels: tuple[int, ...], usd: str, level: str | None
) -> None:
    policy = BudgetPolicy(monthly_usd=None, levels_percent=levels)
    expected = [] if level is None else [("total", "2026-11-23", level)]
    assert crossed([charge(usd, ago(1))], policy) == expected


def test_the_impact_of_a_finding_is_the_months_excess() -> None:
    (found,) = findings([charge("230")], MONTHLY, NOW)
    assert found.impact_microusd == 30_000_000


def test_a_month_is_the_calendar_month_in_utc_and_the_last_one_counts_on_the_first() -> None:
    first = NOW.replace(day=1)
    charges = [charge("210", TODAY.replace(month=10, day=31)), charge("100", first.date())]
    assert [(finding.period, finding.level) for finding in findings(charges, MONTHLY, first)] == [
        ("2026-10", "100"),
        ("2026-11", "50"),
    ]
    assert crossed(charges, MONTHLY) == [("total", "2026-11", "50")]


def test_budgets_of_a_service_a_tier_and_a_user_count_only_their_own() -> None:
    charges = [
        charge("3", user="ann", tier="pro"),
        charge("4", user="bob", tier="free"),
        charge("9", service="api", user="ann", tier="pro"),
    ]
    assert crossed(charges, of("service:compute", "7")) == [("service:compute", "2026-11-24", "100")]
    assert crossed(charges, of("tier:pro", "8")) == [("tier:pro", "2026-11-24", "150")]
    assert crossed(charges, of("user:bob", "5")) == [("user:bob", "2026-11-24", "80")]
    assert crossed(charges, of("user:bo", "1")) == []


def test_a_user_is_judged_by_list_cost_and_the_whole_by_the_bill() -> None:
    free = [charge("6", user="ann", tier="pro"), charge("-6", list_nanousd=0)]  # the residual: a free allowance
    assert crossed(free, of("user:ann")) == [("user:ann", "2026-11-24", "100")]
    assert crossed(free, of("tier:pro")) == [("tier:pro", "2026-11-24", "100")]
    assert crossed(free, DAILY) == []


def test_an_estimate_is_called_one() -> None:
    (found,) = findings([charge("5", estimated=True)], DAILY, NOW)
    assert found.text == snapshot(
        "$5.00 of $10.00 spent in 2026-11-24, as of 2026-11-24 14:15 UTC. Most of it: compute $5.00. Some of the usage is an estimate."
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"daily_usd": 0},
        {"daily_usd": -1},
        {"daily_usd": "NaN"},
        {"monthly_usd": "Infinity"},
        {"monthly_usd": "0.0000001"},
        {"levels_percent": []},
        {"levels_percent": [0, 50]},
        {"levels_percent": [80, 50]},
        {"levels_percent": [50, 50]},
        {"budgets": [{"scope": "service:", "usd": 1}]},
        {"budgets": [{"scope": "planet:earth", "usd": 1}]},
        {"budgets": [{"scope": "user:ann"}]},
        {"budgets": [{"usd": 1, "colour": "red"}]},
        {"budgets": [{"scope": "total", "period": "day", "usd": 1}]},
        {"limit": 1},
    ],
)
def test_contradictory_budgets_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        BudgetPolicy.model_validate(wrong)


def test_a_policy_survives_json_as_a_flow_run_sends_it() -> None:
    policy = of("tier:free", "0.25")
    assert BudgetPolicy.model_validate(policy.model_dump(mode="json")) == policy
    assert BudgetPolicy.model_validate({"daily_usd": 0.1}).daily_usd == Decimal("0.1")


AMOUNTS = st.lists(st.integers(0, 30 * 10**9), max_size=20)


@given(amounts=AMOUNTS, levels=st.sets(st.integers(1, 400), min_size=1).map(sorted))
def test_the_level_is_the_highest_not_above_the_share_spent(amounts: list[int], levels: list[int]) -> None:
    policy = BudgetPolicy(monthly_usd=None, levels_percent=tuple(levels))
    charges = [charge("0", billed_nanousd=amount) for amount in amounts]
    reached = [level for level in levels if sum(amounts) * 100 >= 10 * 10**9 * level]
    assert [int(finding.level) for finding in findings(charges, policy, NOW)] == reached[-1:]


@given(amounts=AMOUNTS, data=st.data())
def test_the_order_of_charges_does_not_matter(amounts: list[int], data: st.DataObject) -> None:
    charges = [charge("0", ago(n % 3), billed_nanousd=amount) for n, amount in enumerate(amounts)]
    shuffled = data.draw(st.permutations(charges))
    assert findings(shuffled, BudgetPolicy(), NOW) == findings(charges, BudgetPolicy(), NOW)
