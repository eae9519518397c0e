"""Gather and decide what a flow does, and preview it as its dry run does, which needs only the store.

report = tier_storage(Planning(engine, as_of, run_id), policy=exception)
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from functools import partial
from itertools import chain
from types import MappingProxyType
from typing import Annotated, NamedTuple

from pydantic import Field

from reelkeeper.errors import Misconfigured
from reelkeeper.model import KeptTogether, Verdict, Video
from reelkeeper.operations.billing.limits import left_for_compressing
from reelkeeper.operations.core.overrides import Override, followed
from reelkeeper.operations.lifecycle import notices, plans
from reelkeeper.rules.core.tiers import Tiers
from reelkeeper.rules.lifecycle import guard, lifecycle, regions, selection, transcode
from reelkeeper.rules.lifecycle import notices as notice_rules
from reelkeeper.rules.lifecycle.guard import BlastRadius
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy
from reelkeeper.rules.lifecycle.report import Report
from reelkeeper.rules.lifecycle.transcode import Acceptance, Recipe
from reelkeeper.rules.policies import TERMS, Policies, terms_in
from reelkeeper.settings import Settings
from reelkeeper.store import Engine
from reelkeeper.store.core import deployment
from reelkeeper.store.core.engine import reading

Days = Annotated[int, Field(ge=1, le=365)]


class Planning(NamedTuple):
    """The store, time and run of a plan, and the parameters that it is given, as `--param` takes them."""

    engine: Engine
    as_of: datetime
    run_id: str
    keeps_contract: Callable[[], bool] = lambda: False
    given: Mapping[str, str] = MappingProxyType({})


Decided = Iterator[Verdict | KeptTogether]


def for_tiering(engine: Engine, rules: Policies, as_of: datetime, *, keeps_contract: bool) -> Decided:
    """Decide which cold videos are compressed, and which are retired; the rest is kept, counted by reason."""
    policy, tiers = rules.lifecycle, rules.tiers
    with reading(engine) as session:
        mark, worth = plans.appraise(session, rules)
    given, codecs, kept = notices.given(engine), rules.recipe.skip_codecs, list[KeptTogether]()

    def judged(videos: Iterable[Video]) -> Iterator[Verdict]:
        found = lifecycle.verdicts(videos, policy, tiers, as_of, mark, codecs, worth)
        fitting = selection.fitting(found, rules.recipe.place, keeps_contract=keeps_contract)
        return selection.for_tiering(notice_rules.with_notices(fitting, policy, tiers, as_of, given))

    names = regions.names(policy, tiers, codecs, lifecycle.refusals(mark, as_of))
    found = judged(plans.stream_candidates(engine, as_of, policy, judged, names, kept))
    affordable = left_for_compressing(engine, policy.compress_usd_per_day)
    found = selection.trying(found, rules.recipe.place, affordable, keeps_contract=keeps_contract)
    return chain(selection.largest_first(found, policy.compress_limit, affordable), kept)


def for_expiry(engine: Engine, rules: Policies, as_of: datetime, *, keeps_contract: bool) -> Decided:
    """Decide which videos are past the retention of their user's tier; the rest is kept, counted by reason."""
    policy, tiers, given, kept = rules.lifecycle, rules.tiers, notices.given(engine), list[KeptTogether]()

    def judged(videos: Iterable[Video]) -> Iterator[Verdict]:
        found = lifecycle.verdicts(videos, policy, tiers, as_of, recipe_fingerprint="")
        fitting = selection.fitting(found, transcode.NEW_KEY, keeps_contract=keeps_contract)
        return selection.for_expiry(notice_rules.with_notices(fitting, policy, tiers, as_of, given))

    names = regions.names(policy, tiers, transcode.EFFICIENT_CODECS, lifecycle.refusals("", as_of))
    return chain(judged(plans.stream_candidates(engine, as_of, policy, judged, names, kept)), kept)


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
    chosen = for_tiering(work.engine, rules, work.as_of, keeps_contract=work.keeps_contract())
    return _made(work, "tier_storage", rules, chosen)


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
    expired = for_expiry(work.engine, rules, work.as_of, keeps_contract=work.keeps_contract())
    return _made(work, "expire_videos", rules, expired)


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
    under = plans.purge_terms(grace, rules.limits)
    plan_id = plans.make_purge(
        work.engine, under, as_of=work.as_of, run_id=work.run_id, service_keys=work.keeps_contract()
    )
    plan = plans.load(work.engine, plan_id, most=0).plan
    judge = partial(guard.purge_within, rules.limits, plan, given=work.given)
    return plans.preview(work.engine, plan, work.run_id, lambda _retired_in_24h, last: judge(last))


def _made(work: Planning, flow: str, rules: Policies, judged: Decided) -> Report:
    under, limits = terms_in(rules, TERMS[flow]), rules.limits
    plan_id = plans.make(work.engine, flow, under, judged, limits=limits, as_of=work.as_of, run_id=work.run_id)
    plan = plans.load(work.engine, plan_id, most=0).plan
    return plans.preview(work.engine, plan, work.run_id, partial(guard.within, limits, plan, given=work.given))


def require_prefix(engine: Engine, settings: Settings) -> None:
    """Raise Misconfigured where the catalogue is of another prefix than the configured one."""
    with reading(engine) as session:
        key = deployment.any_key(session)
    # guard plans.prefix: a plan of one prefix's videos is taken for one of another's
    if key is not None and not key.startswith(settings.prefix):
        raise Misconfigured(
            f"REELKEEPER_PREFIX is {settings.prefix!r}, and the catalogue in {settings.state_dir} is of other objects, "
            f"such as {key!r}: each prefix has a store of its own. Set the prefix of this one, or another "
            "REELKEEPER_STATE_DIR or REELKEEPER_DATABASE_URL"
        )


def plans_service_keys(engine: Engine, settings: Settings, *, live: bool = False) -> bool:
    """Check whether plans have the videos at the service's keys, without opening the bucket.

    The embedded bucket keeps the contract that this needs, others are tested; a trial, unless it goes `live`, plans as
    if they would pass.
    """
    if settings.endpoint_url is None:
        return True
    from reelkeeper.adapters.contract import CHECKS  # noqa: PLC0415  loads a bucket's client, which plans need not

    at = settings.endpoint_url, settings.bucket
    with reading(engine) as session:
        is_trial = deployment.trial(session) is not None and not deployment.contract_failed(session, *at)
        return (is_trial and not live) or deployment.contract_passed(session, *at, CHECKS)


def failed_checks(engine: Engine, settings: Settings) -> frozenset[str]:
    """Return the checks of the contract test that the configured bucket has failed."""
    if settings.endpoint_url is None:
        return frozenset()
    with reading(engine) as session:
        return deployment.contract_failed(session, settings.endpoint_url, settings.bucket)
