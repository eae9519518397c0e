"""Sum the work that plans have left, the bytes to be purged by day, and the bytes freed by purges."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from typing import Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model import BlobState, VideoState
from reelkeeper.model.money import Freed
from reelkeeper.store.lifecycle.plan_progress import AGAIN
from reelkeeper.store.lifecycle.plan_writer import LEFT
from reelkeeper.store.lifecycle.plans import OPEN
from reelkeeper.store.tables import blobs, plans, users, verdicts, videos
from reelkeeper.store.videos.conditions import held

_AT_ONCE = 2_000  # rows
_WAIT = (AGAIN, "failed", "skipped")  # outcomes after which the next run tries again
# The rules that leave videos of an action to a later run.
_LATER: Final = {"compress": ("beyond_compress_limit", "left_to_another_day"), "retire": (LEFT,)}


class Backlog(NamedTuple):
    """The work that a flow's last plan has left. `size_bytes` excludes the items that the plan left to the next run."""

    flow: str
    plan_id: str
    as_of: datetime
    action: str
    objects: int
    size_bytes: int
    left_to_next_run: int
    is_refused: bool = False  # the limits of a run refuse the plan, so nothing of it is done


def left_of_last_plan(session: Session, flow: str, action: str, under: str) -> Backlog | None:
    """Count the items that the last plan of `flow` has left for `action`; None before its first plan.

    A dry run counts if it was made under the terms of this hash: with others, it only asks what would be. Videos
    that were replaced or retired since, as by a run that was killed before it recorded that, are done.
    """
    in_force = sa.and_(plans.c.state.in_(OPEN), plans.c.policy_hash == under)
    plan = session.execute(
        sa.select(plans.c.id, plans.c.as_of, plans.c.kept, plans.c.state, plans.c.refusal)
        .where(plans.c.flow == flow, sa.or_(plans.c.state == "applied", in_force))
        .order_by(plans.c.created_at.desc(), plans.c.id)
        .limit(1)
    ).one_or_none()
    if plan is None:
        return None
    waits = sa.or_(verdicts.c.outcome.is_(None), verdicts.c.outcome.in_(_WAIT))
    as_planned = sa.and_(videos.c.id == verdicts.c.video_id, videos.c.blob_id == verdicts.c.blob_id)
    count, size = session.execute(
        sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(verdicts.c.size_bytes), 0))
        .select_from(verdicts.join(videos, as_planned))
        .where(verdicts.c.plan_id == plan.id, verdicts.c.action == action, waits, videos.c.state == VideoState.LIVE)
    ).one()
    left = sum(int(plan.kept.get(rule, 0)) for rule in _LATER[action])
    is_refused = plan.refusal is not None and plan.state != "applied"
    return Backlog(flow, plan.id, plan.as_of, action, int(count), int(size), left, is_refused)


def live_by_day_and_tier(session: Session, at: datetime) -> list[tuple[date | None, str | None, bool, int]]:
    """Sum live bytes by their video's first day, their owner's tier, and whether their key is ours; held ones stay."""
    day = sa.func.date(videos.c.created_at, type_=sa.Date())
    rows = session.execute(
        sa.select(day, users.c.tier, blobs.c.is_ours, sa.func.sum(blobs.c.size_bytes))
        .select_from(videos.join(blobs, blobs.c.id == videos.c.blob_id).join(users, users.c.id == videos.c.user_id))
        .where(videos.c.state == VideoState.LIVE, ~held(videos.c.id, videos.c.user_id, at))
        .group_by(day, users.c.tier, blobs.c.is_ours)
    )
    return [(day, tier, is_ours, int(size_bytes)) for day, tier, is_ours, size_bytes in rows]


def purging_by_day(session: Session) -> dict[date, int]:
    """Sum retired bytes by the day on which their grace ends."""
    day = sa.func.date(blobs.c.purge_after, type_=sa.Date())
    rows = session.execute(
        sa.select(day, sa.func.sum(blobs.c.size_bytes))
        .where(blobs.c.state.in_((BlobState.RETIRED, BlobState.DELETING)), blobs.c.purge_after.is_not(None))
        .group_by(day)
    )
    return {row[0]: int(row[1]) for row in rows}


def uploaded_by_tier(session: Session, since: date) -> dict[tuple[str | None, bool], int]:
    """Sum the bytes of videos made since a day, by their owner's tier and whether their key is ours."""
    rows = session.execute(
        sa.select(users.c.tier, blobs.c.is_ours, sa.func.sum(blobs.c.size_bytes))
        .select_from(videos.join(blobs, blobs.c.id == videos.c.blob_id).join(users, users.c.id == videos.c.user_id))
        .where(videos.c.created_at >= datetime.combine(since, time(), UTC))
        .group_by(users.c.tier, blobs.c.is_ours)
    )
    return {(tier, is_ours): int(size_bytes) for tier, is_ours, size_bytes in rows}


class Uploaded(NamedTuple):
    """The properties of a video that segments use."""

    tier: str | None
    model: str | None
    tag: str | None
    key: str | None
    size_bytes: int
    is_ours: bool


def uploaded(session: Session, since: date) -> Iterator[Uploaded]:
    """Stream the videos made since a day, in flat memory."""
    rows = session.execute(
        sa.select(users.c.tier, videos.c.model, videos.c.tag, blobs.c.key, blobs.c.size_bytes, blobs.c.is_ours)
        .select_from(videos.join(blobs, blobs.c.id == videos.c.blob_id).join(users, users.c.id == videos.c.user_id))
        .where(videos.c.created_at >= datetime.combine(since, time(), UTC)),
        execution_options={"yield_per": _AT_ONCE},
    )
    return (Uploaded._make(row) for row in rows)


def freed_by_day(session: Session, until: datetime) -> list[Freed]:
    """Sum the bytes purged before `until`, by the UTC day of the run and the rule that retired them.

    For bytes replaced by smaller ones, only the difference counts; after several attempts, the difference to the
    largest.
    """
    after = (
        sa.select(sa.func.max(blobs.c.size_bytes))
        .where(blobs.c.video_id == verdicts.c.video_id, blobs.c.generation == verdicts.c.generation + 1)
        .scalar_subquery()
    )
    net = sa.case(
        (verdicts.c.rule == "replaced", verdicts.c.size_bytes - sa.func.coalesce(after, 0)), else_=verdicts.c.size_bytes
    )
    rows = session.execute(
        sa.select(plans.c.applied_at, verdicts.c.rule, sa.func.sum(net))
        .select_from(verdicts.join(plans, plans.c.id == verdicts.c.plan_id))
        .where(verdicts.c.outcome == "purged", plans.c.applied_at < until)
        .group_by(plans.c.id, plans.c.applied_at, verdicts.c.rule)
    )
    totals: Counter[tuple[date, str]] = Counter()
    for applied_at, rule, size_bytes in rows:
        totals[applied_at.date(), rule] += int(size_bytes)
    return [Freed(day, rule, size_bytes) for (day, rule), size_bytes in sorted(totals.items())]
