"""Safe units of work: the only code that changes customers' data. Each may be killed at any point and repeated.

This module exports the store's types that callers need, as they do not import the store themselves.
"""

from reelkeeper.store import Engine
from reelkeeper.store.core.controls import Kept
from reelkeeper.store.core.engine import open_store
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.lifecycle.plans import Item

__all__ = ["Engine", "Item", "Kept", "Lease", "open_store"]
