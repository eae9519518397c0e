"""Start work on the queue as soon as a job waits, in a thread, so that no request waits for it or fails by it."""

import logging
import threading
from typing import Final

from prometheus_client import CollectorRegistry, Counter
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError

from reelkeeper.adapters.orchestrator import Orchestrator
from reelkeeper.errors import OrchestratorError
from reelkeeper.operations.jobs.queue import start_dispatch
from reelkeeper.redaction import redacted

_LOOK_SECONDS: Final = 5.0  # between two looks whether somebody is at work
_START_SECONDS: Final = 30.0  # until a run that was started gives its first sign, or will not
_log = logging.getLogger(__name__)


class Dispatching:
    """A thread that starts a run of `dispatch_jobs` when a job waits; none where no server is configured."""

    def __init__(self, engine: Engine, orchestrator: Orchestrator | None, registry: CollectorRegistry) -> None:
        self._engine, self._orchestrator = engine, orchestrator
        self._asked, self._leaving = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="dispatching", daemon=True)
        self._starts = Counter(
            "reelkeeper_dispatch_starts",
            "Runs of dispatch_jobs that were asked of Prefect as a job waited",
            ("outcome",),
            registry=registry,
        )
        for outcome in ("started", "failed"):
            self._starts.labels(outcome)  # told as 0 from the beginning

    def wake(self) -> None:
        """Signal that a job waits. Returns at once."""
        self._asked.set()

    def start(self) -> None:
        """Begin."""
        if self._orchestrator is not None:
            self._thread.start()

    def stop(self) -> None:
        """Stop, without waiting for a call to Prefect that is under way."""
        self._leaving.set()
        self._asked.set()

    def _run(self) -> None:
        while True:
            self._asked.wait()
            self._asked.clear()
            if self._leaving.wait(_START_SECONDS if self._tried() else _LOOK_SECONDS):
                return

    def _tried(self) -> bool:
        """Start a run if no worker is there; return whether Prefect was asked for one."""
        if self._orchestrator is None or self._leaving.is_set():
            return False
        try:
            started = start_dispatch(self._engine, self._orchestrator)
        except (OrchestratorError, SQLAlchemyError) as error:
            told = str(error) if isinstance(error, OrchestratorError) else type(error).__name__
            _log.warning("no run of dispatch_jobs was started, the scheduled one will be: %s", redacted(told))
            self._starts.labels("failed").inc()
            return True
        if started:
            _log.info("run %s of dispatch_jobs was started, as a job waits", started)
            self._starts.labels("started").inc()
        return started is not None
