"""Keep child processes alive: restart them when they die, and never leave one behind.

The kernel kills each child when this process ends, however it ends. Each child has its own session, so a Ctrl-C in the
terminal reaches only this process, which stops its children in order.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from reelkeeper import disk
from reelkeeper.adapters.parent import before_exec
from reelkeeper.disk import make_folder

FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 1.0, 60.0
GOOD_LIFE_SECONDS: Final = 60.0  # after this time alive, the pause before a restart is short again
MAX_LOG_BYTES: Final = 20_000_000  # then it replaces NAME.log.1
_NOT_STARTED: Final = 127  # the exit code of a program that could not be started, as in a shell
_TAIL_BYTES: Final = 2_000


@dataclass
class Part:
    """A program to keep running, and how long it may take to stop. `title` is its name in messages."""

    name: str
    title: str
    argv: Sequence[str]
    log: Path
    stop_seconds: float
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    pause: float = 0.0
    due: float = 0.0  # when to restart it; monotonic

    @property
    def is_alive(self) -> bool:
        """Check whether it runs."""
        return self.process is not None and self.process.poll() is None

    def last_words(self) -> str:
        """Return the end of its log."""
        with contextlib.suppress(OSError):
            data = self.log.read_bytes()[-_TAIL_BYTES:]
            return data.decode(errors="replace").strip()
        return ""

    def last_line(self) -> str:
        """Return the last line of its log: of an error, the sentence without its traceback."""
        return self.last_words().rpartition("\n")[2].rstrip(".")


class Supervisor:
    """The parts, in the order in which they were started. `tell` receives a sentence about each event."""

    def __init__(self, environment: Mapping[str, str], tell: Callable[[str], None]) -> None:
        self.parts: list[Part] = []
        self._environment, self._tell = dict(environment), tell

    def start(self, part: Part) -> None:
        """Start a part and keep it alive from now on."""
        self.parts.append(part)
        self._spawn(part)

    def run(self, part: Part, *, until: Callable[[], bool], tick: Callable[[], None]) -> int | None:
        """Run a part once; return its exit code, or None if `until` stopped it early. `tick` is called meanwhile."""
        if not self._spawn(part):
            return _NOT_STARTED
        while part.is_alive and not until():
            tick()
        was_left = part.is_alive
        _kill(part)
        return None if was_left or part.process is None else part.process.returncode

    def look(self) -> None:
        """Restart parts that have died, after a pause that grows while they keep dying, and rotate large logs."""
        now = time.monotonic()
        for part in self.parts:
            if part.is_alive:
                continue
            if part.process is not None:
                code, part.process = part.process.returncode, None
                how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
                self._pause(part, f"ended {how}", was_good=now - part.started > GOOD_LIFE_SECONDS)
            elif now >= part.due:
                self._spawn(part)
        for part in self.parts:
            _rotate(part.log)

    def stop(self, names: Sequence[str] = (), *, hurried: Callable[[], bool] = lambda: False) -> None:
        """Stop these parts at the same time, or all, the last started first.

        If `hurried` becomes true, they are killed at once.
        """
        if not names:
            for part in reversed(self.parts[:]):
                self.stop([part.name], hurried=hurried)
        stopping = [part for part in self.parts if part.name in names]
        for part in stopping:
            self.parts.remove(part)
            if part.process and part.is_alive:
                part.process.terminate()
        for part in stopping:
            _wait(part, part.stop_seconds, hurried)
            _kill(part)

    def _pause(self, part: Part, what: str, *, was_good: bool = False) -> None:
        part.pause = FIRST_PAUSE_SECONDS if was_good or not part.pause else part.pause * 2
        part.pause = min(part.pause, MAX_PAUSE_SECONDS)
        part.due = time.monotonic() + part.pause
        self._tell(f"{part.title} {what}; it restarts in {part.pause:.0f} s. See {part.log}")

    def _spawn(self, part: Part) -> bool:
        """Start a part's process; return whether it began. One that is kept alive is due again after a pause."""
        try:
            make_folder(part.log.parent)
            with part.log.open("ab") as log:
                part.process = subprocess.Popen(
                    part.argv,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self._environment,
                    start_new_session=True,
                    preexec_fn=before_exec(),  # noqa: PLW1509  it calls only what was loaded before the fork
                )
        # guard up.not_started: want of memory for a moment, or an update of its program, ends all parts and their runs
        except OSError as error:
            why = f"did not start ({error})"
            if part in self.parts:
                self._pause(part, why)
            else:  # it was to run once
                self._tell(f"{part.title} {why}")
            return False
        part.started = time.monotonic()
        return True


def _kill(part: Part) -> None:
    if part.process:
        if part.is_alive:
            part.process.kill()
        part.process.wait()


def _wait(part: Part, seconds: float, hurried: Callable[[], bool]) -> None:
    ends = time.monotonic() + seconds
    while part.is_alive and time.monotonic() < ends and not hurried():
        time.sleep(0.1)


def _rotate(log: Path) -> None:
    """Copy a log aside and truncate it, once there is room for it. Its writer appends: it continues at the new end."""
    size_bytes = log.stat().st_size if log.exists() else 0
    # guard up.room_for_logs: `up` ends with all its parts, as its disk is full, and does not go on once it has room
    if size_bytes > MAX_LOG_BYTES and disk.look(log).free_bytes > size_bytes:
        shutil.copyfile(log, log.with_name(log.name + ".1"))
        os.truncate(log, 0)
