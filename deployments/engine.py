"""Run Prefect's engine for one flow run of our worker, in a process that ends whenever its worker does.

The process has its own session, so that a Ctrl-C in the worker's terminal reaches only the worker, which then drains.
SIGUSR1 hands the run over: it stops cleanly, as by SIGTERM, without reporting a final state; the worker then has it
started again elsewhere. SIGUSR2 says that it closes: a run that takes work as it comes takes no more, and ends.
"""

import os
import runpy
import signal
import sys
import threading
from typing import Final

from prefect.exceptions import TerminationSignal

from deployments.prefect_internals import is_sigterm_handler_installed, note_hand_over, outlast_restarts
from reelkeeper.adapters.parent import die_with_parent

HAND_OVER: Final = signal.SIGUSR1
CLOSE: Final = signal.SIGUSR2
_AGAIN_SECONDS: Final = 0.1


def _hand_over(*_: object) -> None:
    note_hand_over()
    os.kill(os.getpid(), signal.SIGTERM)


def send_lost_signals_again() -> None:
    """Make sure that SIGTERM ends a run, whatever code it interrupts.

    Prefect's handler raises in the main thread. If that is inside the callback of a weak reference (SQLAlchemy uses
    them for its sessions) or a `__del__`, Python drops the exception, and the run would go on. So it is sent again.
    """

    def dropped(what: "sys.UnraisableHookArgs") -> None:
        sys.__unraisablehook__(what)
        if issubclass(what.exc_type, TerminationSignal):
            again = threading.Timer(_AGAIN_SECONDS, _terminate)
            again.daemon = True
            again.start()

    sys.unraisablehook = dropped


def _terminate() -> None:
    if is_sigterm_handler_installed():  # else the run is over
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    if os.getpid() != os.getsid(0):
        os.setsid()
    die_with_parent()
    signal.signal(HAND_OVER, _hand_over)
    signal.signal(CLOSE, signal.SIG_IGN)
    send_lost_signals_again()
    # guard outages.begun: a run that begins while Prefect's server restarts crashes
    outlast_restarts()
    from tasks import runs

    runs.is_given_back = True
    signal.signal(CLOSE, lambda *_: runs.closing.set())
    runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)
