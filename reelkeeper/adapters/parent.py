"""End a child process when its parent ends, in whatever way, by Linux's parent-death signal."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from typing import Final

PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded before a fork: after it, nothing may be


def die_with_parent(parent: int | None = None) -> None:
    """Have this process killed when the thread that started it ends; at once if its parent is no longer `parent`.

    It does nothing on systems other than Linux.
    """
    if _LIBC:
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if parent is not None and os.getppid() != parent:
            os._exit(1)


def before_exec() -> Callable[[], None]:
    """Return the `preexec_fn` for a child that shall end with this process; it loads nothing after the fork."""
    parent = os.getpid()
    return lambda: die_with_parent(parent)
