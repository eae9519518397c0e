"""Price a month's usage of R2, as billed and unrounded; price one object, and the saving from its removal.

Money is Decimal dollars in prices, integer micro-dollars in rows. The prices themselves are in `tariff`.
"""

from collections.abc import Iterable, Iterator
from decimal import ROUND_CEILING, Decimal, localcontext
from fractions import Fraction
from typing import Annotated, Final, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from reelkeeper.model.money import MICRO, StorageClass
from reelkeeper.rules.billing.tariff import DAYS_A_MONTH, GB, MILLION, RATES, STANDARD
from reelkeeper.rules.core.wording import size

_MAX_GB: Final = 10**9  # an exabyte, more than any account
_MAX_OPERATIONS: Final = 10**14  # 38 million a second for a month
_MAX_DIGITS: Final = 28
_PLACES: Final = 18  # decimals of a GB-month; a byte for a day is 3.3e-11
_EXACT: Final = 80  # digits, more than any product needs: only explicit rounding applies


def _number(value: object) -> object:
    if isinstance(value, bool | str | bytes):
        raise ValueError("must be a number")  # noqa: TRY004  pydantic makes a refusal of the field of a ValueError
    return value


Gigabytes = Annotated[Decimal, BeforeValidator(_number), Field(ge=0, le=_MAX_GB, max_digits=_MAX_DIGITS)]
Operations = Annotated[int, BeforeValidator(_number), Field(ge=0, le=_MAX_OPERATIONS)]


class StandardUsage(BaseModel):
    """A month's usage of Standard storage, in GB-months and operations."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gb_month: Gigabytes = Field(Decimal(0), description="Mean of the daily peaks of stored bytes, in GB of 10^9")
    class_a: Operations = Field(0, description="Operations that write or list")
    class_b: Operations = Field(0, description="Operations that read")


class InfrequentAccessUsage(StandardUsage):
    """A month's usage of Infrequent Access storage."""

    retrieval_gb: Gigabytes = Field(Decimal(0), description="What was read or copied, in GB of 10^9")


class Usage(BaseModel):
    """An account's usage in a month. Fields left out are zero; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    standard: StandardUsage = StandardUsage()
    infrequent_access: InfrequentAccessUsage = InfrequentAccessUsage()


class BillLine(NamedTuple):
    """One line of a bill: `quantity` in GB-months, operations or GB; `billable_units` in GB-months, millions or GB."""

    sku: str
    quantity: Decimal
    free: int
    billable_units: int
    unit_price_usd: Decimal
    billed_usd: Decimal
    exact_usd: Decimal


class Bill(NamedTuple):
    """A month's bill: `billed_usd` is rounded up to whole units, as Cloudflare bills; `exact_usd` is not rounded."""

    billed_usd: Decimal
    exact_usd: Decimal
    lines: tuple[BillLine, ...]


class Saving(NamedTuple):
    """The saving from less usage in a month: on Cloudflare's bill, and without rounding."""

    billed_usd: Decimal
    exact_usd: Decimal


def sku(service: str, storage_class: StorageClass) -> str:
    """Name a billed item: a service of R2 in one storage class, such as `r2-class-a-standard`."""
    return f"{service}-{storage_class.replace('_', '-')}"


def bill(usage: Usage) -> Bill:
    """Price a month. There is a line for everything that R2 charges for, used or not."""
    with localcontext(prec=_EXACT):
        lines = tuple(_lines(usage))
        billed = sum((bill_line.billed_usd for bill_line in lines), Decimal(0))
        exact = sum((bill_line.exact_usd for bill_line in lines), Decimal(0))
    return Bill(billed, exact, lines)


def _lines(usage: Usage) -> Iterator[BillLine]:
    infrequent = usage.infrequent_access
    for kind, used in ((StorageClass.STANDARD, usage.standard), (StorageClass.INFREQUENT_ACCESS, infrequent)):
        rates = RATES[kind]
        for service, quantity, free, unit, price in (
            ("r2-storage", used.gb_month, rates.free_gb_months, 1, rates.storage_usd_per_gb_month),
            ("r2-class-a", Decimal(used.class_a), rates.free_class_a, MILLION, rates.class_a_usd_per_million),
            ("r2-class-b", Decimal(used.class_b), rates.free_class_b, MILLION, rates.class_b_usd_per_million),
        ):
            yield _line(sku(service, kind), quantity, free, unit, price)
    kind = StorageClass.INFREQUENT_ACCESS
    yield _line(sku("r2-retrieval", kind), infrequent.retrieval_gb, 0, 1, RATES[kind].retrieval_usd_per_gb)


def _line(name: str, quantity: Decimal, free: int, unit: int, price: Decimal) -> BillLine:
    beyond = max(quantity - free, Decimal(0)) / unit
    units = int(beyond.to_integral_value(ROUND_CEILING))
    return BillLine(name, quantity, free, units, price, units * price, beyond * price)


def gb_months(daily_peaks: Iterable[int], period_days: int | None = None) -> Decimal:
    """Convert daily peaks of stored bytes into GB-months: their mean, in GB.

    `period_days` is the length of the period if days are missing; on those, nothing was stored.
    """
    peaks = list(daily_peaks)
    days = period_days or len(peaks)
    if len(peaks) > days:
        raise ValueError(f"{len(peaks)} daily peaks in a period of {days} days")
    return Decimal(round(Fraction(sum(peaks) * 10**_PLACES, days * GB))).scaleb(-_PLACES) if peaks else Decimal(0)


def cost_until(
    size_bytes: int, days: Decimal | int, storage_class: StorageClass = StorageClass.STANDARD, *, reads: int = 0
) -> Decimal:
    """Return the dollars that an object will cost over the next `days`, without its write: the avoidable cost.

    It is the marginal cost, beyond the free allowances and before rounding: `days` of storage, at least the class's
    minimum, and `reads` of the whole object.
    """
    rates = RATES[storage_class]
    gigabytes = Decimal(size_bytes) / GB
    months = Decimal(max(days, rates.minimum_days)) / DAYS_A_MONTH
    storing = gigabytes * months * rates.storage_usd_per_gb_month
    return storing + reads * (rates.class_b_usd_per_million / MILLION + gigabytes * rates.retrieval_usd_per_gb)


def saving_this_month(usage: Usage, size_bytes: int, days_left: int) -> Saving:
    """Compute what removing `size_bytes` of Standard storage saves on this month's bill, `days_left` before its end.

    `usage` is the whole month's if nothing is removed. Where all of it is free, or the rounding up to a
    whole GB-month stays the same, nothing is saved.
    """
    standard = usage.standard
    removed = gb_months([size_bytes] * days_left, DAYS_A_MONTH)
    less = standard.model_copy(update={"gb_month": max(standard.gb_month - removed, Decimal(0))})
    before, after = bill(usage), bill(usage.model_copy(update={"standard": less}))
    return Saving(before.billed_usd - after.billed_usd, before.exact_usd - after.exact_usd)


def within_allowance(size_bytes: int) -> str:
    """Return a sentence that R2's free allowance covers `size_bytes`, so storing less saves nothing; "" if it does not.

    `size_bytes` is what the catalogue knows. The allowance is the account's, and listings show no unfinished uploads.
    """
    if size_bytes > STANDARD.free_gb_months * GB:
        return ""
    return (
        f"All that the catalogue knows, {size(size_bytes)} (without unfinished uploads, other prefixes and other "
        f"buckets), is within R2's free {STANDARD.free_gb_months} GB: if the account stores no more than that, storing "
        "less does not lower the bill yet. Dollars here are at list price."
    )


def storage_microusd_per_month(size_bytes: int) -> int:
    """Return the monthly cost of `size_bytes` more, or less, beyond the free allowance, rounded half to even."""
    return round(size_bytes * STANDARD.storage_usd_per_gb_month * MICRO / GB)
