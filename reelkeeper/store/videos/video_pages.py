"""Read pages for people: saved plans with their outcomes, and every object of a video."""

from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.store.tables import blobs, plans, verdicts, videos


class PlanLine(NamedTuple):
    """A saved plan in one line."""

    id: str
    flow: str
    state: str  # drawing, ready, applied, refused
    as_of: datetime
    created_at: datetime
    items: int
    size_bytes: int
    refusal: str | None


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


def recent_plans(session: Session, *, limit: int) -> list[PlanLine]:
    """List the newest plans."""
    mine = verdicts.c.plan_id == plans.c.id
    rows = session.execute(
        sa.select(
            plans.c.id,
            plans.c.flow,
            plans.c.state,
            plans.c.as_of,
            plans.c.created_at,
            sa.select(sa.func.count()).where(mine).scalar_subquery(),
            sa.select(sa.func.coalesce(sa.func.sum(verdicts.c.size_bytes), 0)).where(mine).scalar_subquery(),
            plans.c.refusal,
        )
        .order_by(plans.c.created_at.desc())
        .limit(limit)
    )
    return [PlanLine._make(row) for row in rows]


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
