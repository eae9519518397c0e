"""Confine a process to the files it works on with Landlock, which needs no privileges (Linux 5.13).

A decoder that a file exploits can then read neither our settings nor another customer's video. It cannot open TCP
connections since Linux 6.7, nor reach processes outside by a signal or an abstract socket since 6.12. Ruleset and paths
are prepared here; launcher.py makes the two system calls that apply them to a tool.
Source of the numbers: linux/landlock.h; the system calls have the same numbers on every architecture.
"""

import ctypes
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_CREATE_RULESET, _ADD_RULE = 444, 445
_VERSION_FLAG, _PATH_BENEATH = 1, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_BASIC_RIGHTS, _REFER, _TRUNCATE = (1 << 13) - 1, 1 << 13, 1 << 14
_REFER_SINCE, _TRUNCATE_SINCE, _NETWORK_SINCE, _SCOPES_SINCE = 2, 3, 4, 6  # versions of Landlock
_BIND_AND_CONNECT_TCP = 3
_ABSTRACT_SOCKETS_AND_SIGNALS = 3

_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache")
# Never /proc as a whole: /proc/<parent>/environ holds secrets.
_FACTS = ("/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system/cpu", "/dev/urandom")


class _Attributes(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scopes", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed", ctypes.c_uint64), ("descriptor", ctypes.c_int32))


def version() -> int:
    """Return the version of Landlock in this kernel; 0 if it is missing or disabled."""
    return max(0, int(_LIBC.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION_FLAG)))


@contextmanager
def ruleset(program: Path, work: Path, readable: Iterable[Path]) -> Iterator[int]:
    """Create a ruleset that allows only to run `program`, read and write in the folder `work`, and read `readable`."""
    known = version()
    every = _BASIC_RIGHTS | _REFER * (known >= _REFER_SINCE) | _TRUNCATE * (known >= _TRUNCATE_SINCE)
    # guard sandbox.tcp: a decoder reaches servers where there is no network namespace
    # guard sandbox.scopes: a decoder signals our processes, and connects to their abstract sockets
    attributes = _Attributes(every, _BIND_AND_CONNECT_TCP, _ABSTRACT_SOCKETS_AND_SIGNALS)
    size = 8 * (1 + (known >= _NETWORK_SINCE) + (known >= _SCOPES_SINCE))
    descriptor = _checked(_LIBC.syscall(_CREATE_RULESET, ctypes.byref(attributes), ctypes.c_size_t(size), 0))
    try:
        _allow(descriptor, program, _EXECUTE | _READ_FILE)
        for loader in Path("/").glob("lib*/ld-*.so.*"):  # of programs; mapping a library does not count
            _allow(descriptor, loader, _EXECUTE | _READ_FILE)
        for path in (*map(Path, (*_LIBRARIES, *_FACTS)), *readable):
            _allow(descriptor, path, _READ_FILE | _READ_DIR)
        _allow(descriptor, Path("/dev/null"), _READ_FILE | _WRITE_FILE)
        # guard sandbox.no_program: a decoder writes a program and executes it
        _allow(descriptor, work, every & ~_EXECUTE)
        yield descriptor
    finally:
        os.close(descriptor)


def _allow(ruleset_descriptor: int, path: Path, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # does not exist on this machine
    try:
        if not path.is_dir():
            rights &= _EXECUTE | _WRITE_FILE | _READ_FILE
        rule = _Beneath(rights, place)
        _checked(_LIBC.syscall(_ADD_RULE, ruleset_descriptor, _PATH_BENEATH, ctypes.byref(rule), 0))
    finally:
        os.close(place)


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), "Landlock")
    return result
