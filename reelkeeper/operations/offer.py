"""What a new job would come to: its price, its bytes, its wait and the time it takes."""

from decimal import Decimal
from typing import NamedTuple

from sqlmodel import Session

from reelkeeper.model import Tier
from reelkeeper.model.requests import GenerationRequest
from reelkeeper.rules.admission import AdmissionPolicy
from reelkeeper.rules.estimate import complexity, expected_bytes, expected_seconds
from reelkeeper.rules.lifecycle import LifecyclePolicy
from reelkeeper.rules.quote import Job, PriceBook, Quote, quote
from reelkeeper.store.steering import CONCURRENCY, ESTIMATES, remembered, slots_of
from reelkeeper.store.waiting import Waiting, waiting


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
