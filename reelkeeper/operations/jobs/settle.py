"""End a job: succeeded, failed for good or cancelled, once, by the worker with the last claim on it.

    succeed   captures the price of the delivered video, gives it to the followers and to the cache
    fail      releases credits and bytes; the first follower takes over
    cancel    the same for a waiting job; a running one is asked to stop

A follower holds credits but no bytes, as the video is the leader's; it reserves bytes when it takes over.
Promises made at admission hold under any later policies. Users are not charged for a failure. `lease_token`
is the fence: a lost claim raises LeaseLost, and nothing is changed.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import NamedTuple

from reelkeeper.errors import HoldClosed, InsufficientCredits, IntegrityDoubt, LeaseLost, NotFound, QuotaExceeded
from reelkeeper.model.jobs import JobState
from reelkeeper.model.money import HoldState, Metric, ReservationState, Used
from reelkeeper.model.requests import GenerationRequest
from reelkeeper.operations.alerts import events
from reelkeeper.operations.billing import ledger, limits, quota
from reelkeeper.operations.core.freeze import require_permission
from reelkeeper.operations.core.policies import at as at_version
from reelkeeper.operations.core.policies import in_force
from reelkeeper.operations.jobs import charged, routing
from reelkeeper.operations.jobs.prices import beyond_budget, booked_cost, clip_cost, price_of
from reelkeeper.rules.billing.catalogue import VendorPrice, clip_of
from reelkeeper.rules.jobs import estimate
from reelkeeper.store import Engine, Session
from reelkeeper.store.billing import credit_holds, quotas, spend_counters, usage
from reelkeeper.store.core import controls
from reelkeeper.store.core.engine import now, transaction
from reelkeeper.store.jobs import claims, endings, queue, vendor_jobs
from reelkeeper.store.jobs.endings import ESTIMATES
from reelkeeper.store.jobs.queue import AdmittedJob
from reelkeeper.store.jobs.slots import load_now
from reelkeeper.store.videos import cache
from reelkeeper.store.videos.videos import is_live, live_seconds


class Attempt(NamedTuple):
    """A worker's attempt at a job under one claim: its cost and duration, as far as they are known."""

    job_id: str
    lease_token: int  # of the claim
    cost_microusd: int | None = None  # what its provider charged; None: it did not report it
    may_be_paid: bool = False  # whether a provider that did not report a charge may have charged
    provider_key: str | None = None  # that it was sent under
    is_over_there: bool = False  # at its provider too: it is not looked up again
    is_refused: bool = False  # by its provider, for what was asked for
    processing_seconds: float | None = None  # None: counted from when it was sent
    is_timed: bool = True  # False: nobody saw when its provider ended it, so its seconds are not known
    concurrency: float | None = None  # the mean number of jobs that ran, this one included


class Settled(NamedTuple):
    """End of a job. `promoted` is the id of the follower that takes its place, if there was one."""

    job_id: str
    state: JobState
    video_id: str | None
    charged_microusd: int
    followers: int  # jobs that got the same video
    promoted: str | None = None


def succeed(engine: Engine, attempt: Attempt, *, run_id: str) -> Settled:
    """End a job whose video is live: charge it, and give the video to its followers and to the cache.

    If it was cancelled, and went on for its followers, the oldest of them pays the price, and its user nothing.
    The video's id is the job's. Repeated by the same claim, it returns the same and changes nothing. Raises LeaseLost,
    Frozen, and IntegrityDoubt when there is no such video.
    """
    job_id = attempt.job_id
    with transaction(engine, "job.succeed") as session:
        require_permission(session)
        # guard settle.video: a user is charged for a video that does not exist
        if not is_live(session, job_id) and claims.current(session, job_id, attempt.lease_token):
            raise IntegrityDoubt(f"job {job_id} cannot succeed without a live video; it stays running")
        at = now(session)
        load, slots = load_now(session, in_force(session).policies.admission.slots)
        ended = endings.end(
            session,
            job_id,
            attempt.lease_token,
            JobState.SUCCEEDED,
            at=at,
            video_id=job_id,
            processing_seconds=attempt.processing_seconds,
            concurrency=attempt.concurrency,
            progress=1.0,
            error=None,
        )
        if ended is None:
            return _as_it_ended(session, attempt, JobState.SUCCEEDED)
        took = attempt.processing_seconds
        # guard settle.timed: hours in which nobody followed a job count as its own, and raise estimates and alerts
        if took is None and attempt.is_timed and ended.started_at is not None:
            took = max((at - ended.started_at).total_seconds(), 0.001)
            endings.note(session, job_id, processing_seconds=took)
        if attempt.provider_key:
            charged.take_back(session, ended, attempt.provider_key)
        booked, stated = booked_cost(ended, at_version(session, ended.policy_version)), attempt.cost_microusd
        if stated is not None:
            stated = charged.believed(session, ended, booked, stated, is_delivered=True, run_id=run_id)
        cost_here, quoted = booked if stated is None else stated, limits.expected_cost(ended)
        count(session, ended, at, ended.estimate_seconds if took is None else took, booked, stated)
        if attempt.provider_key:
            vendor_jobs.end(session, attempt.provider_key, at, cost_here, attempt.cost_microusd)
        spent = quoted - booked + cost_here  # the quote has the storage, too
        # guard spend.succeeded: the cost of jobs counts in no budget
        spend_counters.add_generated(session, at.date(), spent)
        # guard spend.limit_succeeded: the cost of jobs counts in no budget of a provider, model, tier or user
        limits.end(session, ended, spent, at)
        ratio = stated / booked if stated is not None and booked else None
        routing.note(session, ended, is_delivered=True, ratio=ratio)
        if took is not None:
            learn(session, ended, load if attempt.concurrency is None else attempt.concurrency / slots, took)
        cache.insert(
            session,
            ended.cache_key,
            job_id,
            user_id=None if ended.request.get("shared") else ended.user_id,
            cost_microusd=ended.price_microusd if stated is None else stated,
            ttl_seconds=at_version(session, ended.policy_version).admission.ttl_seconds,
        )
        _give_bytes_back(session, ended.reservation_id)
        followers = endings.give(session, job_id)
        # guard settle.cancelled_leader: who cancelled a job pays for it, since it went on for others who do not
        payers = followers if followers and ended.cancel_asked_at else [ended]
        # guard settle.next_payer: a video is given to all, and paid by none, since the first has spent the credits
        charges = ((job, _charge(session, job, owed(session, job, job_id), run_id)) for job in payers)
        payer, captured = next((pair for pair in charges if pair[1]), (payers[0], 0))
        if payer is not ended:
            captured = 0
            _give_credits_back(session, ended, run_id)
        _charge_share(session, [job for job in followers if job is not payer], job_id, run_id)
        events.jobs_ended(session, [job_id, *(job.id for job in followers)])
        return Settled(job_id, JobState.SUCCEEDED, job_id, captured, len(followers))


def fail(engine: Engine, attempt: Attempt, error: str, *, run_id: str, state: JobState = JobState.DEAD) -> Settled:
    """End a job without a video, DEAD or CANCELLED: release its holds; its first follower takes over.

    A provider's charge is ours and not the user's; where it is unknown and the attempt `may_be_paid`, the vendor's
    price counts as spent. An attempt that `is_over_there` loses its key and the provider's id. Not for an attempt that
    will be repeated. Repeated by the same claim, it changes nothing. Raises LeaseLost, Frozen.
    """
    with transaction(engine, "job.fail") as session:
        require_permission(session)
        ended = endings.end(
            session,
            attempt.job_id,
            attempt.lease_token,
            state,
            concurrency=attempt.concurrency,
            error=error[:2_000],
            **({"provider_key": None, "provider_job_id": None} if attempt.is_over_there else {}),
        )
        if ended is None:
            return _as_it_ended(session, attempt, state)
        charged.count_without_video(
            session, ended, attempt.provider_key, attempt.cost_microusd, may_be_paid=attempt.may_be_paid, run_id=run_id
        )
        return _give_up(session, ended, state, run_id, refused=error[:2_000] if attempt.is_refused else "")


def cancel(engine: Engine, job_id: str, *, run_id: str, user_id: str | None = None) -> JobState:
    """Cancel a waiting job; ask a running one to stop. Return its state after that; an ended job stays as it is.

    A running one goes on while another request waits for its video, and is then charged to that.
    Raises NotFound, also for a job of another user than `user_id` if that is given, and Frozen.
    """
    with transaction(engine, "job.cancel") as session:
        require_permission(session)
        if ended := endings.cancel(session, job_id, user_id):
            _give_up(session, ended, JobState.CANCELLED, run_id)
            return JobState.CANCELLED
        endings.ask_to_stop(session, job_id, user_id)
        job = queue.find(session, job_id)
        if job is None or user_id not in (None, job.user_id):
            raise NotFound.for_user("job", job_id, user_id)
        return JobState(job.state)


def _as_it_ended(session: Session, attempt: Attempt, wanted: JobState) -> Settled:
    """Return the answer that this claim got before. Raises LeaseLost where another claim has or ended the job."""
    job_id, lease_token = attempt.job_id, attempt.lease_token
    job = queue.find(session, job_id)
    if job is None:
        raise NotFound(f"no job {job_id!r}")
    # guard settle.same_claim: a worker is told that its job is done although another has it
    if (job.lease_token, job.state) != (lease_token, wanted):
        raise LeaseLost(
            f"job {job_id} is {job.state} with claim {job.lease_token}, not {lease_token}: another worker has it; "
            "nothing was changed"
        )
    captured = credit_holds.captured(session, job.hold_id)
    return Settled(job_id, wanted, job.video_id, captured, endings.count_given(session, job_id))


def _give_up(session: Session, ended: AdmittedJob, state: JobState, run_id: str, *, refused: str = "") -> Settled:
    limits.end(session, ended, 0)
    _give_bytes_back(session, ended.reservation_id)
    _give_credits_back(session, ended, run_id)
    events.jobs_ended(session, [ended.id])
    promoted = _promote(session, ended, run_id=run_id, refused=refused) if ended.leader_id is None else None
    return Settled(ended.id, state, None, 0, 0, promoted)


def owed(session: Session, job: AdmittedJob, video_id: str) -> int:
    """Compute the price of the delivered clip, at most the amount held: it may be shorter than ordered.

    For a model that is not priced by its clips, it is the quoted price.
    """
    policies, made = at_version(session, job.policy_version), live_seconds(session, video_id)
    entry = policies.book.entry(job.model, job.lane)
    if made is None or entry is None or not isinstance(entry.price, VendorPrice):
        return job.price_microusd
    request = GenerationRequest.model_validate(job.request)
    seconds = entry.limits.charged_seconds(clip_of(request).seconds, made)
    if seconds == clip_of(request).seconds:
        return job.price_microusd
    clip = request.model_copy(update={"duration_seconds": float(seconds)})
    quote = price_of(clip, job.tier, policies, job.lane, tag=job.tag, is_made=True)
    # guard settle.made_clip: a user is charged for seconds that the clip lacks
    return min(job.price_microusd, quote.total_microusd)


def _charge(session: Session, ended: AdmittedJob, price_microusd: int, run_id: str) -> int:
    """Capture the price. An expired hold is renewed; a user who has spent the credits since gets the video free."""
    if ended.hold_id is None:
        return 0
    key = f"job/{ended.id}"
    try:
        ledger.capture(session, ended.hold_id, price_microusd, f"{key}/capture", run_id=run_id)
    except HoldClosed:
        try:
            late = ledger.hold(session, ended.user_id, price_microusd, f"{key}/late", run_id=run_id, lasting_seconds=1)
        except InsufficientCredits:
            return 0
        ledger.capture(session, str(late.hold_id), price_microusd, f"{key}/capture", run_id=run_id)
        endings.note(session, ended.id, hold_id=late.hold_id)
    return price_microusd


def _charge_share(session: Session, followers: Sequence[AdmittedJob], leader_id: str, run_id: str) -> None:
    """Charge followers that got the video of `leader_id` what was promised for a hit."""
    for job in followers:
        # guard settle.promised_charge: a follower pays another share of the price than was promised
        charge = at_version(session, job.policy_version).admission.hit_charge(owed(session, job, leader_id))
        if charge:
            # guard settle.follower_late: a user who has the credits gets a video free as it took longer than their hold
            _charge(session, job, charge, run_id)
        else:
            _give_credits_back(session, job, run_id)


def _promote(session: Session, leader: AdmittedJob, *, run_id: str, refused: str) -> str | None:
    """Promote the oldest follower of a job that ended without a video; return its id, if there is one.

    A follower whose user's quota or whose budget has no room, or whose credits are spent, ends, with the reason; so
    does one that would be sent what its provider has just `refused`.
    """
    for job in endings.following(session, leader.id):
        # guard settle.refused_for_all: a refused request is sent, and paid, again for each user that joined it
        if refused and job.lane == leader.lane:
            _drop(session, job, refused, run_id)
            continue
        policy, cost = in_force(session).policies.admission, limits.expected_cost(job)
        # guard settle.promotion_limit: a promoted follower exceeds the budget of its provider, model, tier or user
        over = limits.refuse(session, policy.spend_limits, limits.scopes_of(job), cost)
        # guard settle.promotion_budget: promoted followers exceed the budget of the day or the month
        if over := over or beyond_budget(session, policy, cost):
            _drop(session, job, over.reason, run_id)
            continue
        key, lasting = f"job/{job.id}", at_version(session, job.policy_version).admission.hold_seconds
        try:
            # guard settle.promoted_pays: a video is made, and paid, for a user who has spent the credits since
            _hold_again(session, job, f"{key}/lead", lasting, run_id)
            quota.reserve(session, job.user_id, job.reserved_bytes, key, lasting_seconds=lasting)
        except (InsufficientCredits, QuotaExceeded) as few:
            _drop(session, queue.find(session, job.id) or job, str(few), run_id)
            continue
        limits.take_in(session, limits.scopes_of(job), cost, job.estimate_seconds)
        endings.lead(session, job.id, key, after=leader.id)
        return job.id
    return None


def _hold_again(session: Session, job: AdmittedJob, key: str, lasting_seconds: int, run_id: str) -> None:
    """Hold the price of a job whose hold has expired. Raises InsufficientCredits."""
    held = credit_holds.find(session, job.hold_id) if job.hold_id is not None else None
    if held is not None and held.state != HoldState.OPEN:
        amount, book = job.price_microusd, job.price_book
        again = ledger.hold(
            session, job.user_id, amount, key, run_id=run_id, lasting_seconds=lasting_seconds, price_book=book
        )
        endings.note(session, job.id, hold_id=again.hold_id)


def _drop(session: Session, follower: AdmittedJob, reason: str, run_id: str) -> None:
    endings.drop(session, follower.id, reason)
    _give_credits_back(session, follower, run_id)
    events.jobs_ended(session, [follower.id])


def _give_credits_back(session: Session, job: AdmittedJob, run_id: str) -> None:
    """Release a job's credits, if they are still held."""
    held = credit_holds.find(session, job.hold_id) if job.hold_id is not None else None
    if held is not None and held.state == HoldState.OPEN:
        ledger.release(session, held.id, f"job/{job.id}/release/{held.id}", run_id=run_id)


def _give_bytes_back(session: Session, reservation_id: str | None) -> None:
    """Release the bytes that a job reserved, unless they have arrived, or an upload under way uses them."""
    reserved = quotas.find(session, reservation_id) if reservation_id is not None else None
    if reserved is not None and reserved.state == ReservationState.OPEN:
        with suppress(HoldClosed):
            quota.release(session, reserved.id)


def count(
    session: Session, ended: AdmittedJob, at: datetime, took_seconds: float, booked: int, stated: int | None
) -> None:
    """Record the job, its seconds, and its cost, for the account and its user.

    A job at its model's flat price has no cost of its own: it is counted, and priced with the bill. Where the provider
    charged more than expected, the excess is recorded for the account alone.
    """
    day, seconds = at.date(), round(took_seconds)
    of_job = partial(Used, day, resource=ended.model, provider=ended.lane or "")
    used = [
        of_job(metric, quantity, user_id=user)
        for metric, quantity in ((Metric.JOBS, 1), (Metric.GENERATION_SECONDS, seconds))
        for user in ("", ended.user_id)
        if quantity
    ]
    policies = at_version(session, ended.policy_version)
    book, clip = policies.book, clip_cost(ended, policies, ended.lane)
    flat, cost = book.flat_price(ended.model, ended.lane), booked if stated is None else stated
    # guard charges.reported: a job is billed its model's flat price, although its provider reported or has another
    if clip is not None or stated is not None or flat != book.flat_price(ended.model):
        # guard charges.excess: a vendor's overcharge is charged to a user
        for user, share in {"": cost, ended.user_id: min(cost, booked)}.items():
            used.append(of_job(Metric.CLIP_JOBS, 1, user_id=user))
            used.append(of_job(Metric.JOB_MICROUSD, share, user_id=user))
            if share != booked:
                used.append(of_job(Metric.JOB_REBATE_MICROUSD, booked - share, user_id=user))
    usage.record(session, used, add=True)


def learn(session: Session, ended: AdmittedJob, load: float, took_seconds: float) -> None:
    """Record the factor by which the prior estimate was wrong. The caller holds the deployment row: no other writes."""
    state: Mapping[str, list[float]] = controls.remembered(session, [ESTIMATES]).get(ESTIMATES, {})
    factors = estimate.learned(state.get(ended.model, ()), estimate.factor(ended.complexity, load, took_seconds))
    controls.write(session, ESTIMATES, {**state, ended.model: factors})
