"""Shrinking real clips, two at a time, against the very same ffmpeg and ffprobe commands run by hand.

The floor is not a lesser job: each command of the pipeline (probe, encode, quality pass, full decode of the result)
is noted with its arguments while the pipeline runs, and then run again bare, from a plain pool of threads. What is
left between the two is what the sandbox, the checks and the bookkeeping cost.
"""

import os
import resource
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

from bench.report import Row
from reelkeeper.adapters.ffmpeg import command, probe
from reelkeeper.adapters.ffmpeg.runner import Finished, run
from reelkeeper.model import Transcode
from reelkeeper.operations.transcode import shrink, verify_stored
from tests.clips import AAC, natural, tool

PARALLEL = 2  # with one thread each
LIMIT = 1.1  # of the CPU and the wall time of the commands run by hand
_SIZES = ("426:240", "640:360", "854:480")
_CUTS = 11  # of each size; with the three clips this makes 33


class Spent(NamedTuple):
    """What a piece of work took: CPU seconds of this process and its children, and wall seconds."""

    cpu_seconds: float
    wall_seconds: float


class Job(NamedTuple):
    """Commands that one after another worked in one folder, with their inputs kept for a second run."""

    desk: Path
    commands: list[list[str]]


def clips() -> list[Path]:
    """Cut 33 clips of 1.5 to 3 s in three sizes from natural videos, as x264 CRF 18; kept for the next time."""
    folder = Path(tempfile.gettempdir()) / f"reelkeeper-bench-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    wanted = []
    for number in range(_CUTS * len(_SIZES)):
        name = ("bunny", "bikes", "city")[number % 3]
        start, seconds = 0.2 * (number // 3), 1.5 + 0.5 * (number % 4)
        target = folder / f"{number}.mp4"
        if not target.exists():
            size = ["-vf", f"scale={_SIZES[number // 3 % 3]}:flags=area,setsar=1", "-c:v", "libx264"]
            coded = [*size, "-pix_fmt", "yuv420p", "-preset", "medium", "-crf", "18", *AAC]
            draft = tool("-ss", str(start), "-t", str(seconds), "-i", str(natural(name)), *coded, str(folder / "d.mp4"))
            draft.rename(target)
        wanted.append(target)
    return wanted


def spend(work: Callable[[], object]) -> Spent:
    """Run `work` and see what it took."""
    started, before = time.perf_counter(), _cpu_seconds()
    work()
    return Spent(_cpu_seconds() - before, time.perf_counter() - started)


def _cpu_seconds() -> float:
    ours, theirs = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return ours.ru_utime + ours.ru_stime + theirs.ru_utime + theirs.ru_stime


@contextmanager
def recording(keep: Path) -> Iterator[list[Job]]:
    """Note each command that this process gives to a media tool, and keep in the folder `keep` what it read."""
    jobs: dict[Path, Job] = {}
    lock = threading.Lock()

    def noted(argv: Sequence[str], *, desk: Path, **options: Any) -> Finished:  # noqa: ANN401  as run takes them
        links = {path: path.resolve() for path in desk.iterdir() if path.is_symlink()}
        kept = {path: _keep(target, keep) for path, target in links.items()}
        ended = run(argv, desk=desk, **options)
        if not ended.stopped:  # by hand it would run to its end: leaving it out favours the floor
            with lock:
                jobs.setdefault(desk, Job(desk, [])).commands.append([_with(kept, part) for part in argv])
        return ended

    noting: list[Job] = []
    with mock.patch.object(command, "run", noted), mock.patch.object(probe, "run", noted):
        yield noting
    noting += jobs.values()


def _keep(target: Path, keep: Path) -> Path:
    copy = keep / f"{target.stat().st_ino}-{target.stat().st_size}-{target.name}"
    if not copy.exists():
        copy.hardlink_to(target) if target.stat().st_dev == keep.stat().st_dev else shutil.copy(target, copy)
    return copy


def _with(kept: dict[Path, Path], part: str) -> str:
    for link, copy in kept.items():
        part = part.replace(f"file:{link}", f"file:{copy}")
    return part


def by_hand(jobs: list[Job], parallel: int = PARALLEL) -> Spent:
    """Run the noted commands bare, `parallel` at a time. A command that fails raises CalledProcessError."""

    def work(job: Job) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for argv in job.commands:
                moved = [part.replace(str(job.desk), folder) for part in argv]
                subprocess.run(
                    moved,
                    cwd=folder,
                    env=os.environ | {"SVT_LOG": "1"},
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    check=True,
                )

    with ThreadPoolExecutor(parallel) as pool:
        return spend(lambda: list(pool.map(work, jobs)))


def _shrink_all(sources: list[Path], scratch: Path) -> list[Transcode]:
    def one(source: Path) -> Transcode | None:
        result = shrink(source, scratch)
        if not isinstance(result, Transcode):
            return None
        media = result.media
        told = {"codec": media.codec, "frames": media.frames, "duration_seconds": media.duration_seconds}
        verify_stored(Path(result.path), SimpleNamespace(sha256=result.sha256, size_bytes=result.size_bytes, **told))
        return result

    with ThreadPoolExecutor(PARALLEL) as pool:
        return [result for result in pool.map(one, sources) if result]


def measure() -> list[Row]:
    """Shrink and verify every clip, then run the same commands by hand."""
    sources = clips()
    with tempfile.TemporaryDirectory() as place:
        keep, scratch = Path(place, "keep"), Path(place, "scratch")
        keep.mkdir()
        scratch.mkdir()
        results: list[Transcode] = []
        with recording(keep) as jobs:
            ours = spend(lambda: results.extend(_shrink_all(sources, scratch)))
        floor = by_hand(jobs)
    before, after = sum(path.stat().st_size for path in sources), sum(result.size_bytes for result in results)
    what = f"shrink {len(sources)} clips, {len(results)} accepted"
    return [
        Row(f"{what}: CPU", ours.cpu_seconds, floor.cpu_seconds, ours.cpu_seconds / floor.cpu_seconds, LIMIT),
        Row(f"{what}: wall", ours.wall_seconds, floor.wall_seconds, ours.wall_seconds / floor.wall_seconds, LIMIT),
        Row("bytes after, of those before", after / 1e6, before / 1e6, after / before, None, "MB"),
    ]
