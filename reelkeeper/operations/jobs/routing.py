"""Send a job to one of the providers of its model, at its admission and while that one is unwell: never to two.

A job is moved only if no provider can have it: it was never sent, or its provider has certainly refused or failed it.
The user's price and hold stay. Our cost is that of the new provider, and so are the budgets that apply.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from reelkeeper.errors import Frozen, SchemaError
from reelkeeper.model.requests import GenerationRequest
from reelkeeper.operations.billing import limits
from reelkeeper.operations.core.freeze import require_permission
from reelkeeper.operations.core.policies import at as at_version
from reelkeeper.operations.core.policies import in_force
from reelkeeper.operations.jobs import breaker, lanes
from reelkeeper.operations.jobs.prices import beyond_budget, price_of
from reelkeeper.rules.core.limit_scopes import of_job
from reelkeeper.rules.jobs.caps import Room
from reelkeeper.rules.jobs.lanes import Lane
from reelkeeper.rules.jobs.routing import Choice, Offered, Record, Verdict
from reelkeeper.rules.jobs.routing import choose as best_of
from reelkeeper.rules.policies import Policies
from reelkeeper.store import Session
from reelkeeper.store.billing import job_totals
from reelkeeper.store.core import controls
from reelkeeper.store.core.engine import now
from reelkeeper.store.jobs import breakers
from reelkeeper.store.jobs.lanes import parked
from reelkeeper.store.jobs.queue import AdmittedJob
from reelkeeper.store.jobs.slots import lane_limits

_MOST: Final = 50  # jobs that one claim moves, so that admissions do not wait long
_RECORDS: Final = "records"  # {"provider model": how its last jobs ended}


class Destination(NamedTuple):
    """The provider for a new job, and its expected cost to us there."""

    lane: str
    cost_microusd: int


class Wanted(NamedTuple):
    """A job to be sent, as far as the choice of its provider depends on it."""

    request: GenerationRequest
    user_id: str
    tier: str | None
    tag: str | None
    seconds: float  # that it is expected to take

    @classmethod
    def of(cls, job: AdmittedJob) -> "Wanted":
        """Read a job that was admitted."""
        request = GenerationRequest.model_validate(job.request)
        return cls(request, job.user_id, job.tier, job.tag, job.estimate_seconds)


class _Known(NamedTuple):
    """The state of all providers, read once for many jobs: which are failing, how their jobs ended, their limits."""

    policies: Policies  # in force
    shut: Collection[str]
    records: Mapping[str, Any]
    room: Room
    lanes: Mapping[str, Lane]
    as_of: datetime

    @classmethod
    def read(cls, session: Session, shut: Collection[str]) -> "_Known":
        policies, known = in_force(session).policies, lanes.known(session)
        room = Room(policies.caps, (), lanes.limits(lane_limits(session), known))
        return cls(policies, shut, _records(session), room, known, now(session))


def choose(session: Session, wanted: Wanted, first: Destination) -> Destination:
    """Choose the provider of a new job; `first` where no budget has room for it.

    While all those are unwell whose budget has room, it waits for the one that would get it if they were well.

    The caller holds the deployment row.
    """
    policies = in_force(session).policies
    entry = policies.book.entry(wanted.request.model)
    if entry is None or not entry.offers:
        return first
    known = _Known.read(session, breaker.takes_no_more(session))
    offers = _offers(session, wanted, policies, known, 0)
    if to := _destination(best_of(offers, policies.routing), offers):
        return to
    if_well = [offer._replace(is_healthy=True) for offer in offers]
    return _destination(best_of(if_well, policies.routing), if_well) or first


def verdicts(session: Session, job: AdmittedJob) -> tuple[Verdict, ...]:
    """Judge each offer for a waiting job as it stands now; empty where its model has only one."""
    prices = at_version(session, job.policy_version)
    entry = prices.book.entry(job.model)
    if entry is None or not entry.offers:
        return ()
    known = _Known.read(session, breaker.failing(session))
    offers = [
        offer._replace(has_budget=True) if offer.provider == job.lane else offer  # it is counted there already
        for offer in _offers(session, Wanted.of(job), prices, known, limits.expected_cost(job))
    ]
    return best_of(offers, known.policies.routing).verdicts


def move_waiting(session: Session, unwell: Collection[str]) -> None:
    """Move unsent jobs that wait for these providers to other providers of their models.

    Does nothing while changes are frozen. A job that fits no other provider's budget waits for its own.
    """
    policies = in_force(session).policies
    shut = breaker.takes_no_more(session)
    models = [entry.model for entry in policies.book.models if entry.offers and not shut.issuperset(entry.providers)]
    if not models:
        return
    try:
        require_permission(session)
    except Frozen:
        return
    known = _Known.read(session, shut)
    for job in breakers.unsent(session, unwell, models, _MOST):
        _move(session, job, known)


def _move(session: Session, job: AdmittedJob, known: _Known) -> None:
    try:
        # guard fallback.known_price: a job goes to a provider that its price does not cover, and is sold at a loss
        prices = at_version(session, job.policy_version)
    # guard fallback.of_one_job: no job is claimed any more as the version of one that waits cannot be read
    except SchemaError:
        return
    before, seconds = limits.expected_cost(job), job.estimate_seconds
    limits.leave(session, job, limits.scopes_of(job))
    offers = _offers(session, Wanted.of(job), prices, known, before)
    to = _destination(best_of(offers, known.policies.routing), offers)
    limits.leave(session, job, [job_totals.ALL])  # only now: the overall budgets had its cost until here
    if to and to.lane != job.lane and breakers.move(session, job, to.lane, to.cost_microusd):
        limits.take_in(session, of_job(to.lane, job.model, job.tier, job.user_id), to.cost_microusd, seconds)
        return
    limits.take_in(session, limits.scopes_of(job), before, seconds)


def _offers(session: Session, wanted: Wanted, prices: Policies, known: _Known, counted_microusd: int) -> list[Offered]:
    """Read what is known of each provider that can make a job; the overall budgets have `counted_microusd` of it."""
    model, found = wanted.request.model, list[Offered]()
    entry = prices.book.entry(model)
    for lane in entry.able_providers(wanted.request) if entry else ():
        cost = price_of(wanted.request, wanted.tier, prices, lane, tag=wanted.tag).cost_microusd
        scopes, places = of_job(lane, model, wanted.tier, wanted.user_id), known.room.places(f"provider:{lane}")
        # guard fallback.budgets: a job exceeds the budget of its new provider, or of its user
        fits = _has_room(session, known.policies, scopes, cost, cost - counted_microusd)
        way = known.lanes.get(lane, Lane())
        ahead = 0 if places is None and not way.gap_seconds else _count_ahead(session, lane)
        record = Record(*known.records.get(f"{lane} {model}", ())).at(prices.book.price_mark(model, lane))
        held = way.shut_seconds(known.as_of)
        is_healthy, seconds = lane not in known.shut, wanted.seconds
        found.append(Offered(lane, cost, record, is_healthy, fits, places, ahead, seconds, held, way.gap_seconds))
    return found


def _count_ahead(session: Session, lane: str) -> int:
    """Count the jobs of a provider that run, or wait to be sent to it or followed there."""
    flying = job_totals.flying(session, [f"provider:{lane}"])
    return sum(total.jobs for total in flying.values()) - parked(session).get(lane, 0)


def _destination(choice: Choice, offers: Sequence[Offered]) -> Destination | None:
    costs = {offer.provider: offer.cost_microusd for offer in offers}
    return Destination(choice.provider, costs[choice.provider]) if choice.provider else None


def _has_room(
    session: Session, policies: Policies, job_scopes: tuple[str, ...], cost_microusd: int, more_microusd: int
) -> bool:
    """Check whether the budgets of a job's scopes have room for its cost, and the overall ones for what is added."""
    admission = policies.admission
    return limits.has_room(session, admission.spend_limits, job_scopes, cost_microusd) and (
        more_microusd <= 0 or beyond_budget(session, admission, more_microusd) is None
    )


def note(session: Session, job: AdmittedJob, *, is_delivered: bool = False, ratio: float | None = None) -> None:
    """Record how a job ended at a provider that charges for it, where its model has several.

    `ratio` is the cost that the provider stated, in units of the booked one.

    The caller holds the deployment row: no other writes.
    """
    book = at_version(session, job.policy_version).book
    entry = book.entry(job.model)
    if entry is None or not entry.offers or job.lane not in entry.providers:
        return
    mark = book.price_mark(job.model, job.lane)
    records, key = _records(session), f"{job.lane} {job.model}"
    after = Record(*records.get(key, ())).after(is_delivered=is_delivered, price_mark=mark, ratio=ratio)
    controls.write(session, _RECORDS, {**records, key: after})


def _records(session: Session) -> dict[str, Any]:
    found: dict[str, Any] = controls.remembered(session, [_RECORDS]).get(_RECORDS, {})
    return found
