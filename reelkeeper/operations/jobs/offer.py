"""What a new job would come to: its price, its bytes, its wait and time; and whether there is money left for it."""

import math
from decimal import Decimal
from typing import NamedTuple

from sqlmodel import Session

from reelkeeper.model import Tier
from reelkeeper.model.requests import Declined, GenerationRequest, RefusedFor
from reelkeeper.rules.billing.quote import Job, PriceBook, Quote, quote
from reelkeeper.rules.jobs.admission import AdmissionPolicy, over_budget
from reelkeeper.rules.jobs.estimate import complexity, expected_bytes, expected_seconds
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy
from reelkeeper.store.billing.spend_counters import so_far
from reelkeeper.store.core.engine import now
from reelkeeper.store.jobs.controls import CONCURRENCY, ESTIMATES, remembered, slots_of
from reelkeeper.store.jobs.waiting import Waiting, waiting


class Offer(NamedTuple):
    """All that a new job is made of beside who asks for it."""

    tier: str | None
    units: Decimal
    size_bytes: int
    price: Quote
    ahead: Waiting
    slots: int
    estimate_seconds: float


def offered(
    session: Session,
    request: GenerationRequest,
    tier: str | None,
    *,
    policy: AdmissionPolicy,
    book: PriceBook,
    lifecycle: LifecyclePolicy,
) -> Offer:
    """Make the offer, as the queue stands at this moment; nothing is promised, and nobody waits for it."""
    units = complexity(request)
    memory = remembered(session, [CONCURRENCY, ESTIMATES])
    slots, factors = slots_of(memory, policy.slots), memory.get(ESTIMATES, {}).get(request.model, ())
    ahead = waiting(session, expected_seconds(units, 1.0, factors))
    estimate = expected_seconds(units, ahead.running / slots, factors)
    price = price_of(request, tier, policy=policy, book=book, lifecycle=lifecycle)
    return Offer(tier, units, expected_bytes(request, policy.bits_per_pixel), price, ahead, slots, estimate)


def price_of(
    request: GenerationRequest,
    tier: str | None,
    *,
    policy: AdmissionPolicy,
    book: PriceBook,
    lifecycle: LifecyclePolicy,
) -> Quote:
    """Price a request of a user of this tier, whose videos are kept so long."""
    days = lifecycle.retention_days()[Tier(tier)] if tier in set(Tier) else None
    size_bytes = expected_bytes(request, policy.bits_per_pixel)
    job = Job(model=request.model, complexity=complexity(request), size_bytes=size_bytes, retention_days=days)
    return quote(job, book)


def beyond_budget(session: Session, policy: AdmissionPolicy, cost_microusd: int) -> Declined | None:
    """Decline a job of this cost if it would take the day or the month beyond its limit; None: there is room for it.

    Whatever is admitted or ends holds the deployment row, as the caller does, so nothing is added meanwhile. What a
    failed attempt has cost comes as its provider says so.
    """
    if policy.daily_limit_usd is None and policy.monthly_limit_usd is None:
        return None
    as_of = now(session)
    over = over_budget(policy, so_far(session, as_of), cost_microusd, as_of)
    if over is None:
        return None
    reason, until = over
    return Declined(RefusedFor.BUDGET, reason, math.ceil((until - as_of).total_seconds()))
