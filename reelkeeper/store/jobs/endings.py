"""End jobs and their followers, and requeue dead jobs.

Each change checks in its own WHERE whether it is still allowed, and returns the changed job.
"""

from datetime import datetime
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlmodel import Session

from reelkeeper.model.jobs import IN_FLIGHT, JobState
from reelkeeper.store.core.engine import Clock
from reelkeeper.store.jobs.claims import at_work
from reelkeeper.store.jobs.queue import ADMITTED, AdmittedJob
from reelkeeper.store.tables import jobs

ESTIMATES: Final = "estimates"  # the row of `controls` {model: the last factors by which the prior was wrong}


def end(
    session: Session,
    job_id: str,
    lease_token: int,
    state: JobState,
    *,
    at: datetime | None = None,
    **values: Any,  # noqa: ANN401  columns of jobs
) -> AdmittedJob | None:
    """End the job of this claim; None, and nothing changed, where the claim is lost."""
    ended = _end(session, at_work(job_id, lease_token), state, finished_at=at or Clock(), lease_until=None, **values)
    return ended[0] if ended else None


def cancel(session: Session, job_id: str, user_id: str | None) -> AdmittedJob | None:
    """Cancel a waiting job that no provider has, of this user if one is given; None where there is none."""
    # guard settle.cancel_waiting: a running or finished job is cancelled and refunded, although it costs
    waits = sa.and_(_of(job_id, user_id), jobs.c.state == JobState.QUEUED)
    # guard settle.cancel_unsent: a job between two workers is cancelled here only: its provider makes and charges it
    waits = sa.and_(waits, jobs.c.provider_key.is_(None))
    ended = _end(session, waits, JobState.CANCELLED, cancel_asked_at=Clock(), error="cancelled")
    return ended[0] if ended else None


def ask_to_stop(session: Session, job_id: str, user_id: str | None) -> None:
    """Record that a running or sent job is to be cancelled; its worker learns of it at the next heartbeat or claim."""
    chosen = sa.and_(_of(job_id, user_id), jobs.c.state.in_(IN_FLIGHT), jobs.c.cancel_asked_at.is_(None))
    session.execute(sa.update(jobs).where(chosen).values(cancel_asked_at=Clock()))


def give(session: Session, leader_id: str) -> list[AdmittedJob]:
    """End all followers of a job with its video, whose id is the job's; return them, the oldest first."""
    given = _end(session, _follows(leader_id), JobState.SUCCEEDED, video_id=leader_id, progress=1.0)
    return sorted(given, key=lambda job: (job.created_at, job.id))


def following(session: Session, leader_id: str) -> list[AdmittedJob]:
    """List the followers of a job, the oldest first."""
    query = sa.select(*ADMITTED).where(_follows(leader_id)).order_by(jobs.c.created_at, jobs.c.id)
    return [AdmittedJob._make(row) for row in session.execute(query)]


def count_given(session: Session, leader_id: str) -> int:
    """Count the jobs that got the video of the job that they followed."""
    given = sa.and_(jobs.c.leader_id == leader_id, jobs.c.state == JobState.SUCCEEDED)
    return int(session.execute(sa.select(sa.func.count()).where(given)).scalar_one())


def drop(session: Session, job_id: str, error: str) -> None:
    """End a follower that cannot take its leader's place."""
    note(session, job_id, state=JobState.DEAD, finished_at=Clock(), error=error, leader_id=None)


def lead(session: Session, job_id: str, reservation_id: str, *, after: str) -> None:
    """Promote a follower of the job `after` to be made in its place; the others then follow it."""
    note(session, job_id, leader_id=None, reservation_id=reservation_id, due_at=Clock())
    session.execute(sa.update(jobs).where(_follows(after)).values(leader_id=job_id))


def redrive(session: Session, job_id: str, **values: str | None) -> None:
    """Requeue a dead job from its first attempt; `values` are its new hold and reservation."""
    note(
        session,
        job_id,
        state=JobState.QUEUED,
        leader_id=None,
        line=None,
        attempts=0,
        lease_token=jobs.c.lease_token + 1,  # so that the next redrive uses another key
        due_at=Clock(),
        started_at=None,
        finished_at=None,
        cancel_asked_at=None,
        progress=0.0,
        **values,
    )


class Sent(NamedTuple):
    """How a job was sent to its provider, if it was."""

    provider_key: str | None
    provider_job_id: str | None


def sent_as(session: Session, job_id: str) -> Sent:
    """Read how an existing job was sent."""
    return Sent(*session.execute(sa.select(*(jobs.c[name] for name in Sent._fields)).where(jobs.c.id == job_id)).one())


def forget_sent(session: Session, job_id: str) -> None:
    """Clear the key and the provider's id of a job that a person wants to be made anew, unless a worker has it."""
    chosen = sa.and_(jobs.c.id == job_id, jobs.c.state.in_((JobState.PARKED, JobState.DEAD)))
    session.execute(sa.update(jobs).where(chosen).values(provider_key=None, provider_job_id=None))


def resume(session: Session, job_id: str, *, afresh: bool) -> None:
    """End the pause of a parked job; `afresh`, it is requeued from its first attempt."""
    begun = {"state": JobState.QUEUED, "attempts": 0, "started_at": None, "progress": 0.0} if afresh else {}
    note(session, job_id, due_at=Clock(), **begun)


def note(session: Session, job_id: str, **values: Any) -> None:  # noqa: ANN401  columns of jobs
    """Update columns of a job."""
    session.execute(sa.update(jobs).where(jobs.c.id == job_id).values(**values))


def add_cost(session: Session, job_id: str, cost_microusd: int) -> None:
    """Add to a job's cost: earlier attempts may have cost something, too."""
    note(session, job_id, cost_microusd=sa.func.coalesce(jobs.c.cost_microusd, 0) + cost_microusd)


def _end(session: Session, chosen: sa.ColumnElement[bool], state: JobState, **values: Any) -> list[AdmittedJob]:  # noqa: ANN401  columns of jobs
    new = {"state": state, "finished_at": Clock(), **values}
    rows = session.execute(sa.update(jobs).where(chosen).values(new).returning(*ADMITTED))
    return [AdmittedJob._make(row) for row in rows]


def _of(job_id: str, user_id: str | None) -> sa.ColumnElement[bool]:
    return sa.and_(jobs.c.id == job_id, jobs.c.user_id == user_id if user_id is not None else sa.true())


def _follows(leader_id: str) -> sa.ColumnElement[bool]:
    return sa.and_(jobs.c.leader_id == leader_id, jobs.c.state.in_(IN_FLIGHT))
