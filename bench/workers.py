"""Benchmark four workers, one process each, on one plan of 33 cold clips, against one worker alone.

Each process compresses one video at a time. The best speed-up is two on two cores, and four on four.
"""

import os
import subprocess
import tempfile
import time
from pathlib import Path

from bench.day import prefect_server
from bench.report import Row
from bench.tiering import clips, deployed
from tests.flows.workers import workers

WORKERS = 4


def measure() -> list[Row]:
    """Tier the same clips with four workers and with one, each with its own bucket and store."""
    with tempfile.TemporaryDirectory() as folder, prefect_server(Path(folder)) as environment:
        address = {name: environment[name] for name in ("PREFECT_API_URL", "PREFECT_HOME")}
        four, one = _seconds(WORKERS, address), _seconds(1, address)
    return [Row(f"{WORKERS} workers on {os.cpu_count()} cores, to one: wall", four, one, four / one, None)]


def _seconds(count: int, address: dict[str, str]) -> float:
    """Return the wall time from the common start, after all imports, until the last worker has ended."""
    flows = ["tier_storage", *["transcode_videos"] * (count - 1)]
    with (
        tempfile.TemporaryDirectory() as place,
        deployed(Path(place), clips()),
        workers(flows, address | {"REELKEEPER_WORKERS": "1"}) as processes,
    ):
        started = time.perf_counter()
        for process in processes:
            process.communicate()
            if process.returncode:
                raise subprocess.CalledProcessError(process.returncode, process.args)
        return time.perf_counter() - started
