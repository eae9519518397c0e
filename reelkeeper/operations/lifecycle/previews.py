"""Plan the work of a flow, as its dry run does: gather, decide, save, and check the guard. It needs only the store.

report = tier_storage(Planning(engine, as_of, run_id), policy=exception)
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import partial
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from reelkeeper.adapters import ffmpeg
from reelkeeper.model import Verdict
from reelkeeper.operations.billing.limits import left_for_compressing
from reelkeeper.operations.core.overrides import Override, followed
from reelkeeper.operations.lifecycle import notices, plans
from reelkeeper.rules.core.tiers import Tiers
from reelkeeper.rules.lifecycle import guard, lifecycle, selection, transcode
from reelkeeper.rules.lifecycle import notices as notice_rules
from reelkeeper.rules.lifecycle.guard import BlastRadius
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy
from reelkeeper.rules.lifecycle.report import Report
from reelkeeper.rules.lifecycle.transcode import Acceptance, Recipe
from reelkeeper.store import Engine

Days = Annotated[int, Field(ge=1, le=365)]


class Planning(NamedTuple):
    """The store, time and run of a plan."""

    engine: Engine
    as_of: datetime
    run_id: str
    keeps_contract: Callable[[], bool] = lambda: False


def tier_storage(
    work: Planning,
    *,
    policy: Annotated[LifecyclePolicy | None, Override()] = None,
    tiers: Annotated[Tiers | None, Override()] = None,
    limits: Annotated[BlastRadius | None, Override()] = None,
    recipe: Annotated[Recipe | None, Override()] = None,
    acceptance: Annotated[Acceptance | None, Override()] = None,
    helpers: Annotated[int, Field(ge=0, le=100)] = 0,  # noqa: ARG001  the flow takes it; who helps is no part of a plan
) -> Report:
    """Plan which cold videos are compressed, and which are retired."""
    rules = followed(work.engine, lifecycle=policy, tiers=tiers, limits=limits, recipe=recipe, acceptance=acceptance)
    rules.lifecycle.require_active("tier_storage")
    encoder = ffmpeg.tools().encoder(rules.recipe.codec)
    mark = transcode.fingerprint(rules.recipe, rules.acceptance, encoder)
    live = plans.stream_live(work.engine, work.as_of, rules.lifecycle)
    worth = plans.appraise(work.engine, rules.recipe, encoder)
    judged = lifecycle.verdicts(live, rules.lifecycle, rules.tiers, work.as_of, mark, rules.recipe.skip_codecs, worth)
    judged = selection.fitting(judged, rules.recipe.place, rules.lifecycle.grace, keeps_contract=work.keeps_contract())
    verdicts = notice_rules.with_notices(judged, rules.lifecycle, rules.tiers, work.as_of, notices.given(work.engine))
    chosen = selection.largest_first(
        selection.for_tiering(verdicts),
        rules.lifecycle.compress_limit,
        left_for_compressing(work.engine, rules.lifecycle.compress_usd_per_day),
    )
    under = plans.terms(policy=rules.lifecycle, tiers=rules.tiers, recipe=rules.recipe, acceptance=rules.acceptance)
    return _made(work, "tier_storage", under, chosen, rules.limits)


def expire_videos(
    work: Planning,
    *,
    policy: Annotated[LifecyclePolicy | None, Override()] = None,
    tiers: Annotated[Tiers | None, Override()] = None,
    limits: Annotated[BlastRadius | None, Override()] = None,
) -> Report:
    """Plan which videos are retired because of their age."""
    rules = followed(work.engine, lifecycle=policy, tiers=tiers, limits=limits)
    rules.lifecycle.require_retention(rules.tiers, "expire_videos")
    live = plans.stream_live(work.engine, work.as_of, rules.lifecycle)
    judged = lifecycle.verdicts(live, rules.lifecycle, rules.tiers, work.as_of, recipe_fingerprint="")
    grace = rules.lifecycle.grace
    judged = selection.fitting(judged, transcode.NEW_KEY, grace, keeps_contract=work.keeps_contract())
    verdicts = notice_rules.with_notices(judged, rules.lifecycle, rules.tiers, work.as_of, notices.given(work.engine))
    expired = selection.for_expiry(verdicts)
    return _made(work, "expire_videos", plans.terms(policy=rules.lifecycle, tiers=rules.tiers), expired, rules.limits)


def purge_retired(
    work: Planning,
    *,
    limits: Annotated[BlastRadius | None, Override()] = None,
    grace_days: Days | None = None,
    grace_days_service_keys: Days | None = None,
) -> Report:
    """Plan which bytes are deleted because their grace is over."""
    rules = followed(work.engine, limits=limits)
    grace = rules.lifecycle.grace.overridden(grace_days, grace_days_service_keys)
    plan_id = plans.make_purge(
        work.engine,
        plans.terms(
            grace_days=grace.days, grace_days_service_keys=grace.service_days, max_objects=rules.limits.max_objects
        ),
        as_of=work.as_of,
        run_id=work.run_id,
        grace=grace,
        max_videos=rules.limits.max_objects,
        service_keys=work.keeps_contract(),
    )
    plan = plans.load(work.engine, plan_id, most=0).plan
    return plans.preview(
        work.engine, plan, work.run_id, lambda _retired_in_24h, last: guard.purge_within(rules.limits, plan, last)
    )


def _made(
    work: Planning, flow: str, under: Mapping[str, Any], judged: Iterable[Verdict], limits: BlastRadius
) -> Report:
    plan_id = plans.make(work.engine, flow, under, judged, limits=limits, as_of=work.as_of, run_id=work.run_id)
    plan = plans.load(work.engine, plan_id, most=0).plan
    return plans.preview(work.engine, plan, work.run_id, partial(guard.within, limits, plan))
