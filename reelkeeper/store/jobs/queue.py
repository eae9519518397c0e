"""The jobs in flight and those that died, as a person looks at them."""

from collections.abc import Collection, Iterator
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model import VideoState
from reelkeeper.model.jobs import IN_FLIGHT, CacheItem, CacheQueue, JobState, WaitingJob
from reelkeeper.store.core.engine import changed
from reelkeeper.store.tables import blobs, cache_entries, cache_ghosts, jobs, videos

_BATCH = 2_000
_ITEM = (
    cache_entries.c.key,
    cache_entries.c.video_id,
    sa.func.coalesce(blobs.c.size_bytes, 0),
    cache_entries.c.cost_microusd,
    cache_entries.c.queue,
    cache_entries.c.frequency,
    cache_entries.c.hits,
    sa.func.coalesce(cache_entries.c.last_hit_at, cache_entries.c.created_at),
    cache_entries.c.expires_at,
    videos.c.state == VideoState.LIVE,
)


class JobLine(NamedTuple):
    """A job as it stands."""

    id: str
    state: str
    user_id: str
    tier: str | None
    model: str
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
        """Give it as the rule of dispatch sees it, but for its prompt, which only the source document's order reads."""
        return WaitingJob(self.id, self.user_id, self.tier, self.created_at, self.estimate_seconds, self.model)


_COLUMNS = tuple(jobs.c[name] for name in JobLine._fields)


def listed(session: Session, state: JobState, limit: int) -> list[JobLine]:
    """Give at most so many jobs in a state: those that ended last, or were asked for first."""
    order = (
        jobs.c.created_at
        if state in (JobState.QUEUED, JobState.RUNNING, JobState.PARKED)
        else jobs.c.finished_at.desc()
    )
    rows = session.execute(sa.select(*_COLUMNS).where(jobs.c.state == state).order_by(order, jobs.c.id).limit(limit))
    return [JobLine(*row) for row in rows]


def named(session: Session, job_ids: Collection[str]) -> dict[str, JobLine]:
    """Give the jobs of these ids that there are."""
    rows = session.execute(sa.select(*_COLUMNS).where(jobs.c.id.in_(job_ids)))
    return {row.id: JobLine(*row) for row in rows}


def oldest_waiting(session: Session) -> datetime | None:
    """Say since when the job has waited that was asked for first; not those that wait for another's video."""
    waits = sa.and_(jobs.c.state == JobState.QUEUED, jobs.c.leader_id.is_(None))
    oldest: datetime | None = session.execute(sa.select(sa.func.min(jobs.c.created_at)).where(waits)).scalar()
    return oldest


def counted(session: Session) -> dict[str, int]:
    """Count the jobs in each state."""
    rows = session.execute(sa.select(jobs.c.state, sa.func.count()).group_by(jobs.c.state))
    return {state: int(count) for state, count in rows}


def stream(session: Session, queue: CacheQueue) -> Iterator[CacheItem]:
    """Give the entries of a queue, the one whose turn is next first."""
    rows = session.execute(
        sa.select(*_ITEM)
        .select_from(
            cache_entries.join(videos, videos.c.id == cache_entries.c.video_id).outerjoin(
                blobs, blobs.c.id == videos.c.blob_id
            )
        )
        .where(cache_entries.c.queue == queue)
        .order_by(cache_entries.c.position, cache_entries.c.key),
        execution_options={"yield_per": _BATCH},
    )
    return (CacheItem(*row)._replace(queue=CacheQueue(queue), live=bool(row[-1])) for row in rows)


def trim_ghosts(session: Session, budget_bytes: int) -> int:
    """Forget the oldest ghosts beyond as many bytes as the cache itself may have; returns how many."""
    newest_first = sa.func.sum(cache_ghosts.c.size_bytes).over(order_by=cache_ghosts.c.position.desc())
    summed = sa.select(cache_ghosts.c.key, newest_first.label("so_far")).subquery()
    beyond = sa.select(summed.c.key).where(summed.c.so_far > budget_bytes)
    return changed(session, sa.delete(cache_ghosts).where(cache_ghosts.c.key.in_(beyond)))


class Waiting(NamedTuple):
    """The jobs that go before a new one, and those that run: how many, and the seconds they take by estimate."""

    ahead: int
    ahead_seconds: float
    running: int
    running_seconds: float  # of one, on average


def leads(table: sa.FromClause) -> sa.ColumnElement[bool]:
    """Say of a row of jobs, or of an alias of them, that it is at work on a request, or will be, itself."""
    # as literals, so that SQLite sees that the unique index of leaders answers it
    in_flight: list[sa.ColumnClause[str]] = [sa.literal_column(f"'{state}'") for state in IN_FLIGHT]
    return sa.and_(table.c.leader_id.is_(None), table.c.state.in_(in_flight))


def _seen() -> sa.Select[Any]:
    ahead = sa.and_(jobs.c.state == JobState.QUEUED, jobs.c.estimate_seconds <= sa.bindparam("seconds", type_=sa.Float))
    running = jobs.c.state == JobState.RUNNING
    seconds = jobs.c.estimate_seconds
    return sa.select(
        sa.func.coalesce(sa.func.sum(sa.case((ahead, 1), else_=0)), 0),
        sa.func.coalesce(sa.func.sum(sa.case((ahead, seconds), else_=0.0)), 0.0),
        sa.func.coalesce(sa.func.sum(sa.case((running, 1), else_=0)), 0),
        sa.func.coalesce(sa.func.avg(sa.case((running, seconds))), 0.0),
    ).where(
        jobs.c.state.in_([JobState.QUEUED, JobState.RUNNING]),
        jobs.c.leader_id.is_(None),
        jobs.c.id != sa.bindparam("apart_from"),
    )


_SEEN = _seen()  # built once: to build a statement costs more than to send it


def waiting(session: Session, estimate_seconds: float, apart_from: str = "") -> Waiting:
    """Look at the queue as a job of so many seconds sees it: shorter ones go first, and tiers are left out of it."""
    row = session.execute(_SEEN, {"seconds": estimate_seconds, "apart_from": apart_from}).one()
    return Waiting(int(row[0]), float(row[1]), int(row[2]), float(row[3]))
