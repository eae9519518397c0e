"""Create rows of jobs in each state: waiting, running, made, answered from the cache, dead."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from reelkeeper.model.jobs import IN_FLIGHT, JobState
from reelkeeper.operations.billing import limits
from reelkeeper.rules.core.limit_scopes import of_job
from reelkeeper.store import Session
from reelkeeper.store.core.engine import transaction
from reelkeeper.store.tables import jobs

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def at(minutes: float) -> datetime:
    """Return a time so many minutes after noon."""
    return NOON + timedelta(minutes=minutes)


def waiting(job_id: str, created_at: datetime = NOON, **values: object) -> dict[str, Any]:
    """Return the row of a job that waits."""
    return {
        "id": job_id,
        "user_id": "ann",
        "client_key": job_id,
        "request_sha256": job_id,
        "cache_key": job_id,
        "leader_id": None,
        "state": JobState.QUEUED,
        "tier": "free",
        "model": "svd",
        "request": {"prompt": "a cat walks over a bridge"},
        "complexity": 1.0,
        "estimate_seconds": 150.0,
        "price_microusd": 0,
        "price_book": "test",
        "reserved_bytes": 0,
        "attempts": 0,
        "lease_token": 0,
        "progress": 0.0,
        "created_at": created_at,
        "due_at": created_at,
        "started_at": None,
        "finished_at": None,
        "processing_seconds": None,
        "concurrency": None,
        "cost_microusd": None,
        "error": None,
        "claimed_by": None,
        "cancel_asked_at": None,
        "video_id": None,
        **values,
    }


def made(
    job_id: str, finished_at: datetime, *, wait: float = 60, took: float = 150, **values: object
) -> dict[str, Any]:
    """Return the row of a job whose video was made for it, after so many seconds of waiting and of work."""
    started_at = finished_at - timedelta(seconds=took)
    run = {
        "state": JobState.SUCCEEDED,
        "started_at": started_at,
        "finished_at": finished_at,
        "processing_seconds": took,
        "concurrency": 4.0,
        "cost_microusd": 10_000,
    }
    return waiting(job_id, started_at - timedelta(seconds=wait), **(run | values))


def dead(job_id: str, finished_at: datetime, error: str = "out of memory", **values: Any) -> dict[str, Any]:  # noqa: ANN401  columns
    """Return the row of a job that failed for good."""
    return made(job_id, finished_at, state=JobState.DEAD, error=error, processing_seconds=None, **values)


def hit(job_id: str, finished_at: datetime, **values: object) -> dict[str, Any]:
    """Return the row of a job that the cache answered."""
    return waiting(job_id, finished_at, state=JobState.SUCCEEDED, finished_at=finished_at, **values)


def put(engine: sa.Engine, rows: Iterable[dict[str, Any]]) -> None:
    """Put rows into the table; those that lead and are in flight count as that."""
    with transaction(engine, "test") as session:
        for row in (added := list(rows)):
            count_in_flight(session, row)
        session.execute(sa.insert(jobs), added)


def count_in_flight(session: Session, row: dict[str, Any]) -> None:
    """Count a job as in flight, as its admission does."""
    if row["leader_id"] is None and row["state"] in IN_FLIGHT:
        cost = row["price_microusd"] if row.get("quoted_cost_microusd") is None else row["quoted_cost_microusd"]
        scopes = of_job(row.get("lane"), row["model"], row["tier"], row["user_id"])
        limits.take_in(session, scopes, cost, row["estimate_seconds"])
