"""What a media tool may not do: reach the network or other files, outlive us, or take more than its share.

Media is written by strangers and its decoders are old C, so each call runs in a session of its own with resource
limits, an environment without secrets, and, where the kernel grants it, no network, no file but those it works on,
no socket, and no other process, neither one of ours nor one of its own. launcher.py puts these around a tool between
fork and exec: prlimit, setpriv or unshare are not on every machine, and a wrapper program in Python would cost 14 ms a
call.
"""

import resource
from typing import NamedTuple

ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "SVT_LOG": "1"}  # SVT_LOG=1: errors only


class Bounds(NamedTuple):
    """What one call may take. The runner keeps wall and stall, the launcher threads, the kernel the rest."""

    wall_seconds: float = 60
    stall_seconds: float = 120
    memory_bytes: int = 4 << 30
    file_bytes: int = 64 << 20
    cores: int = 2
    threads: int = 256  # five times what ffmpeg starts for eight streams


class Walls(NamedTuple):
    """Which walls this kernel grants around a tool."""

    network: bool  # an empty network namespace
    files: bool  # Landlock
    calls: bool  # a seccomp filter: no socket of any kind, no signal to others, no new process

    def reached(self) -> dict[str, str]:
        """Say what a tool can reach nevertheless, each with what the kernel would have to grant."""
        ways = {
            "the network": (self.network or self.calls, "user namespaces or seccomp"),
            "other files": (self.files, "Landlock (Linux 5.13)"),
            "Unix sockets": (self.calls, "seccomp"),
            "other processes": (self.calls, "seccomp"),
        }
        return {what: way for what, (held, way) in ways.items() if not held}


def ceilings(bounds: Bounds) -> list[tuple[int, int]]:
    """List the kernel's resource limits for a call, soft and hard alike."""
    return [
        # guard sandbox.memory: a file takes all memory, and the kernel kills the worker
        (resource.RLIMIT_AS, bounds.memory_bytes),
        # guard sandbox.cpu: a file takes a core for ever, once nobody waits for its tool
        (resource.RLIMIT_CPU, int(bounds.wall_seconds * bounds.cores) + 1),
        # guard sandbox.file_size: a file fills the disk
        (resource.RLIMIT_FSIZE, bounds.file_bytes),
        # guard sandbox.core_dump: a crash writes the memory of a tool, with a customer's video, to the disk
        (resource.RLIMIT_CORE, 0),
        # guard sandbox.open_files: a file takes all descriptors of the machine
        (resource.RLIMIT_NOFILE, 64),
    ]
