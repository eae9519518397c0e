"""Answer a request for a video in one transaction: from the cache, by joining a job, with a new job, or a refusal.

    cache hit --> Cached          the entry's video, now
    in flight --> Joined          waits for the job that makes the same
    new -------> Queued           bytes reserved, credits held, a job in the queue
    otherwise -> Declined         nothing is changed

Idempotent by the client's key: the same request again returns the same job, whatever its state.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final, NamedTuple
from uuid import uuid4

from pydantic import ValidationError

from reelkeeper.errors import AmountRefused, Frozen, InsufficientCredits, ModelRefused, QuotaExceeded, ReelkeeperError
from reelkeeper.model.requests import (
    Admission,
    Cached,
    Declined,
    GenerationRequest,
    Given,
    Joined,
    Queued,
    Quoted,
    RefusedFor,
)
from reelkeeper.operations.alerts import events
from reelkeeper.operations.billing import ledger, limits, quota
from reelkeeper.operations.core.freeze import require_permission, why_stopped
from reelkeeper.operations.core.policies import in_force
from reelkeeper.operations.jobs import routing
from reelkeeper.operations.jobs.lookup import AdmissionRequest, ExistingState, look, still_queued
from reelkeeper.operations.jobs.prices import beyond_budget, price_of
from reelkeeper.rules.billing.credits import require_key
from reelkeeper.rules.billing.quote import Quote
from reelkeeper.rules.core.limit_scopes import of_job
from reelkeeper.rules.jobs.admission import cache_key as key_of
from reelkeeper.rules.jobs.estimate import complexity, expected_bytes, expected_seconds
from reelkeeper.rules.policies import Policies
from reelkeeper.store import Engine, IntegrityError, Session
from reelkeeper.store.core.controls import remembered
from reelkeeper.store.core.engine import async_commit, group_commit, reading, transaction
from reelkeeper.store.jobs.endings import ESTIMATES
from reelkeeper.store.jobs.queue import AdmittedJob, add
from reelkeeper.store.jobs.slots import load_now
from reelkeeper.store.videos import cache


class Offer(NamedTuple):
    """Price, size and duration of a job that would be made for a request."""

    tier: str | None
    units: Decimal
    size_bytes: int
    price: Quote
    estimate_seconds: float


def offered(
    session: Session, request: GenerationRequest, tier: str | None, policies: Policies, tag: str | None
) -> Offer:
    """Compute an offer for the present load, without a promise or a lock.

    Raises ModelRefused where no model can make the request.
    """
    price = price_of(request, tier, policies, tag=tag)
    units, policy = complexity(request), policies.admission
    load, _ = load_now(session, policy.slots)
    factors = remembered(session, [ESTIMATES]).get(ESTIMATES, {}).get(request.model, ())
    estimate = expected_seconds(units, load, factors)
    return Offer(tier, units, expected_bytes(request, policy.bits_per_pixel), price, estimate)


_NOTHING: Final = Given({})
_RUN: Final = "admit"  # the run id in the ledger
_CODES = {
    QuotaExceeded: RefusedFor.QUOTA,
    InsufficientCredits: RefusedFor.CREDITS,
    Frozen: RefusedFor.FROZEN,
    AmountRefused: RefusedFor.INPUT,
    ModelRefused: RefusedFor.MODEL,
}


def admit(
    engine: Engine,
    request: GenerationRequest | Mapping[str, Any],
    *,
    user_id: str,
    client_key: str,
    provider: str | None = "local",
    tag: str | None = None,
    given: Given = _NOTHING,
) -> Admission:
    """Answer a user's request, for a video with `tag` and a job with what is `given`.

    `provider` makes what the catalogue gives to none; None: nobody. An existing video is returned also while changes
    are frozen, unless it is charged for. Raises NotFound for an unknown user, KeyReused when the client's key came with
    another request, InputRefused for a URL at no webhook's origin, and SchemaError where the policies in force cannot
    be read. Promises follow the policies in force now, also if these change later.
    """
    try:
        require_key(client_key)
        wanted = request if isinstance(request, GenerationRequest) else GenerationRequest.model_validate(dict(request))
    except ValidationError as wrong:
        return Declined(RefusedFor.INPUT, "; ".join(_why(error) for error in wrong.errors(include_url=False)[:5]))
    except AmountRefused as wrong:
        return Declined(RefusedFor.INPUT, str(wrong))
    asked = _asked(wanted, user_id, client_key, provider, tag, given)
    try:
        return _answer(engine, asked)
    # guard admission.asks_again: of two concurrent equal requests one fails, although the video exists
    except IntegrityError:  # a concurrent answer from the cache, which takes no lock, used the same key
        return _answer(engine, asked)


def quoted(
    engine: Engine,
    request: GenerationRequest,
    *,
    user_id: str,
    provider: str | None = "local",
    tag: str | None = None,
    given: Given = _NOTHING,
) -> Quoted:
    """Tell what `admit` would answer to a new request at this moment, and at what price; nothing is changed.

    Both judge by the same functions. Raises NotFound, UserErased, InputRefused, SchemaError.
    """
    asked = _asked(request, user_id, "", provider, tag, given)
    with reading(engine) as session:
        seen = look(session, asked)
        admission = seen.in_force.policies.admission
        events.require_endpoint(session, given.webhook_url)
        if seen.is_cached and not admission.hit_charge_percent:
            return Quoted("cached", 0, 0, "")
        try:
            offer = offered(session, request, seen.tier, seen.in_force.policies, tag)
        except ModelRefused as refused:
            return Quoted(declined=_declined(refused))
        price = offer.price.total_microusd
        share = admission.hit_charge(price)
        told = Quoted("queued", price, price, offer.price.price_book)
        if seen.is_cached:
            told = told._replace(status="cached", price_microusd=share, charge_microusd=share)
        elif seen.leader_id is not None:
            told = told._replace(status="joined", charge_microusd=share)
        return told._replace(declined=_why_not(session, asked, offer, seen, told.price_microusd or 0))


def _why_not(
    session: Session, asked: AdmissionRequest, offer: Offer, seen: ExistingState, price_microusd: int
) -> Declined | None:
    """Explain why a request would be declined, in the order in which an admission checks; None: it would not."""
    try:
        if stopped := why_stopped(session):
            raise Frozen(stopped)
        if not seen.is_cached:
            placed = _placed(session, asked, offer, seen, counted=False)
            if isinstance(placed, Declined):
                return placed
            if seen.leader_id is None:
                quota.require_space(session, asked.user_id, offer.size_bytes)
        if price_microusd:
            ledger.require_credits(session, asked.user_id, price_microusd)
    except tuple(_CODES) as refused:
        return _declined(refused)
    return None


def _asked(
    wanted: GenerationRequest, user_id: str, client_key: str, provider: str | None, tag: str | None, given: Given
) -> AdmissionRequest:
    canonical = wanted.canonical()
    return AdmissionRequest(
        user_id,
        client_key,
        wanted,
        key_of({**canonical, "shared": wanted.shared}, None),
        # guard admission.private: a user is given the private video of another
        key_of(canonical, None if wanted.shared else user_id),
        provider,
        tag,
        given,
    )


def _declined(refused: ReelkeeperError) -> Declined:
    return Declined(_CODES[type(refused)], str(refused))


def _answer(engine: Engine, asked: AdmissionRequest) -> Admission:
    try:
        with transaction(engine, "admit") as session:
            answer = _decide(session, asked)
    except tuple(_CODES) as refused:
        return _declined(refused)
    if isinstance(answer, AdmittedJob):  # only now is the queue looked at: no refusal and no lock waits for that
        with reading(engine) as session:
            return still_queued(session, answer, in_force(session).policies)
    return answer


def _decide(session: Session, asked: AdmissionRequest) -> Admission | AdmittedJob:
    seen = look(session, asked)
    if seen.known is not None:
        if isinstance(seen.known, Queued | Joined):
            group_commit(session)  # the first request's commit may not be on disk yet
        return seen.known
    events.require_endpoint(session, asked.given.webhook_url)
    is_free = not seen.in_force.policies.admission.hit_charge_percent
    if seen.is_cached and is_free and (hit := _from_cache(session, asked, seen)):
        return hit
    # Computed before the lock, as others wait for it.
    offer = offered(session, asked.request, seen.tier, seen.in_force.policies, asked.tag)
    group_commit(session)
    require_permission(session)
    # guard admission.looks_again: of two concurrent equal requests, both are charged or made
    before, seen = seen, look(session, asked)
    if seen.known is not None:
        return seen.known
    if seen.is_cached and (hit := _from_cache(session, asked, seen)):
        return hit
    # guard admission.new_prices: a job is sold at prices that have just been replaced
    if seen.in_force.version != before.in_force.version:  # other policies were just applied
        offer = offered(session, asked.request, seen.tier, seen.in_force.policies, asked.tag)
    return _enqueue(session, asked, offer, seen)


def _from_cache(session: Session, asked: AdmissionRequest, seen: ExistingState) -> Cached | None:
    version, policies = seen.in_force
    admission = policies.admission
    video_id = cache.take(session, asked.cache_key, admission.ttl_seconds)
    if video_id is None:
        return None
    job_id, units, hold_id, charge, book = uuid4().hex, complexity(asked.request), None, 0, ""
    if admission.hit_charge_percent:
        price = price_of(asked.request, seen.tier, policies, tag=asked.tag)
        charge, book = admission.hit_charge(price.total_microusd), price.price_book
    if charge:
        hold_id = ledger.hold(
            session, asked.user_id, charge, f"job/{job_id}", run_id=_RUN, lasting_seconds=1, price_book=book
        ).hold_id
        ledger.capture(session, str(hold_id), charge, f"job/{job_id}/capture", run_id=_RUN)
        events.credits_taken(session, asked.user_id, charge, admission.low_credits_usd)
    else:
        async_commit(session)  # only a count and an answer: after a crash, the same request gets the same video
    _write(
        session,
        asked,
        answered=True,
        id=job_id,
        policy_version=version,
        tier=seen.tier,
        complexity=float(units),
        estimate_seconds=expected_seconds(units, 0.0),
        price_microusd=charge,
        price_book=book,
        hold_id=hold_id,
        video_id=video_id,
    )
    return Cached(job_id, video_id, charge)


def _enqueue(
    session: Session, asked: AdmissionRequest, offer: Offer, seen: ExistingState
) -> Joined | AdmittedJob | Declined:
    placed = _placed(session, asked, offer, seen, counted=True)
    if isinstance(placed, Declined):
        return placed
    job_id, price, leader_id = uuid4().hex, offer.price, seen.leader_id
    admission, (lane, cost) = seen.in_force.policies.admission, placed
    lasting, reservation_id, hold_id = admission.hold_seconds, None, None
    if leader_id is None:
        job_scopes = of_job(lane, asked.request.model, offer.tier, asked.user_id)
        reservation_id = quota.reserve(
            session, asked.user_id, offer.size_bytes, f"job/{job_id}", lasting_seconds=lasting
        ).id
        # guard admission.counted: jobs in flight exceed the budget of their provider, model, tier or user
        limits.take_in(session, job_scopes, cost, offer.estimate_seconds)
    if price.total_microusd:
        hold_id = ledger.hold(
            session,
            asked.user_id,
            price.total_microusd,
            f"job/{job_id}",
            run_id=_RUN,
            lasting_seconds=lasting,
            price_book=price.price_book,
        ).hold_id
        events.credits_taken(session, asked.user_id, price.total_microusd, admission.low_credits_usd)
    job = _write(
        session,
        asked,
        answered=False,
        id=job_id,
        policy_version=seen.in_force.version,
        leader_id=leader_id,
        lane=lane,
        tier=offer.tier,
        complexity=float(offer.units),
        estimate_seconds=offer.estimate_seconds,
        price_microusd=price.total_microusd,
        price_book=price.price_book,
        quoted_cost_microusd=cost,
        hold_id=hold_id,
        reservation_id=reservation_id,
        reserved_bytes=offer.size_bytes,
    )
    if leader_id is not None:
        return Joined(job_id, leader_id, price.total_microusd)
    return job


def _placed(
    session: Session, asked: AdmissionRequest, offer: Offer, seen: ExistingState, *, counted: bool
) -> routing.Destination | Declined:
    """Choose who makes a video, within all budgets; for a job that joins another, no budget is asked.

    Nothing is changed, except that a refusal is `counted`. Raises ModelRefused.
    """
    admission = seen.in_force.policies.admission
    entry = seen.in_force.policies.book.entry(asked.request.model)
    lane, cost = (entry and entry.provider) or asked.provider, offer.price.cost_microusd
    # guard admission.whose: of several vendors, one is paid for a model that nobody said it makes
    if lane is None:
        raise ModelRefused(
            f"no provider makes model {asked.request.model!r}: the catalogue names none, and of several, "
            "REELKEEPER_GENERATOR names none. Nothing was held"
        )
    if seen.leader_id is not None:
        return routing.Destination(lane, cost)
    wanted = routing.Wanted(asked.request, asked.user_id, offer.tier, asked.tag, offer.estimate_seconds)
    lane, cost = routing.choose(session, wanted, routing.Destination(lane, cost))
    job_scopes = of_job(lane, asked.request.model, offer.tier, asked.user_id)
    # guard admission.budget: jobs exceed the budget of the day or the month
    if declined := beyond_budget(session, admission, cost):
        return declined
    # guard admission.spend_limits: jobs exceed the budget of their provider, model, tier or user
    if declined := limits.refuse(session, admission.spend_limits, job_scopes, cost, counted=counted):
        return declined
    return routing.Destination(lane, cost)


def _write(session: Session, asked: AdmissionRequest, *, answered: bool, **values: Any) -> AdmittedJob:  # noqa: ANN401  columns of jobs
    about = {
        "user_id": asked.user_id,
        "client_key": asked.client_key,
        "request_sha256": asked.sha256,
        "cache_key": asked.cache_key,
        "model": asked.request.model,
        "tag": asked.tag,
        "caller_metadata": asked.given.metadata,
        "webhook_url": asked.given.webhook_url,
        "request": asked.request.model_dump(mode="json"),
    }
    return add(session, about | values, answered=answered)


def _why(error: Any) -> str:  # noqa: ANN401  pydantic's ErrorDetails, of which the input is not repeated
    place = ".".join(str(part)[:50] for part in error["loc"])
    return f"{place}: {error['msg']}" if place else str(error["msg"])
