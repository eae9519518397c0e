"""Limits in dollars: jobs in flight count, the last cent can be spent, and refusals say until when."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from inline_snapshot import snapshot
from pydantic import ValidationError

from reelkeeper.model.money import SoFar
from reelkeeper.rules.jobs.admission import AdmissionPolicy, over_budget

CENT = 10_000
NIGHT = datetime(2026, 11, 24, 22, 30, tzinfo=UTC)
DAILY = AdmissionPolicy(daily_limit_usd=Decimal(10))
BOTH = AdmissionPolicy(daily_limit_usd=Decimal(10), monthly_limit_usd=Decimal(200))


def dollars(today: float, month: float = 0, in_flight: float = 0) -> SoFar:
    return SoFar(*(round(amount * 10**6) for amount in (today, month, in_flight)))


def test_credits_are_held_and_videos_reused_for_days() -> None:
    policy = AdmissionPolicy(hold_days=3, cache_ttl_days=5)
    assert (policy.hold_seconds, policy.ttl_seconds) == (
        timedelta(days=3).total_seconds(),
        timedelta(days=5).total_seconds(),
    )
    assert AdmissionPolicy(cache_ttl_days=None).ttl_seconds is None


def test_without_a_limit_nothing_is_too_much() -> None:
    assert over_budget(AdmissionPolicy(), dollars(10**9, 10**9, 10**9), CENT, NIGHT) is None


def test_the_last_cent_is_spent_and_not_one_more() -> None:
    assert over_budget(DAILY, dollars(9.99), CENT, NIGHT) is None
    assert over_budget(DAILY, dollars(9.99), CENT + 1, NIGHT) is not None


def test_costs_in_flight_count_as_spent() -> None:
    assert over_budget(DAILY, dollars(5, in_flight=4.99), CENT, NIGHT) is None
    assert over_budget(DAILY, dollars(5, in_flight=5), CENT, NIGHT) is not None


def test_the_reason_says_which_and_from_when_on_and_not_what_was_spent() -> None:
    reason, until = over_budget(DAILY, dollars(9.87654), 10**6, NIGHT) or ("", NIGHT)
    assert reason == snapshot("over budget for today; try again after 2026-11-25 00:00 UTC")
    assert until == datetime(2026, 11, 25, tzinfo=UTC)
    reason, until = over_budget(BOTH, dollars(10, 200), CENT, NIGHT) or ("", NIGHT)
    assert reason == snapshot("over budget for this month; try again after 2026-12-01 00:00 UTC")
    assert until == datetime(2026, 12, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("at", "day", "month"),
    [
        (
            datetime(2026, 12, 31, 23, 59, tzinfo=UTC),
            datetime(2027, 1, 1, tzinfo=UTC),
            datetime(2027, 1, 1, tzinfo=UTC),
        ),
        (datetime(2028, 2, 28, tzinfo=UTC), datetime(2028, 2, 29, tzinfo=UTC), datetime(2028, 3, 1, tzinfo=UTC)),
        (datetime(2027, 1, 31, 12, tzinfo=UTC), datetime(2027, 2, 1, tzinfo=UTC), datetime(2027, 2, 1, tzinfo=UTC)),
    ],
)
def test_a_day_ends_at_midnight_and_a_month_with_its_last_day(at: datetime, day: datetime, month: datetime) -> None:
    monthly = AdmissionPolicy(monthly_limit_usd=Decimal(1))
    assert (over_budget(DAILY, dollars(10), CENT, at) or ("", at))[1] == day
    assert (over_budget(monthly, dollars(0, 1), CENT, at) or ("", at))[1] == month


def test_a_limit_of_nothing_makes_nothing_and_one_below_it_is_refused() -> None:
    assert over_budget(AdmissionPolicy(daily_limit_usd=Decimal(0)), dollars(0), 1, NIGHT) is not None
    with pytest.raises(ValidationError):
        AdmissionPolicy(monthly_limit_usd=Decimal(-1))
