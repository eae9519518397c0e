"""What a media tool may not do: reach the network or other files, outlive us, or take more than its share.

Media is written by strangers and its decoders are old C, so each call runs in a session of its own with resource
limits, an environment without secrets, and, where the kernel grants it, no network and no file but those it works
on. This is done between fork and exec by a few C calls that are bound beforehand: a wrapper program in Python would
cost 14 ms a call where this costs 3 ms, and prlimit, setpriv or unshare are not on every machine. Nothing in there
imports, logs or waits for a lock, which is what makes it sound in a program with threads.
"""

import contextlib
import ctypes
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from reelkeeper.adapters.ffmpeg import landlock

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000  # linux/sched.h

ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "SVT_LOG": "1"}  # SVT_LOG=1: errors only


class Bounds(NamedTuple):
    """What one call may take. Wall and stall are kept by the runner, the rest by the kernel."""

    wall_seconds: float = 60
    stall_seconds: float = 120
    memory_bytes: int = 4 << 30
    file_bytes: int = 64 << 20
    cores: int = 2


class Walls(NamedTuple):
    """Which walls this kernel grants around a tool."""

    network: bool  # an empty network namespace
    files: bool  # Landlock


@contextlib.contextmanager
def confinement(program: str, work: Path, bounds: Bounds, walls: Walls) -> Iterator[Callable[[], None]]:
    """Make the function that a child runs before it becomes `program`, at work in the folder `work`.

    Of the files outside `work` it may read those that links in there point at. If the kernel refuses, subprocess
    reports SubprocessError. The death signal is bound to the *thread* that starts the child, so that thread must wait
    for it: the runner does.
    """
    parent = os.getpid()
    ceilings = (
        (resource.RLIMIT_AS, bounds.memory_bytes),
        (resource.RLIMIT_CPU, int(bounds.wall_seconds * bounds.cores) + 1),
        (resource.RLIMIT_FSIZE, bounds.file_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
    )
    with contextlib.ExitStack() as stack:
        rules = -1
        if walls.files:
            linked = [path.resolve() for path in work.iterdir() if path.is_symlink()]
            rules = stack.enter_context(landlock.ruleset(Path(program), work, linked))

        def enter() -> None:
            if walls.network and _LIBC.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "unshare")
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)  # the parent died before the signal was set
            os.nice(10)
            for what, ceiling in ceilings:
                resource.setrlimit(what, (ceiling, ceiling))
            if walls.files:
                landlock.enter(rules)

        yield enter
