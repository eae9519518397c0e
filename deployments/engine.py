"""What a worker of ours runs for each flow run: Prefect's engine, which ends with its worker, whatever ends that one.

In a session of its own: a Ctrl-C in the worker's terminal is for the worker, which then drains.
"""

import os
import runpy

from reelkeeper.adapters.parent import die_with_parent

if __name__ == "__main__":
    if os.getpid() != os.getsid(0):
        os.setsid()
    die_with_parent()
    runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)
