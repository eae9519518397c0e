"""Benchmark `simulate lifecycle` on catalogues of `bench.plan`: CPU for 1,000,000 videos, and constant memory.

It simulates two policies and keeping everything, for a year. Each command runs in its own process.
"""

import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from bench import plan
from bench.report import Row

SIZES = (100_000, 300_000)
SECONDS_A_MILLION = 60.0
OTHER = "lifecycle: {retire_below_views: 3, compress_below_views: 10}\n"


def measure() -> list[Row]:
    """Measure the command's CPU at two sizes, scaled to a million videos; compare its peak memory at both."""
    found: dict[int, tuple[float, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        plan.AS_OF = datetime.now(UTC)  # the command's reference time
        document = Path(folder) / "other.yaml"
        document.write_text(OTHER)
        for size in SIZES:
            state = Path(folder) / str(size)
            state.mkdir(mode=0o700)
            plan.fill(state / "store.sqlite3", size)
            found[size] = _run(state, document)
    small, large = SIZES
    a_million = (found[large][0] - found[small][0]) * 10**6 / (large - small)
    return [
        Row("simulate 1,000,000 videos: CPU, to a minute", a_million, 60.0, a_million / SECONDS_A_MILLION, 1.0, "s"),
        Row(
            "simulate 300,000 videos: peak memory, to that at 100,000",
            found[large][1] / 1e6,
            found[small][1] / 1e6,
            found[large][1] / found[small][1],
            1.3,
            "MB",
        ),
    ]


def _run(state: Path, document: Path) -> tuple[float, float]:
    """Run the command; return its CPU seconds and peak memory in bytes."""
    command = [sys.executable, str(Path(sys.executable).with_name("reelkeeper"))]
    command += ["simulate", "lifecycle", "--policy", str(document), "--json"]
    child = subprocess.Popen(
        command, env=os.environ | {"REELKEEPER_STATE_DIR": str(state)}, stdout=subprocess.DEVNULL, cwd=state
    )
    _, status, used = os.wait4(child.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss * 1024.0
