"""What Docker puts around a process, put around one here: a root that is read-only, and no new namespaces.

Without Docker and without privileges: Landlock refuses every write outside the places that compose.yaml mounts, and a
seccomp filter refuses unshare, as Docker's own profile does. Both need no_new_privs, which compose.yaml asks for, too.
"""

import ctypes
import os
import platform
import signal
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from reelkeeper.adapters.ffmpeg import landlock

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_RESTRICT_SELF = 446
_UNSHARE = {"x86_64": 272, "aarch64": 97}
# Everything that changes a file: write, remove, make, link, truncate. Reading and running stay free.
_WRITES = 1 << 1 | sum(1 << bit for bit in range(4, 15))


@contextmanager
def put_up(writable: Iterable[Path]) -> Iterator[Callable[[], None]]:
    """Prepare the walls, and give what a child calls between fork and exec."""
    rules = _read_only(list(writable)) if landlock.version() else None
    program = _refuse_unshare()

    def enter() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell that put us in the background has it ignored
        _checked(_LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        if rules is not None:
            _checked(_LIBC.syscall(_RESTRICT_SELF, rules, 0))
        _checked(_LIBC.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program)))

    yield enter
    if rules is not None:
        os.close(rules)


def _read_only(writable: list[Path]) -> int:
    handled = _WRITES & ~(1 << 13 if landlock.version() < 2 else 0) & ~(1 << 14 if landlock.version() < 3 else 0)
    attributes = ctypes.create_string_buffer(struct.pack("=Q", handled))
    rules = _checked(_LIBC.syscall(444, attributes, ctypes.c_size_t(8), 0))
    for place in (*writable, Path("/dev")):
        beneath = os.open(place, os.O_PATH | os.O_CLOEXEC)
        rule = ctypes.create_string_buffer(struct.pack("=Qi", handled, beneath))
        _checked(_LIBC.syscall(445, rules, 1, rule, 0))
        os.close(beneath)
    return rules


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def _refuse_unshare() -> _Program:
    instructions = [
        (0x20, 0, 0, 0),  # load the number of the system call
        (0x15, 0, 1, _UNSHARE[platform.machine()]),
        (0x06, 0, 0, 0x00050000 | 1),  # EPERM
        (0x06, 0, 0, 0x7FFF0000),  # allow
    ]
    packed = b"".join(struct.pack("=HBBI", *one) for one in instructions)
    return _Program(len(instructions), packed)


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
