"""Price a request at each provider of its model, and decline it where the budgets have no room."""

import math

from reelkeeper.model.requests import Declined, GenerationRequest, RefusedFor
from reelkeeper.rules.billing.catalogue import VendorPrice, clip_of
from reelkeeper.rules.billing.quote import JobSpec, Quote, quote
from reelkeeper.rules.jobs.admission import AdmissionPolicy, over_budget
from reelkeeper.rules.jobs.estimate import complexity, expected_bytes
from reelkeeper.rules.lifecycle.segments import Expected
from reelkeeper.rules.policies import Policies
from reelkeeper.store import Session
from reelkeeper.store.billing.spend_counters import so_far
from reelkeeper.store.core.engine import now
from reelkeeper.store.jobs.queue import AdmittedJob
from reelkeeper.store.jobs.vendor_jobs import SentRow


def price_of(
    request: GenerationRequest,
    tier: str | None,
    policies: Policies,
    provider: str | None = None,
    *,
    tag: str | None = None,
    is_made: bool = False,
) -> Quote:
    """Price a request for a user of this tier, and compute its cost to us at `provider`.

    Unset, it is the first provider of its model. The price covers the tier's retention for a video of the expected
    size; its key is not known yet. `is_made`: the clip exists, and may be shorter than any that is sold. Raises
    ModelRefused for a clip that is not made yet, and is not sold.
    """
    if not is_made:
        policies.book.require_sold(request)
    size_bytes = expected_bytes(request, policies.admission.bits_per_pixel)
    expected = Expected(tier, request.model, tag, size_bytes)
    known = policies.lifecycle.tiers_for(expected, policies.tiers).get(tier)
    entry = policies.book.entry(request.model)
    providers = (
        {*entry.able_providers(request)} | ({provider} if provider else set()) if entry and entry.offers else set()
    )
    job = JobSpec(
        model=request.model,
        complexity=complexity(request),
        size_bytes=size_bytes,
        retention_days=known.retention_days if known else None,
        clip=clip_of(request),
        offers=tuple(sorted(providers)),
    )
    return quote(job, policies.book, provider)


def clip_cost(job: AdmittedJob | SentRow, policies: Policies, provider: str | None) -> int | None:
    """Compute what the vendor at `provider` takes for a job's clip, in micro-dollars; None if it has a flat price."""
    entry = policies.book.entry(job.model, provider)
    if entry is None or not isinstance(entry.price, VendorPrice):
        return None
    return price_of(GenerationRequest.model_validate(job.request), job.tier, policies, provider).base_microusd


def booked_cost(job: AdmittedJob, policies: Policies) -> int:
    """Return what the book says that a job's vendor takes for it, in micro-dollars."""
    clip = clip_cost(job, policies, job.lane)
    return round(policies.book.flat_price(job.model, job.lane).cost_usd * 10**6) if clip is None else clip


def beyond_budget(session: Session, policy: AdmissionPolicy, cost_microusd: int) -> Declined | None:
    """Decline a job whose cost would exceed the limit of the day or the month; None: there is room for it.

    Admissions and endings hold the deployment row, as the caller does, so nothing changes in between. The cost of a
    failed attempt is added when its provider reports it.
    """
    if policy.daily_limit_usd is None and policy.monthly_limit_usd is None:
        return None
    as_of = now(session)
    over = over_budget(policy, so_far(session, as_of), cost_microusd, as_of)
    if over is None:
        return None
    reason, until = over
    return Declined(RefusedFor.BUDGET, reason, math.ceil((until - as_of).total_seconds()))
