"""Run one media tool with a wall-clock limit, a stall limit, and bounded output."""

import os
import re
import selectors
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import IO

from reelkeeper import disk
from reelkeeper.adapters.ffmpeg.intake import SCRATCH_REMEDY
from reelkeeper.adapters.ffmpeg.process import launched
from reelkeeper.adapters.ffmpeg.sandbox import Bounds, Walls
from reelkeeper.errors import MediaError, MediaTimeout, NotAVideo

_TICK_SECONDS = 0.5
_TAIL_BYTES = 4096
_OUTPUT_BYTES = 16 << 20
_FROM_OUTSIDE = {"SIGKILL", "SIGTERM", "SIGINT", "SIGHUP"}  # also the kernel's, when memory runs out
# Errors of the machine, and not of the file: trying again may help.
_TRANSIENT = ("Resource temporarily unavailable",)
_FULL = ("No space left on device", "Disk quota exceeded")
_RESERVED_BYTES = 1 << 14  # of stderr: on a full disk, the message that it is full would be lost first

# The most common errors, for readers who do not know ffmpeg's messages.
_PLAINLY = (
    (re.compile("moov atom not found"), "it has no index: it is truncated, or not a video"),
    (re.compile("Invalid data|[Cc]orrupt|[Tt]runcat|partial file|decod"), "it is truncated or damaged"),
)
_PUZZLING = "ffmpeg cannot process it"
_ORIGIN = re.compile(r"^(\[[^\]]*\]\s*)+|file:/\S+: ")  # [vist#0:0/h264 @ 0x55...] [dec:h264 @ 0x55...]
_ECHO = re.compile(r"Task finished|Terminating thread|Conversion failed|Error while filtering")  # of earlier messages
_MAX_WORDS = 200  # characters


@dataclass(frozen=True, slots=True)
class Progress:
    """ffmpeg's progress. `size_bytes` is None until the muxer has reported it."""

    frames: int = 0
    size_bytes: int | None = None
    seconds: str = ""


@dataclass(frozen=True, slots=True)
class Finished:
    """The result of a tool. `stopped` is True if the watcher ended it early."""

    returncode: int
    output: bytes
    complaints: str  # the end of its stderr
    cpu_seconds: float
    frames: int
    scratch_dir: Path
    stopped: bool = False

    def check(self, what: str, *, complaints: bool = False) -> "Finished":
        """Return self if the tool succeeded and, unless `complaints` are allowed, wrote nothing to stderr.

        Raises NotAVideo if the file is the cause, also of a crash of the tool; MediaError if the machine is, and
        DiskFull if its disk is full.
        """
        words = _digest(self.complaints) or "nothing on stderr"
        if self.returncode or self.complaints.strip():
            self._blame_the_disk()
        if self.returncode < 0:
            name = signal.Signals(-self.returncode).name
            blame = MediaError if name in _FROM_OUTSIDE else NotAVideo
            raise blame(f"{what}: ended by {name}; {words}")
        if any(word in self.complaints for word in _TRANSIENT):
            raise MediaError(f"{what}: {words}")
        if self.returncode or (self.complaints.strip() and not complaints):
            plainly = next((message for sign, message in _PLAINLY if sign.search(self.complaints)), _PUZZLING)
            raise NotAVideo(f"{plainly} ({what}, exit {self.returncode}: {words})")
        return self

    def _blame_the_disk(self) -> None:
        """Raise DiskFull if the tool reports a full disk, or the disk is full: the file is not the cause then."""
        role, remedy = "the disk that media tools write to", SCRATCH_REMEDY
        if any(word in self.complaints for word in _FULL):
            raise disk.full(self.scratch_dir, role, remedy)
        disk.require(self.scratch_dir, role, remedy)


def _digest(complaints: str) -> str:
    """Return the first two different messages of ffmpeg, without the names and addresses of its components."""
    lines = [_ORIGIN.sub("", line).strip() for line in complaints.splitlines()]
    messages = [line for line in dict.fromkeys(lines) if line and not _ECHO.match(line)]
    return shorten("; ".join(messages[:2]), _MAX_WORDS, placeholder=" ...")


Watch = Callable[[Progress], bool]


def run(
    argv: Sequence[str], *, scratch_dir: Path, bounds: Bounds, walls: Walls, watch: Watch | None = None
) -> Finished:
    """Run `argv` in the folder `scratch_dir`. `watch` gets the progress twice a second; if it returns True, stop.

    Whatever `watch` raises also ends the tool and is passed on. Raises MediaTimeout at the wall or stall limit.
    """
    with _reserved(scratch_dir) as errors, launched(argv, scratch_dir, bounds, walls, errors) as tool:
        reading = _Reading(tool.output, bounds, tool.name, watch)
        try:
            stopped = reading.to_the_end()
        except BaseException:
            tool.end()
            raise
        tool.output.close()
        ended = None if stopped else tool.wait()  # its output is closed: it is about to end
        returncode, cpu_seconds = ended or tool.end()
        complaints = _tail(errors)
    return Finished(
        returncode, bytes(reading.output), complaints, cpu_seconds, reading.progress.frames, scratch_dir, stopped
    )


def _reserved(scratch_dir: Path) -> IO[bytes]:
    """Open an unnamed file whose first bytes are already allocated on the disk."""
    file = tempfile.TemporaryFile(dir=scratch_dir)  # noqa: SIM115  the caller closes it
    try:
        os.posix_fallocate(file.fileno(), 0, _RESERVED_BYTES)
    except BaseException:
        file.close()
        raise
    return file


def _tail(errors: IO[bytes]) -> str:
    """Return the end of a reserved file's content, without the zeros of its unused space."""
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - max(_TAIL_BYTES, _RESERVED_BYTES)))
    return errors.read().rstrip(b"\0")[-_TAIL_BYTES:].decode(errors="replace")


class _Reading:
    """Reads a tool's stdout until it closes: progress lines if there is a watcher, else the output itself."""

    def __init__(self, pipe: IO[bytes], bounds: Bounds, name: str, watch: Watch | None) -> None:
        self.pipe, self.bounds, self.name, self.watch = pipe, bounds, name, watch
        self.output, self.progress = bytearray(), Progress()
        self.moved = time.monotonic()
        self.deadline = self.moved + bounds.wall_seconds
        self._fields: dict[str, str] = {}

    def to_the_end(self) -> bool:
        """Read until the end, or return True if the watcher stops it."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.pipe, selectors.EVENT_READ)
            while True:
                ready = selector.select(_TICK_SECONDS)
                self._check_clock()
                if ready:
                    chunk = os.read(self.pipe.fileno(), 65536)
                    if not chunk:
                        return False
                    self._take(chunk)
                if self.watch and self.watch(self.progress):
                    return True

    def _check_clock(self) -> None:
        now = time.monotonic()
        # guard sandbox.wall: a file blocks a worker for ever
        if now > self.deadline:
            raise MediaTimeout(f"{self.name} ran longer than its limit of {self.bounds.wall_seconds:.0f} s")
        # guard sandbox.stall: a file on which ffmpeg hangs blocks a worker for an hour
        if self.watch and now - self.moved > self.bounds.stall_seconds:
            raise MediaTimeout(f"{self.name} made no progress for {self.bounds.stall_seconds:.0f} s")

    def _take(self, chunk: bytes) -> None:
        self.output += chunk
        # guard sandbox.output: a file with an endless description fills our memory
        if len(self.output) > _OUTPUT_BYTES:
            raise NotAVideo(f"{self.name} wrote more than {_OUTPUT_BYTES >> 20} MiB about this file")
        if not self.watch:
            return
        *lines, rest = self.output.split(b"\n")
        self.output = bytearray(rest)
        for line in lines:
            key, _, value = line.decode(errors="replace").partition("=")
            self._fields[key] = value.strip()
            if key == "progress":
                self._note()

    def _note(self) -> None:
        frames, size = self._fields.get("frame", ""), self._fields.get("total_size", "")
        now = Progress(
            int(frames) if frames.isdigit() else 0,
            int(size) if size.isdigit() else None,
            self._fields.get("out_time_us", ""),
        )
        if now != self.progress:
            self.progress, self.moved = now, time.monotonic()
