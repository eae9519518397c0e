"""Send a job to another provider of its model while the first is unwell: never to both, and at the same price.

A job is moved only if no provider can have it: it was never sent, or its provider has certainly refused or failed it.
The user's price and hold stay. Our cost is that of the new provider, and so are the budgets that apply.
"""

from collections.abc import Collection
from typing import Final, NamedTuple

from reelkeeper.errors import Frozen
from reelkeeper.model.requests import GenerationRequest
from reelkeeper.operations.billing import limits
from reelkeeper.operations.core.freeze import require_permission
from reelkeeper.operations.core.policies import at as at_version
from reelkeeper.operations.core.policies import in_force
from reelkeeper.operations.jobs import breaker
from reelkeeper.operations.jobs.prices import beyond_budget, price_of
from reelkeeper.rules.core.scopes import of_job
from reelkeeper.rules.policies import Policies
from reelkeeper.store import Session
from reelkeeper.store.jobs import breakers
from reelkeeper.store.jobs.queue import AdmittedJob

_MOST: Final = 50  # jobs that one claim moves, so that admissions do not wait long


class Destination(NamedTuple):
    """The provider for a new job, and its expected cost to us there."""

    lane: str
    cost_microusd: int


def choose(
    session: Session, request: GenerationRequest, tier: str | None, tag: str | None, user_id: str, first: Destination
) -> Destination:
    """Choose the first provider of a model that accepts new jobs and has room in its budgets; else wait for `first`.

    The caller holds the deployment row.
    """
    policies = in_force(session).policies
    entry = policies.book.entry(request.model)
    if entry is None or not entry.fallbacks:
        return first
    shut = breaker.takes_no_more(session, policies.breaker)
    if first.lane not in shut:
        return first
    for lane in entry.able_providers(request):
        if lane in shut:
            continue
        cost = price_of(request, tier, policies, lane, tag=tag).cost_microusd
        # guard fallback.room: another provider's full budget refuses a job that could wait for its own provider
        if _has_room(session, policies, of_job(lane, request.model, tier, user_id), cost, cost):
            return Destination(lane, cost)
    return first


def move_waiting(session: Session, unwell: Collection[str]) -> None:
    """Move unsent jobs that wait for these providers to other providers of their models.

    Does nothing while changes are frozen. A job that fits no other provider's budget waits for its own.
    """
    policies = in_force(session).policies
    shut = breaker.takes_no_more(session, policies.breaker)
    models = [entry.model for entry in policies.book.models if entry.fallbacks and not shut.issuperset(entry.providers)]
    if not models:
        return
    try:
        require_permission(session)
    except Frozen:
        return
    for job in breakers.unsent(session, unwell, models, _MOST):
        _move(session, job, shut)


def _move(session: Session, job: AdmittedJob, shut: Collection[str]) -> None:
    # guard fallback.known_price: a job goes to a provider that its price does not cover, and is sold at a loss
    policies = at_version(session, job.policy_version)
    entry, request = policies.book.entry(job.model), GenerationRequest.model_validate(job.request)
    before = limits.expected_cost(job)
    for lane in entry.able_providers(request) if entry and entry.fallbacks else ():
        if lane in shut:
            continue
        cost = price_of(request, job.tier, policies, lane, tag=job.tag).cost_microusd
        job_scopes = of_job(lane, job.model, job.tier, job.user_id)
        limits.leave(session, job)
        # guard fallback.budgets: a moved job exceeds the budget of its new provider, or of its user
        fits = _has_room(session, in_force(session).policies, job_scopes, cost, cost - before)
        if fits and breakers.move(session, job, lane, cost):
            limits.take_in(session, job_scopes, cost)
            return
        limits.take_in(session, limits.scopes_of(job), before)


def _has_room(
    session: Session, policies: Policies, job_scopes: tuple[str, ...], cost_microusd: int, more_microusd: int
) -> bool:
    """Check whether the budgets of a job's scopes have room for its cost, and the overall ones for what is added."""
    admission = policies.admission
    return limits.has_room(session, admission.spend_limits, job_scopes, cost_microusd) and (
        more_microusd <= 0 or beyond_budget(session, admission, more_microusd) is None
    )
