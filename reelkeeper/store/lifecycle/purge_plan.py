"""Plan a purge: select the retired blobs whose grace is over, by set-based statements in the database."""

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model import BlobState, Grace, PlanSummary, VideoState
from reelkeeper.store.core.engine import now, transaction
from reelkeeper.store.lifecycle.plans import load_summary
from reelkeeper.store.tables import blobs, plans, verdicts, videos
from reelkeeper.store.videos import conditions

_GB = 10**9
_owner = videos.alias("owner")  # separate from the `videos` of the conditions
_OWN = blobs.c.id == _owner.c.blob_id  # the blob is its video's present bytes: purging it ends the video
_JOINED = blobs.outerjoin(_owner, _owner.c.id == blobs.c.video_id)


def add_due(
    engine: sa.Engine,
    plan_id: str,
    as_of: datetime,
    *,
    grace: Grace,
    service_keys: bool,
    max_videos: int,
    microusd_per_gb: int,
) -> PlanSummary:
    """Save the blobs whose grace is over by `as_of`, or by the database's clock if earlier; make the plan `ready`.

    The rules: `grace_over` takes retired videos' present bytes, at most `max_videos` of them, those that have waited
    longest; `replaced`, older bytes of other videos; `orphan`, bytes of no video; `unfinished`, blobs that a
    killed run claimed, once the claim has timed out. Kept blobs are counted: `left_to_next_run`, `in_grace`,
    `spoken_for` (held, viewed, or in an operation), and `claimed` (by another run, which may have been killed).
    Without `service_keys`, due blobs at the service's keys are kept as `contract_not_tried`: the bucket has not passed
    the contract that their purge requires. The population is all live videos.
    """
    with transaction(engine, "plan.due") as session:
        at = min(as_of, now(session))
        due = conditions.purgeable(at, grace, service_keys=service_keys)
        chosen = (
            sa.select(blobs.c.id)
            .select_from(_JOINED)
            .where(due, _OWN)
            .order_by(blobs.c.purge_after, blobs.c.id)
            .limit(max_videos)
        )
        going = sa.or_(
            conditions.claim_timed_out(at),
            sa.and_(due, sa.or_(sa.not_(sa.func.coalesce(_OWN, sa.false())), blobs.c.id.in_(chosen))),
        )
        columns = {
            "plan_id": sa.literal(plan_id),
            "blob_id": blobs.c.id,
            "video_id": blobs.c.video_id,
            "user_id": _owner.c.user_id,
            "generation": blobs.c.generation,
            "action": sa.literal("purge"),
            "rule": _rule(),
            "reason": _reason(),
            "size_bytes": blobs.c.size_bytes,
            "saving_microusd": (blobs.c.size_bytes * microusd_per_gb + _GB // 2) // _GB,
        }
        session.execute(
            sa.insert(verdicts).from_select(
                list(columns), sa.select(*columns.values()).select_from(_JOINED).where(going)
            )
        )
        session.execute(
            sa.update(plans)
            .where(plans.c.id == plan_id)
            .values(state="ready", **_population(session, plan_id, at, due, service_keys=service_keys))
        )
        return load_summary(session, plan_id)


def _rule() -> sa.ColumnElement[str]:
    return sa.case(
        (blobs.c.state == BlobState.DELETING, "unfinished"),
        (_owner.c.blob_id.is_(None), "orphan"),
        (_OWN, "grace_over"),
        else_="replaced",
    )


def _reason() -> sa.ColumnElement[str]:
    return sa.case(
        (blobs.c.state == BlobState.DELETING, "claimed by a run that was killed"),
        else_=sa.literal("its grace is over; retired because: ").concat(
            sa.func.coalesce(blobs.c.retire_reason, "not recorded")
        ),
    )


def _population(
    session: Session, plan_id: str, at: datetime, due: conditions.Condition, *, service_keys: bool
) -> dict[str, int | dict[str, int]]:
    live, live_bytes = session.execute(
        sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(blobs.c.size_bytes), 0))
        .select_from(videos.join(blobs, blobs.c.id == videos.c.blob_id))
        .where(videos.c.state == VideoState.LIVE)
    ).one()
    untried = sa.false() if service_keys else sa.not_(blobs.c.is_ours)
    is_retired = blobs.c.state == BlobState.RETIRED
    is_over = sa.and_(is_retired, blobs.c.purge_after <= at)
    reasons = {
        "in_grace": sa.and_(is_retired, blobs.c.purge_after > at),
        "left_to_next_run": due,
        "contract_not_tried": sa.and_(is_over, untried),
        "spoken_for": sa.and_(is_over, sa.not_(due), sa.not_(untried)),
        "claimed": blobs.c.state == BlobState.DELETING,
    }
    counts = session.execute(
        sa.select(*(sa.func.count().filter(why) for why in reasons.values())).where(
            blobs.c.state.in_((BlobState.RETIRED, BlobState.DELETING)),
            blobs.c.id.not_in(sa.select(verdicts.c.blob_id).where(verdicts.c.plan_id == plan_id)),
        )
    ).one()
    kept = {rule: int(count) for rule, count in zip(reasons, counts, strict=True) if count}
    return {"population": int(live), "population_bytes": int(live_bytes), "kept": kept}
