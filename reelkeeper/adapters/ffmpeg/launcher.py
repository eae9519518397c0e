"""Start the media tools from a small separate program, with nothing of Reelkeeper in its memory.

Forking a large process, with Prefect and SQLAlchemy loaded, costs 10 to 20 ms of CPU for each tool, most of it for page
tables that exec discards; forking this one costs 1 ms. It confines each tool between fork and exec, and ends all tools
when the process that ordered them is gone. process.py is its only caller and defines the messages.
"""

import contextlib
import ctypes
import gc
import json
import os
import resource
import selectors
import signal
import socket
import sys
import time
from typing import Any

MAX_BYTES = 1 << 18  # of one order
_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000  # linux/sched.h
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38  # linux/prctl.h
_SECCOMP_MODE_FILTER = 2  # linux/seccomp.h
_LOOK_SECONDS = 0.5  # between two counts of a tool's threads
_LANDLOCK_RESTRICT_SELF = 446  # linux/landlock.h


class Launcher:
    """Starts the tools ordered on `control`, and reports how each ended on the socket that came with its order."""

    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.lines: dict[int, socket.socket] = {}  # by the process id of the tool
        self.most_threads: dict[int, int] = {}
        self.faults: dict[int, str] = {}  # why a tool was killed
        self.next_look = 0.0
        self.selector = selectors.DefaultSelector()

    def serve(self) -> None:
        """Serve orders until the other end of `control` is closed, then end the tools that still run."""
        bell, rope = socket.socketpair()
        rope.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(rope.fileno(), warn_on_full_buffer=False)
        self.selector.register(self.control, selectors.EVENT_READ)
        self.selector.register(bell, selectors.EVENT_READ)
        while True:
            for key, _ in self.selector.select(_LOOK_SECONDS if self.lines else None):
                if key.fileobj is bell:
                    bell.recv(4096)
                    self._reap()
                elif key.fileobj is not self.control:
                    self._signal(key.data)
                elif not self._start():
                    # guard sandbox.caller_gone: a tool continues after its worker was killed
                    for pid in self.lines:
                        _end(pid, signal.SIGKILL)
                    return
            self._count_threads()

    def _start(self) -> bool:
        """Start a tool; return False when there are no more orders."""
        order, descriptors, *_ = socket.recv_fds(self.control, MAX_BYTES, 4, socket.MSG_CMSG_CLOEXEC)
        if not order:
            return False
        line = socket.socket(fileno=descriptors[0])
        try:
            parameters = json.loads(order)
            pid = _fork(parameters, descriptors)
        except OSError as error:
            _tell(line, {"refused": str(error)})
        else:
            self.lines[pid], self.most_threads[pid] = line, parameters["threads"]
            self.selector.register(line, selectors.EVENT_READ, pid)
        finally:
            for descriptor in descriptors[1:]:
                os.close(descriptor)
        return True

    def _count_threads(self) -> None:
        """End a tool with too many threads, as the kernel's limit does not apply to root."""
        if time.monotonic() < self.next_look:
            return
        self.next_look = time.monotonic() + _LOOK_SECONDS
        for pid, most in self.most_threads.items():
            with contextlib.suppress(OSError):  # it has ended
                count = os.stat(f"/proc/{pid}/task").st_nlink - 2  # noqa: PTH116  pathlib is not loaded here
                # guard sandbox.threads: a file starts threads without end, and other processes get none
                if count > most:
                    self.faults[pid] = f"it ran {count} threads at the same time, its limit is {most}"
                    _end(pid, signal.SIGKILL)

    def _signal(self, pid: int) -> None:
        """Forward a signal from the caller; if the caller is gone, end its tool."""
        if line := self.lines.get(pid):
            if name := line.recv(64):
                _end(pid, signal.Signals[name.decode()])
            else:
                self.selector.unregister(line)
                _end(pid, signal.SIGKILL)

    def _reap(self) -> None:
        while self.lines:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None:
                return
            # guard sandbox.group: a tool's child processes continue after it has ended
            _end(ended.si_pid, signal.SIGKILL)  # and its children; it is not reaped yet, so its id cannot be reused
            pid, status, usage = os.wait4(ended.si_pid, 0)
            line = self.lines.pop(pid)
            del self.most_threads[pid]
            with contextlib.suppress(KeyError):
                self.selector.unregister(line)
            returncode, cpu_seconds = os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime
            _tell(line, {"returncode": returncode, "cpu_seconds": cpu_seconds, "fault": self.faults.pop(pid, None)})


def _fork(order: dict[str, Any], descriptors: list[int]) -> int:
    """Start a tool and return its process id once it runs. Raises OSError if the kernel refuses."""
    read_end, write_end = os.pipe()  # exec closes it
    with open(read_end, "rb") as report:  # noqa: PTH123  a descriptor has no path
        try:
            launcher, pid = os.getpid(), os.fork()
            if pid == 0:
                try:
                    _become(order, descriptors, launcher)
                except BaseException as error:  # noqa: BLE001  this process must not go on as a second launcher
                    os.write(write_end, f"{type(error).__name__}: {error}".encode())
                finally:
                    os._exit(127)
        finally:
            os.close(write_end)
        if refused := report.read():
            os.waitpid(pid, 0)
            raise OSError(refused.decode())
    return pid


def _become(order: dict[str, Any], descriptors: list[int], launcher: int) -> None:
    """Confine this process as ordered and run the tool in it. Raises OSError for what the kernel refused."""
    _, output, errors, *rules = descriptors
    os.setsid()
    os.dup2(output, 1)
    os.dup2(errors, 2)
    os.chdir(order["folder"])
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and exec would keep that
        signal.signal(ignored, signal.SIG_DFL)
    # guard sandbox.network: a compromised decoder sends out the data that it has read
    if order["network_wall"] and _LIBC.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    # guard sandbox.parent: a tool continues after its launcher was killed, and nothing ends it
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != launcher:
        os._exit(1)  # it died before the signal was set
    os.nice(10)
    for what, ceiling in order["ceilings"]:
        resource.setrlimit(what, (ceiling, ceiling))
    if rules or order["filter"]:
        _checked(_LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    if rules:
        # guard sandbox.files: a decoder reads our keys and other customers' videos
        _checked(_LIBC.syscall(_LANDLOCK_RESTRICT_SELF, rules[0], 0), "Landlock")
    if order["filter"]:
        # guard sandbox.calls: a decoder opens sockets, signals our processes and forks without end
        _restrict_calls(bytes.fromhex(order["filter"]))
    os.execve(order["argv"][0], order["argv"], order["environment"])  # noqa: S606  a shell is the last thing wanted here


class _Program(ctypes.Structure):
    """struct sock_fprog of linux/filter.h."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def _restrict_calls(instructions: bytes) -> None:
    program = _Program(len(instructions) // 8, instructions)
    _checked(_LIBC.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program)), "seccomp")


def _checked(result: int, wall: str) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), wall)


def _end(group: int, how: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, how)


def _tell(line: socket.socket, what: dict[str, object]) -> None:
    with line, contextlib.suppress(OSError):  # the caller may have left
        line.send(json.dumps(what).encode())


if __name__ == "__main__":
    gc.disable()  # no cyclic garbage here, and a collection in a child would copy its parent's pages
    Launcher(socket.socket(fileno=int(sys.argv[1]))).serve()
