"""Retire the videos that a plan removes; the UPDATE itself checks every condition again."""

import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model import Action, BlobState, Grace, VideoState
from reelkeeper.store.core.engine import changed, checked, now, one_of
from reelkeeper.store.lifecycle import notices
from reelkeeper.store.tables import blobs, plans, verdicts, videos
from reelkeeper.store.videos import conditions
from reelkeeper.store.videos.conditions import DELETED, DELETED_COUNTED, retired


class Planned(NamedTuple):
    """A plan's item for a video, its rule and its reason."""

    video_id: str
    blob_id: int
    user_id: str
    rule: str
    reason: str
    size_bytes: int


def planned(
    session: Session, plan_id: str, video_ids: Sequence[str], actions: Sequence[Action] = (Action.RETIRE,)
) -> list[Planned]:
    """Read a plan's items for those of `video_ids` for which it has one of `actions`, by default retirement."""
    rows = session.execute(
        sa.select(*(verdicts.c[name] for name in Planned._fields))
        .where(verdicts.c.plan_id == plan_id, verdicts.c.video_id.in_(video_ids), verdicts.c.action.in_(actions))
        # A batch is repeated where the answer to its commit was lost: what it has done stays as it was recorded.
        .where(sa.or_(verdicts.c.outcome.is_(None), verdicts.c.outcome.in_(("skipped", "failed"))))
    )
    return [Planned._make(row) for row in rows]


def retire_videos(
    session: Session,
    plan_id: str,
    video_ids: Sequence[str],
    run_id: str,
    notice_days: Mapping[str, int],
    *,
    service_keys: bool,
) -> dict[str, int]:
    """Retire those of `video_ids` that are unchanged since the plan; return the blob of each.

    `notice_days` are the days of notice promised to each tier. Without `service_keys`, videos at the service's keys
    stay: the bucket has not passed the contract that the purge of their bytes requires.
    """
    at = now(session)
    verdict = sa.and_(
        verdicts.c.plan_id == plan_id,
        # guard retire.same_bytes: a video that was replaced since the plan is retired
        verdicts.c.blob_id == videos.c.blob_id,
        # guard retire.same_generation: a video whose swap was made and undone since the plan is retired
        verdicts.c.generation == videos.c.generation,
        verdicts.c.action == Action.RETIRE,
    )
    planned_at = sa.select(plans.c.created_at).where(plans.c.id == plan_id).scalar_subquery()
    rows = session.execute(
        sa.update(videos)
        .where(
            one_of(session, videos.c.id, video_ids),
            # guard retire.live: a lost or gone video is retired, and then purged
            checked(videos.c.state == VideoState.LIVE),
            # guard retire.planned: a video that the plan does not retire is retired
            sa.exists().where(verdict),
            # guard retire.viewed: a video is retired that was viewed since the plan
            conditions.not_viewed_since(planned_at),
            # guard retire.held: a video is retired that was held since the plan
            ~conditions.held(videos.c.id, videos.c.user_id, now(session)),
            # guard retire.kept: a video is retired that its user asked to keep since the plan
            ~conditions.kept(videos.c.id, at),
            # guard retire.noticed: a video is retired without the notice that its service was promised
            notices.given(notice_days, at),
            # guard retire.in_operation: a video is retired while its bytes are being replaced
            ~conditions.in_operation(videos.c.id),
            # guard retire.live_bytes: one video whose bytes are not live makes its whole batch fail
            sa.exists().where(blobs.c.id == videos.c.blob_id, blobs.c.state == BlobState.LIVE),
            # guard retire.contract: a plan from before an upgrade hides videos whose bytes no purge may delete
            sa.exists().where(blobs.c.id == videos.c.blob_id, sa.true() if service_keys else blobs.c.is_ours),
        )
        .values(
            state=VideoState.RETIRED,
            retired_at=now(session),
            retire_reason=sa.select(verdicts.c.reason).where(verdict).scalar_subquery(),
            run_id=run_id,
        )
        .returning(videos.c.id, videos.c.blob_id)
    )
    return {row.id: row.blob_id for row in rows}


def delete_video(session: Session, video_id: str, run_id: str, *, is_counted: bool) -> int | None:
    """Retire a live video that its user deletes; return its blob, None where it is held.

    A retired one keeps its grace, and counts as deleted by its user from now on. With `is_counted`, a live one counts
    towards the quota until its bytes are purged.
    """
    return session.execute(
        sa.update(videos)
        .where(
            videos.c.id == video_id,
            videos.c.state.in_([VideoState.LIVE, VideoState.RETIRED]),
            # guard delete.held: a user deletes a held video
            ~conditions.held(videos.c.id, videos.c.user_id, now(session)),
        )
        .values(
            state=VideoState.RETIRED,
            retired_at=sa.func.coalesce(videos.c.retired_at, now(session)),
            # guard delete.counted_live: deleting a video that was already retired uses its quota again
            retire_reason=sa.case(
                (sa.and_(videos.c.state == VideoState.LIVE, sa.literal(is_counted)), DELETED_COUNTED), else_=DELETED
            ),
            run_id=run_id,
        )
        .returning(videos.c.blob_id)
    ).scalar()


def reason(session: Session, video_id: str) -> str | None:
    """Read why a video was retired; None where it was not."""
    found: str | None = session.execute(sa.select(videos.c.retire_reason).where(videos.c.id == video_id)).scalar()
    return found


def purge_after(session: Session, blob_id: int) -> datetime:
    """Read when the grace of retired bytes ends."""
    at: datetime = session.execute(sa.select(blobs.c.purge_after).where(blobs.c.id == blob_id)).scalar_one()
    return at


def retire_blobs(session: Session, blob_ids: Sequence[int], at: datetime, *, run_id: str, grace: Grace) -> int:
    """Start the grace of the bytes of videos that were just retired; return how many were live."""
    is_its = sa.and_(videos.c.id == blobs.c.video_id, videos.c.blob_id == blobs.c.id)
    reason = sa.select(videos.c.retire_reason).where(is_its).scalar_subquery()
    return changed(
        session,
        sa.update(blobs)
        # guard retire.live_blobs: bytes that a purge has claimed, or that are lost, start a new grace
        .where(one_of(session, blobs.c.id, blob_ids), checked(blobs.c.state == BlobState.LIVE))
        .values(run_id=run_id, **retired(at, grace, reason)),
    )


def broken(session: Session, video_ids: Sequence[str]) -> dict[str, str]:
    """Describe each live video whose bytes are not live: an inconsistency that no operation should cause."""
    rows = session.execute(
        sa.select(videos.c.id, blobs.c.key, blobs.c.state)
        .join(blobs, blobs.c.id == videos.c.blob_id)
        .where(
            one_of(session, videos.c.id, video_ids),
            checked(videos.c.state == VideoState.LIVE),
            blobs.c.state != BlobState.LIVE,
        )
    )
    return {
        row.id: f"the video is live, but its bytes {row.key} are {row.state}: "
        f"{shlex.join(['reelkeeper', 'videos', 'show', row.id])}"
        for row in rows
    }
