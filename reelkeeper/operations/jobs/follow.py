"""Report a job's state to its user: its place and wait, its progress, or how it ended."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from reelkeeper.errors import NotFound
from reelkeeper.model.ids import Span
from reelkeeper.model.jobs import IN_FLIGHT, JobState, ListedJob
from reelkeeper.operations.core.policies import in_force
from reelkeeper.operations.jobs.lookup import still_queued
from reelkeeper.store import Engine, Session
from reelkeeper.store.billing.credit_holds import captured
from reelkeeper.store.core.engine import now, reading
from reelkeeper.store.core.former_ids import known_user
from reelkeeper.store.jobs import queue
from reelkeeper.store.jobs.queue import AdmittedJob
from reelkeeper.store.videos.videos import is_user


class Job(BaseModel):
    """The current state of a job; of one that joined another, that of the other."""

    model_config = ConfigDict(frozen=True)

    job_id: str
    user_id: str
    state: JobState = Field(
        description="parked: its provider may have it, and is asked every two minutes, for "
        "`attempts.give_up_hours` from `started_at` on; then it is dead, at no charge"
    )
    leader_id: str | None
    model: str
    progress: float = Field(description="Progress, from 0 to 1")
    place: int | None = Field(description="Position among the waiting jobs, from 1; null: it does not wait")
    has_worker: bool | None = Field(
        description="Whether a worker that starts jobs gave a sign in the last 30 s, or rests and is started for one; "
        "if false, it is not known when this one will start, and both estimates are null. null: it does not wait"
    )
    wait_seconds: float | None = Field(description="Estimated time until it starts, in seconds; null: unknown")
    finish_seconds: float | None = Field(
        description="Estimated time until its end; 0 if it takes longer than estimated; null: unknown"
    )
    price_microusd: int
    charged_microusd: int
    video_id: str | None
    error: str | None
    metadata: dict[str, str] = Field(description="What came with the request")
    cancelling: bool = Field(description="Whether cancellation was requested")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


def follow(engine: Engine, job_id: str, *, user_id: str | None = None) -> Job:
    """Read the state of a job, of this user if one is given, from one snapshot. Raises NotFound, SchemaError."""
    with reading(engine) as session:
        row = queue.find(session, job_id)
        # guard settle.followed_own: a user is shown another's job, although the service asked for theirs alone
        if row is None or user_id not in (None, row.user_id):
            raise NotFound.for_user("job", job_id, user_id)
        shown = queue.find(session, row.leader_id) if row.leader_id and row.state in IN_FLIGHT else row
        shown = row if shown is None else shown
        ahead = _ahead(session, shown)
        return Job(
            job_id=row.id,
            user_id=row.user_id,
            state=JobState(shown.state if row.state in IN_FLIGHT else row.state),
            leader_id=row.leader_id,
            model=row.model,
            progress=shown.progress,
            **ahead._asdict(),
            price_microusd=row.price_microusd,
            charged_microusd=captured(session, row.hold_id),
            video_id=row.video_id,
            error=row.error,
            metadata=row.caller_metadata,
            cancelling=row.cancel_asked_at is not None,
            created_at=row.created_at,
            started_at=shown.started_at,
            finished_at=row.finished_at,
        )


def newest(engine: Engine, *, user_id: str | None, state: JobState | None, span: Span, limit: int) -> list[ListedJob]:
    """List the newest jobs in a span of time, of a user and in a state, or of all. Raises NotFound, UserErased."""
    with reading(engine) as session:
        user_id = user_id and known_user(session, user_id)
        found = queue.page(session, user_id=user_id, state=state, span=span, limit=limit)
        if user_id and not found and not is_user(session, user_id):
            raise NotFound(f"no user {user_id!r} in the catalogue")
        return found


def marks(engine: Engine, job_ids: Sequence[str]) -> dict[str, object]:
    """Return, for each existing job, a value that changes with the job."""
    with reading(engine) as session:
        return queue.marks(session, job_ids)


class _Ahead(NamedTuple):
    place: int | None = None
    has_worker: bool | None = None
    wait_seconds: float | None = None
    finish_seconds: float | None = None


def _ahead(session: Session, job: AdmittedJob) -> _Ahead:
    if job.state == JobState.QUEUED:
        queued = still_queued(session, job, in_force(session).policies)
        return _Ahead(queued.place, queued.has_worker, queued.wait_seconds, queued.finish_seconds)
    if job.state == JobState.RUNNING and job.started_at is not None:
        gone = (now(session) - job.started_at).total_seconds()
        return _Ahead(wait_seconds=0.0, finish_seconds=round(max(0.0, job.estimate_seconds - gone), 1))
    return _Ahead()
