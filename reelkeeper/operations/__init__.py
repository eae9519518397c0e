"""Safe units of work: the only code that changes a customer's data, each killable anywhere and safe to repeat.

Here stands what those who compose them name of the store, which they do not import themselves.
"""

from reelkeeper.store import Engine
from reelkeeper.store.core.engine import open_store
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.jobs.controls import Kept
from reelkeeper.store.lifecycle.plans import Item

__all__ = ["Engine", "Item", "Kept", "Lease", "open_store"]
