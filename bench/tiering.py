"""Benchmark a tiering run on real clips, two at a time, against the same ffmpeg and ffprobe commands run directly.

The floor does the same work: each command of the pipeline (probe, encode, quality pass, full decode of the result) is
recorded with its arguments while the pipeline runs, and then run again directly, from a plain thread pool. The
difference is the cost of the sandbox, the checks and the bookkeeping.
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
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import psutil
import sqlalchemy as sa

from bench.report import Row
from reelkeeper.adapters.ffmpeg import command, probe
from reelkeeper.adapters.ffmpeg.runner import Finished, run
from reelkeeper.cli import orchestration
from reelkeeper.model import Grace, Outcome
from reelkeeper.model.requests import Incoming
from reelkeeper.operations.core.lease import LeaseManager
from reelkeeper.operations.core.workspace import open_workspace
from reelkeeper.operations.lifecycle import swap
from reelkeeper.operations.videos.upload import upload
from reelkeeper.rules.lifecycle.report import Report
from reelkeeper.settings import settings
from reelkeeper.store.core.engine import transaction
from reelkeeper.store.tables import users, view_days
from tests.clips import AAC, natural, tool
from tests.policies import put_in_force
from tests.shrinking import AT_ANY_PRICE

PARALLEL = 2  # with one thread each
ORCHESTRATION = 0.05  # of a run's CPU: the flow, its tasks, and the Prefect server's share
LIMIT = 1.1  # of the CPU and the wall time of the commands run by hand
_SIZES = ("426:240", "640:360", "854:480")
_CUTS = 11  # of each size; with the three clips this makes 33


class Spent(NamedTuple):
    """The cost of some work: CPU seconds of this process and its children, and wall seconds."""

    cpu_seconds: float
    wall_seconds: float


class Commands(NamedTuple):
    """Commands that ran in sequence in one folder, with their inputs kept for a second run."""

    scratch_dir: Path
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
    """Run `work` and measure its cost."""
    started, before = time.perf_counter(), _cpu_seconds()
    work()
    return Spent(_cpu_seconds() - before, time.perf_counter() - started)


def _cpu_seconds() -> float:
    """Return the CPU seconds of this process, its ended children, and the launcher with its media tools."""
    ours, theirs = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    launched = sum(sum(child.cpu_times()[:4]) for child in _children("launcher.py"))
    return ours.ru_utime + ours.ru_stime + theirs.ru_utime + theirs.ru_stime + launched


def _children(word: str) -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if word in " ".join(child.cmdline())]


@contextmanager
def recording(keep: Path) -> Iterator[list[Commands]]:
    """Record each command that this process gives to a media tool, and keep its inputs in the folder `keep`."""
    jobs: dict[Path, Commands] = {}
    lock = threading.Lock()

    def noted(argv: Sequence[str], *, scratch_dir: Path, **options: Any) -> Finished:  # noqa: ANN401  as run takes them
        links = {path: path.resolve() for path in scratch_dir.iterdir() if path.is_symlink()}
        kept = {path: _keep(target, keep) for path, target in links.items()}
        ended = run(argv, scratch_dir=scratch_dir, **options)
        if not ended.stopped:  # run directly, it would run to its end: leaving it out favours the floor
            with lock:
                jobs.setdefault(scratch_dir, Commands(scratch_dir, [])).commands.append(
                    [_with(kept, part) for part in argv]
                )
        return ended

    noting: list[Commands] = []
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


def by_hand(jobs: list[Commands], parallel: int = PARALLEL) -> Spent:
    """Run the recorded commands directly, `parallel` at a time. Raises CalledProcessError if one fails."""

    def work(job: Commands) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for argv in job.commands:
                moved = [part.replace(str(job.scratch_dir), folder) for part in argv]
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


@contextmanager
def deployed(folder: Path, sources: Sequence[Path]) -> Iterator[None]:
    """Configure this process for an embedded deployment in `folder` with `sources`, all cold."""
    told = {"REELKEEPER_STATE_DIR": str(folder), "REELKEEPER_WORKERS": str(PARALLEL)}
    with mock.patch.dict(os.environ, told):
        settings.cache_clear()
        orchestration.prepare(folder)
        with open_workspace(settings()) as workspace, LeaseManager(workspace.engine) as manager:
            now = datetime.now(UTC)
            put_in_force(workspace.engine, recipe=AT_ANY_PRICE)  # so short, none of them would pay for its CPU
            with transaction(workspace.engine, "bench") as session:
                session.execute(sa.insert(users).values(id="u", tier="pro"))
                days = [{"day": (now - timedelta(days=age)).date()} for age in range(1, 40)]
                session.execute(sa.insert(view_days), days)
            for number, source in enumerate(sources):
                (lease,) = manager.take([f"video/v{number}"])
                upload(
                    workspace,
                    source,
                    Incoming("u", f"v{number}", now - timedelta(days=10)),
                    scratch=settings().scratch,
                    lease=lease,
                    run_id="bench",
                    grace=Grace(),
                )
                manager.release([lease])
            yield
    settings.cache_clear()


@contextmanager
def timing_swaps() -> Iterator[list[float]]:
    """Record this process's CPU seconds for each video, without tools; everything else is orchestration."""
    noted: list[float] = []
    work = swap.swap

    def timed(*arguments: Any, **options: Any) -> Outcome:  # noqa: ANN401  as swap takes them
        started = time.thread_time()
        try:
            return work(*arguments, **options)
        finally:
            noted.append(time.thread_time() - started)

    with mock.patch.object(swap, "swap", timed):
        yield noted


def _server_seconds() -> float:
    """Return the CPU seconds of the Prefect server that this process started and that still runs."""
    return sum(sum(child.cpu_times()[:2]) for child in _children("prefect"))


def _own_seconds() -> float:
    spent = resource.getrusage(resource.RUSAGE_SELF)
    return spent.ru_utime + spent.ru_stime


def measure() -> list[Row]:
    """Run tier_storage on every clip, two at a time, then the same commands by hand.

    The Prefect server is started before the run, as with a schedule; its CPU during the run is counted.
    """
    sources = clips()
    with tempfile.TemporaryDirectory() as place:
        keep, state = Path(place, "keep"), Path(place, "state")
        keep.mkdir()
        with deployed(state, sources):
            from flows.tier_storage import tier_storage  # noqa: PLC0415  Prefect reads its settings as it is imported

            tier_storage()  # starts the server
            with recording(keep) as jobs, timing_swaps() as swaps:
                server, own = _server_seconds(), _own_seconds()
                reports: list[Report] = []
                ours = spend(lambda: reports.append(tier_storage(dry_run=False)))
                server, own = _server_seconds() - server, _own_seconds() - own
        floor = by_hand(jobs)
    done = {outcome.outcome: outcome for outcome in reports[0].done}
    compressed = done["compressed"]
    what = f"tiering run, {len(sources)} clips, {compressed.objects} accepted"
    cpu_seconds, prefect = ours.cpu_seconds + server, server + own - sum(swaps)
    return [
        Row(f"{what}: CPU", cpu_seconds, floor.cpu_seconds, cpu_seconds / floor.cpu_seconds, LIMIT),
        Row(f"{what}: wall", ours.wall_seconds, floor.wall_seconds, ours.wall_seconds / floor.wall_seconds, LIMIT),
        Row("orchestration, of the run: CPU", prefect, cpu_seconds, prefect / cpu_seconds, ORCHESTRATION),
        Row(
            "bytes after, of those before",
            compressed.after_bytes / 1e6,
            compressed.before_bytes / 1e6,
            compressed.after_bytes / compressed.before_bytes,
            None,
            "MB",
        ),
    ]
