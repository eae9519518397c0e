"""Whether a month will end over its budget."""

from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest
from inline_snapshot import snapshot

from reelkeeper.model.alerts import Severity
from reelkeeper.model.money import Charge, CostForecast
from reelkeeper.rules.spend import budget
from reelkeeper.rules.spend.breach import findings
from reelkeeper.rules.spend.budget import Budget, BudgetPolicy
from tests.rules.charges import NOW, TODAY, ago, charge

POLICY = BudgetPolicy()
SO_FAR = [charge("5", ago(n)) for n in range(30)]  # $120 in the 24 days of November; today's are spent already


def forecast(low: int, mean: int, high: int, **columns: Any) -> CostForecast:  # noqa: ANN401  any column
    micro = 10**6
    bounds = (mean * micro, low * micro, high * micro, low * micro, high * 2 * micro)
    as_of = NOW - timedelta(days=1)
    return CostForecast(TODAY.replace(day=1), "", as_of, *bounds, "E5 median")._replace(**columns)


def levels(charges: list[Charge], *forecasts: CostForecast, policy: BudgetPolicy = POLICY) -> list[tuple[str, str]]:
    return [(finding.scope, finding.level) for finding in findings(charges, policy, NOW, forecasts)]


@pytest.mark.parametrize(
    ("band", "level", "severity"),
    [
        ((150, 170, 190), None, None),
        ((150, 170, 200), None, None),
        ((160, 190, 210), "10", Severity.NOTICE),
        ((180, 210, 250), "50", Severity.WARNING),
        ((210, 230, 250), "90", Severity.WARNING),
    ],
)
def test_a_forecast_tells_how_probable_it_is(
    band: tuple[int, int, int], level: str | None, severity: Severity | None
) -> None:
    found = findings(SO_FAR, POLICY, NOW, [forecast(*band)])
    assert [(finding.level, finding.severity) for finding in found] == ([] if level is None else [(level, severity)])


def test_the_finding_has_the_expected_cost_and_the_method() -> None:
    (found,) = findings(SO_FAR, POLICY, NOW, [forecast(180, 210, 250)])
    assert found.title == snapshot("Monthly budget of $200.00 is expected to be exceeded: $210.00 expected")
    assert found.text == snapshot(
        "$120.00 of $200.00 spent in 2026-11 so far. The forecast of 2026-11-23, by E5 median, says $210.00, and with "
        "80 % probability between $180.00 and $250.00."
    )
    assert (found.rule, found.period, found.impact_microusd) == ("forecast_breach", "2026-11", 10_000_000)


def test_without_a_forecast_the_run_rate_answers() -> None:
    assert levels(SO_FAR) == []  # 120 + 6 x 5 = 150
    fast = [charge("9", day) for day in map(ago, range(1, 24))]
    (found,) = findings(fast, BudgetPolicy(monthly_usd=Decimal(250)), NOW)  # 23 x 9 + 7 x 9 = 270
    assert found.level == "50"
    assert found.text == snapshot(
        "$207.00 of $250.00 spent in 2026-11 so far. The mean of the last 23 whole days, carried on, gives $270.00."
    )


def test_two_days_are_too_few_for_a_run_rate_and_today_is_no_whole_day() -> None:
    assert levels([charge("60", ago(1)), charge("60", ago(2)), charge("60")]) == []
    assert levels([charge("45", ago(n)) for n in (1, 2, 3)]) == [("total", "50")]


@pytest.mark.parametrize("scope", ["service:api", "tier:pro", "user:ann"])
def test_an_idle_day_of_a_scope_counts_for_its_rate_from_its_first_charge_on(scope: str) -> None:
    """A batch of $40 each Friday, of which three are in November, is no $40 a day."""
    policy = BudgetPolicy(monthly_usd=None, budgets=(Budget(scope=scope, usd=Decimal(200)),))
    batches = [charge("40", ago(n), service="api", user="ann", tier="pro") for n in (4, 11, 18, 25)]
    others = [charge("1", ago(n)) for n in range(1, 60)]
    assert levels([*others, *batches], policy=policy) == []
    new = [charge("40", ago(n), service="api", user="ann", tier="pro") for n in (1, 2, 3)]
    assert levels([*others, *new], policy=policy) == [(scope, "50")]


def test_days_of_the_last_month_count_for_the_rate_and_not_for_the_sum() -> None:
    first = NOW.replace(day=1)
    charges = [charge("10", first.date() - timedelta(days=n)) for n in range(1, 11)]
    (found,) = findings(charges, BudgetPolicy(), first)
    assert [value for _, value in found.figures[:3]] == ["$300.00", "$200.00", "$0.00"]


@pytest.mark.parametrize(
    "doubtful",
    [
        forecast(210, 230, 250, as_of=NOW - timedelta(days=9)),
        forecast(210, 230, 250, as_of=NOW + timedelta(hours=1)),
        forecast(210, 230, 250, month=date(2026, 12, 1)),
        forecast(210, 230, 250, service="compute"),
        forecast(30, 40, 50),  # 120 is spent already, above its 95 % band
    ],
    ids=["old", "of the future", "of another month", "of a service", "proved wrong"],
)
def test_a_forecast_that_says_nothing_of_this_gives_way_to_the_run_rate(doubtful: CostForecast) -> None:
    assert levels(SO_FAR, doubtful) == levels(SO_FAR) == []


def test_the_latest_forecast_counts() -> None:
    older = forecast(210, 230, 250, as_of=NOW - timedelta(days=6))
    assert levels(SO_FAR, older, forecast(100, 130, 150)) == []
    assert levels(SO_FAR, forecast(100, 130, 150), older) == []


def test_a_budget_of_a_service_is_judged_by_the_forecast_of_that_service() -> None:
    policy = BudgetPolicy(monthly_usd=None, budgets=(Budget(scope="service:compute", usd=Decimal(200)),))
    assert levels(SO_FAR, forecast(210, 230, 250, service="compute"), policy=policy) == [("service:compute", "90")]
    assert levels(SO_FAR, forecast(210, 230, 250), policy=policy) == []


@pytest.mark.parametrize(("usd", "is_spent"), [("199.99", False), ("200", True)])
def test_once_the_budget_is_spent_its_alert_replaces_what_was_foreseen(usd: str, is_spent: bool) -> None:
    charges, expected = [charge(usd, ago(3))], forecast(210, 230, 250)
    monthly = BudgetPolicy(daily_usd=None, levels_percent=(50, 80))
    (foreseen,), (crossed,) = findings(SO_FAR, monthly, NOW, [expected]), budget.findings(charges, monthly, NOW)
    assert bool(findings(charges, monthly, NOW, [expected])) is not is_spent
    assert ((foreseen.rule, foreseen.scope, foreseen.period) in crossed.replaces) is is_spent


def test_a_month_that_is_over_is_not_foreseen() -> None:
    first = NOW.replace(day=1)
    charges = [charge("6", first.date() - timedelta(days=n)) for n in range(1, 31)]
    assert not [finding for finding in findings(charges, BudgetPolicy(), first) if finding.period == "2026-10"]
