"""Limit a media tool: no network or other files, no life beyond its caller, and bounded resources.

Media files are untrusted and their decoders are old C code, so each call runs in its own session with resource limits
and an environment without secrets. Where the kernel supports it, it also has no network, no other files, no sockets,
no access to other processes, and no children. launcher.py applies all this between fork and exec: prlimit, setpriv and
unshare are not on every machine, and a wrapper program in Python would cost 14 ms a call.
"""

import resource
from typing import NamedTuple

ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "SVT_LOG": "1"}  # SVT_LOG=1: errors only


class Bounds(NamedTuple):
    """The limits of one call. The runner enforces wall and stall, the launcher threads, the kernel the rest."""

    wall_seconds: float = 60
    stall_seconds: float = 120
    memory_bytes: int = 4 << 30
    file_bytes: int = 64 << 20
    cores: int = 2
    threads: int = 256  # five times what ffmpeg starts for eight streams


class Walls(NamedTuple):
    """The kinds of isolation that this kernel supports."""

    network: bool  # an empty network namespace
    files: bool  # Landlock
    calls: bool  # a seccomp filter: no socket of any kind, no signal to others, no new process

    def reached(self) -> dict[str, str]:
        """Return what a tool can still reach, each with the kernel feature that would prevent it."""
        ways = {
            "the network": (self.network or self.calls, "user namespaces or seccomp"),
            "other files": (self.files, "Landlock (Linux 5.13)"),
            "Unix sockets": (self.calls, "seccomp"),
            "other processes": (self.calls, "seccomp"),
        }
        return {what: way for what, (held, way) in ways.items() if not held}


def ceilings(bounds: Bounds) -> list[tuple[int, int]]:
    """List the kernel's resource limits for a call; soft and hard limits are equal."""
    return [
        # guard sandbox.memory: a file uses all memory, and the kernel kills the worker
        (resource.RLIMIT_AS, bounds.memory_bytes),
        # guard sandbox.cpu: a file uses a core for ever, once nobody waits for its tool
        (resource.RLIMIT_CPU, int(bounds.wall_seconds * bounds.cores) + 1),
        # guard sandbox.file_size: a file fills the disk
        (resource.RLIMIT_FSIZE, bounds.file_bytes),
        # guard sandbox.core_dump: a crash writes a tool's memory, with a customer's video, to the disk
        (resource.RLIMIT_CORE, 0),
        # guard sandbox.open_files: a file uses all file descriptors of the machine
        (resource.RLIMIT_NOFILE, 64),
    ]
