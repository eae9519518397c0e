"""Child processes that are kept alive: started again when they die, and never left behind.

Each child dies with this process, by the kernel's word, however this one ends. It has a session of its own, so a Ctrl-C
in the terminal is for this process alone, which stops its children in order.
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

from reelkeeper.adapters.parent import before_exec
from reelkeeper.disk import make_folder

FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 1.0, 60.0
GOOD_LIFE_SECONDS: Final = 60.0  # after so long, a death is a new story
MAX_LOG_BYTES: Final = 20_000_000  # then it becomes NAME.log.1, in place of the one before
_TAIL_BYTES: Final = 2_000


@dataclass
class Part:
    """A program that is to run, and how long it may take to stop. `title` is what a person calls it."""

    name: str
    title: str
    argv: Sequence[str]
    log: Path
    stop_seconds: float
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    pause: float = 0.0
    due: float = 0.0  # when it is started again; monotonic

    @property
    def is_alive(self) -> bool:
        """Say whether it runs."""
        return self.process is not None and self.process.poll() is None

    def last_words(self) -> str:
        """Give the end of its log."""
        with contextlib.suppress(OSError):
            data = self.log.read_bytes()[-_TAIL_BYTES:]
            return data.decode(errors="replace").strip()
        return ""


class Supervisor:
    """The parts, in the order in which they were started. `tell` hears what happens to them, in plain words."""

    def __init__(self, environment: Mapping[str, str], tell: Callable[[str], None]) -> None:
        self.parts: list[Part] = []
        self._environment, self._tell = dict(environment), tell

    def start(self, part: Part) -> None:
        """Start a part and keep it alive from now on."""
        self.parts.append(part)
        self._spawn(part)

    def run(self, part: Part, *, until: Callable[[], bool], tick: Callable[[], None]) -> int | None:
        """Run a part once; None where `until` said to end it before its time. `tick` is called meanwhile."""
        self._spawn(part)
        while part.is_alive and not until():
            tick()
        was_left = part.is_alive
        _kill(part)
        return None if was_left or part.process is None else part.process.returncode

    def look(self) -> None:
        """Start again what has died, after a pause that grows while it goes on dying, and keep the logs small."""
        now = time.monotonic()
        for part in self.parts:
            if part.is_alive:
                continue
            if part.process is not None:
                code, part.process = part.process.returncode, None
                lived = now - part.started
                part.pause = FIRST_PAUSE_SECONDS if lived > GOOD_LIFE_SECONDS or not part.pause else part.pause * 2
                part.pause = min(part.pause, MAX_PAUSE_SECONDS)
                part.due = now + part.pause
                how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
                self._tell(f"{part.title} ended {how}; it is started again in {part.pause:.0f} s. See {part.log}")
            elif now >= part.due:
                self._spawn(part)
        for part in self.parts:
            _rotate(part.log)

    def stop(self, names: Sequence[str] = (), *, hurried: Callable[[], bool] = lambda: False) -> None:
        """Stop these parts, or all, the last started first; `hurried` is asked whether to kill them at once instead."""
        for part in [item for item in reversed(self.parts) if not names or item.name in names]:
            self.parts.remove(part)
            if part.is_alive and part.process:
                part.process.terminate()
                _wait(part, part.stop_seconds, hurried)
            _kill(part)

    def _spawn(self, part: Part) -> None:
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
        part.started = time.monotonic()


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
    """Keep a log from growing without end. Its writer appends, so it goes on at the new end."""
    if log.exists() and log.stat().st_size > MAX_LOG_BYTES:
        shutil.copyfile(log, log.with_name(log.name + ".1"))
        os.truncate(log, 0)
