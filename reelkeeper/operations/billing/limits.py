"""Enforce hard budgets by provider, model, tier and user: refuse jobs that would exceed one, and total their costs.

A leading job is in flight from its admission, redrive or promotion to its end, at its expected cost. Transactions that
admit or end one hold the deployment row, so that nothing is added between the check and the count.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

from reelkeeper.model.money import JobTotal, Metric, Used, each_day, end_of_month
from reelkeeper.model.requests import Declined, RefusedFor
from reelkeeper.rules.core import limit_scopes
from reelkeeper.rules.jobs.admission import AdmissionPolicy
from reelkeeper.rules.policies import Policies
from reelkeeper.rules.spend import breach, budget, limits
from reelkeeper.rules.spend.budget import Period
from reelkeeper.rules.spend.limits import LimitUse, SpendLimit
from reelkeeper.store import Engine, Session
from reelkeeper.store.alerts import alerts
from reelkeeper.store.billing import job_totals, spend_counters, usage
from reelkeeper.store.billing.job_totals import Flying
from reelkeeper.store.core.engine import now, reading
from reelkeeper.store.jobs.queue import AdmittedJob


def scopes_of(job: AdmittedJob) -> tuple[str, ...]:
    """Name the scopes that a job belongs to."""
    return limit_scopes.of_job(job.lane, job.model, job.tier, job.user_id)


def expected_cost(job: AdmittedJob) -> int:
    """Return a job's expected cost in micro-dollars; its price, if it was admitted before costs were recorded."""
    return job.price_microusd if job.quoted_cost_microusd is None else job.quoted_cost_microusd


def refuse(
    session: Session,
    policy: Sequence[SpendLimit],
    job_scopes: Sequence[str],
    cost_microusd: int,
    *,
    counted: bool = True,
) -> Declined | None:
    """Decline a job whose cost would exceed a limit of one of its scopes; None: there is room.

    A refusal is `counted`, unless it only answers a question.
    """
    kept = limits.applying(policy, job_scopes)
    if not kept:
        return None
    as_of = now(session)
    refused = limits.refusal(kept, _totals(session, {scope for scope, _ in kept}, as_of), cost_microusd, as_of)
    if refused is None:
        return None
    if counted:
        job_totals.add(session, [refused.scope], {refused.period_name: 0}, refusals=1)
    seconds = None if refused.until is None else math.ceil((refused.until - as_of).total_seconds())
    return Declined(RefusedFor.SPEND_LIMIT, refused.sentence, seconds)


def forget_refusals(session: Session, before: Sequence[SpendLimit], after: Sequence[SpendLimit]) -> None:
    """Count refusals from zero where `after` allows more than `before`: they say nothing about the new limit."""
    for period, name in limits.names(now(session)).items():
        for total in job_totals.refused(session, [name]):
            was, is_now = (limits.applying(kept, [total.scope]).get((total.scope, period)) for kept in (before, after))
            if _is_higher(was, is_now):
                job_totals.forget_refusals(session, total.scope, name)


def judge_anew(session: Session, before: Policies, after: Policies) -> None:
    """Forget the alerts of this day and month whose budget or limit is higher by `after`, or is none any more."""
    at = now(session)
    periods = {name: period for period, name in limits.names(at).items()}
    rules = (budget.RULE, breach.RULE, limits.RULE)
    told = [row for row in alerts.related(session, rules, periods) if row.period in periods]
    raised = [row.id for row in told if _is_raised(before, after, row.rule, (row.scope, periods[row.period]))]
    alerts.close(session, raised, at)
    alerts.mark_untold(session, raised)


def _is_raised(before: Policies, after: Policies, rule: str, of: tuple[str, Period]) -> bool:
    was, then = (_amounts(policies, rule, of[0]).get(of) for policies in (before, after))
    return _is_higher(was, then)


def _is_higher(was: Decimal | int | None, then: Decimal | int | None) -> bool:
    """Check whether a limit allows more than it did, or is none any more."""
    return was is not None and (then is None or then > was)


def _amounts(policies: Policies, rule: str, scope: str) -> Mapping[tuple[str, Period], Decimal | int | None]:
    """Return what a rule compares the spend of a scope with."""
    admission = policies.admission
    if rule != limits.RULE:
        return {(item.scope, item.period): item.usd for item in policies.budget.all_budgets()}
    if scope != limits.ALL:
        return limits.applying(admission.spend_limits, [scope])
    return {(scope, Period.DAY): admission.daily_limit_usd, (scope, Period.MONTH): admission.monthly_limit_usd}


def has_room(session: Session, policy: Sequence[SpendLimit], job_scopes: Sequence[str], cost_microusd: int) -> bool:
    """Check whether a job of this cost stays within every limit of its scopes; no refusal is counted."""
    kept, as_of = limits.applying(policy, job_scopes), now(session)
    found = _totals(session, {scope for scope, _ in kept}, as_of)
    return limits.refusal(kept, found, cost_microusd, as_of) is None


def left(session: Session, policy: Sequence[SpendLimit], scope: str) -> int | None:
    """Return what the tightest budget of a scope leaves for new jobs, in micro-dollars; None: it has no budget."""
    own, as_of = limits.applying(policy, [scope]), now(session)
    uses = limits.uses_of(own, _totals(session, {scope}, as_of) if own else [], as_of)
    return min((max(use.limit_microusd - use.used_microusd, 0) for use in uses), default=None)


def take_in(session: Session, job_scopes: Sequence[str], cost_microusd: int, estimate_seconds: float) -> None:
    """Count an admitted job as in flight, at its expected cost."""
    flying = Flying(cost_microusd, 1, round(estimate_seconds * 1_000))
    job_totals.fly(session, [*job_scopes, job_totals.ALL], flying)


def leave(session: Session, job: AdmittedJob, scopes: Sequence[str]) -> None:
    """Stop counting a job as in flight: it has ended, moves to another provider, or is counted again."""
    job_totals.fly(session, scopes, _less(job))


def _less(job: AdmittedJob) -> Flying:
    return Flying(-expected_cost(job), -1, -round(job.estimate_seconds * 1_000))


def end(session: Session, job: AdmittedJob, spent_microusd: int, at: datetime | None = None) -> None:
    """Stop counting an ended job as in flight, if it led, and count its cost as spent at `at`, or now."""
    # guard spend.limit_ended: ended jobs still count as in flight, until the budget admits no job
    if job.leader_id is None:
        leave(session, job, [*scopes_of(job), job_totals.ALL])
    job_totals.add(session, scopes_of(job), _spent(session, spent_microusd, at))


def spend(
    session: Session, job_scopes: Sequence[str], model: str, provider: str, spent_microusd: int, at: datetime
) -> None:
    """Count what a vendor takes for no user's video as spent at `at`; a negative sum takes it back."""
    # guard spend.dead: the cost of jobs without a video counts in no budget
    spend_counters.add_generated(session, at.date(), spent_microusd)
    used = Used(at.date(), Metric.JOB_MICROUSD, spent_microusd, model, provider=provider)
    # guard charges.lost: vendors' charges for jobs without a video are in no bill
    usage.record(session, [used], add=True)
    # guard spend.limit_attempts: the cost of failed attempts counts in no budget of a provider or user
    job_totals.add(session, job_scopes, _spent(session, spent_microusd, at))


def move(session: Session, job: AdmittedJob, lane_before: str | None, lane: str) -> None:
    """Move the cost of a job in flight from the provider that it was admitted for to the one that makes it."""
    less = _less(job)
    for provider, more in ((lane_before, less), (lane, Flying(*(-figure for figure in less)))):
        if provider:
            job_totals.fly(session, [f"provider:{provider}"], more)


def uses(session: Session, policy: AdmissionPolicy, as_of: datetime) -> list[LimitUse]:
    """List how much of each limit on new jobs is used, the fullest first; of limits for `*`, only those nearly full."""
    named, each = set[str](), dict[str, int]()
    for limit in policy.spend_limits:
        kind, _, name = limit.scope.partition(":")
        if name == limit_scopes.EACH:
            each[kind] = min(each.get(kind, limit.microusd), limit.microusd)
        else:
            named.add(limit.scope)
    found = _totals(session, named, as_of)
    for kind, least in each.items():
        found += job_totals.of_kind(session, kind, _periods(as_of), least * limits.NEARLY // 100)
    of_all = list(_uses_of_all(session, policy, as_of))
    return sorted([*of_all, *limits.uses(policy.spend_limits, found, as_of)], key=lambda use: -use.percent)


def ended(session: Session, policy: AdmissionPolicy, since: date, as_of: datetime) -> list[LimitUse]:
    """List the limits that were used up, or refused a job, in the days and months that have ended since day `since`.

    What is in flight counts in the periods that go on.
    """
    days = each_day(since, as_of.date() - timedelta(days=1))
    of_days = [(day, uses(session, policy, datetime.combine(day, time(), UTC))) for day in days]
    found = [
        use._replace(in_flight_microusd=0)
        for day, of_day in of_days
        for use in of_day
        if use.period is Period.DAY or day == end_of_month(day)
    ]
    return [use for use in found if use.percent >= budget.FULL or use.refusals]


def _uses_of_all(session: Session, policy: AdmissionPolicy, as_of: datetime) -> Iterator[LimitUse]:
    """Yield the use of the daily and the monthly limit on all new jobs."""
    spent, names = spend_counters.so_far(session, as_of), limits.names(as_of)
    for period, usd, used in (
        (Period.DAY, policy.daily_limit_usd, spent.today_microusd),
        (Period.MONTH, policy.monthly_limit_usd, spent.month_microusd),
    ):
        if usd is not None:
            limit = int(usd * 10**6)
            yield LimitUse(limits.ALL, period, names[period], limit, used, spent.in_flight_microusd, 0)


def compressing(session: Session, usd_per_day: Decimal, at: datetime) -> LimitUse:
    """Return the cost of compressing on the day of `at`, including reservations of searches under way."""
    day = limits.names(at)[Period.DAY]
    spent = sum(total.microusd for total in job_totals.of_scopes(session, [job_totals.COMPRESSING], [day]))
    return LimitUse(job_totals.COMPRESSING, Period.DAY, day, int(usd_per_day * 10**6), spent, 0, 0)


def left_for_compressing(engine: Engine, usd_per_day: Decimal | None) -> int | None:
    """Return the micro-dollars that compressing may still cost today; None: any amount."""
    if usd_per_day is None:
        return None
    with reading(engine) as session:
        use = compressing(session, usd_per_day, now(session))
    return max(0, use.limit_microusd - use.used_microusd)


def _totals(session: Session, named: set[str], as_of: datetime) -> list[JobTotal]:
    return job_totals.of_scopes(session, named, _periods(as_of)) if named else []


def _periods(as_of: datetime) -> list[str]:
    return [limits.IN_FLIGHT, *limits.names(as_of).values()]


def _spent(session: Session, microusd: int, at: datetime | None) -> dict[str, int]:
    return dict.fromkeys(limits.names(at or now(session)).values(), microusd) if microusd else {}
