"""Quote the price of a generation job and its cost to us, by a versioned price book.

Prices of the source document: a job is sold at $0.01, plus complexity and storage, and costs $0.01 of compute and
$0.005 of API. A unit of complexity adds a quarter, as in its time estimate: 120 s, and 30 s more for each unit.
"""

import hashlib
from collections.abc import Iterator, Mapping
from decimal import ROUND_CEILING, Decimal, localcontext
from functools import cached_property
from typing import Any, Final, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from reelkeeper.errors import ModelRefused
from reelkeeper.model.money import MICRO
from reelkeeper.model.requests import GenerationRequest
from reelkeeper.rules.billing.catalogue import Clip, JobPrice, ModelEntry, Percent, VendorPrice
from reelkeeper.rules.billing.pricing import cost_until

_LARGEST_OBJECT: Final = 5 * 10**12  # bytes, R2's limit
_MAX_NAMED: Final = 20  # models in a refusal
_EXACT: Final = 80  # digits, more than any product needs: only the sum is rounded, and up


class PriceBook(BaseModel):
    """All prices of jobs. A book that sells below cost is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str = Field(
        "2026-11", pattern=r"^[\w.-]{1,40}$", description="Version name of these prices, recorded in every quote"
    )
    margin_percent: Percent = Field(
        Decimal(50),
        description="Margin added to the whole price, in percent; 50 is needed to cover the costs in `prices`",
    )
    endless_days: int = Field(
        365, ge=1, le=36_500, description="Days of storage charged for a video without an end of retention"
    )
    prices: JobPrice = Field(JobPrice(), description="Default prices, for every model not listed in `models`")
    models: tuple[ModelEntry, ...] = Field((), max_length=1000, description="The models that are sold, by name")
    unpriced: Literal["refuse", "sell"] = Field(
        "refuse",
        description="Requests for a model without a price, or missing from a non-empty `models`: refuse them, or sell "
        "at `prices`",
    )

    @model_validator(mode="before")
    @classmethod
    def _with_flat_prices(cls, book: Any) -> Any:  # noqa: ANN401  what a document says
        """Convert the models of 0.1.0, which had only flat prices, and also sold models that were not listed."""
        models = book.get("models") if isinstance(book, Mapping) else None
        if not isinstance(models, list | tuple):
            return book
        flat = JobPrice.model_fields.keys()
        new = [
            {name: value for name, value in entry.items() if name not in flat}
            | {"price": {name: value for name, value in entry.items() if name in flat}}
            if isinstance(entry, Mapping) and flat & entry.keys()
            else entry
            for entry in models
        ]
        return {**book, "models": new} | ({"unpriced": "sell"} if new != list(models) else {})

    @model_validator(mode="after")
    def _covers_its_costs(self) -> Self:
        names = [entry.model for entry in self.models]
        if len(set(names)) < len(names):
            raise ValueError(f"a model has one price, and one of these has two: {', '.join(names)}")
        flat = [(entry.model, entry.price) for entry in self.models if isinstance(entry.price, JobPrice)]
        others = [] if self.models and self.unpriced == "refuse" else [("any model", self.prices)]
        for name, price in (*others, *flat):
            sold, cost = price.base_usd * (1 + self.margin_percent / 100), price.cost_usd
            # guard prices.above_cost: each job is sold below its cost
            if sold < cost:
                raise ValueError(
                    f"a job of {name} would be sold for {sold.normalize():f} USD and costs "
                    f"{cost.normalize():f}: raise base_usd or margin_percent"
                )
        return self

    @cached_property
    def mark(self) -> str:
        """The version, and eight hex digits over all prices: different books have different marks on a quote."""
        return f"{self.version}-{hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:8]}"

    def entry(self, model: str, provider: str | None = None) -> ModelEntry | None:
        """Find the entry of `model`, with the price and limits of `provider` where that has an offer."""
        found = self._entries.get(model)
        return found and found.at(provider)

    @cached_property
    def _entries(self) -> dict[str, ModelEntry]:
        return {entry.model: entry for entry in self.models}

    def flat_price(self, model: str, provider: str | None = None) -> JobPrice:
        """Find the flat price of a job of `model` at `provider`, for vendors that do not bill by the clip."""
        entry = self.entry(model, provider)
        return entry.price if entry and isinstance(entry.price, JobPrice) else self.prices

    def price_mark(self, model: str, provider: str | None = None) -> str:
        """Return eight hex digits over the price of `model` at `provider`, which another price does not have."""
        entry = self.entry(model, provider)
        price = (entry and entry.price) or self.prices
        return hashlib.sha256(price.model_dump_json().encode()).hexdigest()[:8]

    def require_sold(self, request: GenerationRequest) -> None:
        """Raise ModelRefused for a request that no model in the book can make, or that has no price."""
        entry = self.entry(request.model)
        # guard catalogue.unpriced: a clip without a known cost is sold for cents
        if self.unpriced == "refuse" and self.models and (entry is None or entry.price is None):
            names = [sold.model for sold in self.models if sold.price is not None]
            more = f", and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
            raise ModelRefused(
                f"model {request.model!r} is not sold here; there are: "
                f"{', '.join(names[:_MAX_NAMED]) or 'none'}{more}. Nothing was held"
            )
        # guard catalogue.limits: credits are held for a video that its vendor refuses, or makes at another price
        if entry and (refusal := entry.refusal(request)):
            raise ModelRefused(refusal)


class JobSpec(BaseModel):
    """The properties of a job that decide its price."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field("", max_length=200, description="Name of the model")
    complexity: Decimal = Field(
        Decimal(0), ge=0, le=1000, decimal_places=6, description="Units of complexity beyond a plain job"
    )
    size_bytes: int = Field(0, ge=0, le=_LARGEST_OBJECT, description="Expected size of the video, in bytes")
    retention_days: int | None = Field(
        None, ge=0, le=36_500, description="Days that the video will be kept; never: for ever"
    )
    clip: Clip = Field(Clip(), description="Length, size and sound of the video")
    offers: tuple[str, ...] | None = Field(
        None, description="The model's other providers that can make the video; unset: each with a price for it"
    )


class Quote(NamedTuple):
    """The price of one job in micro-dollars, and its parts. It is fixed, and names its price book.

    The four parts sum to `total_microusd`, which is rounded up. `cost_microusd` is our cost.
    """

    price_book: str
    model: str
    base_microusd: int
    complexity_microusd: int
    storage_microusd: int
    margin_microusd: int
    total_microusd: int
    cost_microusd: int


def quote(job: JobSpec, book: PriceBook = PriceBook(), provider: str | None = None) -> Quote:
    """Price a job: the vendor's price, or base and complexity, plus storage, with the margin on the sum.

    The user's price is that of the model's own provider, or the cost of the dearest offer that can make it if that is
    more: it does not depend on the provider used. Our cost is that of `provider`, another one or the model's own.
    Raises ModelRefused where no rate fits such a clip, which `require_sold` checks before.
    """
    days = book.endless_days if job.retention_days is None else job.retention_days
    storage, first = cost_until(job.size_bytes, days), book.entry(job.model)
    with localcontext(prec=_EXACT):
        parts, cost, total = _amounts(job, book, first, storage)
        # guard prices.dearest: a job that goes to another provider is sold below its cost there
        total = max(total, *(_cost_at(job, book, name, storage) for name in _others(job, first)), cost)
        if first and provider not in {None, first.provider}:
            parts, cost, _ = _amounts(job, book, first.at(provider), storage)
        total_microusd, cost_microusd = _to_microusd(total), _to_microusd(cost)
    base, complexity, stored = (int(part * MICRO) for part in parts)
    margin = total_microusd - base - complexity - stored
    return Quote(book.mark, job.model, base, complexity, stored, margin, total_microusd, cost_microusd)


def _amounts(
    job: JobSpec, book: PriceBook, entry: ModelEntry | None, storage: Decimal
) -> tuple[tuple[Decimal, Decimal, Decimal], Decimal, Decimal]:
    """Return the parts of a price at one provider, our cost there, and the user's price, in dollars."""
    more = 1 + book.margin_percent / 100
    if entry and isinstance(entry.price, VendorPrice):
        found = entry.price.amounts(entry.limits.resolve_audio(job.clip), book.margin_percent)
        if found is None:
            raise ModelRefused(f"model {job.model!r} has no price for such a clip")
        vendor_price, price = found
        return (vendor_price, Decimal(0), storage), vendor_price + storage, price + storage * more
    prices = entry.price if entry and isinstance(entry.price, JobPrice) else book.prices
    parts = (prices.base_usd, prices.complexity_usd * job.complexity, storage)
    return parts, prices.cost_usd + storage, sum(parts, Decimal(0)) * more


def _others(job: JobSpec, entry: ModelEntry | None) -> Iterator[str]:
    """Name the other providers that a job may go to."""
    for other in entry.offers if entry else ():
        limits = other.limits or (entry and entry.limits)
        is_priced = isinstance(other.price, JobPrice) or (
            limits and other.price.amounts(limits.resolve_audio(job.clip), Decimal(0)) is not None
        )
        if is_priced and (job.offers is None or other.provider in job.offers):
            yield other.provider


def _cost_at(job: JobSpec, book: PriceBook, provider: str, storage: Decimal) -> Decimal:
    return _amounts(job, book, book.entry(job.model, provider), storage)[1]


def _to_microusd(usd: Decimal) -> int:
    return int((usd * MICRO).to_integral_value(ROUND_CEILING))
