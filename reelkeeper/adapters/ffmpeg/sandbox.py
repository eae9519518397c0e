"""What a media tool may not do: reach the network or other files, outlive us, or take more than its share.

Media is written by strangers and its decoders are old C, so each call runs in a session of its own with resource
limits, an environment without secrets, and, where the kernel grants it, no network and no file but those it works
on. launcher.py puts these around a tool between fork and exec: prlimit, setpriv or unshare are not on every machine,
and a wrapper program in Python would cost 14 ms a call.
"""

import resource
from typing import NamedTuple

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


def ceilings(bounds: Bounds) -> list[tuple[int, int]]:
    """List the kernel's resource limits for a call, soft and hard alike."""
    return [
        (resource.RLIMIT_AS, bounds.memory_bytes),
        (resource.RLIMIT_CPU, int(bounds.wall_seconds * bounds.cores) + 1),
        (resource.RLIMIT_FSIZE, bounds.file_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
    ]
