"""Write a plan: what a run will do, saved before anything is done.

    plan_id = begin_plan(engine, "tier_storage", policy.model_dump(mode="json"), as_of, run_id)
    add_verdicts(engine, plan_id, judged, lifecycle.reason, savings.of_verdict, segments.of_verdict)

Only verdicts other than "keep" become rows; kept videos are counted by rule.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from itertools import islice
from typing import Any
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.errors import PlanRefused
from reelkeeper.model import Action, Counts, KeptTogether, Verdict, VideoState
from reelkeeper.store.core.engine import Clock, changed, transaction
from reelkeeper.store.core.policies import in_force
from reelkeeper.store.lifecycle.plans import LIMITS, Item, policy_hash
from reelkeeper.store.tables import plans, verdicts, videos

_BATCH = 5_000
_COLUMNS = Item._fields


def begin_plan(
    engine: sa.Engine,
    flow: str,
    policy: Mapping[str, Any],
    as_of: datetime,
    run_id: str,
    limits: Mapping[str, Any] | None = None,
) -> str:
    """Open a plan in state `drawing` and return its id, 12 hex digits. `policy` is JSON.

    So are the `limits` that it is made under, but another run's may differ.
    """
    plan_id = uuid4().hex[:12]
    with transaction(engine, "plan.begin") as session:
        session.execute(
            sa.insert(plans).values(
                id=plan_id,
                flow=flow,
                state="drawing",
                as_of=as_of,
                created_at=Clock(),
                run_id=run_id,
                policy={**policy, **({LIMITS: dict(limits)} if limits else {})},
                policy_hash=policy_hash(policy),
                policy_version=in_force(session).version,
                population=0,
                population_bytes=0,
                kept={},
            )
        )
    return plan_id


def add_verdicts(
    engine: sa.Engine,
    plan_id: str,
    judged: Iterable[Verdict | KeptTogether],
    reason: Callable[[Verdict], str],
    saving: Callable[[Verdict], tuple[int, int | None]],
    segment: Callable[[Verdict], str | None] = lambda _: None,
) -> None:
    """Save a stream of verdicts, in flat memory, and make the plan `ready`; every video counts as its population.

    `reason` explains a verdict, `saving` returns its expected saving in micro-dollars: per month, and over
    the rest of the video's life less costs. `segment` names the policy's deciding segment. They are called only for
    videos that are not kept. Raises PlanRefused when the plan is not in state `drawing`.
    """
    tally = _Tally()
    items = tally.items(judged, reason, saving, segment)
    add_items(engine, plan_id, items, lambda: (Counts(tally.videos, tally.size_bytes), dict(tally.kept)))


def add_items(
    engine: sa.Engine, plan_id: str, items: Iterable[Item], finish: Callable[[], tuple[Counts, dict[str, int]]]
) -> None:
    """Save `items` in batches, and make the plan `ready`.

    `finish` is called at the end for the plan's population and the kept videos by rule. Raises PlanRefused.
    """
    stream = iter(items)
    while batch := list(islice(stream, _BATCH)):
        with transaction(engine, "plan.add") as session:
            _require_drawing(session, plan_id)
            rows = [dict(zip(_COLUMNS, item, strict=True), plan_id=plan_id) for item in batch]
            session.execute(sa.insert(verdicts), rows)
    population, kept = finish()
    with transaction(engine, "plan.ready") as session:
        _require_drawing(session, plan_id)
        session.execute(
            sa.update(plans)
            .where(plans.c.id == plan_id)
            .values(state="ready", population=population.objects, population_bytes=population.size_bytes, kept=kept)
        )


def _require_drawing(session: Session, plan_id: str) -> None:
    state = session.execute(sa.select(plans.c.state).where(plans.c.id == plan_id).with_for_update()).scalar()
    if state != "drawing":
        raise PlanRefused(f"plan {plan_id} is {state or 'missing'}, and cannot be extended; make a new plan")


class _Tally:
    """Counts a stream of verdicts, and yields items for those that are not kept."""

    def __init__(self) -> None:
        self.videos = 0
        self.size_bytes = 0
        self.kept: Counter[str] = Counter()

    def items(
        self,
        judged: Iterable[Verdict | KeptTogether],
        reason: Callable[[Verdict], str],
        saving: Callable[[Verdict], tuple[int, int | None]],
        segment: Callable[[Verdict], str | None],
    ) -> Iterator[Item]:
        for verdict in judged:
            if isinstance(verdict, KeptTogether):
                self.videos += verdict.counts.objects
                self.size_bytes += verdict.counts.size_bytes
                self.kept[verdict.rule] += verdict.counts.objects
                continue
            video, action, rule, _ = verdict
            self.videos += 1
            self.size_bytes += video.size_bytes
            if action is Action.KEEP:
                self.kept[rule] += 1
                continue
            yield Item(
                video.blob_id,
                video.id,
                video.user_id,
                video.generation,
                action.value,
                rule,
                reason(verdict),
                video.size_bytes,
                *saving(verdict),
                segment(verdict),
            )


LEFT = "left_to_next_run"


def leave_beyond_share(engine: sa.Engine, plan_id: str, *, max_percent: float, always_allowed: int) -> int:
    """Turn retirements beyond a user's share into videos kept by the rule `left_to_next_run`; returns how many.

    A dormant user's videos may all reach the age limit together. Refusing the run would refuse it every night, for
    everybody; so the oldest are retired now, as many as the guard allows of one user, and the rest by the next runs.

    `max_percent` is of the user's live videos; `always_allowed` of them may go in any case. A share of 0 is left
    for the guard to refuse: it means no run at all, not a smaller one.
    """
    if max_percent <= 0:
        return 0
    retired = verdicts.c.plan_id == plan_id, verdicts.c.action == Action.RETIRE
    many = sa.select(verdicts.c.user_id).where(*retired).group_by(verdicts.c.user_id)
    live = (
        sa.select(videos.c.user_id, sa.func.count().label("live"))
        .where(videos.c.state == VideoState.LIVE, videos.c.user_id.in_(many.having(sa.func.count() > always_allowed)))
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
        .where(*retired)
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
