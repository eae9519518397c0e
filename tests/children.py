"""Fork children from one clean process that has imported everything they need.

There is one such process for a session, and whoever asks first decides what it imports: so it is said here, for all.
"""

import multiprocessing
from typing import Final

FORKED: Final = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(
    ["reelkeeper.store.core.schema", "tests.faults.scenarios", "tests.faults.alerting", "tests.operations.asking"]
)
