"""Make requests of users for tests, and workers that claim a job and make its video without a provider."""

from typing import Any

import sqlalchemy as sa
from pydantic import BaseModel

from reelkeeper.model.jobs import JobState
from reelkeeper.model.requests import Admission, GenerationRequest, Queued
from reelkeeper.operations.jobs.admit import admit
from reelkeeper.operations.jobs.settle import cancel
from reelkeeper.store.core.engine import Clock, reading, transaction
from reelkeeper.store.tables import jobs
from tests.operations.books import store_video
from tests.policies import put_in_force


def fox(**options: Any) -> GenerationRequest:  # noqa: ANN401  fields of a request
    return GenerationRequest.model_validate({"model": "m", "prompt": "a fox", **options})


def ask(
    engine: sa.Engine,
    client_key: str,
    request: GenerationRequest | None = None,
    *,
    user: str = "ann",
    **policies: BaseModel,
) -> Admission:
    """Request a video, under the shipped policies or `policies`, which stay in force."""
    if policies:
        put_in_force(engine, **policies)
    return admit(engine, request or fox(), user_id=user, client_key=client_key)


def quoted_cost(engine: sa.Engine) -> int:
    """What one fox is expected to cost us, in micro-dollars: asked for, and cancelled."""
    probe = ask(engine, "probe", fox(seed=0))
    assert isinstance(probe, Queued)
    cancel(engine, probe.job_id, run_id="test")
    return int(row(engine, probe.job_id).quoted_cost_microusd)


def claim(engine: sa.Engine, job_id: str) -> int:
    """Take a job as a worker does; return the lease token."""
    with transaction(engine, "test") as session:
        token: int = session.execute(
            sa.update(jobs)
            .where(jobs.c.id == job_id, jobs.c.state.in_([JobState.QUEUED, JobState.RUNNING]))
            .values(state=JobState.RUNNING, lease_token=jobs.c.lease_token + 1, started_at=Clock(-240), attempts=1)
            .returning(jobs.c.lease_token)
        ).scalar_one()
        return token


def make(engine: sa.Engine, job_id: str, size_bytes: int = 1_000) -> None:
    """Publish the job's video as an upload does at its end."""
    with transaction(engine, "test") as session:
        store_video(session, str(row(engine, job_id).user_id), job_id, size_bytes)


def row(engine: sa.Engine, job_id: str) -> sa.Row[Any]:
    with reading(engine) as session:
        return session.execute(sa.select(jobs).where(jobs.c.id == job_id)).one()
