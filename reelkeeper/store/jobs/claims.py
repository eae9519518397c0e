"""Keep claims: which worker runs a job, until when, with a token that fences off earlier workers.

Times are the database's. A claim is `current` while there is no later one and the job is not over.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlmodel import Session

from reelkeeper.model.jobs import IN_FLIGHT, MOST_TIMES, JobState, Served, SizeAndAge, WaitingJob
from reelkeeper.store.core.engine import Clock, changed, checked
from reelkeeper.store.jobs import vendor_jobs
from reelkeeper.store.jobs.slots import is_served
from reelkeeper.store.tables import jobs, users

LEASE_SECONDS = 55.0  # so that a dead worker's jobs go on within a minute: the others look each 2 s
AT_WORK = (JobState.RUNNING, JobState.PARKED)
DISPATCH = "dispatch"  # the row of `controls` with the state of the ordering
_OLDEST, _SHORTEST = 100, 100  # waiting jobs to choose from: of all, and of each tier
_FIRST = 200  # waiting jobs by rank, to choose from


class Claim(NamedTuple):
    """A claimed job, as of its claim."""

    id: str
    lease_token: int
    user_id: str
    model: str
    tier: str | None
    lane: str | None  # the provider that it was admitted for
    policy_version: int  # that it was admitted under
    request: dict[str, Any]
    attempts: int  # this one included
    estimate_seconds: float
    provider: str | None
    provider_key: str | None
    provider_job_id: str | None
    cancel_asked_at: datetime | None  # None also while another request waits for the video
    started_at: datetime
    error: str | None
    was_parked: bool = False

    @property
    def fence(self) -> tuple[str, int]:
        """The job's id and token, which identify this claim."""
        return self.id, self.lease_token


_COLUMNS = tuple(jobs.c[name] for name in Claim._fields[:-1])
_IS_LEADER = jobs.c.leader_id.is_(None)
_LIVES = sa.and_(jobs.c.state == JobState.RUNNING, jobs.c.lease_until > Clock())  # its worker
_IS_QUEUED = jobs.c.state == sa.literal_column(f"'{JobState.QUEUED}'")  # as partial indexes have it
IS_SENT: Final = checked(sa.and_(_IS_QUEUED, jobs.c.provider_key.is_not(None)))  # no worker has it, but its provider


def _fenced(job_id: str, lease_token: int) -> sa.ColumnElement[bool]:
    # guard claims.fenced: a worker that was suspended ends a job that another has taken over
    return sa.and_(jobs.c.id == job_id, jobs.c.lease_token == lease_token)


def at_work(job_id: str, lease_token: int) -> sa.ColumnElement[bool]:
    """Build the condition that this claim is the job's last and the job is not over. A parked job is not over."""
    # guard claims.ends_once: a job ends twice, and is counted and charged twice
    return sa.and_(_fenced(job_id, lease_token), jobs.c.state.in_(AT_WORK))


def _left_behind() -> tuple[sa.ColumnElement[bool], ...]:
    """Build the conditions that a job's worker is dead, or the job continues at a provider, or is due for a lookup."""
    # guard claims.lease: a living worker's job is given to another, and made twice
    dead = sa.and_(jobs.c.state == JobState.RUNNING, jobs.c.lease_until <= Clock())
    sent = sa.and_(IS_SENT, jobs.c.due_at <= Clock())
    # guard claims.parked: a job in doubt is looked up at once, while its request is under way
    return dead, sent, sa.and_(jobs.c.state == JobState.PARKED, jobs.c.due_at <= Clock())


def _waits() -> sa.ColumnElement[bool]:
    # guard claims.follower: a job that waits for another job's video is made, and paid, too
    # guard claims.due: a failed job is retried at once, until its attempts are used up
    return sa.and_(jobs.c.state == JobState.QUEUED, _IS_LEADER, jobs.c.due_at <= Clock())


def lane_of(served: Served | None, of: sa.FromClause = jobs) -> sa.ColumnElement[str | None]:
    """Build the provider that a worker sends a job to: its own, unless the worker has none of that name."""
    if served is None:
        return of.c.lane
    # guard claims.own_breaker: jobs without a named provider are sent to one that fails them
    return sa.case((of.c.lane.in_(sorted(served.names)), of.c.lane), else_=sa.literal(served.default, sa.String()))


def running_by_lane(session: Session, otherwise: str | None = None) -> Counter[str | None]:
    """Count the jobs that living workers have, by provider, and `otherwise` for those without one."""
    lane = sa.func.coalesce(jobs.c.lane, otherwise)
    counts = sa.select(lane, sa.func.count()).group_by(lane)
    return Counter({row[0]: int(row[1]) for row in session.execute(counts.where(_LIVES))})


class Begun(NamedTuple):
    """The jobs of one provider, model, tier and user that are begun and not over."""

    lane: str | None
    model: str
    tier: str | None
    user_id: str
    seconds: float  # estimated
    running: int  # that living workers have


_WHOSE: Final = (jobs.c.lane, jobs.c.model, jobs.c.tier, jobs.c.user_id)
_FIGURES: Final = (sa.func.sum(jobs.c.estimate_seconds), sa.func.sum(sa.case((_LIVES, 1), else_=0)))
_BEGUN: Final = (  # built once: building a statement costs more than sending it
    sa.select(*_WHOSE, *_FIGURES).where(checked(_IS_LEADER), jobs.c.state.in_(AT_WORK)).group_by(*_WHOSE)
)


def begun(session: Session) -> list[Begun]:
    """Sum and count the jobs that are begun and not over."""
    return [Begun(*row) for row in session.execute(_BEGUN)]


def count_states(session: Session) -> dict[str, int]:
    """Count the jobs in each state, without followers and those that succeeded."""
    chosen = sa.and_(_IS_LEADER, jobs.c.state != JobState.SUCCEEDED)
    counts = sa.select(jobs.c.state, sa.func.count().label("jobs")).where(chosen).group_by(jobs.c.state)
    return {row.state: row.jobs for row in session.execute(counts)}


def left_behind(
    session: Session, limit: int, served: Served | None = None, most_hours: float = 0.0, *, only_named: bool = False
) -> list[str]:
    """List the ids of jobs that were begun and have no worker now, the longest waiting first.

    Those at a provider that is not `served`, here or elsewhere, are left out for `most_hours` after they were begun.
    `only_named`: those that their provider has given an id, which are fetched there, and not made.
    """
    return list(session.execute(_abandoned(served, most_hours * 3600, only_named), {"limit": limit}).scalars())


def is_any_due(session: Session, seconds: float) -> bool:
    """Check whether a job waits for a worker, or has a claim that ends within `seconds`."""
    lost = sa.and_(jobs.c.state == JobState.RUNNING, jobs.c.lease_until <= Clock(seconds))
    one = sa.select(jobs.c.id).limit(1)
    return any(session.execute(one.where(each)).first() for each in (lost, _waits(), *_left_behind()))


@lru_cache(maxsize=4)  # building it takes more CPU than reading its rows
def _abandoned(served: Served | None, most_seconds: float, only_named: bool) -> sa.Select[Any]:
    is_of_another = sa.and_(jobs.c.provider_key.is_not(None), jobs.c.provider.not_in(served.names if served else ()))
    # guard claims.served_lately: after a freeze of a weekend, a paid clip is given up that its own worker would fetch
    has_waited = sa.and_(jobs.c.started_at < Clock(-most_seconds), ~is_served(jobs.c.provider))
    # guard claims.unserved: a job at a vendor of which no worker is left stays in doubt, its credits held, for ever
    may_be_taken = sa.true() if served is None else sa.or_(sa.not_(is_of_another), has_waited)
    may_be_taken = sa.and_(may_be_taken, jobs.c.provider_job_id.is_not(None) if only_named else sa.true())
    order, most = (jobs.c.due_at, jobs.c.id), sa.bindparam("limit", type_=sa.Integer)
    # each apart, as an index has it: few are found among all that wait
    each = (sa.select(*order).where(one, may_be_taken).order_by(*order).limit(most) for one in _left_behind())
    found = sa.union_all(*(sa.select(part.subquery()) for part in each)).subquery()
    return sa.select(found.c.id).order_by(*found.c).limit(most)


def outside(
    full: Collection[str], taken: Collection[str], others: Collection[tuple[str, str]], served: Served | None
) -> sa.ColumnElement[bool]:
    """Build the condition that a job is in none of these scopes, not taken yet, not sent, and for no other provider."""
    lane = lane_of(served)
    columns = {"provider": lane, "model": jobs.c.model, "tier": jobs.c.tier, "user": jobs.c.user_id}
    by_kind = {kind: [scope.partition(":")[2] for scope in full if scope.startswith(f"{kind}:")] for kind in columns}
    outside = (sa.or_(columns[kind].is_(None), columns[kind].not_in(names)) for kind, names in by_kind.items() if names)
    is_of_another = sa.and_(jobs.c.lane.is_not(None), sa.tuple_(jobs.c.model, jobs.c.lane).in_(others))
    # guard claims.sent_elsewhere: jobs that another worker's provider has fill the slots, are put back, and so on
    own = [checked(jobs.c.provider_key.is_(None))]  # those that were sent are left behind, and come first
    own += [sa.not_(is_of_another)] if others else []
    # guard claims.no_default: a worker keeps claiming jobs that it has no provider for
    own += [lane.is_not(None)] if served else []
    return sa.and_(sa.true(), *outside, *own, *([jobs.c.id.not_in(taken)] if taken else []))


def waiting_jobs(
    session: Session,
    rank: SizeAndAge | None,
    tiers: Collection[str],
    *,
    full: Collection[str] = (),
    taken: Collection[str] = (),
    others: Collection[tuple[str, str]] = (),
    served: Served | None = None,
) -> tuple[list[WaitingJob], float]:
    """Return the waiting jobs to choose from, and the estimated seconds of all the others.

    Jobs of scopes that are `full`, `taken` ones, those that were sent, those of `others`, pairs of model and provider,
    and those for no provider that is `served` are left out. Each comes with the provider that it goes to from there.

    Of a short queue, these are all jobs. Of a long one, a bounded window: the oldest, and those that `rank` puts first,
    or without a rank the shortest of each of `tiers`, and of those without a known tier.
    """
    rows = session.execute(_window(rank, tuple(tiers), frozenset(full), tuple(taken), tuple(others), served)).all()
    found = [WaitingJob(*row[:-1]) for row in rows]
    return found, (rows[0][-1] if rows else 0.0) - sum(job.estimate_seconds for job in found)


@lru_cache(maxsize=16)  # building it takes more CPU than reading its rows
def _window(
    rank: SizeAndAge | None,
    tiers: tuple[str, ...],
    full: frozenset[str],
    taken: tuple[str, ...],
    others: tuple[tuple[str, str], ...],
    served: Served | None,
) -> sa.Select[Any]:
    """Build the statement of `waiting_jobs`; its last column is the estimated seconds of all waiting jobs."""
    chosen = sa.and_(_waits(), outside(full, taken, others, served))
    wanted = (jobs.c.id, jobs.c.user_id, jobs.c.tier, jobs.c.created_at, jobs.c.estimate_seconds)
    oldest = sa.select(*wanted).where(chosen).order_by(jobs.c.created_at, jobs.c.id).limit(_OLDEST).subquery()
    waits = sa.select(*wanted, _ahead(jobs).label("ahead")).where(chosen).cte("waits")
    age, all_of_them = (waits.c.created_at, waits.c.id), sa.select(waits.c.id, waits.c.ahead)
    if rank is None:
        of_no_tier = sa.or_(waits.c.tier.is_(None), waits.c.tier.not_in(tiers))
        firsts = [
            all_of_them.where(condition).order_by(waits.c.estimate_seconds, *age).limit(_SHORTEST)
            for condition in (*(waits.c.tier == tier for tier in tiers), of_no_tier)
        ]
    else:
        size = seconds_of(rank, waits, times_of(rank, waits.c.ahead))
        firsts = [all_of_them.order_by(sa.extract("epoch", waits.c.created_at) + size, *age).limit(_FIRST)]
    # Jobs ahead of one of the oldest are among the oldest, so these do not need the whole table.
    windows = (sa.select(oldest.c.id, _ahead(oldest)), *firsts)
    # SQLite cannot sort or limit the parts of a union.
    found = sa.union(*(sa.select(window.subquery()) for window in windows)).subquery()
    columns = (
        jobs.c.id,
        jobs.c.user_id,
        jobs.c.tier,
        jobs.c.created_at,
        jobs.c.estimate_seconds,
        jobs.c.model,
        sa.func.coalesce(sa.func.length(jobs.c.request["prompt"].as_string()), 0),
        found.c[1],
        lane_of(served),
        sa.select(sa.func.sum(waits.c.estimate_seconds)).scalar_subquery(),
    )
    return sa.select(*columns).join_from(found, jobs, jobs.c.id == found.c[0])


def seconds_of(rank: SizeAndAge, of: sa.FromClause, times: sa.ColumnElement[int]) -> sa.ColumnElement[float]:
    """Build the seconds that a job's size counts as in `rank`, if it counts so many times."""
    each = sa.case(dict(rank.seconds_by_tier), value=of.c.tier, else_=rank.other_seconds)
    return of.c.estimate_seconds * each * times


def times_of(rank: SizeAndAge, ahead: sa.ColumnElement[int]) -> sa.ColumnElement[int]:
    """Build how often a job's size counts in `rank`, behind `ahead` others of its user."""
    return sa.case((ahead < rank.burst * (MOST_TIMES - 1), 1 + ahead // rank.burst), else_=MOST_TIMES)


def _ahead(of: sa.FromClause) -> sa.ColumnElement[int]:
    """Count the user's jobs that were requested earlier, among those selected."""
    return sa.func.row_number().over(partition_by=of.c.user_id, order_by=(of.c.created_at, of.c.id)) - 1


_THESE = jobs.c.id.in_(sa.bindparam("ids", expanding=True))
# guard claims.still_to_be_had: a job is claimed that was just cancelled, or claimed by another
_IS_FREE = sa.and_(_THESE, checked(sa.or_(_waits(), *_left_behind())))
# by `key_share` also one that another request is just joining: it may not be deleted meanwhile, and that is all
_FREE: Final = sa.select(jobs.c.id, jobs.c.state).where(_IS_FREE).with_for_update(skip_locked=True, key_share=True)
_TAKE: Final = (
    sa.update(jobs)
    .where(_THESE)
    .values(
        state=JobState.RUNNING,
        claimed_by=sa.bindparam("worker"),
        lease_token=jobs.c.lease_token + 1,
        lease_until=Clock(LEASE_SECONDS),
        line=None,
        # A lookup is not an attempt.
        attempts=jobs.c.attempts + sa.case((jobs.c.state == JobState.PARKED, 0), else_=1),
        started_at=sa.func.coalesce(jobs.c.started_at, Clock()),
    )
    .returning(*_COLUMNS)
)


def take(session: Session, job_ids: Sequence[str], worker: str) -> list[Claim]:
    """Claim for `worker` those of the jobs that are still free, in their order."""
    locked = {row.id: row.state for row in session.execute(_FREE, {"ids": list(job_ids)})}
    rows = session.execute(_TAKE, {"ids": list(locked), "worker": worker})
    taken = {row.id: Claim(*row)._replace(was_parked=locked[row.id] == JobState.PARKED) for row in rows}
    for job_id in _still_wanted(session, [job.id for job in taken.values() if job.cancel_asked_at]):
        taken[job_id] = taken[job_id]._replace(cancel_asked_at=None)
    return [taken[job_id] for job_id in dict.fromkeys(job_ids) if job_id in taken]


def current(session: Session, job_id: str, lease_token: int) -> bool:
    """Check whether this claim is the job's last and the job is not over; if so, lock the job for the transaction."""
    claimed = sa.select(jobs.c.id).where(at_work(job_id, lease_token))
    return session.execute(claimed.with_for_update()).scalar() is not None


def renew(session: Session, claims: Iterable[tuple[str, int, float]]) -> dict[str, bool]:
    """Extend claims, given as id, token and progress; return, for those still ours, whether to cancel the job."""
    renewed = {}
    for job_id, lease_token, progress in sorted(claims):  # in one order for all, to avoid deadlocks
        row = session.execute(
            sa.update(jobs)
            # guard claims.renew_running: a worker continues a job that is over
            .where(_fenced(job_id, lease_token), jobs.c.state == JobState.RUNNING)
            .values(lease_until=Clock(LEASE_SECONDS), progress=progress)
            .returning(jobs.c.id, jobs.c.cancel_asked_at)
        ).one_or_none()
        if row:
            renewed[row.id] = row.cancel_asked_at is not None
    wanted = _still_wanted(session, [job_id for job_id, is_cancelled in renewed.items() if is_cancelled])
    return renewed | dict.fromkeys(wanted, False)


def _still_wanted(session: Session, cancelled: Sequence[str]) -> list[str]:
    """Return those of cancelled jobs that continue, as another request waits for the video.

    A job of a user who is being erased does not: its video would be deleted.
    """
    if not cancelled:
        return []
    leader = jobs.alias()
    chosen = sa.select(leader.c.id).join(jobs, jobs.c.leader_id == leader.c.id)
    chosen = chosen.join(users, users.c.id == leader.c.user_id)
    # guard claims.still_wanted: a running job is cancelled, although paid, and bought again for who joined it
    is_waited_for = sa.and_(jobs.c.state.in_(IN_FLIGHT), users.c.erasing_at.is_(None))
    return list(session.execute(chosen.where(leader.c.id.in_(cancelled), is_waited_for).distinct()).scalars())


def note(session: Session, claim: Claim, **values: Any) -> bool:  # noqa: ANN401  columns of jobs
    """Update columns of a running job; False, and nothing written, if the claim is not current any more."""
    # guard claims.note_running: a finished job is queued again, and made and charged again
    statement = sa.update(jobs).where(_fenced(*claim.fence), jobs.c.state == JobState.RUNNING)
    return changed(session, statement.values(**values)) == 1


def release_job(
    session: Session,
    claim: Claim,
    state: JobState,
    pause_seconds: float,
    error: str,
    **values: Any,  # noqa: ANN401  columns of jobs
) -> bool:
    """Release a running job to others after a pause. Otherwise as `note`."""
    values["due_at"] = Clock(pause_seconds)
    return note(session, claim, state=state, error=error, claimed_by=None, lease_until=None, **values)


def poll_now(session: Session, *, provider_job_id: str | None = None, provider_key: str | None = None) -> bool:
    """End the pause of a job, found by the provider's id or our key; False if it is not paused, or not known."""
    rests = sa.and_(jobs.c.state.in_((JobState.QUEUED, JobState.PARKED)), jobs.c.due_at > Clock())
    is_it = jobs.c.provider_key == provider_key if provider_key else jobs.c.provider_job_id == provider_job_id
    return changed(session, sa.update(jobs).where(is_it, rests).values(due_at=Clock())) > 0


class Nameless(NamedTuple):
    """A sent job whose provider's id is not known: what says under which model it was sent."""

    model: str
    lane: str | None
    policy_version: int


def nameless(session: Session, provider_key: str) -> Nameless | None:
    """Find the job that was sent under this key if it runs or waits without its provider's id, and lock it."""
    lost = sa.and_(
        jobs.c.provider_key == provider_key,
        jobs.c.provider_job_id.is_(None),
        jobs.c.state.in_((JobState.QUEUED, *AT_WORK)),
    )
    columns = (jobs.c[name] for name in Nameless._fields)
    row = session.execute(sa.select(*columns).where(lost).with_for_update()).one_or_none()
    return None if row is None else Nameless(*row)


def name_sent(session: Session, provider_key: str, provider_job_id: str) -> None:
    """Record the provider's id of the job that was sent under this key, unless another job has that id."""
    # guard claims.one_name: a job whose answer was lost gets another job's video, and both are charged
    if session.execute(sa.select(jobs.c.id).where(jobs.c.provider_job_id == provider_job_id)).first():
        return
    named = sa.update(jobs).where(jobs.c.provider_key == provider_key)
    session.execute(named.values(provider_job_id=provider_job_id))
    vendor_jobs.name(session, provider_key, provider_job_id)


def hand_back(session: Session, held: Collection[Claim], *, is_unsent: bool = False) -> None:
    """Release jobs that were claimed and not begun: no attempt is counted. `is_unsent`: they were announced."""
    for job in held:
        state = JobState.PARKED if job.was_parked else JobState.QUEUED
        values = {"state": state, "attempts": job.attempts - (not job.was_parked)}
        # guard claims.unsent: a job that its worker did not send, as it had to stop, is in doubt for a day, and dead
        gone = {"provider_key": None} if is_unsent else {}
        if note(session, job, **values, **gone, claimed_by=None, lease_until=None) and gone:
            vendor_jobs.forget(session, str(job.provider_key))
