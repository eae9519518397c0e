"""The queue: look up what exists for a request, add jobs, and list them for people."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.errors import UserErased
from reelkeeper.model.ids import Span
from reelkeeper.model.jobs import IN_FLIGHT, JobState, ListedJob, WaitingJob
from reelkeeper.store.core.engine import Clock, checked, newest, one_of
from reelkeeper.store.core.policies import VERSION
from reelkeeper.store.core.policies import note as note_policies
from reelkeeper.store.tables import cache_entries, credit_holds, jobs, users
from reelkeeper.store.videos.cache import GIVEN
from reelkeeper.store.videos.videos import erased


class JobLine(NamedTuple):
    """The current state of a job."""

    id: str
    state: str
    user_id: str
    tier: str | None
    model: str
    lane: str | None  # the provider that will make it
    leader_id: str | None  # the job whose video it waits for
    created_at: datetime
    due_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    estimate_seconds: float
    attempts: int
    progress: float
    claimed_by: str | None
    cost_microusd: int | None
    error: str | None

    def as_job(self) -> WaitingJob:
        """Convert it for the dispatch rule, without its prompt, which only the source document's order reads."""
        return WaitingJob(self.id, self.user_id, self.tier, self.created_at, self.estimate_seconds, self.model)


_COLUMNS = tuple(jobs.c[name] for name in JobLine._fields)


def listed(session: Session, state: JobState, limit: int) -> list[JobLine]:
    """List at most `limit` jobs in a state: those that ended last, or were requested first."""
    order = jobs.c.created_at if state in IN_FLIGHT else jobs.c.finished_at.desc()
    rows = session.execute(sa.select(*_COLUMNS).where(jobs.c.state == state).order_by(order, jobs.c.id).limit(limit))
    return [JobLine(*row) for row in rows]


def named(session: Session, job_ids: Collection[str]) -> dict[str, JobLine]:
    """Read the jobs of these ids; unknown ones are left out."""
    rows = session.execute(sa.select(*_COLUMNS).where(jobs.c.id.in_(job_ids)))
    return {row.id: JobLine(*row) for row in rows}


class AdmittedJob(NamedTuple):
    """A job as it was admitted, and its current state."""

    id: str
    user_id: str
    state: str
    leader_id: str | None
    request_sha256: str
    cache_key: str
    model: str
    lane: str | None
    request: dict[str, Any]
    complexity: float
    estimate_seconds: float
    price_microusd: int
    price_book: str
    quoted_cost_microusd: int | None
    policy_version: int  # of its promises
    tier: str | None
    hold_id: str | None
    reservation_id: str | None
    reserved_bytes: int
    lease_token: int
    progress: float
    cancel_asked_at: datetime | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    video_id: str | None
    error: str | None
    tag: str | None  # for the video, where this job makes one
    caller_metadata: dict[str, str]


ADMITTED = tuple(jobs.c[name] for name in AdmittedJob._fields)
_FIND = sa.select(*ADMITTED).where(jobs.c.id == sa.bindparam("job_id"))
_NEW = sa.insert(jobs).values(attempts=0, lease_token=0, created_at=Clock(), due_at=Clock()).returning(*ADMITTED)
_QUEUED = _NEW.values(state=JobState.QUEUED, progress=0.0)
_ANSWERED = _NEW.values(state=JobState.SUCCEEDED, progress=1.0, finished_at=Clock(), reserved_bytes=0)


def find(session: Session, job_id: str, *, locked: bool = False) -> AdmittedJob | None:
    """Find a job; with `locked`, lock it until the transaction ends."""
    row = session.execute(_FIND.with_for_update() if locked else _FIND, {"job_id": job_id}).one_or_none()
    return AdmittedJob._make(row) if row else None


def add(session: Session, row: Mapping[str, Any], *, answered: bool) -> AdmittedJob:
    """Insert a waiting job, or one that the cache has `answered`."""
    return AdmittedJob._make(session.execute(_ANSWERED if answered else _QUEUED, row).one())


class Existing(NamedTuple):
    """Everything that exists already for a user's request."""

    tier: str | None  # of the user
    job: AdmittedJob | None  # of this idempotency key
    is_cached: bool
    leader_id: str | None  # the job that is making the same


def _look() -> sa.Select[Any]:
    leader, wanted = jobs.alias("leader"), sa.bindparam("cache_key", type_=sa.String)
    is_same_key = sa.and_(jobs.c.user_id == users.c.id, jobs.c.client_key == sa.bindparam("client_key"))
    return (
        sa.select(
            *ADMITTED,
            users.c.tier.label("user_tier"),
            users.c.erasing_at,
            sa.exists().where(cache_entries.c.key == wanted, GIVEN).label("is_cached"),
            sa.select(leader.c.id).where(leader.c.cache_key == wanted, leads(leader)).scalar_subquery().label("leader"),
            *(sa.select(column).scalar_subquery().label(f"in_force_{place}") for place, column in enumerate(VERSION)),
        )
        .select_from(users.outerjoin(jobs, is_same_key))
        .where(users.c.id == sa.bindparam("user_id"))
    )


def look(session: Session, user_id: str, client_key: str, cache_key: str) -> Existing | None:
    """Read what exists for a request, and the policies in force with it; None where there is no such user.

    Raises UserErased.
    """
    named = {"user_id": user_id, "client_key": client_key, "cache_key": cache_key}
    row = session.execute(_LOOK, named).one_or_none()
    if row is None:
        return None
    # guard erase.no_job: a user who is being erased requests a video, which is made and paid
    if row.erasing_at is not None:
        raise UserErased(erased(user_id))
    note_policies(session, row.in_force_0, row.in_force_1)
    job = None if row.id is None else AdmittedJob._make(row[: len(ADMITTED)])
    return Existing(row.user_tier, job, row.is_cached, row.leader)


def leader_of(session: Session, cache_key: str) -> str | None:
    """Find the id of the job that is making the video of a cache key."""
    return session.execute(sa.select(jobs.c.id).where(jobs.c.cache_key == cache_key, leads(jobs)).limit(1)).scalar()


def marks(session: Session, job_ids: Sequence[str]) -> dict[str, object]:
    """Return, for each existing job, a value that changes with the job, apart from its place in the queue.

    One query serves all: a query for each job costs a hundred times as much.
    """
    leader = jobs.alias("leader")
    columns = (
        jobs.c.state,
        jobs.c.progress,
        jobs.c.cancel_asked_at,
        jobs.c.started_at,
        leader.c.state,
        leader.c.progress,
    )
    query = (
        sa.select(jobs.c.id, *columns)
        .select_from(jobs.outerjoin(leader, leader.c.id == jobs.c.leader_id))
        .where(jobs.c.id.in_(sa.bindparam("job_ids", expanding=True)))
    )
    return {row[0]: tuple(row[1:]) for row in session.execute(query, {"job_ids": job_ids})}


def unfinished(session: Session, hold_ids: Sequence[str]) -> list[str]:
    """List the jobs of these holds that have not ended."""
    chosen = sa.and_(one_of(session, jobs.c.hold_id, hold_ids), jobs.c.state.in_(IN_FLIGHT))
    return list(session.execute(sa.select(jobs.c.id).where(chosen).order_by(jobs.c.id)).scalars())


def oldest_waiting(session: Session) -> datetime | None:
    """Return the time when the oldest waiting job was requested; followers are left out."""
    waits = sa.and_(jobs.c.state == JobState.QUEUED, jobs.c.leader_id.is_(None))
    oldest: datetime | None = session.execute(sa.select(sa.func.min(jobs.c.created_at)).where(waits)).scalar()
    return oldest


def counted(session: Session) -> dict[str, int]:
    """Count the jobs in each state."""
    rows = session.execute(sa.select(jobs.c.state, sa.func.count()).group_by(jobs.c.state))
    return {state: int(count) for state, count in rows}


def waits(table: sa.FromClause) -> sa.ColumnElement[bool]:
    """Build the condition that a row of `jobs`, or of an alias, waits to be made, as partial indexes have it."""
    return checked(sa.and_(table.c.leader_id.is_(None), table.c.state == sa.literal_column(f"'{JobState.QUEUED}'")))


def leads(table: sa.FromClause) -> sa.ColumnElement[bool]:
    """Build the condition that a row of `jobs`, or of an alias, leads: it makes, or will make, its video itself."""
    # literals, so that SQLite can use the unique index of leaders
    in_flight: list[sa.ColumnClause[str]] = [sa.literal_column(f"'{state}'") for state in IN_FLIGHT]
    return sa.and_(table.c.leader_id.is_(None), table.c.state.in_(in_flight))


SHORT: Final = 500  # jobs: of a queue with more, no answer looks at each
_RANK = sa.extract("epoch", jobs.c.created_at) + sa.bindparam("weight", type_=sa.Float) * jobs.c.estimate_seconds


def _seen() -> sa.Select[Any]:
    size, rank = (sa.bindparam(name, type_=sa.Float) for name in ("seconds", "rank"))
    asked_at = sa.bindparam("created_at", type_=jobs.c.created_at.type)
    ahead = sa.and_(rank >= _RANK, sa.or_(jobs.c.created_at <= asked_at, jobs.c.estimate_seconds < size))
    is_another, seconds = jobs.c.id != sa.bindparam("apart_from"), jobs.c.estimate_seconds
    some = (
        sa.select(seconds, sa.and_(ahead, is_another).label("is_ahead")).where(waits(jobs)).limit(SHORT + 1).subquery()
    )
    runs = sa.and_(jobs.c.leader_id.is_(None), jobs.c.state == JobState.RUNNING, is_another)
    running = sa.select(sa.func.count(), sa.func.coalesce(sa.func.avg(seconds), 0.0)).where(runs).subquery()
    waiting = sa.select(
        sa.func.coalesce(sa.func.sum(sa.case((some.c.is_ahead, 1), else_=0)), 0),
        sa.func.coalesce(sa.func.sum(sa.case((some.c.is_ahead, some.c.estimate_seconds), else_=0.0)), 0.0),
        sa.func.count(),
    ).select_from(some)
    counted = waiting.subquery()
    return sa.select(counted.c[0], counted.c[1], *running.c, counted.c[2]).join_from(counted, running, sa.true())


def _steps() -> sa.Select[Any]:
    step = sa.func.floor(_RANK / sa.bindparam("width", type_=sa.Float)).label("step")
    counted = sa.select(step, sa.func.count(), sa.func.sum(jobs.c.estimate_seconds)).where(waits(jobs))
    return counted.group_by(step).order_by(step)


_SEEN, _STEPS, _LOOK = _seen(), _steps(), _look()  # built once: building a statement costs more than sending it


class Waiting(NamedTuple):
    """The number and estimated seconds of the jobs ahead of another, and of those that run."""

    ahead: int
    ahead_seconds: float
    running: int
    running_seconds: float  # of one, on average
    seen: int  # waiting jobs: all, or SHORT + 1


def waiting(session: Session, job: AdmittedJob, size_weight: float) -> Waiting:
    """Read the queue ahead of a job, without regard to tiers; where more than SHORT jobs wait, of some of them.

    A job goes first whose request time is earlier, where each of its estimated seconds adds `size_weight` seconds.
    """
    about = {
        "seconds": job.estimate_seconds,
        "weight": size_weight,
        "rank": rank_of(job, size_weight),
        "created_at": job.created_at,
        "apart_from": job.id,
    }
    row = session.execute(_SEEN, about).one()
    return Waiting(int(row[0]), float(row[1]), int(row[2]), float(row[3]), int(row[4]))


def rank_of(job: AdmittedJob, size_weight: float) -> float:
    """Return the rank of a job, in seconds: lower goes first."""
    return job.created_at.timestamp() + size_weight * job.estimate_seconds


def steps(session: Session, size_weight: float, width: float) -> list[tuple[int, int, float]]:
    """Count all waiting jobs and their estimated seconds by rank, in steps of `width` seconds, the lowest first."""
    rows = session.execute(_STEPS, {"weight": size_weight, "width": width})
    return [(int(step), int(count), float(seconds)) for step, count, seconds in rows]


_LEADER = jobs.alias("leader")
_FOLLOWS = sa.and_(_LEADER.c.id == jobs.c.leader_id, jobs.c.state.in_(IN_FLIGHT))
_SHOWN = sa.func.coalesce(_LEADER.c.state, jobs.c.state)
_NAMED = {
    "job_id": jobs.c.id,
    "metadata": jobs.c.caller_metadata,
    "state": _SHOWN,
    "progress": sa.func.coalesce(_LEADER.c.progress, jobs.c.progress),
    "charged_microusd": sa.func.coalesce(credit_holds.c.captured_microusd, 0),
    "started_at": sa.case((_LEADER.c.id.is_not(None), _LEADER.c.started_at), else_=jobs.c.started_at),
}
_LISTED = sa.select(
    jobs.c.id, *(_NAMED[name].label(name) if name in _NAMED else jobs.c[name] for name in ListedJob.model_fields)
).select_from(jobs.outerjoin(_LEADER, _FOLLOWS).outerjoin(credit_holds, credit_holds.c.id == jobs.c.hold_id))


def page(session: Session, *, user_id: str | None, state: JobState | None, span: Span, limit: int) -> list[ListedJob]:
    """List the newest `limit` jobs in a span of time, of a user or of all, in a state or in any.

    A page costs the same, however many jobs there are. A job that joined another has the state of that one, its leader,
    until it ends.
    """
    # guard jobs.listed_own: a user is shown the jobs of others, although the service asked for theirs alone
    whose = [] if user_id is None else [jobs.c.user_id == user_id]
    chosen = _LISTED.where(*whose)
    parts = [chosen.where(jobs.c.state == each) for each in JobState] if state is None else _in(state, chosen)
    rows = newest(session, parts, jobs.c.created_at, span, limit)
    return [ListedJob.model_validate(row, from_attributes=True) for row in rows]


def _in(state: JobState, chosen: sa.Select[Any]) -> list[sa.Select[Any]]:
    own = chosen.where(jobs.c.state == state)
    if state == JobState.QUEUED:
        return [own.where(sa.func.coalesce(_LEADER.c.state, state) == state)]
    if state not in IN_FLIGHT:
        return [own]
    leading = jobs.alias("leading")
    leaders = sa.select(leading.c.id).where(leading.c.state == state)
    return [own, chosen.where(jobs.c.leader_id.in_(leaders), checked(jobs.c.state == JobState.QUEUED))]
