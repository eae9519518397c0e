"""Define the terms on which a request is admitted, and the key by which requests share an answer. Pure."""

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from reelkeeper.model.money import MICRO, SoFar, next_month
from reelkeeper.rules.spend.limits import SpendLimit, check_each_once

_DAY_SECONDS: Final = 86_400
_Usd = Annotated[Decimal, Field(ge=0, le=10**9, decimal_places=6)]


class AdmissionPolicy(BaseModel):
    """The promises made to a request, and the charge for an existing video."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hit_charge_percent: int = Field(
        0,
        ge=0,
        le=100,
        description="Share of the price, in percent, charged for a cached video or for joining a job in progress",
    )
    low_credits_usd: Decimal | None = Field(
        None,
        gt=0,
        le=10**6,
        decimal_places=6,
        description="Credit balance of a user, in dollars, below which the event `credits.low` is sent; never: not "
        "sent",
    )
    cache_ttl_days: int | None = Field(
        7,
        ge=1,
        le=36_500,
        description="Days since its last use for which a cached video can be reused; never: as long as the video "
        "exists",
    )
    hold_days: int = Field(
        7,
        ge=1,
        le=30,
        description="Days after which the credits and bytes reserved for a job that never ended are released",
    )
    bits_per_pixel: float = Field(
        0.5, gt=0, le=24, description="Size reserved for a video, in bits per pixel of each frame"
    )
    slots: int = Field(
        8,
        ge=1,
        le=10_000,
        description="Assumed number of concurrent jobs for wait estimates, until the concurrency limit is first "
        "adjusted",
    )
    daily_limit_usd: _Usd | None = Field(
        None,
        description="Spending limit per UTC day, in dollars, including jobs in progress: a job that would exceed it is "
        "refused; never: no limit",
    )
    monthly_limit_usd: _Usd | None = Field(None, description="The same limit per UTC month")
    spend_limits: tuple[SpendLimit, ...] = Field(
        (),
        max_length=1000,
        description='The same limit per provider, model, tier or user: `[{"scope": "user:*", "period": "day", "usd": '
        "5}]`; * stands for each one not listed",
    )

    @model_validator(mode="after")
    def _each_limit_once(self) -> Self:
        check_each_once(self.spend_limits)
        return self

    def hit_charge(self, price_microusd: int) -> int:
        """Return the charge for a video from the cache: a share of the price, rounded down."""
        return price_microusd * self.hit_charge_percent // 100

    @property
    def hold_seconds(self) -> int:
        """The maximum seconds for which credits and bytes are held."""
        return self.hold_days * _DAY_SECONDS

    @property
    def ttl_seconds(self) -> int | None:
        """The seconds for which a cached video is used, from its last use on."""
        return None if self.cache_ttl_days is None else self.cache_ttl_days * _DAY_SECONDS


def wait_seconds(ahead_seconds: float, running: int, mean_seconds: float, slots: int) -> float:
    """Estimate the wait in seconds behind queued and running jobs; a running one is half done on average."""
    if ahead_seconds == 0 and running < slots:
        return 0.0
    return round((ahead_seconds + min(running, slots) * mean_seconds / 2) / slots, 1)


def over_budget(
    policy: AdmissionPolicy, spent: SoFar, cost_microusd: int, as_of: datetime
) -> tuple[str, datetime] | None:
    """Explain why a job of this cost exceeds a limit, and when it may be requested again; None: it does not.

    Costs in flight count as spent, as these jobs are not stopped. The month's limit comes first, as it lasts longer.
    The sentence is for a user to read, and does not reveal the service's spend.
    """
    tomorrow = as_of.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    month_after = datetime.combine(next_month(as_of), time(), as_of.tzinfo)
    for limit_usd, so_far, name, ends in (
        (policy.monthly_limit_usd, spent.month_microusd, "this month", month_after),
        (policy.daily_limit_usd, spent.today_microusd, "today", tomorrow),
    ):
        # guard admission.budget_in_flight: a burst of jobs exceeds the budget before the first has a cost
        if limit_usd is not None and so_far + spent.in_flight_microusd + cost_microusd > limit_usd * MICRO:
            return f"over budget for {name}; try again after {ends:%Y-%m-%d %H:%M} UTC", ends
    return None


def cache_key(request: Mapping[str, object], user_id: str | None) -> str:
    """Return a request's key in the cache, the SHA-256 of the canonical JSON of everything that shapes its video.

    It covers model, version, prompts, image hash, size, duration, frame rate, seed, parameters. `user_id` None shares
    the answer with all users. Raises ValueError if `request` has values that JSON cannot represent exactly.

    >>> same = cache_key({"prompt": "a fox", "seed": 7}, "ana") == cache_key({"seed": 7, "prompt": "a fox"}, "ana")
    >>> same, cache_key({"prompt": "a fox"}, "ana") == cache_key({"prompt": "a fox"}, "ben")
    (True, False)
    """
    content = {"request": dict(request), "tenant": user_id}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
