"""What the last plan of a flow has left to do. Nothing is judged anew: as cheap as two look-ups."""

from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.store.lifecycle.plan_progress import AGAIN
from reelkeeper.store.lifecycle.user_share import LEFT
from reelkeeper.store.tables import plans, verdicts

_WAIT = (AGAIN, "failed", "skipped")  # outcomes after which the next run tries again


class Backlog(NamedTuple):
    """What a flow has still to do by its last plan. `size_bytes` is without what the plan left to the next run."""

    flow: str
    plan_id: str
    as_of: datetime
    action: str
    objects: int
    size_bytes: int
    left_to_next_run: int


def left_of_last_plan(session: Session, flow: str, action: str) -> Backlog | None:
    """Count what the last plan of `flow` has left to `action`; None before its first plan."""
    plan = session.execute(
        sa.select(plans.c.id, plans.c.as_of, plans.c.kept)
        .where(plans.c.flow == flow, plans.c.state != "drawing")
        .order_by(plans.c.created_at.desc(), plans.c.id)
        .limit(1)
    ).one_or_none()
    if plan is None:
        return None
    waits = sa.or_(verdicts.c.outcome.is_(None), verdicts.c.outcome.in_(_WAIT))
    count, size = session.execute(
        sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(verdicts.c.size_bytes), 0)).where(
            verdicts.c.plan_id == plan.id, verdicts.c.action == action, waits
        )
    ).one()
    left = int(plan.kept.get(LEFT, 0))
    return Backlog(flow, plan.id, plan.as_of, action, int(count), int(size), left)
