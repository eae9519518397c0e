"""Retire videos: the first, reversible half of a deletion. Only the store changes; the bytes wait out a grace."""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlmodel import Session

from reelkeeper.errors import IntegrityDoubt
from reelkeeper.model import Action, BlobState, Grace, Outcome, VideoState
from reelkeeper.operations import cache
from reelkeeper.operations.depot import Depot
from reelkeeper.operations.freeze import require_permission
from reelkeeper.store import conditions, quotas
from reelkeeper.store.audit import Event, append
from reelkeeper.store.engine import changed, now, transaction
from reelkeeper.store.leases import Grant
from reelkeeper.store.plans import record_outcomes
from reelkeeper.store.retirement import retired
from reelkeeper.store.tables import blobs, plans, verdicts, videos


def retire(
    depot: Depot, plan_id: str, video_ids: Sequence[str], *, grant: Grant, run_id: str, grace: Grace
) -> list[Outcome]:
    """Retire those of `video_ids` that are still as the plan saw them; the others are skipped, with the reason.

    One transaction for the batch (of at most some hundred videos). Safe to repeat: what is retired stays retired.
    Raises Frozen or LeaseLost before the first change.
    """
    with transaction(depot.engine, "retire") as session:
        require_permission(session, grant)
        at = now(session)
        with quotas.counted(session, videos.c.id.in_(video_ids)):
            gone = _retire_videos(session, plan_id, video_ids, run_id)
        cache.drop(session, [row.id for row in gone])
        blobs_retired = changed(
            session,
            sa.update(blobs)
            .where(blobs.c.id.in_([row.blob_id for row in gone]), blobs.c.state == BlobState.LIVE)
            .values(
                run_id=run_id,
                **retired(
                    at,
                    grace,
                    sa.select(videos.c.retire_reason).where(videos.c.blob_id == blobs.c.id).scalar_subquery(),
                ),
            ),
        )
        if blobs_retired != len(gone):
            raise IntegrityDoubt(
                f"{len(gone)} live videos point to {blobs_retired} live blobs; nothing of this batch changed"
            )
        planned = _planned(session, plan_id, video_ids)
        done = {row.id for row in gone}
        outcomes = [_outcome(row, row.video_id in done) for row in planned]
        record_outcomes(session, plan_id, outcomes)
        append(
            session,
            [
                Event("retire", run_id, row.video_id, row.blob_id, row.user_id, {"plan": plan_id, "why": row.reason})
                for row in planned
                if row.video_id in done
            ],
        )
        return outcomes


def _retire_videos(
    session: Session, plan_id: str, video_ids: Sequence[str], run_id: str
) -> Sequence[sa.Row[tuple[str, int]]]:
    verdict = sa.and_(
        verdicts.c.plan_id == plan_id,
        verdicts.c.blob_id == videos.c.blob_id,
        verdicts.c.generation == videos.c.generation,
        verdicts.c.action == Action.RETIRE,
    )
    planned_at = sa.select(plans.c.created_at).where(plans.c.id == plan_id).scalar_subquery()
    return session.execute(
        sa.update(videos)
        .where(
            videos.c.id.in_(video_ids),
            videos.c.state == VideoState.LIVE,
            sa.exists().where(verdict),
            conditions.not_viewed_since(planned_at),
            ~conditions.held(videos.c.id, videos.c.user_id, now(session)),
            ~conditions.in_operation(videos.c.id),
        )
        .values(
            state=VideoState.RETIRED,
            retired_at=now(session),
            retire_reason=sa.select(verdicts.c.reason).where(verdict).scalar_subquery(),
            run_id=run_id,
        )
        .returning(videos.c.id, videos.c.blob_id)
    ).all()


def _planned(session: Session, plan_id: str, video_ids: Sequence[str]) -> Sequence[sa.Row[tuple[object, ...]]]:
    return session.execute(
        sa.select(
            verdicts.c.video_id, verdicts.c.blob_id, verdicts.c.user_id, verdicts.c.reason, verdicts.c.size_bytes
        ).where(verdicts.c.plan_id == plan_id, verdicts.c.video_id.in_(video_ids), verdicts.c.action == Action.RETIRE)
    ).all()


def _outcome(row: sa.Row[tuple[object, ...]], done: bool) -> Outcome:
    if done:
        return Outcome(row.video_id, "retired", row.reason, row.size_bytes, 0, row.blob_id)
    why = "since the plan it was viewed, held, replaced or retired"
    return Outcome(row.video_id, "skipped", why, row.size_bytes, row.size_bytes, row.blob_id)
