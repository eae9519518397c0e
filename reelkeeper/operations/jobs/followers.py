"""Jobs that wait for the video of another, and what a job held: given on, given back.

A follower has a hold of credits of its own, and no bytes: the video is its leader's. When the leader ends without a
video the oldest follower takes over, reserves the bytes then, and the others follow it.
"""

from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlmodel import Session

from reelkeeper.errors import HoldClosed, QuotaExceeded
from reelkeeper.model.jobs import IN_FLIGHT, JobState
from reelkeeper.model.money import HoldState, ReservationState
from reelkeeper.operations.billing import ledger, quota
from reelkeeper.operations.core.policies import at
from reelkeeper.store.core.engine import Clock
from reelkeeper.store.tables import credit_holds, jobs, reservations


class EndingJob(NamedTuple):
    """A job that has just ended, or is about to."""

    id: str
    user_id: str
    leader_id: str | None
    cache_key: str
    model: str
    request: dict[str, Any]
    complexity: float
    price_microusd: int
    quoted_cost_microusd: int | None
    hold_id: str | None
    reservation_id: str | None
    reserved_bytes: int
    started_at: datetime | None
    policy_version: int  # what was promised


ENDING = tuple(jobs.c[name] for name in EndingJob._fields)


def give(session: Session, leader_id: str, video_id: str, *, run_id: str) -> int:
    """End everybody who follows `leader_id` with its video, at the charge promised for a hit; returns how many."""
    rows = session.execute(
        sa.update(jobs)
        .where(jobs.c.leader_id == leader_id, jobs.c.state.in_(IN_FLIGHT))
        .values(state=JobState.SUCCEEDED, video_id=video_id, finished_at=Clock(), progress=1.0)
        .returning(*ENDING)
    )
    followers = [EndingJob._make(row) for row in rows]
    for job in followers:
        charge = at(session, job.policy_version).admission.hit_charge(job.price_microusd)
        if charge and job.hold_id is not None:
            try:
                ledger.capture(session, job.hold_id, charge, f"job/{job.id}/capture", run_id=run_id)
            except HoldClosed:
                continue  # it ran out while the leader was at work, and was given back
        else:
            give_credits_back(session, job, run_id)
    return len(followers)


def promote(session: Session, leader_id: str, *, run_id: str) -> str | None:
    """Let the oldest follower of a job that ended without a video be run in its place; returns its id, if there is one.

    One whose user has no room left for the bytes ends, with the reason.
    """
    following = sa.and_(jobs.c.leader_id == leader_id, jobs.c.state.in_(IN_FLIGHT))
    rows = session.execute(sa.select(*ENDING).where(following).order_by(jobs.c.created_at, jobs.c.id)).all()
    for job in map(EndingJob._make, rows):
        key = reservation_key(job.id)
        try:
            quota.reserve(
                session,
                job.user_id,
                job.reserved_bytes,
                key,
                lasting_seconds=at(session, job.policy_version).admission.hold_seconds,
            )
        except QuotaExceeded as full:
            session.execute(
                sa.update(jobs)
                .where(jobs.c.id == job.id)
                .values(state=JobState.DEAD, finished_at=Clock(), error=str(full), leader_id=None)
            )
            give_credits_back(session, job, run_id)
            continue
        session.execute(
            sa.update(jobs).where(jobs.c.id == job.id).values(leader_id=None, reservation_id=key, due_at=Clock())
        )
        session.execute(sa.update(jobs).where(following).values(leader_id=job.id))
        return job.id
    return None


def give_credits_back(session: Session, job: EndingJob, run_id: str) -> None:
    """Release what a job held, if it is held still."""
    if job.hold_id is not None and _is(session, credit_holds, job.hold_id, HoldState.OPEN):
        ledger.release(session, job.hold_id, f"job/{job.id}/release/{job.hold_id}", run_id=run_id)


def give_bytes_back(session: Session, reservation_id: str | None) -> None:
    """Release the bytes that a job reserved, unless they came, or an upload under way will settle them itself."""
    if reservation_id is not None and _is(session, reservations, reservation_id, ReservationState.OPEN):
        try:
            quota.release(session, reservation_id)
        except HoldClosed:
            return


def captured(session: Session, hold_id: str | None) -> int:
    """Give what was captured of a hold, in micro-dollars."""
    chosen = sa.select(credit_holds.c.captured_microusd).where(credit_holds.c.id == hold_id)
    return session.execute(chosen).scalar() or 0


def reservation_key(job_id: str) -> str:
    """Name the reservation of a job's bytes."""
    return f"job/{job_id}"


def _is(session: Session, table: sa.Table, row_id: str, state: str) -> bool:
    return session.execute(sa.select(table.c.state).where(table.c.id == row_id)).scalar() == state
