"""Make and save plans before anything is done, check them by the guard, and claim them for the run that acts.

plan_id = make(engine, "tier_storage", terms_in(rules, names), judged, limits=limits, as_of=as_of, run_id=run_id)
saved = load(engine, plan_id, most=500)
claim(engine, saved.plan, under, judge, run_id)  # once, under the flow's lease: refused before any change
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

from reelkeeper.adapters import ffmpeg
from reelkeeper.adapters.orchestrator import Orchestrator
from reelkeeper.errors import GuardRefused, OnTrial, OrchestratorError, PlanRefused
from reelkeeper.model import Action, Done, Grace, KeptTogether, PlannedRule, PlanSummary, Verdict, Video
from reelkeeper.model.money import MICRO
from reelkeeper.operations.alerts import alerts
from reelkeeper.operations.core.lease import HeldLease
from reelkeeper.operations.core.policies import at as policies_at
from reelkeeper.operations.core.policies import current
from reelkeeper.rules.alerts import alerting
from reelkeeper.rules.alerts.cadence import CADENCES
from reelkeeper.rules.billing import tariff
from reelkeeper.rules.billing.pricing import within_allowance
from reelkeeper.rules.core.wording import CONTRACT_ASSUMED, TRIAL, contract_gate, many, sentence
from reelkeeper.rules.lifecycle import guard, notices, regions, savings, segments, worth
from reelkeeper.rules.lifecycle.guard import BlastRadius
from reelkeeper.rules.lifecycle.lifecycle import Appraise, LifecyclePolicy
from reelkeeper.rules.lifecycle.report import Report
from reelkeeper.rules.lifecycle.transcode import fingerprint, links, links_of_retired
from reelkeeper.rules.policies import DEFAULTS, NOTHING, Policies, recipe_of, terms_in, terms_of
from reelkeeper.store import Engine, Session
from reelkeeper.store.core import deployment
from reelkeeper.store.core.audit import Event, append
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.core.failures import safe_to_repeat
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.lifecycle import crf_searches, plan_progress, plan_results, purge_plan
from reelkeeper.store.lifecycle.candidates import candidates
from reelkeeper.store.lifecycle.plan_results import PlanItem, PlanLine
from reelkeeper.store.lifecycle.plan_writer import add_verdicts, begin_plan, leave_beyond_share
from reelkeeper.store.lifecycle.plans import (
    LIMITS,
    Approved,
    approve_plan,
    as_params,
    begin_applying,
    load_summary,
    note_refusal,
    refusal_of,
    refuse_plan,
)
from reelkeeper.store.videos import stock
from reelkeeper.store.videos.videos import live_videos

Limit = Callable[[int, int | None], None]  # retired in 24 h, last population: raises GuardRefused
_OF_ITS_TIME = timedelta(days=1)  # a plan as of another day tries that day
_ALL = 10**9  # items: more than any plan has


class SavedPlan(NamedTuple):
    """A saved plan: as a whole, by rule, by outcome, and its items by action, the largest first."""

    plan: PlanSummary
    state: str  # as `reelkeeper plan --list` shows it
    run_id: str  # which made it or carries it out
    planned: list[PlannedRule]
    done: list[Done]
    items: list[PlanItem]


def survey(engine: Engine, as_of: datetime, rules: Policies) -> savings.Idle:
    """Sum the unused bytes of every live video from one snapshot, in flat memory."""
    with reading(engine) as session:
        (_, worth), policy = appraise(session, rules), rules.lifecycle
        videos = live_videos(session, as_of, classified=bool(policy.segments))
        return savings.survey(videos, policy, rules.tiers, as_of, worth)


def stream_candidates(
    engine: Engine,
    as_of: datetime,
    policy: LifecyclePolicy,
    judged: regions.Judged,
    names: regions.Names,
    kept: list[KeptTogether],
) -> Iterator[Video]:
    """Stream the live videos that `judged` must decide about, from one snapshot; the others are added to `kept`."""
    divide = partial(regions.divide, judged, names)
    # guard segments.classified: a video that a segment keeps is retired, as its properties were not read
    is_asked = bool(policy.segments)
    with reading(engine) as session:
        yield from candidates(session, as_of, divide, kept, classified=is_asked)


def appraise(session: Session, rules: Policies) -> tuple[str, Appraise]:
    """Return the mark of what this recipe and encoder have refused, and the function that values an encode in dollars.

    It goes by what is stored, and by the results and costs of earlier encodes with this encoder.
    """
    encoder, recipe = ffmpeg.tools().encoder(rules.recipe.codec), rules.recipe
    before, is_free = crf_searches.totals(session, encoder=encoder), within_allowance(stock.stored_bytes(session))
    known = partial(worth.unopened, recipe.codec, recipe.payback, before, is_billed=not is_free)
    return fingerprint(recipe, rules.acceptance, encoder), known


def make(
    engine: Engine,
    flow: str,
    under: Mapping[str, Any],
    judged: Iterable[Verdict | KeptTogether],
    *,
    limits: BlastRadius,
    as_of: datetime,
    run_id: str,
) -> str:
    """Save a stream of verdicts as a plan, in flat memory, spread over nights where one user would lose much."""
    plan_id = begin_plan(engine, flow, under, as_of, run_id, limits.model_dump(mode="json"))
    (policy, tiers), payback = terms_of(under), current(engine).policies.recipe.payback
    saving = partial(savings.of_verdict, policy=policy, tiers=tiers, as_of=as_of, payback=payback)
    add_verdicts(engine, plan_id, judged, notices.reason, saving, segments.of_verdict)
    leave_beyond_share(engine, plan_id, max_percent=limits.max_user_percent, always_allowed=limits.always_allowed)
    return plan_id


def purge_terms(grace: Grace, limits: BlastRadius) -> dict[str, Any]:
    """Return the terms of a plan of `purge_retired`; those of the other flows are `terms_in` their policies."""
    days = {"grace_days": grace.days, "grace_days_service_keys": grace.service_days}
    return days | {"max_objects": limits.max_objects}


def make_purge(engine: Engine, under: Mapping[str, Any], *, as_of: datetime, run_id: str, service_keys: bool) -> str:
    """Save the blobs whose grace is over as a plan, as many as its terms `under` allow; return its id."""
    plan_id = begin_plan(engine, "purge_retired", under, as_of, run_id)
    purge_plan.add_due(
        engine,
        plan_id,
        as_of,
        grace=Grace(under["grace_days"], under["grace_days_service_keys"]),
        service_keys=service_keys,
        max_videos=under["max_objects"],
        microusd_per_gb=int(tariff.STANDARD.storage_usd_per_gb_month * MICRO),
    )
    return plan_id


def load(engine: Engine, plan_id: str, *, most: int = _ALL, plan: PlanSummary | None = None) -> SavedPlan:
    """Read a saved plan, with at most `most` items, and its summary unless `plan` is that. Raises NotFound."""
    with reading(engine) as session:
        return SavedPlan(
            plan or load_summary(session, plan_id),
            *plan_results.shown(session, plan_id),
            plan_results.by_rule(session, plan_id),
            plan_results.by_outcome(session, plan_id),
            plan_results.plan_items(session, plan_id, most),
        )


def grace_of(engine: Engine, plan: PlanSummary) -> Grace | None:
    """Return the grace of what a plan retires or replaces; None for a purge, which ends graces."""
    with reading(engine) as session:
        under = plan_progress.undertaking(session, plan.id).terms
    return terms_of(under)[0].grace if "policy" in under else None


def remarks(engine: Engine, plan: PlanSummary, *, in_trial: bool = True) -> Iterator[str]:
    """Explain what a plan's estimates leave out: what happens to links, and what R2 does not bill."""
    with reading(engine) as session:
        theirs = {
            action: plan_results.at_service_keys(session, plan.id, action)
            for action in (Action.COMPRESS, Action.RETIRE)
        }
        before = crf_searches.totals(session)
        under = plan_progress.undertaking(session, plan.id).terms
        is_trial = in_trial and deployment.trial(session) is not None
        is_tried = deployment.last_contract(session) is not None
        failed = deployment.last_failed(session)
        is_small = bool(within_allowance(plan.population.size_bytes))  # if live videos alone are not, all is not
        free = within_allowance(stock.stored_bytes(session)) if is_small else ""
    if is_trial:
        yield TRIAL if is_tried else f"{TRIAL} {CONTRACT_ASSUMED}"
    if "contract_not_tried" in plan.kept or (failed and any(theirs.values())):
        yield sentence(contract_gate(failed))
    if not failed and (count := theirs[Action.COMPRESS]):  # it may have failed since the plan was made
        (recipe, _), (policy, _) = recipe_of(under), terms_of(under)
        yield f"At your service's own keys: {many(count, 'video')} to compress. {links(recipe.place, policy.grace)}"
    if not failed and (count := theirs[Action.RETIRE]):
        grace = terms_of(under)[0].grace
        yield f"At your service's own keys: {many(count, 'video')} to retire. {links_of_retired(grace)}"
    if plan.retire.objects and "tiers" in under and terms_of(under) == (DEFAULTS.lifecycle, DEFAULTS.tiers):
        now_in_force = current(engine)
        is_set = (now_in_force.policies.lifecycle, now_in_force.policies.tiers) != (DEFAULTS.lifecycle, DEFAULTS.tiers)
        by_defaults = f"By Reelkeeper's defaults, not by the policies in force now, version {now_in_force.version}."
        yield by_defaults if is_set else DEFAULTS.tiers.as_defaults(DEFAULTS.lifecycle.retire_after_days)
    if plan.compress.objects:
        yield worth.expectation(before)
    if free and (plan.compress.objects or plan.retire.objects or "does_not_pay" in plan.kept):
        yield free


def preview(engine: Engine, plan: PlanSummary, run_id: str, judge: Limit) -> Report:
    """Report what a run would do, and the guard's verdict on it, which is noted with the plan."""
    with reading(engine) as session:
        planned = tuple(plan_results.by_rule(session, plan.id))
        before = plan_results.retired_in_24h(session, plan.id), plan_results.last_population(session)
        is_trial = deployment.trial(session) is not None
    refusal = None
    try:
        judge(*before)
    except GuardRefused as refused:
        refusal = str(refused).removeprefix(guard.NOTHING_CHANGED)
        if is_trial:  # no override is carried out in one
            refusal = refusal.partition(f"\n{guard.OVERRIDE}")[0] + f"\n{guard.ONCE_LIVE}"
    with transaction(engine, "plan.preview") as session:
        note_refusal(session, plan.id, refusal)
    return Report(plan.flow, run_id, dry_run=True, plan=plan, planned=planned, refusal=refusal)


def claim(
    engine: Engine, plan: PlanSummary, under: Mapping[str, Any], judge: Limit, run_id: str, *, service_keys: bool = True
) -> None:
    """Claim the right to carry `plan` out, once, if the guard agrees, which is checked under the flow's lease.

    Raises PlanRefused, and GuardRefused, which is recorded with the plan and sent as an alert; nothing is changed.
    """
    if not service_keys and plan.compress.objects + plan.retire.objects:
        _require_other_keys(engine, plan)
    try:
        with transaction(engine, "plan.claim") as session:
            # Read before this plan is counted.
            before = plan_results.retired_in_24h(session, plan.id), plan_results.last_population(session)
            deployment.lock(session)
            begin_applying(session, plan.id, plan.flow, under, run_id)
            # guard plans.judged: a plan beyond the blast radius is carried out
            judge(*before)
            alerts.forget(session, alerting.PLAN_REFUSED, alerting.scope(plan.flow))
    except GuardRefused as refused:
        refusal, widening = str(refused), refused.widening
        if widening:
            refusal += f"\n  or approve this plan for one run: reelkeeper approve {plan.id} --reason WHY"
            widening = {**_needed(engine, plan, before), **widening}
        with transaction(engine, "plan.refuse") as session:
            deployment.lock(session)
            if refuse_plan(session, plan.id, refusal, widening):
                alerts.forget(session, alerting.PLAN_REFUSED, alerting.scope(plan.flow))
                # guard plans.refusal_told: every night's plan is refused, and nobody knows
                alerts.observe_within(session, [guard.refused(plan, refusal)], run_id=run_id)
        raise GuardRefused(refusal, refused.widening) from None


def _needed(engine: Engine, plan: PlanSummary, before: tuple[int, int | None]) -> Mapping[str, float]:
    """Return the plan's figures beyond the limits in force, which an approved run has, whatever this one was given."""
    try:
        if plan.flow != "purge_retired":
            guard.within(current(engine).policies.limits, plan, *before)
    except GuardRefused as refused:
        return refused.widening
    return {}


def _require_other_keys(engine: Engine, plan: PlanSummary) -> None:
    with reading(engine) as session:
        theirs = sum(plan_results.at_service_keys(session, plan.id, act) for act in (Action.COMPRESS, Action.RETIRE))
        gate = contract_gate(deployment.last_failed(session))
    # guard plans.contract: a plan is used up by a run that skips all of it
    if theirs == plan.compress.objects + plan.retire.objects:
        raise PlanRefused(f"{guard.NOTHING_CHANGED}plan {plan.id} is all at the service's keys, and {gate}")


def refusal(engine: Engine, plan_id: str) -> str:
    """Read the guard's refusal of a plan; empty if it was not refused. Raises NotFound."""
    with reading(engine) as session:
        return refusal_of(session, plan_id)


def approve(engine: Engine, plan_id: str, *, author: str, reason: str) -> Approved:
    """Allow a plan that the guard refused to be carried out once, up to the figures that it was refused with.

    If its figures have grown by then, it is refused again. Raises PlanRefused, NotFound; OnTrial in a trial.
    """
    with transaction(engine, "plan.approve") as session:
        # guard trial.approved: a plan is approved, and its approval reported, where no run may carry it out
        if (standing := deployment.standing(session)).place:
            raise OnTrial(standing.live)
        deployment.lock(session)
        approved = approve_plan(session, plan_id, author=author, reason=reason)
        made = plan_progress.undertaking(session, plan_id)
        # guard plans.given: an approval carries out a plan that was made under policies which have changed since
        usual = terms_in(policies_at(session, made.policy_version), made.terms)
        approved = approved._replace(given=_given(made.terms, usual))
        title = f"{author} approved a refused plan of {approved.flow}"
        alerts.post(session, title, f"{reason}\n{approved.refusal}", figures=[("Plan", plan_id)])
        detail = {"plan": plan_id, "flow": approved.flow, "by": author, "why": reason, "limits": approved.widening}
        append(session, [Event("approve", f"approve-{plan_id}", detail=detail)])
    return approved


def recent(session: Session, *, limit: int) -> list[PlanLine]:
    """List the newest plans, each with what it tries in place of the policies of its time."""
    return [line._replace(what_if=_what_if(session, line)) for line in plan_results.recent_plans(session, limit=limit)]


def _what_if(session: Session, line: PlanLine) -> str:
    made = plan_progress.undertaking(session, line.id)
    policies = policies_at(session, made.policy_version)
    limits = made.terms.get(LIMITS, {})
    usual = terms_in(policies, made.terms) | {LIMITS: policies.limits.model_dump(mode="json", include=set(limits))}
    found = [f"{name}={value}" for name, value in as_params(_given(made.terms, usual))]
    if abs(line.as_of - line.created_at) >= _OF_ITS_TIME:
        found.append(f"as of {line.as_of:%Y-%m-%d}")
    return ", ".join(found)


def _given(under: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that make these terms of the usual ones."""
    found: dict[str, Any] = {}
    for name, value in under.items():
        if name not in usual or value == usual[name]:
            continue
        if name == "max_objects":  # what a purge may delete is among its terms
            found["limits"] = {name: value}
        elif not isinstance(value, Mapping):
            found[name] = NOTHING[0] if value is None else value
        elif inner := _given(value, usual[name]):
            found[name] = inner
    return found


def start_approved(approved: Approved, orchestrator: Orchestrator) -> str:
    """Start a Prefect run that carries an approved plan out; return its id. A repetition returns the same run.

    Raises OrchestratorError.
    """
    key = f"approved-{approved.plan_id}-{int(approved.at.timestamp())}"
    parameters = {**approved.given, "plan_id": approved.plan_id, "dry_run": False}
    try:
        name = CADENCES[approved.flow].name
        return orchestrator.start(approved.flow, name, parameters, key=key)
    except OrchestratorError as error:
        raise OrchestratorError(
            f"plan {approved.plan_id} is approved, but no run was started: {error}. {approved.command}"
        ) from None


def begin(engine: Engine, held: HeldLease, plan: PlanSummary) -> HeldLease:
    """Take the plan's own lease, so that others may help, and end plans that dead runs of the flow left under way."""
    with transaction(engine, "plan.begin") as session:
        plan_progress.close_others(session, plan.flow, plan.id)
    (lease,) = held.manager.take([plan_progress.plan_lease(plan.id)])
    return HeldLease(held.manager, lease)


def is_own(lease: Lease, plan_id: str) -> bool:
    """Check whether `lease` is that of the run that carries the plan out, and not a helper's."""
    return lease.name == plan_progress.plan_lease(plan_id)


def others_at_work(engine: Engine, plan_id: str) -> bool:
    """Check whether any worker has a video of the plan now."""
    with reading(engine) as session:
        return plan_progress.at_work(session, plan_id)


@safe_to_repeat
def under_way(engine: Engine) -> str | None:
    """Find the plan of `tier_storage` whose work is not over; None without one."""
    with reading(engine) as session:
        return plan_progress.under_way(session, "tier_storage")


def inherit(engine: Engine, held: HeldLease, plan_id: str) -> tuple[PlanSummary, str] | None:
    """Take over a dead run's plan that has nothing left to compress; return it and that run's id, or None."""
    with reading(engine) as session:
        if plan_progress.left(session, plan_id)[0].objects or not plan_progress.is_under_way(session, plan_id):
            return None
    if not held.manager.take([plan_progress.plan_lease(plan_id)]):
        return None
    with reading(engine) as session:
        return load_summary(session, plan_id), plan_progress.undertaking(session, plan_id).run_id
