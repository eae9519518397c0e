"""Answer a request for a video in one transaction: it is there, it is being made, it will be made, or why it will not.

    cache hit --> Cached          the entry's video, now
    in flight --> Joined          waits for the job that is at it
    new -------> Queued           bytes reserved, credits held, a job in the queue
    otherwise -> Declined         nothing is changed

Idempotent by the client's key: the same request again gives the same job, whatever has become of it.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import uuid4

import sqlalchemy as sa
from pydantic import ValidationError
from sqlalchemy.engine import Engine
from sqlmodel import Session

from reelkeeper.errors import AmountRefused, Frozen, InsufficientCredits, QuotaExceeded
from reelkeeper.model import Tier
from reelkeeper.model.jobs import JobState
from reelkeeper.model.requests import (
    Admission,
    Cached,
    Declined,
    GenerationRequest,
    Joined,
    RefusedFor,
)
from reelkeeper.operations import cache, ledger, quota
from reelkeeper.operations.answered import Asked, before, queued
from reelkeeper.operations.followers import reservation_key
from reelkeeper.operations.freeze import require_permission
from reelkeeper.rules.admission import AdmissionPolicy
from reelkeeper.rules.cache import key as key_of
from reelkeeper.rules.credits import require_key
from reelkeeper.rules.estimate import complexity, estimate_processing_time, expected_bytes
from reelkeeper.rules.lifecycle import LifecyclePolicy
from reelkeeper.rules.quota import QuotaPolicy
from reelkeeper.rules.quote import Job, PriceBook, Quote, quote
from reelkeeper.store.engine import Clock, transaction, unhurried
from reelkeeper.store.steering import CONCURRENCY, ESTIMATES, remembered, slots_of
from reelkeeper.store.tables import jobs
from reelkeeper.store.waiting import LEADS, waiting

_CODES = {
    QuotaExceeded: RefusedFor.QUOTA,
    InsufficientCredits: RefusedFor.CREDITS,
    Frozen: RefusedFor.FROZEN,
    AmountRefused: RefusedFor.INPUT,
}


class Terms(NamedTuple):
    """All that an answer depends on beside the store."""

    admission: AdmissionPolicy = AdmissionPolicy()
    quota: QuotaPolicy = QuotaPolicy()
    book: PriceBook = PriceBook()
    lifecycle: LifecyclePolicy = LifecyclePolicy()


def admit(
    engine: Engine,
    request: GenerationRequest | Mapping[str, Any],
    *,
    user_id: str,
    client_key: str,
    terms: Terms = Terms(),
    run_id: str = "admit",
) -> Admission:
    """Answer a request of a user's.

    A video that is there is given while changes are frozen too, unless it is charged for. Raises NotFound for a user
    whom the catalogue does not know, and KeyReused when the client's key came with another request.
    """
    try:
        require_key(client_key)
        wanted = request if isinstance(request, GenerationRequest) else GenerationRequest.model_validate(dict(request))
    except ValidationError as wrong:
        return Declined(RefusedFor.INPUT, "; ".join(_why(one) for one in wrong.errors(include_url=False)[:5]))
    except AmountRefused as wrong:
        return Declined(RefusedFor.INPUT, str(wrong))
    canonical = wanted.canonical()
    asked = Asked(
        user_id,
        client_key,
        wanted,
        key_of({**canonical, "shared": wanted.shared}, None),
        key_of(canonical, None if wanted.shared else user_id),
    )
    try:
        return _answer(engine, asked, terms, run_id)
    except sa.exc.IntegrityError:  # the same key was answered from the cache at this moment, which takes no lock
        return _answer(engine, asked, terms, run_id)


def _answer(engine: Engine, asked: Asked, terms: Terms, run_id: str) -> Admission:
    try:
        with transaction(engine, "admit") as session:
            return _decide(session, asked, terms, run_id)
    except (QuotaExceeded, InsufficientCredits, Frozen, AmountRefused) as refused:
        return Declined(_CODES[type(refused)], str(refused))


def _decide(session: Session, asked: Asked, terms: Terms, run_id: str) -> Admission:
    tier, known = before(session, asked, terms.admission.slots)
    if known is not None:
        return known
    if not terms.admission.hit_charge_percent and (hit := _from_cache(session, asked, tier, terms, run_id)):
        return hit
    require_permission(session)
    tier, known = before(session, asked, terms.admission.slots)
    found = known or _from_cache(session, asked, tier, terms, run_id)
    return found or _enqueue(session, asked, tier, terms, run_id)


def _from_cache(session: Session, asked: Asked, tier: str | None, terms: Terms, run_id: str) -> Cached | None:
    video_id = cache.take(session, asked.cache_key, terms.admission.ttl_seconds)
    if video_id is None:
        return None
    job_id, units, hold_id, charge, book = uuid4().hex, complexity(asked.request), None, 0, ""
    if terms.admission.hit_charge_percent:
        price = _price(asked.request, tier, terms)
        charge, book = terms.admission.hit_charge(price.total_microusd), price.price_book
    if charge:
        hold_id = ledger.hold(
            session, asked.user_id, charge, f"job/{job_id}", run_id=run_id, lasting_seconds=1, price_book=book
        ).hold_id
        ledger.capture(session, str(hold_id), charge, f"job/{job_id}/capture", run_id=run_id)
    else:
        unhurried(session)  # a count and an answer: whoever asks again after a crash gets the same video
    _write(
        session,
        asked,
        id=job_id,
        state=JobState.SUCCEEDED,
        tier=tier,
        complexity=float(units),
        estimate_seconds=estimate_processing_time(units, 0.0).seconds,
        price_microusd=charge,
        price_book=book,
        hold_id=hold_id,
        video_id=video_id,
        progress=1.0,
        finished_at=Clock(),
    )
    return Cached(job_id, video_id, charge)


def _enqueue(session: Session, asked: Asked, tier: str | None, terms: Terms, run_id: str) -> Admission:
    job_id, units = uuid4().hex, complexity(asked.request)
    price, size_bytes = _price(asked.request, tier, terms), _bytes(asked.request, terms)
    leader_id = session.execute(
        sa.select(jobs.c.id).where(jobs.c.cache_key == asked.cache_key, LEADS)
    ).scalar_one_or_none()
    memory = remembered(session, [CONCURRENCY, ESTIMATES])
    slots, factors = slots_of(memory, terms.admission.slots), memory.get(ESTIMATES, {}).get(asked.request.model, ())
    seen = waiting(session, estimate_processing_time(units, 1.0, factors).seconds)
    estimate = estimate_processing_time(units, seen.running / slots, factors).seconds
    lasting, reservation_id, hold_id = terms.admission.hold_seconds, None, None
    if leader_id is None:
        reservation_id = quota.reserve(
            session,
            asked.user_id,
            size_bytes,
            reservation_key(job_id),
            lasting_seconds=lasting,
            policy=terms.quota,
        ).id
    if price.total_microusd:
        hold_id = ledger.hold(
            session,
            asked.user_id,
            price.total_microusd,
            f"job/{job_id}",
            run_id=run_id,
            lasting_seconds=lasting,
            price_book=price.price_book,
        ).hold_id
    _write(
        session,
        asked,
        id=job_id,
        state=JobState.QUEUED,
        leader_id=leader_id,
        tier=tier,
        complexity=float(units),
        estimate_seconds=estimate,
        price_microusd=price.total_microusd,
        price_book=price.price_book,
        hold_id=hold_id,
        reservation_id=reservation_id,
        reserved_bytes=size_bytes,
        progress=0.0,
    )
    if leader_id is not None:
        return Joined(job_id, leader_id, price.total_microusd)
    return queued(job_id, price.total_microusd, price.price_book, seen, estimate, slots)


def _write(session: Session, asked: Asked, **values: Any) -> None:  # noqa: ANN401  columns of jobs
    session.execute(
        sa.insert(jobs).values(
            user_id=asked.user_id,
            client_key=asked.client_key,
            request_sha256=asked.sha256,
            cache_key=asked.cache_key,
            model=asked.request.model,
            request=asked.request.model_dump(mode="json"),
            attempts=0,
            lease_token=0,
            created_at=Clock(),
            due_at=Clock(),
            **{"reserved_bytes": 0, **values},
        )
    )


def _price(request: GenerationRequest, tier: str | None, terms: Terms) -> Quote:
    known = Tier(tier) if tier in set(Tier) else None
    days = terms.lifecycle.retention_days()[known] if known else None
    units: Decimal = complexity(request)
    size_bytes = _bytes(request, terms)
    return quote(Job(model=request.model, complexity=units, size_bytes=size_bytes, retention_days=days), terms.book)


def _bytes(request: GenerationRequest, terms: Terms) -> int:
    return expected_bytes(request, terms.admission.bits_per_pixel)


def _why(error: Any) -> str:  # noqa: ANN401  pydantic's ErrorDetails, of which the input is not repeated
    place = ".".join(str(part)[:50] for part in error["loc"])
    return f"{place}: {error['msg']}" if place else str(error["msg"])
