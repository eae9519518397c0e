"""Claim jobs, renew claims, and release them, so that each job takes effect once, even when workers die.

    queued --claim--> running --retry--> queued, after a pause
                        |  ^--park------ parked, while it is unknown whether its provider has it
                        '--settle_job--> succeeded, dead, cancelled

A claim is a lease of 55 seconds, renewed every 15. Its token fences off earlier workers: their calls change nothing,
and raise LeaseLost. The work itself is done at least once, its effect on money and videos exactly once. A job is
announced before it is sent to a provider and named afterwards, so that it is looked up and not sent twice.
"""

import random
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Any

from reelkeeper.errors import LeaseLost, NotFound, ProviderBusy, ProviderFull, Refused
from reelkeeper.model.alerts import Finding
from reelkeeper.model.jobs import TRIAL_CALLED, TRIAL_KEYS, JobState, Served, WaitingJob
from reelkeeper.operations.alerts import alerts
from reelkeeper.operations.billing import ledger, limits, quota
from reelkeeper.operations.core.freeze import require_permission, why_stopped
from reelkeeper.operations.core.policies import at as at_version
from reelkeeper.operations.core.policies import in_force
from reelkeeper.operations.jobs import breaker, charged, lanes, routing
from reelkeeper.rules.core.limit_scopes import of_job
from reelkeeper.rules.core.tiers import Tiers
from reelkeeper.rules.jobs import dispatch
from reelkeeper.rules.jobs.attempts import LONGEST_PAUSE_SECONDS, pause_seconds, quiet_seconds
from reelkeeper.rules.jobs.breaker import Phase
from reelkeeper.rules.jobs.caps import Room
from reelkeeper.rules.jobs.dispatch import DispatchPolicy, RankedQueue
from reelkeeper.store import Engine, Session
from reelkeeper.store.billing import job_totals
from reelkeeper.store.core import controls, deployment
from reelkeeper.store.core.audit import Event, append
from reelkeeper.store.core.engine import now, transaction
from reelkeeper.store.core.failures import safe_to_repeat
from reelkeeper.store.jobs import claims, endings, queue, scores, vendor_jobs
from reelkeeper.store.jobs.claims import Claim
from reelkeeper.store.jobs.lanes import occupied
from reelkeeper.store.jobs.scores import Window
from reelkeeper.store.jobs.slots import lane_limits
from reelkeeper.store.videos import cache

_TURN_SECONDS = 10.0  # in which a vendor answers the first requests of a crowd


def claim(
    engine: Engine,
    worker: str,
    warm_models: Sequence[str | None],
    *,
    limit: int,
    order: DispatchPolicy | None = None,
    tiers: Tiers | None = None,
    served: Served | None = None,
) -> list[Claim]:
    """Claim a job for each free slot of a worker; `warm_models` are the models that the slots have loaded.

    Jobs that wait for a provider that is not `served`, and those that were sent to one, are left out; unset: none are.
    `order` and `tiers` are exceptions of this run to the policies in force. At most `limit` jobs run at once over all
    workers, of a provider, model, tier or user at most its cap, of a provider at most its tuned limit and what it has
    shown to take, and of an unwell provider only trial jobs; these limits do not hold up other jobs. Jobs of dead
    workers and jobs to be looked up come first, the others in the order of `rules/jobs/dispatch`. Where the limit is
    reached, jobs that a provider has are fetched still. Frozen, it claims nothing. Claims are serialised.
    """
    if not warm_models:
        return []
    with transaction(engine, "jobs.claim") as session:
        memory, as_of = controls.locked(session, claims.DISPATCH)
        if why_stopped(session):
            return []
        kept = in_force(session).policies
        policies, begun = kept.overridden(order=order, tiers=tiers), claims.begun(session)
        # guard claims.limit: more jobs run at once than the limit allows, and each costs money
        slots = list(warm_models[: max(0, limit - sum(some.running for some in begun))])
        resting = breaker.for_claims(session, as_of)
        if unwell := [name for name, rest in resting.items() if rest.phase is Phase.OPEN]:
            routing.move_waiting(session, unwell)
        tiers = policies.tiers
        ranked = dispatch.window(policies.order, tiers)
        is_stored = ranked is not None and ranked == dispatch.window(kept.order, kept.tiers)
        # guard claims.fetched: while a person allows no job at Prefect, what vendors have made expires there
        most, hours = len(slots) or len(warm_models), kept.attempts.unserved_hours
        # guard claims.none_begun: meanwhile a job is bought that its vendor may not have
        # guard claims.theirs: a worker takes a job that another provider has, and ends it without asking that
        chosen = claims.left_behind(session, most, served, hours, only_named=not slots)
        if slots := slots[len(chosen) :]:
            caps, tuned, default = policies.caps, lane_limits(session), served.default if served else None
            more = lanes.rooms(session, as_of, default)
            more |= {name: min(rest.room, more.get(name, rest.room)) for name, rest in resting.items()}
            # guard claims.default_place: of jobs that no provider is named for, more than the cap are begun at once
            taken = [some._replace(lane=some.lane or default) for some in occupied(session)] if caps or tuned else ()
            room = Room(caps, taken, tuned, more)
            named = ((entry.model, name) for entry in policies.book.models for name in entry.providers)
            # guard claims.others: a worker keeps claiming jobs of another provider, which stay waiting
            others = [pair for pair in named if served and pair[1] not in served.names]
            read: Callable[..., tuple[list[WaitingJob], float]]
            if ranked is not None and is_stored and (lines := scores.score(session, ranked)) is not None:
                window = Window.of(ranked, lines, len(slots))
                read = partial(first_jobs, session, window, begun, others=others, served=served)
            else:
                waiting = partial(claims.waiting_jobs, session, ranked, tiers.names)
                read = partial(waiting, others=others, served=served)
            rank = partial(dispatch.RankedQueue, policy=policies.order, tiers=tiers, as_of=as_of, slots=limit)
            picked, credit = _pick(slots, float(memory.get("credit_seconds", 0.0)), room, read, rank)
            controls.write(session, claims.DISPATCH, memory | {"credit_seconds": credit})
            for name, rest in resting.items():
                breaker.try_with(session, name, rest.breaker, [job.id for job in picked if job.lane == name])
            chosen += [job.id for job in picked]
        taken_in = claims.take(session, chosen, worker) if chosen else []
        if taken_in and ranked is not None and is_stored:
            scores.move_up(session, ranked, [job.user_id for job in taken_in])
        return taken_in


def _pick(
    slots: Sequence[str | None],
    credit: float,
    room: Room,
    read: Callable[..., tuple[list[WaitingJob], float]],
    rank: Callable[..., RankedQueue],
) -> tuple[list[WaitingJob], float]:
    """Choose jobs for the free slots, best first; return them with the remaining credit in seconds.

    `read` returns the waiting jobs without those of full scopes and taken ones; `rank` orders them.
    """
    picked = list[WaitingJob]()
    while len(picked) < len(slots):
        taken = [job.id for job in picked]
        waiting, more = read(full=room.shut(), taken=taken)
        line, some_full = rank(waiting, more_seconds=more), False
        while line and len(picked) < len(slots):
            job, credit = line.first(credit, slots[len(picked)])
            line.start(job)
            picked.append(job)
            # guard claims.caps: more jobs of a provider, model, tier or user run at once than the cap allows
            if room.take(job):
                line.keep(room.fits)
                some_full = True
        if not some_full:  # no other jobs could be claimed
            break
    return picked, credit


def first_jobs(
    session: Session,
    window: Window,
    begun: Iterable[claims.Begun],
    *,
    full: Collection[str] = (),
    taken: Collection[str] = (),
    others: Collection[tuple[str, str]] = (),
    served: Served | None = None,
) -> tuple[list[WaitingJob], float]:
    """Return the first of the waiting jobs, which all have a score, and the seconds of all the others.

    `begun` are the jobs that wait no more; the other parameters are those of `claims.waiting_jobs`.
    """
    found = scores.firsts(session, window, full=full, taken=taken, others=others, served=served)
    return found, max(_seconds(session, begun, full) - sum(job.estimate_seconds for job in found), 0.0)


def _seconds(session: Session, begun: Iterable[claims.Begun], full: Collection[str]) -> float:
    """Sum the estimated seconds of the waiting jobs, without those of full scopes, from totals.

    A job in two full scopes is left out twice.
    """
    flying = job_totals.flying(session, [job_totals.ALL, *full])
    waits = {scope: total.milliseconds / 1_000 for scope, total in flying.items()}
    for some in begun:
        for scope in (job_totals.ALL, *of_job(some.lane, some.model, some.tier, some.user_id)):
            if scope in waits:
                waits[scope] -= some.seconds
    return waits.pop(job_totals.ALL, 0.0) - sum(max(seconds, 0.0) for seconds in waits.values())


def renew(engine: Engine, held: Iterable[tuple[Claim, float]]) -> dict[str, bool]:
    """Extend claims, each with the job's progress from 0 to 1; a claim missing from the result was lost.

    The result says for each job whether to cancel it: its user has asked for that, and nobody else waits for it.
    """
    with transaction(engine, "jobs.renew") as session:
        return claims.renew(session, [(*job.fence, progress) for job, progress in held])


# guard outages.announced: a job that was not sent is in doubt for a day, as its announcement's answer was lost
@safe_to_repeat
def announce(engine: Engine, job: Claim, provider: str) -> Claim:
    """Record the key under which a job is about to be sent to a provider, whose time for it begins now.

    Raises LeaseLost, Frozen; for a new job, ProviderBusy where the provider became unwell since the claim, and
    ProviderFull where it takes no more at the moment.
    """
    # guard claims.one_key: a job that was already sent is sent again under another key, and paid twice
    key = job.provider_key or f"{job.id}-{job.lease_token}"
    with transaction(engine, "jobs.announce") as session:
        require_permission(session)
        # guard breaker.announce: jobs claimed before a breaker opened are sent to a provider that fails them
        seconds = None if job.provider_key else breaker.wait_seconds(session, provider, job.id)
        if seconds is not None:
            raise ProviderBusy(f"provider {provider!r} is failing, and gets no new jobs for now", seconds)
        begun: dict[str, Any] = {}
        if job.provider_key is None:
            lanes.require_room(session, provider, key)
            # guard claims.sent_at: a job that waited a day for its vendor is bought, and cancelled there at once
            begun["started_at"] = now(session)
        before = queue.find(session, job.id) if job.lane != provider else None
        _require(claims.note(session, job, provider=provider, provider_key=key, lane=provider, **begun), job)
        if before and before.lane != provider:
            limits.move(session, before, before.lane, provider)
        # guard spend.each_attempt: a job that a vendor made is in no comparison with its bill
        vendor_jobs.announce(session, key, job.id, provider)
    return job._replace(provider=provider, provider_key=key, lane=provider, **begun)


def announce_in_turn(engine: Engine, job: Claim, provider: str, check: Callable[[], None]) -> Claim:
    """Announce a job as soon as its provider has answered others, or takes the next one, if that is within seconds.

    `check` is called before each try. Raises what it raises, and what `announce` raises.
    """
    ends = time.monotonic() + _TURN_SECONDS
    while True:
        check()
        try:
            return announce(engine, job, provider)
        except ProviderFull as full:
            if time.monotonic() + full.seconds > ends:
                raise
            time.sleep(min(full.seconds, 1.0))


# guard outages.named: a paid clip is lost, whose vendor looks none up, as the store restarts when its id arrives
@safe_to_repeat
def note_sent(engine: Engine, job: Claim, provider_job_id: str) -> Claim:
    """Record the provider's id of a job, also of one that another worker has by now. Raises LeaseLost."""
    with transaction(engine, "jobs.sent") as session:
        lanes.note_accepted(session, str(job.provider))
        is_ours = claims.note(session, job, provider_job_id=provider_job_id)
        vendor_jobs.name(session, str(job.provider_key), provider_job_id)
        # guard claims.sent_late: a paid clip is lost, whose vendor looks none up, as its worker was suspended meanwhile
        if not is_ours and claims.nameless(session, str(job.provider_key)):
            claims.name_sent(session, str(job.provider_key), provider_job_id)
    _require(is_ours, job)
    return job._replace(provider_job_id=provider_job_id)


def note_over(engine: Engine, job: Claim) -> None:
    """Record that a provider is done with a job, whose place there is free. Its video remains to be fetched."""
    with transaction(engine, "jobs.over") as session:
        vendor_jobs.over(session, str(job.provider_key))


def retry(
    engine: Engine,
    job: Claim,
    error: str,
    *,
    cost_microusd: int | None = None,
    may_be_paid: bool = False,
    busy: ProviderBusy | None = None,
    run_id: str = "",
) -> float:
    """Requeue a job whose attempt has failed, and return its pause in seconds. Raises LeaseLost.

    The provider certainly failed it or never had it: the next attempt sends it under a new key. This attempt's cost
    is ours, and counts as spent: as reported, else the vendor's price if it `may_be_paid`. A `busy` provider did not
    accept it, no attempt is counted, and the job keeps the claim's `started_at`; if it is full, it is the provider's
    lane that is held, and not the job.
    """
    pause = pause_seconds(job.attempts, random.random())  # noqa: S311  it spreads attempts, and guards nothing
    gone: dict[str, Any] = {"provider_key": None, "provider_job_id": None, "progress": 0.0}
    if busy:
        pause = 0.0 if isinstance(busy, ProviderFull) else max(pause, busy.seconds)
        gone |= {"attempts": job.attempts - 1, "started_at": job.started_at}
    with transaction(engine, "jobs.retry") as session:
        deployment.lock(session)  # before the job, as those who end one do
        if isinstance(busy, ProviderFull) and job.provider_key:
            lanes.note_refused(session, str(job.provider), job.provider_key, busy)
        _require(claims.release_job(session, job, JobState.QUEUED, pause, error, **gone), job)
        # guard spend.failed_attempts: the cost of failed attempts counts in no budget
        if busy is None and (begun := queue.find(session, job.id)):
            charged.count_without_video(
                session, begun, job.provider_key, cost_microusd, may_be_paid=may_be_paid, run_id=run_id
            )
        elif job.provider_key:
            vendor_jobs.forget(session, job.provider_key)
    return pause


def wait(engine: Engine, job: Claim, error: str) -> float:
    """Requeue a job like `retry`, but keep its key and the provider's id: the provider still has it."""
    pause = pause_seconds(job.attempts, random.random())  # noqa: S311  as above
    with transaction(engine, "jobs.wait") as session:
        _require(claims.release_job(session, job, JobState.QUEUED, pause, error), job)
    return pause


def park(engine: Engine, job: Claim, error: str, *, is_unserved: bool = False) -> None:
    """Park a job that its provider may have, to be looked up later; unserved, it stays as it was. Raises LeaseLost."""
    # guard claims.left_as_it_was: after a freeze, a paid clip is given up as its own worker's first look fails
    state = JobState.QUEUED if is_unserved and not job.was_parked else JobState.PARKED
    pause, attempts = quiet_seconds(is_unserved=is_unserved), job.attempts - (state is JobState.QUEUED)
    with transaction(engine, "jobs.park") as session:
        _require(claims.release_job(session, job, state, pause, error, attempts=attempts), job)


def park_and_tell(engine: Engine, job: Claim, error: str, found: Finding, *, run_id: str) -> None:
    """Park a job whose video is made and cannot be had, to be fetched later; raise one alert. Raises LeaseLost."""
    with transaction(engine, "jobs.park") as session:
        _require(claims.release_job(session, job, JobState.PARKED, LONGEST_PAUSE_SECONDS, error), job)
        # guard claims.unreadable_told: a paid video that cannot be read is given up a day later, and nobody was told
        alerts.observe_within(session, [found], run_id=run_id)


def poll_now(engine: Engine, provider_job_id: str) -> bool:
    """End the pause of a waiting or parked job, since its provider has reported a change."""
    with transaction(engine, "jobs.look_soon") as session:
        return claims.poll_now(session, provider_job_id=provider_job_id)


def name_sent(engine: Engine, provider_key: str, name: Callable[[str], str], *, model: str | None = None) -> bool:
    """Record the provider's id of a job whose answer was lost, from a provider's callback, and end its pause.

    `name` returns the provider's id of the job for the vendor's model that it was sent to: the one that it was quoted
    for, else `model`, else the model of the request. A job that has an id keeps it.
    """
    with transaction(engine, "jobs.name_sent") as session:
        if provider_key.startswith(TRIAL_KEYS):
            controls.write(session, TRIAL_CALLED, {"key": provider_key})
            return False
        if lost := claims.nameless(session, provider_key):
            entry = at_version(session, lost.policy_version).book.entry(lost.model, lost.lane)
            # guard claims.vendors_model: a callback names a job by a model that its vendor does not know: it is lost
            sent_to = (entry and entry.quoted_model) or model or lost.model
            claims.name_sent(session, provider_key, name(sent_to))
        return claims.poll_now(session, provider_key=provider_key)


def hand_back(engine: Engine, held: Sequence[Claim], *, is_unsent: bool = False) -> None:
    """Release jobs that were claimed and not begun, when a worker has to stop; `is_unsent`: though announced."""
    with transaction(engine, "jobs.hand_back") as session:
        claims.hand_back(session, held, is_unsent=is_unsent)


def redrive(engine: Engine, job_id: str, *, author: str, buy_again: bool = False) -> None:
    """Requeue a dead job from its first attempt; its price is held and its bytes are reserved again.

    The price is that of its admission; the duration of the hold, and whether the bytes fit, follow the
    policies in force, as for a new job. A parked job is looked up, or its video fetched, without a further pause. A job
    that its provider has, or may have, is not sent again unless `buy_again`: what it cost there counts as spent.

    Raises NotFound; Refused when it is neither, or another job makes the same; InsufficientCredits, QuotaExceeded.
    """
    with transaction(engine, "jobs.redrive") as session:
        require_permission(session)
        if (job := queue.find(session, job_id, locked=True)) is None:
            raise NotFound(f"no job {job_id!r}")
        sent = endings.sent_as(session, job_id)
        detail = {"job": job_id, "was": job.error, "provider_job": sent.provider_job_id, "buy_again": buy_again}
        # guard claims.buy_again: a person who has a video fetched again pays for another one
        if buy_again:
            endings.forget_sent(session, job_id)
        if job.state == JobState.PARKED:
            endings.resume(session, job_id, afresh=buy_again)
            if buy_again:
                # guard spend.bought_again: of two videos that a person had bought for one job, one counts in no budget
                charged.count_without_video(session, job, sent.provider_key, None, may_be_paid=True, run_id=author)
            append(session, [Event("redrive", author, user_id=job.user_id, detail=detail)])
            return
        # guard claims.redrive_dead: a running job is made and charged again
        if job.state != JobState.DEAD:
            raise Refused(f"job {job_id!r} is {job.state}; only a dead job can be tried again. Nothing was changed")
        # guard claims.redrive_alone: a video that another job is making is made and paid again
        if other := queue.leader_of(session, job.cache_key):
            raise Refused(f"job {other!r} is already making the video of job {job_id!r}; nothing was changed")
        # guard claims.redrive_made: a video that the user has got by another request is made and paid again
        if not buy_again and (made := cache.peek(session, job.cache_key)):
            raise Refused(f"video {made!r} already answers the request of job {job_id!r}; nothing was changed")
        lasting, book = in_force(session).policies.admission.hold_seconds, job.price_book
        key, user_id, values = f"job/{job_id}/redrive/{job.lease_token}", job.user_id, dict[str, str | None]()
        if price := job.price_microusd:
            values["hold_id"] = ledger.hold(
                session, user_id, price, f"{key}/hold", run_id=author, lasting_seconds=lasting, price_book=book
            ).hold_id
        if job.reserved_bytes:
            reserved = quota.reserve(session, user_id, job.reserved_bytes, key, lasting_seconds=lasting)
            values["reservation_id"] = reserved.id
        endings.redrive(session, job_id, **values)
        limits.take_in(session, limits.scopes_of(job), limits.expected_cost(job), job.estimate_seconds)
        append(session, [Event("redrive", author, user_id=job.user_id, detail=detail)])


def _require(is_ours: bool, job: Claim) -> None:
    if not is_ours:
        raise LeaseLost(
            f"job {job.id!r} (token {job.lease_token}) has ended, or another worker has claimed it; nothing was changed"
        )
