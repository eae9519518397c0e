"""What waits in the queue and what runs, as far as a new job's wait depends on it."""

from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model.jobs import IN_FLIGHT, JobState
from reelkeeper.store.tables import jobs


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
