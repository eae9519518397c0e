"""Define the usage lines of a bill, each with its monthly price functions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, TypeAlias

import pandas as pd

from reelkeeper.model.money import MICRO, StorageClass
from reelkeeper.rules.billing.allocation import API, CLASS_A, CLASS_B, COMPUTE, RETRIEVAL
from reelkeeper.rules.billing.pricing import InfrequentAccessUsage, StandardUsage, Usage, bill
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.billing.tariff import GB

Price: TypeAlias = Callable[[float], float]  # usage of a month to dollars, as billed

PART = ""  # in place of a service: other lines already charge it
_INFREQUENT = StorageClass.INFREQUENT_ACCESS


@dataclass(frozen=True, slots=True)
class UsageLine:
    """One line of daily usage: `prices` has, by service, the cost of a month's amount.

    `part` is another part of the bill that it forecasts, such as `model:veo`. A line without a service is included in
    other lines, and forecasts only its part.
    """

    name: str
    history: "pd.Series[float]"
    prices: Mapping[str, Price]
    part: str = ""


def operations(kind: Literal["A", "B"], storage_class: StorageClass, history: "pd.Series[float]") -> UsageLine:
    """Return the line of R2's operations of one class in one storage class."""

    def price(used: float) -> float:
        count = max(0, round(used))
        return _billed_usd(storage_class, class_a=count) if kind == "A" else _billed_usd(storage_class, class_b=count)

    return UsageLine(f"class {kind} {storage_class}", history, {CLASS_A if kind == "A" else CLASS_B: price})


def retrieval(history: "pd.Series[float]") -> UsageLine:
    """Return the line of bytes read from Infrequent Access."""

    def price(used: float) -> float:
        return _billed_usd(_INFREQUENT, retrieval_gb=Decimal(max(0, round(used))) / GB)

    return UsageLine("retrieved bytes", history, {RETRIEVAL: price})


def jobs(model: str, history: "pd.Series[float]", book: PriceBook) -> UsageLine:
    """Return the line of generation jobs of one model: compute and API, both linear."""
    costs = book.flat_price(model)
    compute_usd, api_usd = float(costs.compute_usd), float(costs.api_usd)
    prices: dict[str, Price] = {COMPUTE: lambda used: used * compute_usd, API: lambda used: used * api_usd}
    return UsageLine(f"jobs {model}".strip(), history, prices, f"model:{model}" if model else "")


def clips(model: str, history: "pd.Series[float]") -> UsageLine:
    """Return the line of a vendor's charges for the clips of one model, in micro-dollars."""
    return UsageLine(f"clips {model}", history, {API: lambda used: used / MICRO}, f"model:{model}")


def provider(scope: str, history: "pd.Series[float]") -> UsageLine:
    """Return the line of the cost of all jobs of a provider, in micro-dollars; `scope` is such as `provider:fal`."""
    return UsageLine(scope, history, {PART: lambda used: used / MICRO}, scope)


def storage_usd(standard_gb_months: Decimal, infrequent_gb_months: Decimal) -> float:
    """Price a month's stored bytes in both classes."""
    usage = Usage(
        standard=StandardUsage(gb_month=standard_gb_months),
        infrequent_access=InfrequentAccessUsage(gb_month=infrequent_gb_months),
    )
    return float(bill(usage).billed_usd)


def _billed_usd(storage_class: StorageClass, **used: int | Decimal) -> float:
    if storage_class is _INFREQUENT:
        return float(bill(Usage(infrequent_access=InfrequentAccessUsage.model_validate(used))).billed_usd)
    return float(bill(Usage(standard=StandardUsage.model_validate(used))).billed_usd)
