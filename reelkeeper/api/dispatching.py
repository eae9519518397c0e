"""Start a run of `dispatch_jobs` as soon as a job waits, or the worker of one is dead.

It is done in a thread, so that requests neither wait for it nor fail with it.
"""

import logging
import threading
import time
from contextlib import suppress
from typing import Final

from prometheus_client import CollectorRegistry, Counter
from sqlalchemy.exc import SQLAlchemyError

from reelkeeper.adapters.orchestrator import Orchestrator
from reelkeeper.errors import OrchestratorError
from reelkeeper.operations import Engine
from reelkeeper.operations.jobs.queue import OFFER_SECONDS, offer_to_start, start_dispatch
from reelkeeper.redaction import redacted

_LOOK_SECONDS: Final = 5.0  # between two checks for a working run; twice that where no job was queued
_START_SECONDS: Final = 30.0  # for a started run to report, before another is started
_UNABLE_SECONDS: Final = 1800.0  # after a failure, for which nobody relies on this process; so long no worker rests
_log = logging.getLogger(__name__)


class Dispatching:
    """A thread that starts a run of `dispatch_jobs` when one is missing; does nothing without a Prefect server."""

    def __init__(self, engine: Engine, orchestrator: Orchestrator | None, registry: CollectorRegistry) -> None:
        self._engine, self._orchestrator = engine, orchestrator
        self._job_waits, self._leaving = threading.Event(), threading.Event()
        self._next_offer = 0.0
        self._thread = threading.Thread(target=self._run, name="dispatching", daemon=True)
        self._starts = Counter(
            "reelkeeper_dispatch_starts",
            "Runs of dispatch_jobs requested from Prefect because a job waited",
            ("outcome",),
            registry=registry,
        )
        for outcome in ("started", "failed"):
            self._starts.labels(outcome)  # reported as 0 from the start

    def wake(self) -> None:
        """Signal that a job waits. Returns at once."""
        self._job_waits.set()

    def start(self) -> None:
        """Start the thread, if a Prefect server is configured."""
        if self._orchestrator is not None:
            self._thread.start()

    def stop(self) -> None:
        """Stop, without waiting for a running call to Prefect."""
        self._leaving.set()
        self._job_waits.set()

    def _run(self) -> None:
        while True:
            self._job_waits.wait(_LOOK_SECONDS)
            self._job_waits.clear()
            if self._leaving.wait(_START_SECONDS if self._tried() else _LOOK_SECONDS):
                return

    def _tried(self) -> bool:
        """Start a run if no worker is active; return whether Prefect was asked for one."""
        if self._orchestrator is None or self._leaving.is_set():
            return False
        if time.monotonic() >= self._next_offer:
            self._offer(self._orchestrator)
        try:
            started = start_dispatch(self._engine, self._orchestrator)
        except (OrchestratorError, SQLAlchemyError) as error:
            problem = str(error) if isinstance(error, OrchestratorError) else type(error).__name__
            _log.warning(
                "no run of dispatch_jobs was started; the scheduled run will do the work: %s", redacted(problem)
            )
            self._starts.labels("failed").inc()
            # guard dispatch.unable: a worker rests where this process cannot start one
            self._next_offer = time.monotonic() + _UNABLE_SECONDS
            return True
        if started:
            _log.info("started run %s of dispatch_jobs, because a job waits", started)
            self._starts.labels("started").inc()
            self._next_offer = 0.0
        return started is not None

    def _offer(self, orchestrator: Orchestrator) -> None:
        """Let workers rest, unless Prefect or the store does not answer now."""
        self._next_offer = time.monotonic() + OFFER_SECONDS
        with suppress(OrchestratorError, SQLAlchemyError):
            offer_to_start(self._engine, orchestrator)
