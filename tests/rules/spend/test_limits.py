"""Hard budgets of a scope: what fits, the text of a refusal, and alerts at 80 and 100 percent."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inline_snapshot import snapshot
from pydantic import ValidationError

from reelkeeper.model.alerts import Severity
from reelkeeper.model.money import JobTotal
from reelkeeper.rules.core.limit_scopes import of_job
from reelkeeper.rules.jobs.admission import AdmissionPolicy
from reelkeeper.rules.spend.budget import Period
from reelkeeper.rules.spend.limits import LimitUse, SpendLimit, applying, findings, refusal, uses

NOW = datetime(2026, 12, 30, 21, 30, tzinfo=UTC)
DAY, MONTH = "2026-12-30", "2026-12"
JOB = of_job("fal", "veo", "pro", "ann")


def limit(scope: str, usd: str, period: Period = Period.DAY) -> SpendLimit:
    return SpendLimit(scope=scope, period=period, usd=Decimal(usd))


@pytest.mark.parametrize(
    ("limits", "kept"),
    [
        ([limit("provider:fal", "5")], {("provider:fal", Period.DAY): 5_000_000}),
        ([limit("user:*", "5")], {("user:ann", Period.DAY): 5_000_000}),
        ([limit("user:*", "5"), limit("user:ann", "0.5")], {("user:ann", Period.DAY): 500_000}),
        (
            [limit("user:*", "5"), limit("user:ann", "9", Period.MONTH)],
            {("user:ann", Period.DAY): 5_000_000, ("user:ann", Period.MONTH): 9_000_000},
        ),
        ([limit("provider:runway", "5"), limit("model:m", "1"), limit("tier:free", "1"), limit("user:ben", "1")], {}),
    ],
)
def test_the_limits_of_a_job_are_those_of_its_scopes(
    limits: list[SpendLimit], kept: dict[tuple[str, Period], int]
) -> None:
    assert applying(limits, JOB) == kept


def test_a_job_may_have_no_provider_or_tier() -> None:
    assert of_job(None, "veo", None, "ann") == ("model:veo", "user:ann")
    assert applying([limit("tier:*", "1"), limit("provider:*", "1")], of_job(None, "veo", None, "ann")) == {}


@given(spent=st.integers(0, 10**7), flying=st.integers(0, 10**7), cost=st.integers(0, 10**7))
def test_a_job_fits_to_the_last_microdollar_of_what_is_neither_spent_nor_in_flight(
    spent: int, flying: int, cost: int
) -> None:
    kept = {("user:ann", Period.DAY): 10**7}
    totals = [
        JobTotal("user:ann", DAY, spent, 0),
        JobTotal("user:ann", "", flying, 0),
        JobTotal("user:ann", MONTH, 9**9, 0),
    ]
    assert (refusal(kept, totals, cost, NOW) is None) == (spent + flying + cost <= 10**7)


@pytest.mark.parametrize(
    ("limits", "cost", "sentence"),
    [
        (
            [limit("user:ann", "5")],
            400_000,
            (
                snapshot(
                    "over the daily budget of user ann: this video is expected to cost $0.40, and $0.125 of $5.00 is left for 2026-12-30; it can be asked for again from 2026-12-31 00:00 UTC on. Nothing was held"
                )
            ),
        ),
        (
            [limit("user:ann", "5"), limit("provider:fal", "1000", Period.MONTH)],
            400_000,
            (
                snapshot(
                    "over the monthly budget of provider fal: this video is expected to cost $0.40, and $0.00 of $1,000.00 is left for 2026-12; it can be asked for again from 2027-01-01 00:00 UTC on. Nothing was held"
                )
            ),
        ),
        (
            [limit("user:ann", "5"), limit("provider:fal", "1000", Period.MONTH)],
            5_000_001,
            (
                snapshot(
                    "over the daily budget of user ann: this video is expected to cost $5.000001, and $0.125 of $5.00 is left for 2026-12-30; a cheaper one may fit. Nothing was held"
                )
            ),
        ),
    ],
)
def test_a_refusal_names_the_budget_that_lasts_longest_with_what_is_left_and_from_when_on(
    limits: list[SpendLimit], cost: int, sentence: str
) -> None:
    totals = [
        JobTotal("user:ann", DAY, 4_000_000, 0),
        JobTotal("user:ann", "", 875_000, 0),
        JobTotal("provider:fal", MONTH, 1_001_000_000, 0),
    ]
    found = refusal(applying(limits, JOB), totals, cost, NOW)
    assert found is not None
    assert found.sentence == sentence
    assert (found.until is None) == (cost > 5_000_000)


@pytest.mark.parametrize(
    ("used", "refusals", "level"),
    [(799_999, 0, None), (800_000, 0, "80"), (999_999, 0, "80"), (1_000_000, 0, "100"), (0, 1, "100")],
)
def test_a_limit_is_reported_at_80_percent_when_used_up_and_after_a_refusal(
    used: int, refusals: int, level: str | None
) -> None:
    use = LimitUse("user:ann", Period.DAY, DAY, 1_000_000, used // 2, used - used // 2, refusals)
    assert [finding.level for finding in findings([use])] == ([] if level is None else [level])
    assert [finding.severity for finding in findings([use])] in (
        [],
        [Severity.WARNING if level == "80" else Severity.CRITICAL],
    )


def test_each_limit_is_shown_the_fullest_first() -> None:
    limits = [limit("user:*", "1"), limit("provider:fal", "2", Period.MONTH), limit("model:veo", "0")]
    totals = [JobTotal("user:ann", "", 500_000, 0), JobTotal("provider:fal", MONTH, 1_500_000, 2)]
    found = uses(limits, totals, NOW)
    assert [(use.scope, use.percent, use.refusals) for use in found] == [
        ("model:veo", 100, 0),
        ("provider:fal", 75, 2),
        ("user:ann", 50, 0),
    ]


@pytest.mark.parametrize("scope", ["total", "service:compute", "user:", "user: a", "ann"])
def test_a_limit_is_for_a_provider_a_model_a_tier_or_a_user(scope: str) -> None:
    with pytest.raises(ValidationError):
        limit(scope, "1")


def test_a_scope_has_one_limit_a_period() -> None:
    with pytest.raises(ValidationError) as refused:
        AdmissionPolicy(spend_limits=(limit("user:ann", "1"), limit("user:ann", "2")))
    assert [error["msg"] for error in refused.value.errors()] == snapshot(
        ["Value error, more than one limit for user:ann by day"]
    )
