"""What a worker of ours runs for each flow run: Prefect's engine, which ends with its worker, whatever ends that one.

In a session of its own: a Ctrl-C in the worker's terminal is for the worker, which then drains. SIGUSR1 hands the run
over: it ends in order, as by SIGTERM, and says nothing of how it ended; the worker has it begun again elsewhere.
"""

import os
import runpy
import signal
from typing import Final

from prefect._internal import control_listener

from reelkeeper.adapters.parent import die_with_parent

HAND_OVER: Final = signal.SIGUSR1


def _hand_over(*_: object) -> None:
    control_listener._set_intent("reschedule")  # noqa: SLF001  as `prefect flow-run execute` asks by its own channel
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    if os.getpid() != os.getsid(0):
        os.setsid()
    die_with_parent()
    signal.signal(HAND_OVER, _hand_over)
    runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)
