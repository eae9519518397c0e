"""What waits in the queue and what runs, as far as a new job's wait depends on it."""

from typing import Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model.jobs import IN_FLIGHT, JobState
from reelkeeper.store.tables import jobs

# as literals, so that SQLite sees that the unique index of leaders answers it
LEADS: Final = sa.and_(
    jobs.c.leader_id.is_(None), jobs.c.state.in_([sa.literal_column(f"'{state}'") for state in IN_FLIGHT])
)


class Waiting(NamedTuple):
    """The jobs that go before a new one, and those that run: how many, and the seconds they take by estimate."""

    ahead: int
    ahead_seconds: float
    running: int
    running_seconds: float  # of one, on average


def waiting(session: Session, estimate_seconds: float, apart_from: str = "") -> Waiting:
    """Look at the queue as a job of so many seconds sees it: shorter ones go first, and tiers are left out of it."""
    ahead = sa.and_(jobs.c.state == JobState.QUEUED, jobs.c.estimate_seconds <= estimate_seconds)
    running = jobs.c.state == JobState.RUNNING
    seconds = jobs.c.estimate_seconds
    row = session.execute(
        sa.select(
            sa.func.coalesce(sa.func.sum(sa.case((ahead, 1), else_=0)), 0),
            sa.func.coalesce(sa.func.sum(sa.case((ahead, seconds), else_=0.0)), 0.0),
            sa.func.coalesce(sa.func.sum(sa.case((running, 1), else_=0)), 0),
            sa.func.coalesce(sa.func.avg(sa.case((running, seconds))), 0.0),
        ).where(
            jobs.c.state.in_([JobState.QUEUED, JobState.RUNNING]),
            jobs.c.leader_id.is_(None),
            jobs.c.id != apart_from,
        )
    ).one()
    return Waiting(int(row[0]), float(row[1]), int(row[2]), float(row[3]))
