"""Run one claimed job: make, deliver and settle it; or requeue it, park it, give it up or hand it to another worker.

Any error raised here becomes an outcome of that job and stops no other. A job lost to another worker is left alone.
"""

import logging
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from reelkeeper import disk
from reelkeeper.adapters.ffmpeg.intake import scratch_dir
from reelkeeper.adapters.providers.contract import Generator, Generators, Made, Order
from reelkeeper.errors import (
    AccountLocked,
    DiskFull,
    Frozen,
    GenerationAbsent,
    GenerationCancelled,
    GenerationFailed,
    GenerationLost,
    GenerationRefused,
    GenerationStopped,
    GenerationUnknown,
    LeaseLost,
    MediaError,
    NotAVideo,
    ProviderBusy,
    ProviderDown,
    ProviderFull,
    ReelkeeperError,
    ResultUnreadable,
    SchemaError,
    StorageError,
    Unavailable,
)
from reelkeeper.logs import bound
from reelkeeper.model.jobs import End, JobState
from reelkeeper.operations.core.isolation import UNFIT
from reelkeeper.operations.core.lease import GIVE_UP_SECONDS, LeaseManager
from reelkeeper.operations.core.machine import name as machine_name
from reelkeeper.operations.core.policies import are_readable
from reelkeeper.operations.core.policies import at as at_version
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.jobs import breaker, settle
from reelkeeper.operations.jobs import claim as claiming
from reelkeeper.operations.jobs.deliver import deliver, is_stored, settle_left
from reelkeeper.operations.jobs.settle import Attempt
from reelkeeper.operations.videos.intents import is_too_large
from reelkeeper.rules.alerts.alerting import no_room
from reelkeeper.rules.billing.vendor_charges import Ending, ending_of, may_be_charged
from reelkeeper.rules.core.wording import problem_of
from reelkeeper.rules.jobs import attempts as rules
from reelkeeper.store import DBAPIError, Engine
from reelkeeper.store.core.engine import reading
from reelkeeper.store.core.failures import explained
from reelkeeper.store.jobs import vendor_jobs
from reelkeeper.store.jobs.claims import Claim

_log = logging.getLogger(__name__)
_OTHERS_SECONDS: Final = 30.0  # before a job is offered again, to a worker of its provider


class HandedOver(Exception):  # noqa: N818  no error: the worker ends, and the job continues
    """The worker has to stop."""


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """Shared by all jobs of a worker. `closing`: hand over jobs that continue at a provider; `ending`: all jobs.

    `unfit` has the first reason why this machine cannot go on, such as a full disk, which ends the worker.
    """

    workspace: Workspace
    generators: Generators
    manager: LeaseManager
    scratch: Path
    run_id: str
    closing: threading.Event = field(default_factory=threading.Event)
    ending: threading.Event = field(default_factory=threading.Event)
    unstored: threading.Event = field(default_factory=threading.Event)  # the bucket did not take what was made
    woken: threading.Event = field(default_factory=threading.Event)  # a job has ended, here or at its provider
    unfit: list[ReelkeeperError] = field(default_factory=list)

    @property
    def engine(self) -> Engine:
        """The store."""
        return self.workspace.engine


class JobRun:
    """A job of this worker: what a generator records of it, and whether it may continue."""

    def __init__(self, context: WorkerContext, claim: Claim, attempts: rules.AttemptPolicy) -> None:
        self.claim, self.attempts, self.fraction = claim, attempts, 0.0
        # guard claims.never_tried: a job that was claimed and never sent dies of its first 429 after a freeze of a day
        self.waits_since = claim.started_at if claim.error or claim.provider_key else datetime.now(UTC)
        self.is_lost, self.is_cancelled = False, claim.cancel_asked_at is not None
        self.is_stored = False  # its video, by an earlier worker
        self.renewed = self.began = time.monotonic()
        self.paid_microusd: int | None = None  # what the provider charged for this attempt
        self.is_paid = False  # it charged, and did not say how much
        self.never_came = False  # to its vendor, by that vendor's list
        self.is_unsent = False  # announced by this worker, which has had no leave to send it since
        self.was_running = False  # at its provider, as this worker has seen
        self.ended_at: datetime | None = None  # there; None: not seen
        self.ran_beside: list[int] = []  # jobs of the same provider that ran, at each count
        self.generator: Generator | None = None  # until it is known where the job goes
        self._context = context

    def announce(self) -> str:
        """Record that the job is about to be sent; return its key. Waits a moment for answers to other jobs."""
        is_new = self.claim.provider_key is None
        self.claim = claiming.announce_in_turn(self._context.engine, self.claim, str(self.here), self.check)
        self.is_unsent = is_new
        return str(self.claim.provider_key)

    def sent(self, provider_job_id: str) -> None:
        """Record the provider's id of the job."""
        self.claim = claiming.note_sent(self._context.engine, self.claim, provider_job_id)

    def over(self) -> None:
        """Record that the provider is done with the job, and let another be claimed in its place."""
        # guard breaker.seen_to_end: after hours without a worker, a well provider counts as slow, and gets no job
        self.ended_at = datetime.now(UTC) if self.was_running else None
        claiming.note_over(self._context.engine, self.claim)
        self._context.woken.set()

    def progress(self, fraction: float) -> None:
        """Record the progress, from 0 to 1."""
        self.fraction, self.was_running = fraction, True
        self.check()

    def paid(self, cost_microusd: int | None) -> None:
        """Record what the provider charged for an attempt; None: it charged, and did not say how much."""
        self.paid_microusd, self.is_paid = cost_microusd, cost_microusd is None

    def check(self) -> None:
        """Raise LeaseLost, GenerationCancelled or HandedOver if the work has to stop."""
        age = time.monotonic() - self.renewed
        # guard claims.given_up: a worker continues a job that another has taken over
        if self.is_lost or age > GIVE_UP_SECONDS:
            raise LeaseLost(
                f"job {self.claim.id!r}: another worker has its claim, or it was last renewed {age:.0f} s ago"
            )
        # guard claims.stored: a video is given away, and bought again for others, that was stored before a cancellation
        if self.is_cancelled and not self.is_stored:
            raise GenerationCancelled("cancelled by its user")
        goes_on = self.generator and self.generator.outlives_us
        if self._context.ending.is_set() or (self._context.closing.is_set() and goes_on):
            raise HandedOver
        self.is_unsent = False

    def attempt(self, **fields: Any) -> Attempt:  # noqa: ANN401  of Attempt
        """Describe this attempt, to be settled."""
        cost, key = self.paid_microusd, self.claim.provider_key
        return Attempt(*self.claim.fence, cost, provider_key=key, concurrency=self.concurrency, **fields)

    @property
    def here(self) -> str | None:
        """The provider that makes it for this worker; None: not known yet."""
        return self.generator.name if self.generator else None

    @property
    def concurrency(self) -> float | None:
        """The mean number of jobs that ran at the same time; None: never counted."""
        return sum(self.ran_beside) / len(self.ran_beside) if self.ran_beside else None


def run_job(context: WorkerContext, job: JobRun) -> End:
    """Run a job until this worker is done with it. Raises nothing."""
    with bound(job_id=job.claim.id, run_id=context.run_id):
        try:
            return _run(context, job)
        except LeaseLost as lost:
            _log.warning("%s", lost)
            return End.LOST
        except Exception as error:  # noqa: BLE001  whatever it is: the other jobs continue
            is_away = isinstance(error, DBAPIError) and isinstance(explained(error, context.engine.url), Unavailable)
            _log.exception("job %s failed on this worker; another worker takes it once its claim expires", job.claim.id)
            # guard outages.jobs: a run that made its other jobs fails, and alerts, as PostgreSQL restarted meanwhile
            return End.LOST if is_away else End.FAILED


def _run(context: WorkerContext, job: JobRun) -> End:
    try:
        return _make_and_deliver(context, job)
    except LeaseLost:
        raise
    except Exception as error:  # noqa: BLE001  whatever it is ends this job, and no other
        # guard machines.room_for_job: a clip too large for the scratch disk ends its run, and is first in the next one
        return (_in_doubt if is_too_large(error, context.scratch) else _end)(context, job, error)


def _end(context: WorkerContext, job: JobRun, error: Exception) -> End:
    """Settle a job after an error."""
    if job.here and _is_providers_fault(job.claim, job.here, error):
        with breaker.of_no_matter(job.claim.id):
            is_locked, by = isinstance(error, AccountLocked), context.run_id
            breaker.note_failed(context.engine, job.here, job.claim.id, str(error), is_locked=is_locked, run_id=by)
    # guard policy.of_one_job: no job is made any more where one was admitted under a version that cannot be read now
    if isinstance(error, SchemaError) and are_readable(context.engine):
        claiming.park(context.engine, job.claim, str(error))
        return End.FAILED
    # guard machines.jobs: a machine without ffmpeg uses up the attempts of every job of the queue
    # guard machines.filled: while a large clip takes the room of a moment, one that has just been made ends the run
    if isinstance(error, UNFIT) and disk.has_room(context.scratch):  # another machine can do it; else each claim looks
        context.unfit.append(error)
    if isinstance(error, (HandedOver, Frozen, *UNFIT)):
        claiming.hand_back(context.engine, [job.claim], is_unsent=job.is_unsent)
        return End.HANDED_OVER
    if isinstance(error, GenerationCancelled | GenerationRefused | GenerationLost):
        end = End.CANCELLED if isinstance(error, GenerationCancelled) else End.REFUSED
        return _give_up(context, job, error, end=end)
    if isinstance(error, StorageError):
        context.unstored.set()
    is_of_ours = isinstance(error, StorageError | MediaError) and not isinstance(error, NotAVideo)
    # guard claims.last_blip: a paid clip is dead as the store did not answer for a moment on its last attempt
    is_of_ours |= isinstance(error, DBAPIError) and job.claim.attempts >= job.attempts.most_attempts
    # guard claims.unstored: a paid clip dies within minutes while bucket or tools take none, and is bought again
    is_unstored = is_of_ours and job.claim.provider_job_id is not None
    if isinstance(error, GenerationUnknown) or is_unstored:
        return _in_doubt(context, job, error)
    if isinstance(error, ProviderBusy):
        return _not_taken(context, job, error)
    return _again(context, job, error)


def _is_providers_fault(job: Claim, here: str, error: Exception) -> bool:
    """Check whether an error shows that a provider is unwell; one about the job, or a job parked before, does not."""
    if isinstance(error, GenerationUnknown | GenerationLost):
        return not job.was_parked and job.provider in {None, here}
    return isinstance(error, AccountLocked | ProviderDown | GenerationFailed | NotAVideo)


def _is_given_up(job: JobRun, since: datetime) -> bool:
    return rules.is_given_up(since, datetime.now(UTC), job.attempts)


def _in_doubt(context: WorkerContext, job: JobRun, error: Exception) -> End:
    """Park a job until it is looked up again; one that was in doubt for too long is dead."""
    problem, is_unserved = problem_of(error), job.here is None and isinstance(error, GenerationUnknown)
    # guard claims.doubted_first: after a day without a worker, a paid clip is given up at one failed look or upload
    is_doubted = job.claim.error == str(error) if is_unserved else job.claim.was_parked
    # guard claims.late: what a vendor may charge for a job that we cancelled at its deadline counts in no budget
    if (is_doubted or isinstance(error, GenerationStopped)) and _is_given_up(job, job.claim.started_at):
        job.never_came = isinstance(error, GenerationAbsent) and _was_sent_long_ago(context, job)
        return _give_up(context, job, error, f"result unknown for {job.attempts.give_up_hours} hours: {problem}")
    if isinstance(error, ResultUnreadable | DiskFull):
        return _fetch_later(context, job, error)
    claiming.park(context.engine, job.claim, problem, is_unserved=is_unserved)
    return End.PARKED


def _was_sent_long_ago(context: WorkerContext, job: JobRun) -> bool:
    """Check that a job's vendor had as long to list it as a job may be in doubt."""
    with reading(context.engine) as session:
        sent_at = vendor_jobs.sent_at(session, str(job.claim.provider_key))
    # guard spend.absent_lately: a job that its vendor lists only when it is over counts in no budget
    return sent_at is not None and rules.is_given_up(sent_at, datetime.now(UTC), job.attempts)


def _fetch_later(context: WorkerContext, job: JobRun, error: ResultUnreadable | DiskFull) -> End:
    """Fetch a video again after a pause; without room, or after its last attempt, with an alert. Never buy it again."""
    if isinstance(error, ResultUnreadable) and job.claim.attempts < job.attempts.most_attempts:
        claiming.wait(context.engine, job.claim, str(error))
        return End.RETRIED
    what, is_full = (f"{job.claim.started_at:%Y-%m-%d}", job.claim.id, str(error)), isinstance(error, DiskFull)
    found = no_room(machine_name(), *what) if is_full else rules.unreadable_result(str(job.claim.provider), *what)
    claiming.park_and_tell(context.engine, job.claim, str(error), found, run_id=context.run_id)
    return End.PARKED


def _not_taken(context: WorkerContext, job: JobRun, error: ProviderBusy) -> End:
    """Requeue a job that its provider did not accept, for at most as long as a job may be in doubt."""
    # guard claims.waits_in_lane: a job dies that has waited a day for a vendor that takes others
    if _is_given_up(job, job.waits_since) and (job.claim.provider_key or not isinstance(error, ProviderFull)):
        return _give_up(context, job, error, rules.not_taken_error(job.attempts, str(error)))
    if isinstance(error, ProviderDown):
        _log.warning("job %s waits, and is sent again: %s", job.claim.id, error)
    claiming.retry(context.engine, job.claim._replace(started_at=job.waits_since), str(error), busy=error)
    return End.RETRIED


def _make_and_deliver(context: WorkerContext, job: JobRun) -> End:
    item = job.claim
    job.is_stored = is_stored(context.engine, item.id)  # by an earlier worker, which died before it could settle that
    if job.is_stored:
        with context.manager.in_turn(f"video/{item.id}", job.check) as lease:
            job.is_stored = settle_left(context.workspace, item.id, scratch=context.scratch, lease=lease)
    # guard claims.attempts: a job that kills its worker is retried for ever, and paid each time
    if item.attempts > job.attempts.most_attempts and not job.is_stored:
        raise ReelkeeperError(item.error or "its worker stopped responding")  # its request may continue at the provider
    # guard claims.delivered: a job whose video exists is made, and paid, again
    order = None if job.is_stored else _order(context, job)
    with scratch_dir(context.scratch) as folder:
        made = job.generator.make(order, folder / "made.mp4", job) if order and job.generator else Made(folder)
        job.paid_microusd = made.cost_microusd
        took = None if item.provider_key or job.is_stored else time.monotonic() - job.began
        is_timed = took is not None or job.ended_at is not None  # of another worker's, the store knows
        job.check()
        with context.manager.in_turn(f"video/{item.id}", job.check) as lease:
            attempt, run_id = job.attempt(processing_seconds=took, is_timed=is_timed), context.run_id
            try:
                deliver(context.workspace, attempt, made.path, scratch=context.scratch, lease=lease, run_id=run_id)
            except NotAVideo as wrong:
                # guard provider.bought_once: a video whose bytes cannot be read is made, and paid, up to five times
                if made.url:
                    raise ResultUnreadable(f"what the provider made is not a video: {wrong}: {made.url}") from wrong
                raise
    if job.here:
        with breaker.of_no_matter(item.id):
            seconds = _seconds(job, took)
            breaker.note_made(context.engine, job.here, item.id, seconds, item.estimate_seconds, run_id=context.run_id)
    return End.SUCCEEDED


def _seconds(job: JobRun, took: float | None) -> float | None:
    """Return the seconds that a provider took for a video, also where another worker had sent it; None: unknown."""
    if took is None and job.ended_at and job.claim.attempts == 1 and not job.claim.was_parked:
        return (job.ended_at - job.claim.started_at).total_seconds()
    return took


def _order(context: WorkerContext, run: JobRun) -> Order:
    """Make the order of a job, with the model as it was when its price was quoted, and choose who makes it.

    Raises GenerationUnknown where no worker serves the provider that has it, ProviderBusy where one makes that model.
    """
    job, served = run.claim, context.generators.served
    with reading(context.engine) as session:
        entry = at_version(session, job.policy_version).book.entry(job.model, job.lane)
        # guard provider.sent_first: a job that a person retries is looked up among later ones alone, and never found
        first_sent_at = vendor_jobs.sent_at(session, str(job.provider_key)) or job.started_at
    # guard catalogue.provider: a job is sent to a provider with another price
    name = (entry.provider if entry else None) or served.lane(job.lane)
    # guard provider.same: a job that one provider has, or may have, is sent to another, and paid twice
    name = job.provider if job.provider_key else name
    run.generator = context.generators.by_name.get(str(name))
    if run.generator is None and job.provider_key:
        raise GenerationUnknown(f"no worker serves {name!r}, which may have it")
    if run.generator is None:
        raise ProviderBusy(f"model {job.model!r} is made by {name!r}, not by this worker's providers", _OTHERS_SECONDS)
    quoted_model = entry.quoted_model if entry else None
    sent_at = job.started_at if job.provider_key else datetime.now(UTC)  # it may have waited for days
    return Order(
        job.id,
        quoted_model or job.model,
        entry.limits.ordered(job.request) if entry else job.request,
        job.provider_key,
        job.provider_job_id,
        job.was_parked,
        first_sent_at,
        is_priced=quoted_model is not None,
        deadline=sent_at + timedelta(hours=run.attempts.give_up_hours),
        gpu_second_usd=entry.gpu_second_usd(job.request) if entry else None,
    )


def _again(context: WorkerContext, job: JobRun, error: Exception) -> End:
    """Requeue a job with attempts left; keep its key and the provider's id, unless the attempt failed there."""
    problem, is_over = problem_of(error), isinstance(error, GenerationFailed | NotAVideo)
    if job.claim.attempts >= (most := job.attempts.most_attempts) or (is_over and _is_given_up(job, job.waits_since)):
        return _give_up(context, job, error, rules.give_up_error(most, problem, by_generator=is_over))
    if is_over:
        paid, may_be_paid, run_id = job.paid_microusd, _may_be_paid(job, error), context.run_id
        claiming.retry(context.engine, job.claim, problem, cost_microusd=paid, may_be_paid=may_be_paid, run_id=run_id)
    else:  # storage, store or tools
        _log.warning("job %s: %s", job.claim.id, problem, exc_info=not isinstance(error, ReelkeeperError))
        claiming.wait(context.engine, job.claim, problem)
    return End.RETRIED


def _give_up(
    context: WorkerContext, job: JobRun, error: Exception, problem: str | None = None, *, end: End = End.DEAD
) -> End:
    """End a job without a video. A job in doubt keeps its key, so that a redrive looks it up."""
    # guard claims.stored_last: a job is dead, and its credits given back, whose video was stored and appears later
    if end is End.DEAD and is_stored(context.engine, job.claim.id):
        claiming.wait(context.engine, job.claim, problem or str(error))
        return End.RETRIED
    is_over = isinstance(error, GenerationRefused | GenerationLost | GenerationFailed | NotAVideo | ProviderBusy)
    is_over, is_refused = is_over or job.is_unsent, isinstance(error, GenerationRefused)
    attempt = job.attempt(may_be_paid=_may_be_paid(job, error), is_over_there=is_over, is_refused=is_refused)
    state = JobState.CANCELLED if end is End.CANCELLED else JobState.DEAD
    settle.fail(context.engine, attempt, problem or str(error), run_id=context.run_id, state=state)
    return end


def _may_be_paid(job: JobRun, error: Exception) -> bool:
    """Check whether its vendor may charge for a job that ends with this error."""
    # guard spend.may_be_charged: what vendors charge for failed and refused jobs counts in no budget
    ending = Ending.ABSENT if job.never_came else ending_of(error, was_named=job.claim.provider_job_id is not None)
    may = job.is_paid or may_be_charged(job.claim.provider, ending)
    # guard spend.unsent: a job that no vendor ever had uses up the budget
    return may and job.claim.provider_key is not None and not job.is_unsent
