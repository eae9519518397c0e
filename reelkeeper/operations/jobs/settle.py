"""End a job: it succeeds, fails for good or is cancelled, once, by the worker whose claim on it is the last.

    succeed   captures the price, gives the video to those who joined, and to the cache
    fail      gives credits and bytes back; who joined takes over
    cancel    the same for a job that nobody works at; one at work is asked to stop

What was promised at admission holds, whatever policies are in force by now. Nobody is charged for a failure.
`lease_token` fences: of a claim that was lost, LeaseLost, and nothing is changed.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlmodel import Session

from reelkeeper.errors import HoldClosed, InsufficientCredits, IntegrityDoubt, LeaseLost, NotFound
from reelkeeper.model import VideoState
from reelkeeper.model.jobs import JobState
from reelkeeper.model.money import Metric, Used
from reelkeeper.operations.billing import ledger
from reelkeeper.operations.core.freeze import require_permission
from reelkeeper.operations.core.policies import at as at_version
from reelkeeper.operations.core.policies import in_force
from reelkeeper.operations.jobs import followers
from reelkeeper.operations.jobs.followers import EndingJob
from reelkeeper.rules.jobs import estimate
from reelkeeper.store.billing import spend_counters, usage
from reelkeeper.store.core.engine import Clock, insert_into, now, transaction
from reelkeeper.store.jobs.controls import ESTIMATES, load_now, remembered
from reelkeeper.store.tables import controls, jobs, videos
from reelkeeper.store.videos import cache

AT_WORK: Final = (JobState.RUNNING, JobState.PARKED)


class Settled(NamedTuple):
    """How a job ended. `promoted` is the id of the job that is to be run in its place, if one had joined it."""

    job_id: str
    state: JobState
    video_id: str | None
    charged_microusd: int
    followers: int  # that got the same video
    promoted: str | None = None


def succeed(
    engine: Engine,
    job_id: str,
    lease_token: int,
    *,
    run_id: str,
    video_id: str | None = None,
    cost_microusd: int | None = None,
    processing_seconds: float | None = None,
    concurrency: float | None = None,
) -> Settled:
    """End a job whose video is live: charge it, and give the video to those who joined and to the cache.

    The video's id is the job's, unless said otherwise. `processing_seconds` counts from the claim if it is not known.
    Said again by the same claim, it answers the same and changes nothing. Raises LeaseLost, Frozen, and IntegrityDoubt
    when there is no such video.
    """
    video = video_id or job_id
    with transaction(engine, "job.succeed") as session:
        require_permission(session)
        _require_video(session, video, job_id, lease_token)
        at = now(session)
        load, slots = load_now(session, in_force(session).policies.admission.slots)
        ended = _end(
            session,
            job_id,
            lease_token,
            state=JobState.SUCCEEDED,
            finished_at=at,
            video_id=video,
            cost_microusd=spend_counters.added(cost_microusd),
            processing_seconds=processing_seconds,
            concurrency=concurrency,
            progress=1.0,
            error=None,
        )
        if ended is None:
            return _as_it_ended(session, job_id, lease_token, JobState.SUCCEEDED)
        took = processing_seconds
        if took is None and ended.started_at is not None:
            took = max((at - ended.started_at).total_seconds(), 0.001)
            session.execute(sa.update(jobs).where(jobs.c.id == job_id).values(processing_seconds=took))
        count(session, ended, at, took)
        quoted = ended.price_microusd if ended.quoted_cost_microusd is None else ended.quoted_cost_microusd
        spend_counters.add_generated(session, at.date(), max(quoted, cost_microusd or 0))
        if took is not None:
            learn(session, ended, load if concurrency is None else concurrency / slots, took)
        cache.insert(
            session,
            ended.cache_key,
            video,
            user_id=None if ended.request.get("shared") else ended.user_id,
            cost_microusd=ended.price_microusd if cost_microusd is None else cost_microusd,
            ttl_seconds=at_version(session, ended.policy_version).admission.ttl_seconds,
        )
        followers.give_bytes_back(session, ended.reservation_id)
        charged = _charge(session, ended, run_id)
        joined = followers.give(session, job_id, video, run_id=run_id)
        return Settled(job_id, JobState.SUCCEEDED, video, charged, joined)


def fail(
    engine: Engine,
    job_id: str,
    lease_token: int,
    error: str,
    *,
    run_id: str,
    state: JobState = JobState.DEAD,
    cost_microusd: int | None = None,
) -> Settled:
    """End a job without a video, DEAD or CANCELLED: what it held goes back, and the first who joined takes over.

    What its provider took all the same, `cost_microusd`, is ours and not the user's. Not for an attempt that will be
    made again. Said again by the same claim, it changes nothing. Raises LeaseLost, Frozen.
    """
    with transaction(engine, "job.fail") as session:
        require_permission(session)
        ended = _end(
            session,
            job_id,
            lease_token,
            state=state,
            finished_at=Clock(),
            cost_microusd=spend_counters.added(cost_microusd),
            error=error[:2_000],
        )
        if ended is None:
            return _as_it_ended(session, job_id, lease_token, state)
        if cost_microusd:
            spend_counters.add_generated(session, now(session).date(), cost_microusd)
        return _give_up(session, ended, state, run_id)


def cancel(
    engine: Engine,
    job_id: str,
    *,
    run_id: str,
    user_id: str | None = None,
) -> JobState:
    """End a job that waits; ask one at work to stop. Returns its state after that: what has ended stays as it is.

    Raises NotFound, also for a job of another user than `user_id` if that is given, and Frozen.
    """
    with transaction(engine, "job.cancel") as session:
        require_permission(session)
        mine = sa.and_(jobs.c.id == job_id, jobs.c.user_id == user_id if user_id is not None else sa.true())
        row = session.execute(
            sa.update(jobs)
            .where(mine, jobs.c.state == JobState.QUEUED)
            .values(state=JobState.CANCELLED, finished_at=Clock(), cancel_asked_at=Clock(), error="cancelled")
            .returning(*followers.ENDING)
        ).one_or_none()
        if row is not None:
            _give_up(session, EndingJob._make(row), JobState.CANCELLED, run_id)
            return JobState.CANCELLED
        session.execute(
            sa.update(jobs)
            .where(mine, jobs.c.state.in_(AT_WORK), jobs.c.cancel_asked_at.is_(None))
            .values(cancel_asked_at=Clock())
        )
        state: str | None = session.execute(sa.select(jobs.c.state).where(mine)).scalar()
        if state is None:
            raise NotFound(f"no job {job_id!r}" + (f" of user {user_id!r}" if user_id is not None else ""))
        return JobState(state)


def _require_video(session: Session, video_id: str, job_id: str, lease_token: int) -> None:
    """Raise IntegrityDoubt where this claim is at work, and its video is not there."""
    live = sa.exists().where(videos.c.id == video_id, videos.c.state == VideoState.LIVE)
    if session.execute(sa.select(jobs.c.id).where(_at_work(job_id, lease_token), ~live)).scalar():
        raise IntegrityDoubt(f"job {job_id}: no live video {video_id!r} to end it with; it stays at work")


def _at_work(job_id: str, lease_token: int) -> sa.ColumnElement[bool]:
    return sa.and_(jobs.c.id == job_id, jobs.c.lease_token == lease_token, jobs.c.state.in_(AT_WORK))


def _end(session: Session, job_id: str, lease_token: int, **values: Any) -> EndingJob | None:  # noqa: ANN401  columns of jobs
    row = session.execute(
        sa.update(jobs)
        .where(_at_work(job_id, lease_token))
        .values(lease_until=None, **values)
        .returning(*followers.ENDING)
    ).one_or_none()
    return EndingJob._make(row) if row else None


def _as_it_ended(session: Session, job_id: str, lease_token: int, wanted: JobState) -> Settled:
    """Give the answer again that this claim got before; LeaseLost where another has taken over, or ended it."""
    row = session.execute(
        sa.select(jobs.c.state, jobs.c.lease_token, jobs.c.video_id, jobs.c.hold_id).where(jobs.c.id == job_id)
    ).one_or_none()
    if row is None:
        raise NotFound(f"no job {job_id!r}")
    if (row.lease_token, row.state) != (lease_token, wanted):
        raise LeaseLost(
            f"job {job_id} is {row.state} under claim {row.lease_token}, and this is claim {lease_token}: "
            "nothing was changed"
        )
    joined = sa.select(sa.func.count()).where(jobs.c.leader_id == job_id, jobs.c.state == JobState.SUCCEEDED)
    charged = followers.captured(session, row.hold_id)
    return Settled(job_id, wanted, row.video_id, charged, session.execute(joined).scalar_one())


def _give_up(session: Session, ended: EndingJob, state: JobState, run_id: str) -> Settled:
    followers.give_bytes_back(session, ended.reservation_id)
    followers.give_credits_back(session, ended, run_id)
    promoted = followers.promote(session, ended.id, run_id=run_id) if ended.leader_id is None else None
    return Settled(ended.id, state, None, 0, 0, promoted)


def _charge(session: Session, ended: EndingJob, run_id: str) -> int:
    """Capture the price. A hold that has run out is taken anew; a user who has spent it since gets the video free."""
    if ended.hold_id is None:
        return 0
    key = f"job/{ended.id}"
    try:
        ledger.capture(session, ended.hold_id, ended.price_microusd, f"{key}/capture", run_id=run_id)
    except HoldClosed:
        try:
            late = ledger.hold(
                session, ended.user_id, ended.price_microusd, f"{key}/late", run_id=run_id, lasting_seconds=1
            )
        except InsufficientCredits:
            return 0
        ledger.capture(session, str(late.hold_id), ended.price_microusd, f"{key}/capture", run_id=run_id)
        session.execute(sa.update(jobs).where(jobs.c.id == ended.id).values(hold_id=late.hold_id))
    return ended.price_microusd


def count(session: Session, ended: EndingJob, at: datetime, took_seconds: float | None) -> None:
    """Count the job and its seconds, of the account and of its user."""
    day, seconds = at.date(), round(took_seconds or 0)
    used = [
        Used(day, metric, quantity, ended.model, user_id=user)
        for metric, quantity in ((Metric.JOBS, 1), (Metric.GENERATION_SECONDS, seconds))
        for user in ("", ended.user_id)
        if quantity
    ]
    usage.record(session, used, add=True)


def learn(session: Session, ended: EndingJob, load: float, took_seconds: float) -> None:
    """Remember by which factor the prior was wrong. The caller holds the deployment row: nobody else learns now."""
    state: Mapping[str, list[float]] = remembered(session, [ESTIMATES]).get(ESTIMATES, {})
    factors = estimate.learned(state.get(ended.model, ()), estimate.factor(ended.complexity, load, took_seconds))
    new = {"state": {**state, ended.model: factors}, "updated_at": Clock()}
    session.execute(
        insert_into(session, controls)
        .values(name=ESTIMATES, **new)
        .on_conflict_do_update(index_elements=["name"], set_=new)
    )
