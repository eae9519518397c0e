"""What a worker of ours runs for each flow run: Prefect's engine, which ends with its worker, whatever ends that one.

In a session of its own: a Ctrl-C in the worker's terminal is for the worker, which then drains. SIGUSR1 hands the run
over: it ends in order, as by SIGTERM, and says nothing of how it ended; the worker has it begun again elsewhere.
"""

import os
import runpy
import signal
import sys
import threading
from typing import Final

from prefect.exceptions import TerminationSignal

from deployments.prefect_internals import is_sigterm_handler_installed, note_hand_over
from reelkeeper.adapters.parent import die_with_parent

HAND_OVER: Final = signal.SIGUSR1
_AGAIN_SECONDS: Final = 0.1


def _hand_over(*_: object) -> None:
    note_hand_over()
    os.kill(os.getpid(), signal.SIGTERM)


def send_lost_signals_again() -> None:
    """Have a run end by SIGTERM wherever it is when that comes.

    Prefect's handler raises in the main thread. Where that is in the callback of a weak reference (SQLAlchemy keeps its
    sessions by such) or in a `__del__`, Python drops what is raised, and the run would go on as if nobody had asked.
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
    send_lost_signals_again()
    runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)
