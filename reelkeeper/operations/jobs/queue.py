"""Show and explain the queue, keep the limits of jobs at once, and start runs of `dispatch_jobs`."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from reelkeeper.adapters.orchestrator import Orchestrator
from reelkeeper.errors import LeaseLost, NotFound
from reelkeeper.failpoints import effect
from reelkeeper.model.jobs import End, JobState, WaitingJob
from reelkeeper.model.performance import FinishedJob, JobAtWork
from reelkeeper.operations.core.policies import in_force
from reelkeeper.operations.jobs import lanes
from reelkeeper.operations.jobs.breaker import resting
from reelkeeper.operations.jobs.claim import first_jobs
from reelkeeper.operations.jobs.lanes import Vendor
from reelkeeper.operations.jobs.routing import verdicts
from reelkeeper.rules.alerts import alerting
from reelkeeper.rules.alerts.cadence import CADENCES, seconds_until_next
from reelkeeper.rules.core.limit_scopes import in_words, of_job
from reelkeeper.rules.core.wording import many
from reelkeeper.rules.health.performance_report import seconds as in_seconds
from reelkeeper.rules.jobs import dispatch
from reelkeeper.rules.jobs.attempts import DispatchReport
from reelkeeper.rules.jobs.breaker import Phase
from reelkeeper.rules.jobs.caps import Room
from reelkeeper.rules.jobs.concurrency import ConcurrencyPolicy
from reelkeeper.rules.jobs.dispatch import Term
from reelkeeper.rules.jobs.lanes import Lane
from reelkeeper.rules.jobs.routing import Verdict
from reelkeeper.rules.jobs.steering import Lanes, since_by_lane
from reelkeeper.rules.policies import Policies
from reelkeeper.store import Engine, Session
from reelkeeper.store.alerts import alerts
from reelkeeper.store.core import controls
from reelkeeper.store.core.controls import Kept
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.health import performance
from reelkeeper.store.jobs import claims, scores, slots
from reelkeeper.store.jobs import queue as rows
from reelkeeper.store.jobs.lanes import occupied
from reelkeeper.store.jobs.queue import JobLine
from reelkeeper.store.jobs.scores import Window

OFFER_SECONDS: Final = 30.0  # between two calls of `offer_to_start`
_FLOW: Final = "dispatch_jobs"
_SHORTEST_SECONDS: Final = 10  # the shortest window that is worth a run
_REST_SECONDS: Final = 1800.0  # without a job, after which no worker is kept ready for the next one

_NAMED = 10  # the next jobs, in a report
FIELDS: Final = {  # of the report, by outcome
    End.SUCCEEDED: "succeeded",
    End.REFUSED: "refused",
    End.CANCELLED: "cancelled",
    End.RETRIED: "to_be_tried_again",
    End.PARKED: "in_doubt",
    End.HANDED_OVER: "handed_over",
    End.LOST: "handed_over",
    End.DEAD: "given_up",
    End.FAILED: "failed_here",
}


class Listed(NamedTuple):
    """The queue at one moment: how many jobs are in each state, the first of each, and what each vendor takes."""

    as_of: datetime
    jobs_at_once: int | None
    jobs_at_once_by_provider: dict[str, int]
    counts: dict[str, int]
    jobs: dict[JobState, list[JobLine]]
    vendors: list[Vendor]


class Explained(NamedTuple):
    """A job's place among the `of` jobs that are considered next; None where it is not among them, and `why`."""

    job: JobLine
    why: str
    full: tuple[str, ...] = ()  # what it waits for beside its turn: caps, limits, its vendor
    place: int | None = None
    of: int = 0
    credit_seconds: float = 0.0  # that the oldest job has earned by others going first
    rule: str = ""  # of the order
    terms: tuple[Term, ...] = ()
    offers: tuple[Verdict, ...] = ()


def listed(engine: Engine, limit: int, *, only_dead: bool = False) -> Listed:
    """List at most `limit` jobs of each state: dead ones latest first, waiting ones in starting order.

    Jobs that are not due yet, after a failed attempt, come last, and after them those that joined another.
    """
    with reading(engine) as session:
        found = {JobState.DEAD: rows.listed(session, JobState.DEAD, limit)}
        if not only_dead:
            due = [job.id for job in _Line(session, in_force(session).policies).ordered()][:limit]
            lines = rows.named(session, due)
            rest = [line for line in rows.listed(session, JobState.QUEUED, limit) if line.id not in lines]
            at_work = {state: rows.listed(session, state, limit) for state in (JobState.RUNNING, JobState.PARKED)}
            found = {JobState.QUEUED: [*(lines[job_id] for job_id in due), *rest][:limit]} | at_work | found
        vendors = [] if only_dead else lanes.picture(session)
        counts, at_once = rows.counted(session), slots.jobs_at_once(session)
        return Listed(now(session), at_once, slots.lane_limits(session), counts, found, vendors)


def explain(engine: Engine, job_id: str) -> Explained:
    """Explain a job's place in the queue, or why it has none. Raises NotFound."""
    with reading(engine) as session:
        job, as_of, admitted = rows.named(session, [job_id]).get(job_id), now(session), rows.find(session, job_id)
        if job is None or admitted is None:
            raise NotFound(f"no job {job_id!r}")
        if job.leader_id:
            return Explained(job, f"It joined job {job.leader_id}, which makes the same video, and waits for that.")
        if job.state != JobState.QUEUED:
            doubt = f". {_until(session, job, as_of)}" if job.state == JobState.PARKED else ""
            return Explained(job, f"{job.error or ''}{doubt}")
        line = _Line(session, in_force(session).policies)
        waiting = next((waiting for waiting in line.jobs if waiting.id == job_id), job.as_job())
        line.jobs += [] if waiting in line.jobs else [waiting]
        return Explained(
            job,
            ""
            if job.due_at <= as_of
            else f"It is due in {_time(job.due_at - as_of)}, after: {job.error or 'a pause'}.",
            (*_full(session, job, as_of), *_unwell(session, job, as_of)),
            [placed.id for placed in line.ordered()].index(job_id) + 1,
            len(line.jobs),
            line.credit_seconds,
            line.policy.rule,
            tuple(line.terms(waiting)),
            verdicts(session, admitted),
        )


class _Line:
    """The jobs from which the next one is chosen, and the inputs of that choice."""

    def __init__(self, session: Session, policies: Policies) -> None:
        memory = controls.remembered(session, [claims.DISPATCH]).get(claims.DISPATCH, {})
        self.policy, self.tiers, self.as_of = policies.order, policies.tiers, now(session)
        rank = dispatch.window(self.policy, self.tiers)
        if rank is not None and (lines := scores.scored(session, rank)) is not None:
            self.jobs, self._more_seconds = first_jobs(session, Window(rank, lines), claims.begun(session))
        else:
            self.jobs, self._more_seconds = claims.waiting_jobs(session, rank, self.tiers.names)
        self._slots = slots.jobs_at_once(session) or 1
        self.credit_seconds = float(memory.get("credit_seconds", 0.0))

    def ordered(self) -> list[WaitingJob]:
        """Put the jobs into their starting order."""
        of = self.jobs, self.policy, self.tiers, self.as_of, self.credit_seconds
        return dispatch.order(*of, slots=self._slots, more_seconds=self._more_seconds)

    def terms(self, job: WaitingJob) -> list[Term]:
        """List the terms of a job's place."""
        of = self.jobs, self.policy, self.tiers, self.as_of
        return dispatch.explain(job, *of, slots=self._slots, more_seconds=self._more_seconds)


def _until(session: Session, job: JobLine, as_of: datetime) -> str:
    """Explain when a parked job is looked up, and until when its credits are held."""
    most = timedelta(hours=in_force(session).policies.attempts.give_up_hours)
    soon = f"in {_time(job.due_at - as_of)}" if job.due_at > as_of else "by the next free worker"
    return (
        f"Its provider may have it, and is asked again {soon}. Its credits are held meanwhile; if nothing is known by "
        f"{(job.started_at or as_of) + most:%Y-%m-%d %H:%M} UTC, it is given up at no charge."
    )


def _full(session: Session, job: JobLine, as_of: datetime) -> list[str]:
    """Name the caps and limits that a job waits for, and until when its vendor takes none."""
    caps, known = in_force(session).policies.caps, lanes.known(session)
    limits = lanes.limits(slots.lane_limits(session), known)
    full = Room(caps, occupied(session), limits).full() if caps or limits else {}
    held_seconds = known[job.lane].shut_seconds(as_of) if job.lane in known else 0.0
    held = f"provider {job.lane} asked us to wait, and gets no job for {in_seconds(held_seconds)}"
    return ([held] if held_seconds else []) + [
        f"{in_words(scope)} has {many(full[scope][0], 'job')} running, and may have {full[scope][1]}"
        for scope in of_job(job.lane, job.model, job.tier, job.user_id)
        if scope in full
    ]


def _unwell(session: Session, job: JobLine, as_of: datetime) -> list[str]:
    """Explain whether a job waits for its provider's open circuit breaker, and until when."""
    found = resting(session, as_of).get(job.lane or "")
    if found is None or found.until is None:
        return []
    is_open = found.phase(as_of) is Phase.OPEN
    until = f"gets no job until {found.until:%H:%M:%S} UTC" if is_open else "gets only a few trial jobs"
    return [f"provider {job.lane} is failing and {until}: {found.why}"]


def _time(time: timedelta) -> str:
    return in_seconds(time.total_seconds())


def preview(engine: Engine, policies: Policies, run_id: str) -> DispatchReport:
    """Report how many jobs wait, and which come first and why; nothing is changed."""
    with reading(engine) as session:
        states, line = claims.count_states(session), _Line(session, policies)
    lines = tuple(f"{job.id}: {'; '.join(map(str, line.terms(job)))}" for job in line.ordered()[:_NAMED])
    return DispatchReport.of(run_id, states, dry_run=True, next_jobs=lines)


def report(engine: Engine, run_id: str, ends: Mapping[End, int]) -> DispatchReport:
    """Report how jobs ended in a run, and the number of jobs in each state after it."""
    counts = dict.fromkeys(FIELDS.values(), 0)
    for end, count in ends.items():
        counts[FIELDS[end]] += count
    with reading(engine) as session:
        return DispatchReport.of(run_id, claims.count_states(session), dry_run=False, **counts)


def jobs_at_once(engine: Engine) -> int | None:
    """Read the limit that `tune_concurrency` set last; None before its first run."""
    with reading(engine) as session:
        return slots.jobs_at_once(session)


def steered(
    engine: Engine, policy: ConcurrencyPolicy, as_of: datetime
) -> tuple[Kept | None, Lanes, list[FinishedJob], list[JobAtWork], dict[str, Lane]]:
    """Read the rule's state, the jobs that ended since each lane's last step, those at work, and what vendors take."""
    with reading(engine) as session:
        kept = controls.kept(session, slots.CONCURRENCY)
        remembered = Lanes.model_validate({"limit": policy.first_limit, **(kept.state if kept else {})})
        by_lane, otherwise = since_by_lane(remembered, as_of)
        ended = performance.ended(session, otherwise, as_of, by_lane)
        return kept, remembered, ended, performance.at_work(session), lanes.known(session)


def remember(engine: Engine, before: Kept | None, after: Lanes) -> None:
    """Save the state for the next step. Raises LeaseLost where another run has stepped in the meantime."""
    with transaction(engine, "limits.remember") as session:
        if not controls.keep(session, slots.CONCURRENCY, after.model_dump(mode="json"), before):
            raise LeaseLost("another run of tune_concurrency has changed the limits meanwhile; nothing was changed")


def offer_to_start(engine: Engine, orchestrator: Orchestrator) -> None:
    """Record that this process calls `start_dispatch` as soon as a job waits, and when the worker of one is dead.

    Records nothing while its deployment is paused. Raises OrchestratorError where Prefect does not let it.
    """
    # guard dispatch.let_in: a worker rests where this process has another password than Prefect's server
    if orchestrator.is_paused(_FLOW, CADENCES[_FLOW].name):
        return
    with transaction(engine, "dispatch.offer") as session:
        slots.offer(session)


def may_rest(engine: Engine) -> bool:
    """Check that a scheduled run has nothing to do, and that one is started when it has; record that it rests."""
    with transaction(engine, "dispatch.rest") as session:
        # guard dispatch.busy: jobs that wait for a second attempt, or a vendor, have no worker
        if slots.is_any_lately(session, _REST_SECONDS) or slots.is_bucket_away(session):
            return False
        # guard dispatch.failed: the alert that runs fail is told as over, as none is made any more
        if any(alert.scope == alerting.scope(_FLOW) for alert in alerts.related(session, alerting.RULES, ())):
            return False
        # guard dispatch.starter: the first job after half an hour without one waits five minutes for a worker
        if not slots.has_starter(session):
            return False
        slots.rest(session)
    return True


def start_dispatch(engine: Engine, orchestrator: Orchestrator) -> str | None:
    """Start a run where jobs are due, or soon will be, and no worker gives a sign; returns the run's id.

    Its window lasts until the next scheduled run begins; None where that is about to, or nothing is needed. However
    often and by however many processes this is called, one run is started for the last sign that a worker gave. None is
    started of a deployment that is paused. Raises OrchestratorError.
    """
    with reading(engine) as session:
        at, sign = now(session), slots.last_sign(session)
        is_needed = not slots.is_claiming(session) and claims.is_any_due(session, slots.LASTS_SECONDS)
    deployed, seconds = CADENCES[_FLOW].name, seconds_until_next(at, CADENCES[_FLOW])
    if not is_needed or seconds < _SHORTEST_SECONDS:
        return None
    # guard claims.paused: jobs go on being bought although a person has paused their deployment at Prefect
    if orchestrator.is_paused(_FLOW, deployed):
        return None
    # not of the time of the call: while no machine takes runs, new ones would pile up, and then begin all at once
    key = f"{_FLOW}-{sign.timestamp() if sign else at.timestamp() + seconds:.0f}"
    with effect("dispatch.start"):
        return orchestrator.start(_FLOW, deployed, {"seconds": int(seconds)}, key=key)
