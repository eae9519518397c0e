"""Run a media tool through the launcher: read its output from a pipe, and end it when it is no longer wanted."""

import atexit
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Final

from reelkeeper.adapters.ffmpeg import landlock, seccomp
from reelkeeper.adapters.ffmpeg.sandbox import ENVIRONMENT, Bounds, Walls, ceilings
from reelkeeper.errors import MediaError, NotAVideo, Stopped

_TERMINATE_TIMEOUT_SECONDS = 3.0  # between SIGTERM and SIGKILL


class Tool:
    """A running or ended tool. `output` is the pipe with its stdout."""

    def __init__(self, name: str, output: IO[bytes], line: socket.socket) -> None:
        self.name, self.output = name, output
        self._line = line

    def wait(self, seconds: float = _TERMINATE_TIMEOUT_SECONDS) -> tuple[int, float] | None:
        """Return the exit code (negative: the signal that ended it) and CPU seconds; None if it still runs."""
        self._line.settimeout(seconds)
        try:
            report = self._receive()
        except TimeoutError:
            return None
        if _LAUNCHER.is_stopped:
            raise Stopped(f"{self.name} was ended with its run")
        if not report:
            raise MediaError(f"{self.name}: the program that starts media tools has ended, and this one with it")
        result = json.loads(report)
        if "refused" in result:
            raise MediaError(f"{self.name}: {result['refused']}")
        if result["fault"]:
            raise NotAVideo(f"{self.name}: {result['fault']}")
        return result["returncode"], result["cpu_seconds"]

    def end(self) -> tuple[int, float]:
        """End it and its children: SIGTERM to its group, then SIGKILL. Return what `wait` does.

        At slow presets SVT-AV1 takes longer to flush than the time allowed, so the second signal is needed.
        """
        self._send("SIGTERM")
        while (how := self.wait()) is None:
            self._send("SIGKILL")
        return how

    def _receive(self) -> bytes:
        try:
            return self._line.recv(4096)
        except ConnectionResetError:  # the launcher is gone; its earlier reports can still be read
            return self._line.recv(4096)

    def _send(self, signal_name: str) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # it has ended; its exit code is still to be read
            self._line.send(signal_name.encode())


@contextmanager
def launched(argv: Sequence[str], work: Path, bounds: Bounds, walls: Walls, errors: IO[bytes]) -> Iterator[Tool]:
    """Start `argv` in the folder `work`, with its stderr in the file `errors`; leaving the context kills it.

    Outside `work` it may read only the files that links in `work` point to. Raises MediaError, from `wait`, if the
    kernel does not grant the sandbox.
    """
    order = {
        "argv": list(argv),
        "folder": str(work),
        # guard sandbox.environment: a decoder reads our secrets from its environment
        "environment": ENVIRONMENT | {"HOME": str(work)},
        "ceilings": ceilings(bounds),
        "threads": bounds.threads,
        "network_wall": walls.network,
        "filter": seccomp.FILTER.hex() if walls.calls and seccomp.FILTER else None,
    }
    with ExitStack() as own_ends:
        read_end, write_end = os.pipe()
        output = own_ends.enter_context(open(read_end, "rb", buffering=0))  # noqa: PTH123  a descriptor has no path
        line, far_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        own_ends.enter_context(line)
        with ExitStack() as handed:
            handed.callback(os.close, write_end)
            handed.enter_context(far_end)
            descriptors = [far_end.fileno(), write_end, errors.fileno()]
            if walls.files:
                linked = [path.resolve() for path in work.iterdir() if path.is_symlink()]
                descriptors.append(handed.enter_context(landlock.ruleset(Path(argv[0]), work, linked)))
            _LAUNCHER.order(json.dumps(order).encode(), descriptors)
        yield Tool(Path(argv[0]).name, output, line)


_LEAVE_SECONDS: Final = 10.0  # for the launcher to end its tools; one that is suspended is killed


class _Launcher:
    """The launcher of this process, started on first use, and restarted after it was killed."""

    def __init__(self) -> None:
        self.is_stopped = False
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def order(self, message: bytes, descriptors: Sequence[int]) -> None:
        """Order the start of a tool."""
        with self._lock:
            if self.is_stopped:
                raise Stopped("the run was told to end, and starts no more tools")
            try:
                self._send(message, descriptors)
            except (BrokenPipeError, ConnectionResetError):
                self._leave()
                self._send(message, descriptors)

    def _send(self, message: bytes, descriptors: Sequence[int]) -> None:
        if self._control is None:
            self._control = self._start()
        socket.send_fds(self._control, [message], descriptors)

    def _start(self) -> socket.socket:
        control, far_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        library = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
        with far_end:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(Path(__file__).with_name("launcher.py")), str(far_end.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                # guard sandbox.launcher_environment: a decoder reads our secrets from the process that starts it
                env=ENVIRONMENT | library,  # some Pythons find their own library by it
                pass_fds=[far_end.fileno()],
                start_new_session=True,  # Ctrl-C is handled by this process
            )
        return control

    def leave(self) -> None:
        """Stop the launcher, which ends all running tools."""
        with self._lock:
            self._leave()

    def _leave(self) -> None:
        if self._control and self._process:
            self._control.close()
            try:
                self._process.wait(_LEAVE_SECONDS)
            except subprocess.TimeoutExpired:
                # guard sandbox.launcher_stopped: a worker whose launcher is suspended never ends
                self._process.kill()
                self._process.wait()
            self._control = self._process = None

    def forget(self) -> None:
        """Forget the launcher in a forked child, since it belongs to the parent."""
        if self._control:
            self._control.close()
        self._reset()


_LAUNCHER = _Launcher()


def stop() -> None:
    """End all tools of this process, and let it start no more. It does not wait: a signal's handler may call it."""
    _LAUNCHER.is_stopped = True
    threading.Thread(target=_LAUNCHER.leave, daemon=True).start()


atexit.register(_LAUNCHER.leave)
os.register_at_fork(after_in_child=_LAUNCHER.forget)
