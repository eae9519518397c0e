"""Plan the work of a flow as its dry run does: gather, decide, save, and ask the guard. The store alone is needed.

report = tier_storage(Planning(engine, as_of, run_id), policy=policy, limits=limits, recipe=recipe, ...)
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from functools import partial
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from reelkeeper.adapters import ffmpeg
from reelkeeper.model import Grace, Verdict, Video
from reelkeeper.operations.lifecycle import plans
from reelkeeper.rules.lifecycle import guard, lifecycle, transcode
from reelkeeper.rules.lifecycle.guard import BlastRadius
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy
from reelkeeper.rules.lifecycle.report import Report
from reelkeeper.rules.lifecycle.transcode import Acceptance, Recipe
from reelkeeper.store import Engine
from reelkeeper.store.core.engine import reading
from reelkeeper.store.videos.videos import live_videos

Days = Annotated[int, Field(ge=1, le=365)]


class Planning(NamedTuple):
    """Where a plan is made, as of when, and for which run."""

    engine: Engine
    as_of: datetime
    run_id: str
    may_purge_service_keys: bool = False


def tier_storage(
    work: Planning,
    *,
    policy: LifecyclePolicy,
    limits: BlastRadius,
    recipe: Recipe,
    acceptance: Acceptance,
    helpers: Annotated[int, Field(ge=0, le=100)],  # noqa: ARG001  the flow takes it; who helps is no part of a plan
) -> Report:
    """Plan which cold videos are compressed, and which are retired."""
    policy.require_active("tier_storage")
    mark = transcode.fingerprint(recipe, acceptance, ffmpeg.tools().encoder(recipe.codec))
    judged = lifecycle.verdicts(_stream(work), policy, work.as_of, mark, recipe.skip_codecs)
    chosen = lifecycle.largest_first(lifecycle.for_tiering(judged), policy.compress_limit)
    under = plans.terms(policy=policy, recipe=recipe, acceptance=acceptance)
    return _made(work, "tier_storage", under, chosen, limits)


def expire_videos(work: Planning, *, policy: LifecyclePolicy, limits: BlastRadius) -> Report:
    """Plan which videos are retired for their age."""
    policy.require_active("expire_videos")
    expired = lifecycle.for_expiry(lifecycle.verdicts(_stream(work), policy, work.as_of, recipe_fingerprint=""))
    return _made(work, "expire_videos", plans.terms(policy=policy), expired, limits)


def purge_retired(work: Planning, *, limits: BlastRadius, grace_days: Days, grace_days_service_keys: Days) -> Report:
    """Plan which bytes are deleted, their grace being over."""
    plan_id = plans.make_purge(
        work.engine,
        plans.terms(
            grace_days=grace_days, grace_days_service_keys=grace_days_service_keys, max_objects=limits.max_objects
        ),
        as_of=work.as_of,
        run_id=work.run_id,
        grace=Grace(grace_days, grace_days_service_keys),
        max_videos=limits.max_objects,
        service_keys=work.may_purge_service_keys,
    )
    plan = plans.load(work.engine, plan_id, items=0).plan
    return plans.preview(
        work.engine, plan, work.run_id, lambda _retired_in_24h, last: guard.purge_within(limits, plan, last)
    )


def _made(
    work: Planning, flow: str, under: Mapping[str, Any], judged: Iterable[Verdict], limits: BlastRadius
) -> Report:
    plan_id = plans.make(work.engine, flow, under, judged, limits=limits, as_of=work.as_of, run_id=work.run_id)
    plan = plans.load(work.engine, plan_id, items=0).plan
    return plans.preview(work.engine, plan, work.run_id, partial(guard.within, limits, plan))


def _stream(work: Planning) -> Iterator[Video]:
    with reading(work.engine) as session:
        yield from live_videos(session, work.as_of)
