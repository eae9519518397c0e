"""What a generation job is sold for and what it costs us, by a price book of which each version is told from others.

Prices of the first sketch: $0.01 a job, with complexity and storage on top; $0.01 of compute and $0.005 of API are what
one costs. Its estimate of the time, 120 s and 30 s more for each unit of complexity, makes a unit worth a quarter more.
"""

import hashlib
from decimal import ROUND_CEILING, Decimal
from functools import cached_property
from typing import Annotated, Final, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from reelkeeper.rules.billing.pricing import cost_until

_MICROUSD: Final = 10**6
_LARGEST_OBJECT: Final = 5 * 10**12  # bytes, R2's limit
Usd = Annotated[Decimal, Field(ge=0, le=10_000, decimal_places=9)]


class JobPrice(BaseModel):
    """What a job is sold for, and what it costs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_usd: Usd = Field(Decimal("0.01"), description="Dollars asked for a job")
    complexity_usd: Usd = Field(Decimal("0.0025"), description="Dollars asked for each unit of complexity")
    compute_usd: Usd = Field(Decimal("0.01"), description="Dollars that a job costs in compute")
    api_usd: Usd = Field(Decimal("0.005"), description="Dollars that a job costs in calls of an API")

    @property
    def cost_usd(self) -> Decimal:
        """What a job costs before its video is stored."""
        return self.compute_usd + self.api_usd


class ModelPrice(JobPrice):
    """The same of one model."""

    model: str = Field(min_length=1, max_length=200, description="Name of the model")


class PriceBook(BaseModel):
    """All prices of jobs. A book that would sell one below its cost is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str = Field("2026-11", pattern=r"^[\w.-]{1,40}$", description="Name of these prices, on every quote")
    margin_percent: Decimal = Field(
        Decimal(50),
        ge=0,
        le=10_000,
        decimal_places=4,
        description="Added to all that is asked; 50 is what covers costs",
    )
    endless_days: int = Field(365, ge=1, le=36_500, description="Days of storage asked for a video kept for ever")
    prices: JobPrice = Field(JobPrice(), description="What holds for each model that is not named")
    models: tuple[ModelPrice, ...] = Field((), max_length=1000, description="What holds for a model, by its name")

    @model_validator(mode="after")
    def _covers_its_costs(self) -> Self:
        names = [price.model for price in self.models]
        if len(set(names)) < len(names):
            raise ValueError(f"a model has one price, and one of these has two: {', '.join(names)}")
        for name, price in (("any model", self.prices), *((price.model, price) for price in self.models)):
            sold, cost = price.base_usd * (1 + self.margin_percent / 100), price.cost_usd
            # guard prices.above_cost: each job is sold for less than it costs
            if sold < cost:
                raise ValueError(
                    f"a job of {name} would be sold for {sold.normalize():f} USD and costs "
                    f"{cost.normalize():f}: raise base_usd or margin_percent"
                )
        return self

    @cached_property
    def mark(self) -> str:
        """The version and eight hex digits of all prices: two books that differ never look the same on a quote."""
        return f"{self.version}-{hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:8]}"

    def price_of(self, model: str) -> JobPrice:
        """Find what holds for `model`."""
        return next((price for price in self.models if price.model == model), self.prices)


class JobSpec(BaseModel):
    """What is to be generated, as far as its price goes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field("", max_length=200, description="Name of the model")
    complexity: Decimal = Field(Decimal(0), ge=0, le=1000, decimal_places=6, description="Units beyond a plain job")
    size_bytes: int = Field(0, ge=0, le=_LARGEST_OBJECT, description="Size that the video is expected to have")
    retention_days: int | None = Field(None, ge=0, le=36_500, description="Days that it will be kept; never: for ever")


class Quote(NamedTuple):
    """The price of one job in micro-dollars, and what it is made of. Locked: it names its book and stays.

    The four parts sum to `total_microusd`, which is rounded up. `cost_microusd` is what the job costs us.
    """

    price_book: str
    model: str
    base_microusd: int
    complexity_microusd: int
    storage_microusd: int
    margin_microusd: int
    total_microusd: int
    cost_microusd: int


def quote(job: JobSpec, book: PriceBook = PriceBook()) -> Quote:
    """Price a job: its base, its complexity, and its storage until its retention ends, with the margin on all of it."""
    prices = book.price_of(job.model)
    days = book.endless_days if job.retention_days is None else job.retention_days
    storage = cost_until(job.size_bytes, days)
    asked = (prices.base_usd, prices.complexity_usd * job.complexity, storage)
    total = _whole(sum(asked, Decimal(0)) * (1 + book.margin_percent / 100))
    base, complexity, stored = (int(part * _MICROUSD) for part in asked)
    margin = total - base - complexity - stored
    cost = _whole(prices.cost_usd + storage)
    return Quote(book.mark, job.model, base, complexity, stored, margin, total, cost)


def _whole(usd: Decimal) -> int:
    return int((usd * _MICROUSD).to_integral_value(ROUND_CEILING))
