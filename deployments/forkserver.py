"""Start Python programs whose libraries are loaded already: runs, worker, API and watchdog of `reelkeeper up`.

Python takes 2.3 s of CPU to import what a run needs, before the run does anything, and 35 runs begin in an hour.
`python -m deployments.forkserver SOCKET` imports it once, and forks for each program. A program is asked for by
`python -I -S forkserver.py SOCKET ARGUMENTS`, a process of 6 MB that stands for it: signals to it reach the program, it
ends as the program ends, and the program ends when it does. Where nothing answers, or the server has another
environment, that process becomes `python ARGUMENTS` itself.
"""

import ctypes
import json
import os
import select
import selectors
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

FORKSERVER: Final = "REELKEEPER_FORKSERVER"  # the socket's path, where there is a server
PATIENCE_SECONDS: Final = 120.0  # for the server to load its libraries, on a busy machine
LOADED: Final = (
    "prefect.flow_engine",
    "prefect._internal.metrics",
    "flows.deliver_alerts",
    "flows.dispatch_jobs",
    "flows.monitor_performance",
    "flows.tune_concurrency",
    "reelkeeper.cli",
    "reelkeeper.operations.health.watchdog",
)
_PASSED_ON: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_BEGUN: Final = b"begun"
_MAX_BYTES: Final = 1 << 18  # of a request: more than a socket takes
_EACH_RUNS: Final = ("PREFECT__", "PREFECT_SERVER_", "PREFECT_WORKER_")  # variables that no library reads when imported


def client(address: str, *words: str) -> list[str]:
    """Return a command that does what `python WORDS` does, by the server at `address` if there is one."""
    return [sys.executable, *(["-I", "-S", __file__, address] if address else []), *words]


def stand_for(address: str, words: list[str]) -> NoReturn:
    """Have the server run a program, and end as that ends; without a server, become the program."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: as the program itself asks, in adapters/parent.py
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    is_begun = False
    signals, noted = socket.socketpair()
    noted.setblocking(False)
    signal.set_wakeup_fd(noted.fileno())  # a handler in Python would wait for the end, if its signal came just before
    # guard up.signals_at_once: a signal just as the program begins is lost, or kills it where it would have closed
    before = {number: signal.signal(number, lambda *_: None) for number in _PASSED_ON}
    with suppress(OSError):
        server.settimeout(PATIENCE_SECONDS)
        server.connect(short(address))
        socket.send_fds(server, [json.dumps([words, str(Path.cwd()), dict(os.environ)]).encode()], [0, 1, 2])
        is_begun = server.recv(64) == _BEGUN
    if not is_begun:
        server.close()
        for number, handler in before.items():
            signal.signal(number, handler)
        for came in signals.recv(64) if select.select([signals], [], [], 0)[0] else b"":
            os.kill(os.getpid(), came)
        os.execv(sys.executable, [sys.executable, *words])  # noqa: S606  a shell would be in the way of signals
    while server not in select.select([server, signals], [], [])[0]:
        with suppress(OSError):  # it has just ended
            server.send(signals.recv(64))
    code = int(server.recv(64) or -signal.SIGKILL)  # nothing: the server died, and all its programs with it
    if code < 0:
        with suppress(OSError):  # SIGKILL has no other action
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


class _Server:
    """Its clients, and the process of each. Only one thread: a fork copies no other."""

    def __init__(self, address: str) -> None:
        Path(address).unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(short(address))
        self._listener.listen()
        self._ready = selectors.DefaultSelector()
        self._ready.register(self._listener, selectors.EVENT_READ)
        self._programs: dict[socket.socket, int] = {}

    def serve(self) -> list[str]:
        """Fork for each request, and return only in the new process: the words of its program."""
        while True:
            for key, _ in self._ready.select()[:1]:  # the next may be of what the first one closes
                if key.fileobj is self._listener:
                    self._ready.register(self._listener.accept()[0], selectors.EVENT_READ)
                elif isinstance(asker := key.fileobj, socket.socket):
                    if words := self._heard(asker):
                        return words
                else:
                    self._ended(key.fd, key.data)

    def _heard(self, asker: socket.socket) -> list[str] | None:
        message, descriptors = b"", list[int]()
        with suppress(ConnectionResetError):  # it was killed before it read what it was told
            message, descriptors, *_ = socket.recv_fds(asker, _MAX_BYTES, 3)
        pid = self._programs.get(asker)
        if pid:  # not waited for yet, so no other process has this id
            for number in message or [signal.SIGKILL]:
                os.kill(pid, number)
        try:
            if message and not pid and (words := self._fork(asker, message, descriptors)):
                return words
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        if not message or asker not in self._programs:
            self._ready.unregister(asker)
            asker.close()
        return None

    def _fork(self, asker: socket.socket, message: bytes, descriptors: list[int]) -> list[str] | None:
        words, folder, environment = json.loads(message)
        if _read_at_import(environment) != _read_at_import(os.environ):
            return None
        server = os.getpid()
        try:
            asker.send(_BEGUN)
            pid = os.fork()
        except OSError:  # it was killed, or its patience is over; or there is no memory: then it ends as if killed
            return None
        if pid:
            self._programs[asker] = pid
            self._ready.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, asker))
            return None
        from reelkeeper.adapters.parent import die_with_parent  # noqa: PLC0415  the client has no libraries

        os.setsid()
        die_with_parent(server)
        for key in self._ready.get_map().values():
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
            else:
                os.close(key.fd)
        self._ready.close()
        for standard, given in enumerate(descriptors):
            os.dup2(given, standard)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        sys.path[0] = folder if words[0] == "-m" else str(Path(words[0]).parent)
        return list(words)

    def _ended(self, descriptor: int, of: tuple[int, socket.socket]) -> None:
        pid, asker = of
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        self._ready.unregister(descriptor)
        os.close(descriptor)
        del self._programs[asker]
        with suppress(KeyError, ValueError, OSError):  # it left first
            self._ready.unregister(asker)
            asker.send(str(code).encode())
        asker.close()


def main(address: str) -> None:
    """Load the libraries, serve, and run the program for which this process was forked."""
    import gc  # noqa: PLC0415  as above
    import importlib  # noqa: PLC0415  as above
    import runpy  # noqa: PLC0415  as above

    from reelkeeper.adapters.parent import die_with_parent  # noqa: PLC0415  as above

    die_with_parent()
    server = _Server(address)  # first: who asks meanwhile waits
    for name in LOADED:
        importlib.import_module(name)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # a run is told to close before it can listen
    gc.collect()
    gc.freeze()  # the pages of what is loaded stay shared
    words = server.serve()
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")


def short(address: str) -> str:
    """Write a socket's path within the kernel's limit of 107 bytes."""
    folder, name = os.path.split(address)
    return f"/proc/self/fd/{os.open(folder, os.O_PATH)}/{name}"


def _read_at_import(environment: "os._Environ[str] | dict[str, str]") -> dict[str, str]:
    return {name: value for name, value in environment.items() if not name.startswith(_EACH_RUNS)}


if __name__ == "__main__":
    if sys.flags.isolated:
        stand_for(sys.argv[1], sys.argv[2:])
    main(sys.argv[1])
