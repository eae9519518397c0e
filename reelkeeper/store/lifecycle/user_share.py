"""Spread a plan's retirements, so that no run takes more than a share of one user's videos.

A dormant user's videos all come of age together. Refusing the run would refuse it again every night, for everybody; so
the oldest go now, as many as the guard lets go of one user, and the rest is left to the next runs.
"""

import sqlalchemy as sa

from reelkeeper.model import Action, VideoState
from reelkeeper.store.core.engine import changed, transaction
from reelkeeper.store.tables import plans, verdicts, videos

LEFT = "left_to_next_run"


def leave_beyond_share(engine: sa.Engine, plan_id: str, *, max_percent: float, always_allowed: int) -> int:
    """Turn retirements beyond a user's share into videos kept by the rule `left_to_next_run`; returns how many.

    `max_percent` is of the user's live videos, and `always_allowed` of them may go whatever it says. A share of 0 is
    left for the guard to refuse: nobody who sets it wants less of a run, they want none.
    """
    if max_percent <= 0:
        return 0
    live = (
        sa.select(videos.c.user_id, sa.func.count().label("live"))
        .where(videos.c.state == VideoState.LIVE)
        .group_by(videos.c.user_id)
        .subquery()
    )
    oldest_first = sa.func.row_number().over(
        partition_by=verdicts.c.user_id, order_by=(videos.c.created_at, videos.c.id)
    )
    ranked = (
        sa.select(verdicts.c.blob_id, oldest_first.label("place"), live.c.live)
        .join(videos, videos.c.id == verdicts.c.video_id)
        .join(live, live.c.user_id == verdicts.c.user_id)
        .where(verdicts.c.plan_id == plan_id, verdicts.c.action == Action.RETIRE)
        .subquery()
    )
    beyond = sa.select(ranked.c.blob_id).where(
        ranked.c.place > always_allowed, ranked.c.place * 100.0 > ranked.c.live * max_percent
    )
    with transaction(engine, "plan.share") as session:
        left = changed(
            session, sa.delete(verdicts).where(verdicts.c.plan_id == plan_id, verdicts.c.blob_id.in_(beyond))
        )
        if left:
            kept = session.execute(sa.select(plans.c.kept).where(plans.c.id == plan_id)).scalar_one()
            kept = {**kept, LEFT: kept.get(LEFT, 0) + left}
            session.execute(sa.update(plans).where(plans.c.id == plan_id).values(kept=kept))
    return left
