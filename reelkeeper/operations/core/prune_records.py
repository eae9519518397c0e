"""Delete old records that nothing refers to, so that the store does not grow without end.

The audit record, the ledger, charges and all records of what happened to customers' bytes are never deleted.
"""

import time
from datetime import datetime, timedelta
from typing import Final

from reelkeeper.operations.core.freeze import require_permission
from reelkeeper.rules.core.record_retention import RecordRetentionPolicy
from reelkeeper.rules.core.tiers import MAX_DAYS
from reelkeeper.store import Engine
from reelkeeper.store.core import prune_records
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.core.leases import Lease

BATCH: Final = 1_000  # rows in one transaction; on SQLite other writers wait for it
SECONDS: Final = 120.0  # in all; the rest is deleted the next day


def overdue(engine: Engine, policy: RecordRetentionPolicy) -> dict[str, int]:
    """Count the rows that would be deleted, by table. Rows that depend on others are counted a day later."""
    with reading(engine) as session:
        at = now(session)
        counts = {
            kind.table.name: prune_records.count(session, kind, _cutoff(at, days))
            for kind in prune_records.KINDS
            if (days := getattr(policy, kind.field)) is not None
        }
    return {name: count for name, count in counts.items() if count}


def forget(engine: Engine, policy: RecordRetentionPolicy, *, lease: Lease, seconds: float = SECONDS) -> dict[str, int]:
    """Delete old rows in small batches; return how many, by table. Raises Frozen, LeaseLost."""
    until, gone = time.monotonic() + seconds, dict[str, int]()
    with reading(engine) as session:
        at = now(session)
    for kind in prune_records.KINDS:
        days = getattr(policy, kind.field)
        while days is not None and time.monotonic() < until:
            with transaction(engine, "forget") as session:
                require_permission(session, lease)
                count = prune_records.delete(session, kind, _cutoff(at, days), BATCH)
            gone[kind.table.name] = gone.get(kind.table.name, 0) + count
            if count < BATCH:
                break
    return {name: count for name, count in gone.items() if count}


def _cutoff(at: datetime, days: int) -> datetime:
    # guard policy.endless_records: a retention of more days than the calendar has ends every run, and all records stay
    return at - timedelta(days=min(days, MAX_DAYS))
