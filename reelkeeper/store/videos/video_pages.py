"""Read pages for people: the items of a saved plan with their outcomes, and every object of a video."""

from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.store.tables import blobs, verdicts, videos


class PlanItem(NamedTuple):
    """One item of a plan and its outcome, which is None until it is applied."""

    video_id: str | None
    user_id: str | None
    action: str
    rule: str
    reason: str
    size_bytes: int
    saving_microusd: int | None
    net_microusd: int | None
    outcome: str | None
    outcome_reason: str | None
    after_bytes: int | None
    segment: str | None  # the policy's segment that decided


class BlobLine(NamedTuple):
    """One object that is, or was, a video's bytes."""

    generation: int
    state: str
    size_bytes: int
    codec: str | None
    quality_mean: float | None
    purge_after: datetime | None
    retire_reason: str | None
    key: str


def plan_items(session: Session, plan_id: str, limit: int = 1_000) -> list[PlanItem]:
    """List at most `limit` items of a plan with their outcomes: by action, the largest first."""
    rows = session.execute(
        sa.select(*(verdicts.c[name] for name in PlanItem._fields))
        .where(verdicts.c.plan_id == plan_id)
        .order_by(verdicts.c.action, verdicts.c.size_bytes.desc(), verdicts.c.blob_id)
        .limit(limit)
    )
    return [PlanItem._make(row) for row in rows]


def blobs_of_video(session: Session, video_id: str) -> list[BlobLine]:
    """List every object that is, or was, the bytes of a video, by generation."""
    rows = session.execute(
        sa.select(*(blobs.c[name] for name in BlobLine._fields))
        .where(blobs.c.video_id == video_id)
        .order_by(blobs.c.generation, blobs.c.id)
    )
    return [BlobLine._make(row) for row in rows]


def videos_by_state(session: Session) -> dict[str, int]:
    """Count the videos in each state."""
    rows = session.execute(sa.select(videos.c.state, sa.func.count()).group_by(videos.c.state))
    return {state: int(count) for state, count in rows}
