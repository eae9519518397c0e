"""Export charges with the columns of FOCUS 1.3 (focus.finops.org), as Cloudflare's billing API and cost tools do.

It is aligned, not conformant: unknown columns are left out. Our own columns begin with x_. Money is exact, as text.
"""

import json
from datetime import date, timedelta
from decimal import Decimal
from typing import Final

from reelkeeper.model.money import Charge, next_month

_ONE_DAY: Final = timedelta(days=1)
_CATEGORIES: Final = {"compute": "AI and Machine Learning", "api": "AI and Machine Learning"}
RESIDUAL: Final = "free allowances, rounding up to whole units, and what no user is known to have used"
DETAIL: Final = (
    *("BillingPeriodStart", "BillingPeriodEnd", "ChargePeriodStart", "ChargePeriodEnd", "BillingCurrency"),
    *(
        "ProviderName",
        "ServiceProviderName",
        "ServiceCategory",
        "ServiceName",
        "SkuId",
        "ChargeCategory",
        "ChargeDescription",
    ),
    *("ConsumedQuantity", "ConsumedUnit", "ListCost", "ContractedCost", "EffectiveCost", "BilledCost"),
    *("Tags", "x_UserId", "x_UserTier", "x_PriceBookVersion", "x_Estimated"),
)


def detail(charge: Charge) -> dict[str, object]:
    """Return one charge with FOCUS's columns, DETAIL. A user's is `Usage`, the residual an `Adjustment`."""
    listed, billed = exact_usd(charge.list_nanousd), exact_usd(charge.billed_nanousd)
    whose = charge.user_id or RESIDUAL
    days = f"{charge.day} to {charge.until - _ONE_DAY}" if charge.until else f"{charge.day}"
    tags = {name: value for name, value in (("user", charge.user_id), ("tier", charge.tier)) if value}
    values = (
        *period(charge.day.replace(day=1), next_month(charge.day)),
        *period(charge.day, charge.until or charge.day + _ONE_DAY),
        "USD",
        provider_name(charge.provider),  # in FOCUS 1.0 to 1.2
        provider_name(charge.provider),
        _CATEGORIES.get(charge.service, "Storage"),
        charge.service,
        charge.sku,
        "Usage" if charge.user_id else "Adjustment",
        f"{charge.sku} of {days}: {whose}",
        charge.consumed_quantity,
        charge.consumed_unit,
        listed,
        billed,
        billed,
        billed,
        json.dumps(tags, ensure_ascii=False),
        charge.user_id,
        charge.tier,
        charge.price_book,
        charge.estimated,
    )
    return dict(zip(DETAIL, values, strict=True))


def provider_name(provider: str) -> str:
    """Name who charges: a job's provider, before it was recorded, is `Generation`."""
    return provider or "Generation"


def period(start: date, end: date) -> tuple[str, str]:
    """Write a span of whole UTC days as FOCUS does: from its first moment to the first after it."""
    return f"{start}T00:00:00Z", f"{end}T00:00:00Z"


def exact_usd(nanousd: int) -> str:
    """Write nano-dollars as dollars, to the last digit and to the cent at least."""
    return written(Decimal(nanousd).scaleb(-9))


def written(amount: Decimal) -> str:
    """Write dollars to the last digit, and to the cent at least, without an exponent."""
    whole, _, digits = f"{amount:f}".partition(".")
    return f"{whole}.{digits.rstrip('0'):0<2}"
