"""Charges with FOCUS's column names: exact text for money, contiguous periods."""

import json
from datetime import date
from decimal import Decimal

import pytest

from reelkeeper.model.money import Charge, next_month
from reelkeeper.rules.billing.focus import DETAIL, RESIDUAL, detail, exact_usd, written

CHARGE = Charge(
    date(2026, 12, 31), "r2-storage", "r2-storage-standard", "ann", "pro", 2 * 10**9, "Byte-Days", 967_742, 967_742, "b"
)._replace(provider="Cloudflare")
# The columns of FOCUS 1.0 to 1.3 that this export has: focus.finops.org/focus-columns, read on 2026-11-29.
FOCUS = {
    *("BilledCost", "BillingCurrency", "BillingPeriodEnd", "BillingPeriodStart", "ChargeCategory", "ChargeDescription"),
    *("ChargePeriodEnd", "ChargePeriodStart", "ConsumedQuantity", "ConsumedUnit", "ContractedCost", "EffectiveCost"),
    *("ListCost", "ProviderName", "ServiceCategory", "ServiceName", "ServiceProviderName", "SkuId", "Tags"),
}


def test_a_users_charge() -> None:
    found = detail(CHARGE)
    assert tuple(found) == DETAIL
    assert (found["BillingPeriodStart"], found["BillingPeriodEnd"]) == ("2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z")
    assert (found["ChargePeriodStart"], found["ChargePeriodEnd"]) == ("2026-12-31T00:00:00Z", "2027-01-01T00:00:00Z")
    assert (found["ConsumedQuantity"], found["ConsumedUnit"]) == (2 * 10**9, "Byte-Days")
    assert (found["ListCost"], found["BilledCost"]) == ("0.000967742", "0.000967742")
    assert (found["ChargeCategory"], found["x_UserId"], found["x_UserTier"]) == ("Usage", "ann", "pro")
    assert found["ProviderName"] == found["ServiceProviderName"] == "Cloudflare"
    assert json.loads(str(found["Tags"])) == {"user": "ann", "tier": "pro"}


def test_the_residual_is_an_adjustment_that_says_what_it_is() -> None:
    found = detail(CHARGE._replace(user_id="", tier=None, billed_nanousd=-5))
    assert (found["ChargeCategory"], found["BilledCost"], found["x_UserId"]) == ("Adjustment", "-0.000000005", "")
    assert RESIDUAL in str(found["ChargeDescription"])
    assert found["Tags"] == "{}"


def test_a_vendor_is_named_and_its_list_and_billed_cost_are_apart() -> None:
    clip = CHARGE._replace(service="api", sku="clips-fal:veo", list_nanousd=10**9, billed_nanousd=9 * 10**8)
    found = detail(clip._replace(provider="fal"))
    assert found["ProviderName"] == "fal"
    assert (found["ListCost"], found["BilledCost"]) == ("1.00", "0.90")
    assert detail(clip._replace(provider=""))["ProviderName"] == "Generation", "before it was recorded"


def test_every_own_column_is_marked() -> None:
    assert {name for name in DETAIL if not name.startswith("x_")} == FOCUS


@pytest.mark.parametrize(
    ("nanousd", "text"),
    [(0, "0.00"), (10**9, "1.00"), (1, "0.000000001"), (-1_500_000_000, "-1.50"), (123_456_789_012, "123.456789012")],
)
def test_money_is_written_to_its_last_digit(nanousd: int, text: str) -> None:
    assert exact_usd(nanousd) == text


def test_dollars_have_no_exponent() -> None:
    assert [written(Decimal(text)) for text in ("1E+3", "0E-9", "11.100")] == ["1000.00", "0.00", "11.10"]


def test_the_month_after() -> None:
    assert next_month(date(2026, 12, 31)) == date(2027, 1, 1)
    assert next_month(date(2026, 2, 1)) == date(2026, 3, 1)
