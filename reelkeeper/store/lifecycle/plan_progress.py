"""List what a plan still has to compress, for any number of workers: the first to take a video's lease works on it.

A plan is under way while its own lease, `plan/ID`, is held. It is released when the work is over. A lease that has
expired without a release means that the plan's run is dead: others may end the plan.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model import Action, Counts
from reelkeeper.store.core.engine import Clock
from reelkeeper.store.lifecycle.plans import MAX_AGE_HOURS, Item
from reelkeeper.store.tables import leases, plans, verdicts

AGAIN = "again"  # a preliminary outcome: failed once, and another try may succeed
_LEFT = sa.or_(verdicts.c.outcome.is_(None), verdicts.c.outcome == AGAIN)
_COMPRESS = verdicts.c.action == Action.COMPRESS


class Undertaking(NamedTuple):
    """A plan under way: its run, its time, its policies with the version that it was made under, and when it began."""

    run_id: str
    as_of: datetime
    terms: dict[str, Any]
    policy_version: int
    begun_at: datetime  # when it was claimed; before that, when it was made


def plan_lease(plan_id: str) -> str:
    """Name the lease of the run that carries a plan out."""
    return f"plan/{plan_id}"


def video_lease(video_id: str | None) -> str:
    """Name the lease of the worker on a video."""
    return f"video/{video_id or ''}"


def under_way(session: Session, flow: str) -> str | None:
    """Find the latest plan of `flow` begun in the last 24 hours, if its work is not over."""
    chosen = sa.select(plans.c.id).where(plans.c.flow == flow, _open()).order_by(plans.c.applied_at.desc()).limit(1)
    return session.execute(chosen).scalar()


def is_under_way(session: Session, plan_id: str) -> bool:
    """Check whether the work on a plan is not over."""
    return session.execute(sa.select(plans.c.id).where(plans.c.id == plan_id, _open())).scalar() is not None


def shown_state() -> sa.ColumnElement[str]:
    """Build a plan's state as a person should read it: an applied plan with items left is `under way` or `stopped`.

    It is under way while its flow's lease is held, which only the latest plan's run can be, or its own lease.
    """
    later = plans.alias("later")
    is_latest = ~sa.exists().where(later.c.flow == plans.c.flow, later.c.applied_at > plans.c.applied_at)
    at_work = sa.or_(sa.and_(_is_held("flow/", plans.c.flow), is_latest), _is_held("plan/", plans.c.id))
    return sa.case(
        (plans.c.state != "applied", plans.c.state),
        (~sa.exists().where(verdicts.c.plan_id == plans.c.id, _LEFT), plans.c.state),
        (at_work, "under way"),
        else_="stopped",
    )


def close_others(session: Session, flow: str, plan_id: str) -> None:
    """End the plans that dead runs of `flow` left under way: `plan_id` is newer."""
    names = sa.select(sa.literal("plan/") + plans.c.id).where(plans.c.flow == flow, plans.c.id != plan_id, _open())
    session.execute(sa.update(leases).where(leases.c.name.in_(names)).values(holder="", expires_at=Clock()))


def undertaking(session: Session, plan_id: str) -> Undertaking:
    """Read the terms of a plan that all its workers share."""
    columns = plans.c.run_id, plans.c.as_of, plans.c.policy, plans.c.policy_version
    begun_at = sa.func.coalesce(plans.c.applied_at, plans.c.created_at)
    return Undertaking(*session.execute(sa.select(*columns, begun_at).where(plans.c.id == plan_id)).one())


def left(session: Session, plan_id: str) -> tuple[Counts, Counts]:
    """Count the unsettled items, including those under way, and all items that the plan has to compress."""
    size = sa.func.coalesce(sa.func.sum(verdicts.c.size_bytes), 0)
    of_plan = verdicts.c.plan_id == plan_id, _COMPRESS
    everything = session.execute(sa.select(sa.func.count(), size).where(*of_plan)).one()
    open_ones = session.execute(sa.select(sa.func.count(), size).where(*of_plan, _LEFT)).one()
    return Counts(*map(int, open_ones)), Counts(*map(int, everything))


def waiting(session: Session, plan_id: str, limit: int) -> tuple[list[Item], bool]:
    """List the items that no worker has, the largest first, and whether this is their second and last try.

    Second tries come after every other video has been begun.
    """
    rows = session.execute(
        sa.select(verdicts.c.outcome, *(verdicts.c[name] for name in Item._fields))
        .where(verdicts.c.plan_id == plan_id, _COMPRESS, _LEFT, ~_is_held("video/", verdicts.c.video_id))
        .order_by(verdicts.c.outcome.is_not(None), verdicts.c.size_bytes.desc(), verdicts.c.blob_id)
        .limit(limit)
    ).all()
    last_try = bool(rows) and rows[0].outcome == AGAIN
    return [Item(*row[1:]) for row in rows if (row.outcome == AGAIN) == last_try], last_try


def at_work(session: Session, plan_id: str) -> bool:
    """Check whether any worker has a video of the plan now."""
    chosen = sa.select(verdicts.c.blob_id).where(
        verdicts.c.plan_id == plan_id, _COMPRESS, _LEFT, _is_held("video/", verdicts.c.video_id)
    )
    return session.execute(chosen.limit(1)).scalar() is not None


def unsettled(session: Session, plan_id: str, blob_ids: Sequence[int], *, last_try: bool) -> set[int]:
    """Return those of these items that no worker has settled since they were listed."""
    as_listed = verdicts.c.outcome == AGAIN if last_try else verdicts.c.outcome.is_(None)
    chosen = sa.select(verdicts.c.blob_id).where(
        verdicts.c.plan_id == plan_id, verdicts.c.blob_id.in_(blob_ids), as_listed
    )
    return set(session.execute(chosen).scalars())


def _is_held(kind: str, name: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    return sa.exists().where(leases.c.name == sa.literal(kind) + name, leases.c.expires_at > Clock())


def _open() -> sa.ColumnElement[bool]:
    held = sa.exists().where(leases.c.name == sa.literal("plan/") + plans.c.id, leases.c.holder != "")
    return sa.and_(plans.c.state == "applied", plans.c.applied_at > Clock(-MAX_AGE_HOURS * 3600), held)
