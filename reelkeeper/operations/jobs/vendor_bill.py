"""Compare a vendor's account of the jobs that it made with ours."""

from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from functools import cache, partial
from typing import Final

from reelkeeper.adapters.providers.contract import Billing
from reelkeeper.errors import GenerationUnknown, UsageUnknown
from reelkeeper.model.money import SentJob
from reelkeeper.operations.core.policies import at as at_version
from reelkeeper.operations.jobs.prices import clip_cost
from reelkeeper.rules.billing.vendor_bill import VendorComparison, compare
from reelkeeper.rules.policies import Policies
from reelkeeper.store import Engine
from reelkeeper.store.core.engine import reading
from reelkeeper.store.jobs.vendor_jobs import SentRow, sent_between

_ONE_DAY: Final = timedelta(days=1)
_LASTS: Final = 2 * _ONE_DAY  # the longest time from a job's first attempt to the vendor's bill
_MAX_KEYS: Final = 1_000  # of one job


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


def _cost(row: SentRow, provider: str, policies: Callable[[int], Policies]) -> int | None:
    """Return what counts for a vendor's job; for one that is not over, the vendor's price."""
    if row.counted_microusd is not None:
        return row.counted_microusd
    clip = clip_cost(row, policies(row.policy_version), provider)
    return row.quoted_cost_microusd if clip is None else clip
