"""Measure the CPU time of a test, which hardly depends on the machine's load."""

import psutil


def cpu_seconds() -> float:
    """Add up what this process, its children and theirs have used so far, those that have ended included."""
    me = psutil.Process()
    used = 0.0
    for process in (me, *me.children(recursive=True)):
        try:
            used += sum(process.cpu_times()[:4])  # user, system, and both of children that have ended
        except psutil.NoSuchProcess:  # it ends, and its parent's figure has it from now on
            continue
    return used
