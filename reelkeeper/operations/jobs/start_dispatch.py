"""Start a run of `dispatch_jobs` by Prefect's API, where a job waits and no worker is at work on the queue."""

from typing import Final

from reelkeeper.adapters.orchestrator import Orchestrator
from reelkeeper.failpoints import effect
from reelkeeper.rules.alerts.cadence import CADENCES, seconds_until_next
from reelkeeper.store import Engine
from reelkeeper.store.core.engine import now, reading
from reelkeeper.store.jobs import controls

_FLOW: Final = "dispatch_jobs"
_START_SECONDS: Final = 30  # that a run may take until it begins, and be over before the scheduled one begins
_SHORTEST_SECONDS: Final = 10  # of a window that is worth a run
_TOGETHER_SECONDS: Final = 30  # in which whoever asks gets the same run


def start_dispatch(engine: Engine, orchestrator: Orchestrator) -> str | None:
    """Start a run whose window ends before the next scheduled run begins; returns the run's id.

    None where a worker is there, or the next scheduled run is about to begin: two would stand in each other's way.
    However many processes ask within some seconds, one run is started. Raises OrchestratorError.
    """
    with reading(engine) as session:
        is_there, at = controls.is_there(session), now(session)
    seconds = int(seconds_until_next(at, CADENCES[_FLOW])) - _START_SECONDS
    if is_there or seconds < _SHORTEST_SECONDS:
        return None
    key = f"{_FLOW}-{int(at.timestamp()) // _TOGETHER_SECONDS}"
    with effect("dispatch.start"):
        return orchestrator.start(_FLOW.replace("_", "-"), CADENCES[_FLOW].name, {"seconds": seconds}, key=key)
