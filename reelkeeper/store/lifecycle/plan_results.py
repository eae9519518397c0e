"""List plans, and sum them up: by rule before a run, by outcome after it, and for the guard to compare with."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model import Action, Done, Outcome, PlannedRule
from reelkeeper.store.core.engine import Clock
from reelkeeper.store.lifecycle.plan_progress import AGAIN, shown_state
from reelkeeper.store.lifecycle.plans import LIMITS, OPEN, is_to_retire
from reelkeeper.store.tables import blobs, plans, verdicts, videos

_DAY_SECONDS = 24 * 3600
_ABOUT = timedelta(days=1)  # a plan as of another day is no run's that was due
_LOOKED_AT = 100  # plans
NOT_DONE = "not_done"


class PlanLine(NamedTuple):
    """A saved plan in one line."""

    id: str
    flow: str
    state: str  # drawing, ready, refused, under way, applied, or stopped: its run ended before all was done
    as_of: datetime
    created_at: datetime
    items: int
    size_bytes: int
    refusal: str | None
    what_if: str = ""  # what it was made with in place of the policies in force; "" for nothing else


class PlanItem(NamedTuple):
    """One item of a plan and its outcome, which is None until it is applied."""

    blob_id: int
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

    @property
    def name(self) -> str:
        """Name the video, or else the blob, which may have none."""
        return self.video_id or f"blob {self.blob_id}"


def recent_plans(session: Session, *, limit: int) -> list[PlanLine]:
    """List the newest plans."""
    is_of_plan = verdicts.c.plan_id == plans.c.id
    rows = session.execute(
        sa.select(
            plans.c.id,
            plans.c.flow,
            shown_state(),
            plans.c.as_of,
            plans.c.created_at,
            sa.select(sa.func.count()).where(is_of_plan).scalar_subquery(),
            sa.select(sa.func.coalesce(sa.func.sum(verdicts.c.size_bytes), 0)).where(is_of_plan).scalar_subquery(),
            plans.c.refusal,
        )
        .order_by(plans.c.created_at.desc())
        .limit(limit)
    )
    return [PlanLine(*row) for row in rows]


def shown(session: Session, plan_id: str) -> tuple[str, str]:
    """Read a plan's state, as `recent_plans` shows it, and the run that made or applied it."""
    state, run_id = session.execute(sa.select(shown_state(), plans.c.run_id).where(plans.c.id == plan_id)).one()
    return state, run_id


def by_rule(session: Session, plan_id: str) -> list[PlannedRule]:
    """Count a plan's items by action, rule and segment, the most bytes first.

    If one item's saving is unknown, the sum is.
    """
    size = sa.func.sum(verdicts.c.size_bytes)
    rows = session.execute(
        sa.select(
            verdicts.c.action,
            verdicts.c.rule,
            verdicts.c.segment,
            sa.func.count(),
            size,
            *(
                sa.case((sa.func.count(column) == sa.func.count(), sa.func.sum(column)))
                for column in (verdicts.c.saving_microusd, verdicts.c.net_microusd)
            ),
        )
        .where(verdicts.c.plan_id == plan_id)
        .group_by(verdicts.c.action, verdicts.c.rule, verdicts.c.segment)
        .order_by(size.desc())
    )
    return [
        PlannedRule(action, rule, int(count), int(size_bytes), _integer(month), _integer(net), segment)
        for action, rule, segment, count, size_bytes, month, net in rows
    ]


def latest(session: Session, flow: str, under: str, since: datetime, limits: Mapping[str, float]) -> str | None:
    """Find the newest plan of a flow made since a moment under terms of this hash, as of about its own time, if any.

    It was made with these `limits`, or before plans noted any. One that was carried out does not count.
    """
    made = sa.select(plans.c.id, plans.c.as_of, plans.c.created_at, plans.c.policy).where(
        plans.c.flow == flow,
        plans.c.policy_hash == under,
        plans.c.created_at >= since,
        plans.c.state.in_(OPEN),
    )
    rows = session.execute(made.order_by(plans.c.created_at.desc()).limit(_LOOKED_AT))
    return next(
        (
            plan_id
            for plan_id, as_of, at, terms in rows
            if abs(at - as_of) < _ABOUT and limits.items() <= terms.get(LIMITS, limits).items()
        ),
        None,
    )


def at_service_keys(session: Session, plan_id: str, action: Action) -> int:
    """Count the videos at the service's own keys for which a plan has `action`."""
    chosen = sa.select(sa.func.count()).join(blobs, blobs.c.id == verdicts.c.blob_id)
    of_plan = (verdicts.c.plan_id == plan_id, verdicts.c.action == action.value, ~blobs.c.is_ours)
    return int(session.execute(chosen.where(*of_plan)).scalar_one())


def _integer(amount: Any) -> int | None:  # noqa: ANN401  a sum in SQL
    return None if amount is None else int(amount)


def plan_items(session: Session, plan_id: str, limit: int = 1_000) -> list[PlanItem]:
    """List at most `limit` items of a plan with their outcomes: by action, the largest first."""
    rows = session.execute(
        sa.select(*(verdicts.c[name] for name in PlanItem._fields))
        .where(verdicts.c.plan_id == plan_id)
        .order_by(verdicts.c.action, verdicts.c.size_bytes.desc(), verdicts.c.blob_id)
        .limit(limit)
    )
    return [PlanItem._make(row) for row in rows]


def by_outcome(session: Session, plan_id: str) -> list[Done]:
    """Count a plan's items by outcome; those that the run did not reach are `not_done`."""
    final = sa.func.coalesce(sa.func.nullif(verdicts.c.outcome, AGAIN), NOT_DONE).label("final")
    rows = session.execute(
        sa.select(
            final,
            sa.func.count(),
            sa.func.sum(verdicts.c.size_bytes),
            sa.func.sum(sa.func.coalesce(verdicts.c.after_bytes, verdicts.c.size_bytes)),
        )
        .where(verdicts.c.plan_id == plan_id)
        .group_by("final")
        .order_by("final")
    )
    return [Done(str(what), int(count), int(before), int(after)) for what, count, before, after in rows]


def failures(session: Session, plan_id: str, limit: int) -> list[Outcome]:
    """List the `limit` largest items of a plan that failed, with their reasons."""
    rows = session.execute(
        sa.select(verdicts.c.video_id, verdicts.c.outcome_reason, verdicts.c.size_bytes, verdicts.c.blob_id)
        .where(verdicts.c.plan_id == plan_id, verdicts.c.outcome == "failed")
        .order_by(verdicts.c.size_bytes.desc(), verdicts.c.blob_id)
        .limit(limit)
    )
    return [
        Outcome(video_id or f"blob {blob_id}", "failed", reason or "", size, size, blob_id)
        for video_id, reason, size, blob_id in rows
    ]


def retired_in_24h(session: Session, besides: str | None = None) -> int:
    """Count the videos that were retired in the last 24 hours, by the database's clock, and not restored since.

    Those that plan `besides` has to retire count with the plan.
    """
    retired = sa.select(sa.func.count()).where(videos.c.retired_at > Clock(-_DAY_SECONDS))
    return int(session.execute(retired.where(~is_to_retire(besides))).scalar_one())


def last_population(session: Session) -> int | None:
    """Count the live videos after the last applied plan of any flow; None before the first."""
    last = session.execute(
        sa.select(plans.c.id, plans.c.population)
        .where(plans.c.state == "applied")
        .order_by(plans.c.created_at.desc(), plans.c.id)
        .limit(1)
    ).one_or_none()
    if last is None:
        return None
    gone = sa.select(sa.func.count()).where(verdicts.c.plan_id == last.id, verdicts.c.outcome == "retired")
    return int(last.population) - int(session.execute(gone).scalar_one())
