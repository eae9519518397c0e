"""Safe units of work: the only code that changes customers' data. Each may be killed at any point and repeated.

This module exports what callers need of the store to call operations, as they do not import the store themselves.
"""

from reelkeeper.store import Engine, OperationalError, Session
from reelkeeper.store.core.controls import Kept
from reelkeeper.store.core.engine import limit_lock_waits, now, open_store, reading
from reelkeeper.store.core.failures import safe_to_repeat
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.jobs.queue import JobLine
from reelkeeper.store.lifecycle.plans import Item

__all__ = [
    "Engine",
    "Item",
    "JobLine",
    "Kept",
    "Lease",
    "OperationalError",
    "Session",
    "limit_lock_waits",
    "now",
    "open_store",
    "reading",
    "safe_to_repeat",
]
