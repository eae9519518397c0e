"""The jobs in flight and those that died, as a person looks at them."""

from collections.abc import Collection
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model.jobs import Job, JobState
from reelkeeper.store.tables import jobs


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

    def as_job(self) -> Job:
        """Give it as the rule of dispatch sees it, but for its prompt, which only the source document's order reads."""
        return Job(self.id, self.user_id, self.tier, self.created_at, self.estimate_seconds, self.model)


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
