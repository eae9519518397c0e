"""All checks of the spend, and their summary."""

from inline_snapshot import snapshot

from reelkeeper.model.alerts import Severity
from reelkeeper.rules.spend import watch
from reelkeeper.rules.spend.anomaly import AnomalyPolicy
from reelkeeper.rules.spend.budget import BudgetPolicy
from reelkeeper.rules.spend.watch import CostLine, Spent
from tests.rules.charges import NOW, TODAY, ago, charge


def test_every_rule_is_evaluated_and_every_finding_is_of_one_of_them() -> None:
    steady = [charge("6", ago(n)) for n in range(1, 120)]
    spent = Spent([*steady, charge("60")], missing=[ago(4)], trouble="the token has expired")
    found = watch.judge(spent, BudgetPolicy(), AnomalyPolicy(), NOW)
    assert {finding.rule for finding in found} == {"budget", "anomaly", "missing_usage", "forecast_breach"}
    assert {finding.rule for finding in found} < {*watch.RULES}
    assert watch.judge(Spent(steady), BudgetPolicy(monthly_usd=None, daily_usd=None), AnomalyPolicy(), NOW) == []


def test_missing_days_are_counted_and_the_first_are_named() -> None:
    (few,) = watch.findings([ago(2)])
    assert (few.title, few.severity) == (snapshot("Usage of 1 day is missing"), Severity.WARNING)
    assert "2026-11-22." in few.text
    (many,) = watch.findings([ago(n) for n in range(9, 1, -1)])
    assert many.text == snapshot(
        "Nobody knows how much was stored on 2026-11-15, 2026-11-16, 2026-11-17, 2026-11-18, 2026-11-19 .... The last known figure stands in, as an estimate."
    )
    (trouble,) = watch.findings([], "the token lacks Account Analytics: Read")
    assert trouble.scope == "source:cloudflare"
    assert trouble.text == snapshot(
        "Our own count stands in, which cannot see what others ask of the bucket. the token lacks Account Analytics: Read"
    )
    assert watch.findings([]) == []


def test_the_bill_so_far_by_service_the_dearest_first_and_its_sum() -> None:
    charges = [
        charge("2", TODAY),
        charge("3", ago(1)),
        charge("9", TODAY, service="r2-storage", billed_nanousd=0),
        charge("7", TODAY.replace(month=10)),
    ]
    assert watch.lines(charges, NOW) == [
        CostLine("r2-storage", "$0.00", "$0.00", "$9.00"),
        CostLine("compute", "$2.00", "$5.00", "$5.00"),
        CostLine("total", "$2.00", "$5.00", "$14.00"),
    ]
    assert watch.lines([], NOW) == [CostLine("total", "$0.00", "$0.00", "$0.00")]


def test_the_rules_look_back_far_enough_for_budgets_whatever_is_odd() -> None:
    assert (TODAY - watch.first_day(NOW)).days == 800
