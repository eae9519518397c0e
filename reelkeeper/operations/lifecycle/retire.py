"""Retire videos: the first, reversible half of a deletion. Only the store changes; the bytes wait out a grace."""

import logging
from collections.abc import Sequence

import sqlalchemy as sa
from sqlmodel import Session

from reelkeeper.errors import IntegrityDoubt
from reelkeeper.model import Action, BlobState, Grace, Outcome, VideoState
from reelkeeper.operations.core.freeze import require_permission
from reelkeeper.operations.core.isolation import each_apart
from reelkeeper.operations.core.workspace import Depot
from reelkeeper.store.billing import quotas
from reelkeeper.store.core.audit import Event, append
from reelkeeper.store.core.engine import changed, now, transaction
from reelkeeper.store.core.leases import Grant
from reelkeeper.store.lifecycle.plans import record_outcomes
from reelkeeper.store.tables import blobs, plans, verdicts, videos
from reelkeeper.store.videos import cache, conditions
from reelkeeper.store.videos.conditions import retired

_log = logging.getLogger(__name__)


def retire(
    depot: Depot, plan_id: str, video_ids: Sequence[str], *, grant: Grant, run_id: str, grace: Grace
) -> list[Outcome]:
    """Retire those of `video_ids` that are still as the plan saw them; the others are skipped, with the reason.

    One transaction for the batch (of at most some hundred videos). Safe to repeat: what is retired stays retired. A
    video whose row cannot be true has failed; where another breaks the batch, each half is tried, down to that one.
    Raises Frozen or LeaseLost before the first change.
    """
    outcomes: list[Outcome] = []

    def act(some: Sequence[str]) -> None:
        outcomes.extend(_retire_batch(depot, plan_id, some, grant=grant, run_id=run_id, grace=grace))

    def failed(some: Sequence[str], error: Exception) -> None:
        _log.error("video %s was not retired, the others are: %s", ", ".join(some), error, exc_info=error)
        with transaction(depot.engine, "retire.failed") as session:
            planned = _planned(session, plan_id, some)
            why = f"{type(error).__name__}: {error}"
            broken = [
                Outcome(row.video_id, "failed", why, row.size_bytes, row.size_bytes, row.blob_id) for row in planned
            ]
            record_outcomes(session, plan_id, broken)
        outcomes.extend(broken)

    each_apart(video_ids, act, failed)
    return outcomes


def _retire_batch(
    depot: Depot, plan_id: str, video_ids: Sequence[str], *, grant: Grant, run_id: str, grace: Grace
) -> list[Outcome]:
    with transaction(depot.engine, "retire") as session:
        require_permission(session, grant)
        at = now(session)
        with quotas.counted(session, video_ids):
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
        broken = _broken(session, video_ids)
        outcomes = [_outcome(row, row.video_id in done, broken.get(str(row.video_id))) for row in planned]
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
            sa.exists().where(blobs.c.id == videos.c.blob_id, blobs.c.state == BlobState.LIVE),
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


def _broken(session: Session, video_ids: Sequence[str]) -> dict[str, str]:
    """Say what is wrong with each live video whose bytes are not live: a row that no change of ours can have left."""
    rows = session.execute(
        sa.select(videos.c.id, blobs.c.key, blobs.c.state)
        .join(blobs, blobs.c.id == videos.c.blob_id)
        .where(videos.c.id.in_(video_ids), videos.c.state == VideoState.LIVE, blobs.c.state != BlobState.LIVE)
    )
    return {
        row.id: f"it is live, and its bytes {row.key} are {row.state}: reelkeeper videos show {row.id}" for row in rows
    }


def _outcome(row: sa.Row[tuple[object, ...]], done: bool, broken: str | None) -> Outcome:
    if broken:
        return Outcome(row.video_id, "failed", broken, row.size_bytes, row.size_bytes, row.blob_id)
    if done:
        return Outcome(row.video_id, "retired", row.reason, row.size_bytes, 0, row.blob_id)
    why = "since the plan it was viewed, held, replaced or retired"
    return Outcome(row.video_id, "skipped", why, row.size_bytes, row.size_bytes, row.blob_id)
