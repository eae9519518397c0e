"""Count what vendors charge for the jobs that they make, each once, and compare their accounts with ours.

A job that brought no video counts in the budgets and in the bill when it is over: at what its vendor reported, else at
the vendor's price where it may charge (`rules/billing/vendor_charges`). What is learned later takes its place.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from functools import cache, partial
from typing import Final

from reelkeeper.adapters.providers.contract import Billing
from reelkeeper.errors import GenerationUnknown, UsageUnknown
from reelkeeper.model.money import SentJob
from reelkeeper.operations.alerts import alerts
from reelkeeper.operations.billing import limits
from reelkeeper.operations.core.freeze import require_permission
from reelkeeper.operations.core.policies import at as at_version
from reelkeeper.operations.jobs import routing
from reelkeeper.operations.jobs.prices import booked_cost, clip_cost
from reelkeeper.rules.billing.vendor_bill import VendorComparison, compare, never_made
from reelkeeper.rules.billing.vendor_word import VendorWord
from reelkeeper.rules.policies import Policies
from reelkeeper.store import Engine, Session
from reelkeeper.store.core.audit import Event, append
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.jobs import endings, queue, vendor_jobs
from reelkeeper.store.jobs.queue import AdmittedJob
from reelkeeper.store.jobs.vendor_jobs import SentRow, sent_between

_ONE_DAY: Final = timedelta(days=1)
_LASTS: Final = 2 * _ONE_DAY  # the longest time from a job's first attempt to the vendor's bill
_MAX_KEYS: Final = 1_000  # of one job


def believed(
    session: Session, job: AdmittedJob, booked: int, reported_microusd: int, *, is_delivered: bool, run_id: str
) -> int | None:
    """Return what a vendor states that a job cost, and add it to the job's cost; None where it cannot be believed.

    `booked` is its cost by the book, in micro-dollars. People are told once of a book that is wrong, and of an absurd
    figure. The caller holds the deployment row.
    """
    word = VendorWord(str(job.lane), job.model, booked, reported_microusd, is_delivered)
    book, day = at_version(session, job.policy_version).book, f"{now(session):%Y-%m-%d}"
    mark = book.price_mark(job.model, job.lane)
    if found := word.finding(job.id, mark, day):
        # guard charges.told: a vendor raises its price, and nobody learns of the loss
        alerts.observe_within(session, [found], run_id=run_id)
    # guard charges.absurd: an absurd figure of a vendor uses up the budget
    if not word.is_believed:
        return None
    endings.add_cost(session, job.id, reported_microusd)
    return reported_microusd


def count_without_video(
    session: Session,
    job: AdmittedJob,
    key: str | None,
    reported_microusd: int | None,
    *,
    may_be_paid: bool,
    run_id: str,
) -> None:
    """Count a vendor's job that is over and brought no video, sent under `key`. The caller holds the deployment row."""
    cost_microusd = None
    if reported_microusd is not None:
        booked = booked_cost(job, at_version(session, job.policy_version))
        cost_microusd = believed(session, job, booked, reported_microusd, is_delivered=False, run_id=run_id)
    is_charged = may_be_paid or (reported_microusd is not None and cost_microusd is None)
    expected = _expected_cost(session, job) if is_charged else 0
    # guard spend.in_doubt: a job that its vendor may charge for counts in no budget
    spent, at = expected if cost_microusd is None else cost_microusd, now(session)
    if key:
        take_back(session, job, key)
        vendor_jobs.end(session, key, at, spent, reported_microusd)
    if spent:
        _add(session, job, spent, at)
        routing.note(session, job)


def take_back(session: Session, job: AdmittedJob, key: str) -> None:
    """Take back what counted for a vendor's job that was given up, since it is known now how it ended."""
    # guard spend.counted_once: a job that was given up, tried again and found counts twice
    if before := vendor_jobs.counted(session, key):
        # guard spend.where_counted: what a vendor never made is taken back from the budget of another
        _add(session, job._replace(lane=before.provider), -before.microusd, before.at)


def _expected_cost(session: Session, job: AdmittedJob) -> int:
    """Compute what a vendor takes for a job, if it charges."""
    clip = clip_cost(job, at_version(session, job.policy_version), job.lane)
    return limits.expected_cost(job) if clip is None else clip


def _add(session: Session, job: AdmittedJob, spent_microusd: int, at: datetime) -> None:
    limits.spend(session, limits.scopes_of(job), job.model, job.lane or "", spent_microusd, at)


def reconcile(engine: Engine, billing: Billing, first: date, last: date) -> VendorComparison:
    """Compare the days from `first` to `last`, in UTC. Raises UsageUnknown where the vendor gives no account."""
    begin, end = (datetime.combine(day, time(), UTC) for day in (first, last + _ONE_DAY))
    try:
        theirs = billing.billed(begin, end)
    except GenerationUnknown as error:
        raise UsageUnknown(f"{billing.name} did not report what it made: {error}") from None
    with reading(engine) as session:
        rows = sent_between(session, billing.name, begin - _LASTS, end + _LASTS)
        policies = cache(partial(at_version, session))
        ours = [
            SentJob(row.job_id, row.key, row.vendor_id, row.sent_at, row.ended_at, _cost(row, billing.name, policies))
            for row in rows
        ]
    # Attempts from before each was recorded have keys that can be computed again.
    tokens = {row.job_id: min(row.lease_token, _MAX_KEYS) for row in rows}
    keys = {f"{job_id}-{number}" for job_id, last in tokens.items() for number in range(1, last + 1)}
    marks = {billing.mark_of(key): key for key in keys | {row.key for row in rows}}
    return compare(ours, theirs, marks, begin, end)


def doubts_to_end(engine: Engine, found: VendorComparison, first: date) -> list[SentJob]:
    """Choose the jobs of a comparison from `first` on that count in doubt, and were never made by its account."""
    with reading(engine) as session:
        day_ago = now(session) - _ONE_DAY
    return never_made(found, datetime.combine(first, time(), UTC), day_ago)


def end_doubts(engine: Engine, never_came: Sequence[SentJob], *, author: str, run_id: str) -> int:
    """Take what jobs count in doubt back from the budgets and the bill, on a person's word; return the micro-dollars.

    One that was found or ended meanwhile counts as it is known now. Raises Frozen.
    """
    ended = 0
    for sent in never_came:
        with transaction(engine, "job.end_doubt") as session:
            require_permission(session)
            job, before = queue.find(session, sent.job_id), vendor_jobs.counted(session, sent.key)
            # guard charges.doubt_as_seen: the cost of a job that was found meanwhile is taken back
            if job is None or before is None or before.microusd != sent.cost_microusd or before.is_named:
                continue
            take_back(session, job, sent.key)
            vendor_jobs.end(session, sent.key, before.at, 0, None)
            detail = {"job": job.id, "key": sent.key, "microusd": before.microusd, "by": author}
            append(session, [Event("doubt_ended", run_id, user_id=job.user_id, detail=detail)])
            ended += before.microusd
    return ended


def _cost(row: SentRow, provider: str, policies: Callable[[int], Policies]) -> int | None:
    """Return what counts for a vendor's job; for one that is not over, the vendor's price."""
    if row.counted_microusd is not None:
        return row.counted_microusd
    clip = clip_cost(row, policies(row.policy_version), provider)
    return row.quoted_cost_microusd if clip is None else clip
