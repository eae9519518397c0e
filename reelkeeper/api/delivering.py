"""Report runs that ended badly, and send what waits in the outbox within seconds, whatever has become of a worker.

Runs of `deliver_alerts`, and of the flows that raise alerts, send them, too. But where the worker of one dies, messages
would wait for the next run, and that until Prefect's server knows that the dead one is. It is done in a thread, so that
requests neither wait for it nor fail with it.
"""

import logging
import threading
import time
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from reelkeeper.adapters.orchestrator import Orchestrator
from reelkeeper.adapters.second_sink import Console
from reelkeeper.errors import ReelkeeperError
from reelkeeper.operations import Engine
from reelkeeper.operations.alerts.alerts import report_runs
from reelkeeper.operations.alerts.outbox import Sinks, deliver

_LOOK_SECONDS: Final = 5.0  # between two looks for messages that others have left
_ASK_SECONDS: Final = 30.0  # between two questions for runs of which Prefect's server has not told us
_SEND_SECONDS: Final = 30.0  # at most, in one look
_LEAVE_SECONDS: Final = 5.0
_log = logging.getLogger(__name__)


class Delivering:
    """A thread that delivers the outbox.

    Its `engine` waits for locks as a worker's does: a message that was sent and not recorded would be sent again.
    """

    def __init__(self, engine: Engine, sinks: Sinks, orchestrator: Orchestrator | None = None) -> None:
        self._engine, self._sinks, self._orchestrator = engine, sinks, orchestrator
        self._message_waits, self._leaving = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="delivering", daemon=True)

    def wake(self) -> None:
        """Signal that a message waits. Returns at once."""
        self._message_waits.set()

    def start(self) -> None:
        """Start the thread, unless this process would only write messages to its log."""
        # guard outbox.api_console: an alert ends in the log of an API that has no token of Slack's, as workers have
        if not isinstance(self._sinks.first, Console):
            self._thread.start()

    def stop(self) -> None:
        """Stop, and wait a little for a message that is being sent: nobody else sends before its turn is over."""
        self._leaving.set()
        self._message_waits.set()
        if self._thread.is_alive():
            self._thread.join(_LEAVE_SECONDS)

    def _run(self) -> None:
        ask_at = time.monotonic() + _ASK_SECONDS
        while not self._leaving.is_set():
            try:
                if self._orchestrator and time.monotonic() >= ask_at:
                    ask_at = time.monotonic() + _ASK_SECONDS
                    report_runs(self._engine, self._orchestrator, ui_url=self._sinks.ui_url)
                deliver(self._engine, self._sinks, seconds=_SEND_SECONDS)
            except (ReelkeeperError, SQLAlchemyError) as error:  # the next look, or a run of deliver_alerts, sends them
                _log.warning("alerts were not all delivered: %s", type(error).__name__)
            self._message_waits.wait(_LOOK_SECONDS)
            self._message_waits.clear()
