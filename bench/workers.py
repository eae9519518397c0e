"""Four workers, a process each, on one plan of 33 cold clips, against one worker alone: what their sharing gives.

Each process compresses one video at a time. Two times as fast is what two cores can give, and four what four can.
"""

import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import IO, cast

from bench.day import prefect_server
from bench.report import Row
from bench.tiering import clips, deployed

WORKERS = 4


def measure() -> list[Row]:
    """Tier the same clips with four workers and with one, each time in a bucket and a store of their own."""
    with tempfile.TemporaryDirectory() as folder, prefect_server(Path(folder)) as environment:
        address = {name: environment[name] for name in ("PREFECT_API_URL", "PREFECT_HOME")}
        four, one = _seconds(WORKERS, address), _seconds(1, address)
    return [Row(f"{WORKERS} workers on {os.cpu_count()} cores, to one: wall", four, one, four / one, None)]


def _seconds(count: int, address: dict[str, str]) -> float:
    """Wall time from the start of all, with everything imported, until the last has ended."""
    flows = ["tier_storage", *["transcode_videos"] * (count - 1)]
    with tempfile.TemporaryDirectory() as place, deployed(Path(place), clips()), ExitStack() as stack:
        environment = os.environ | address | {"REELKEEPER_WORKERS": "1"}
        processes = []
        for flow in flows:
            command = [sys.executable, "-m", "tests.flows.worker_process", flow]
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            processes.append(stack.enter_context(process))
            stack.callback(process.kill)
        for process in processes:
            cast("IO[str]", process.stdout).readline()
        started = time.perf_counter()
        for process in processes:
            begin = cast("IO[str]", process.stdin)
            begin.write("go\n")
            begin.flush()
        for process in processes:
            process.communicate()
            if process.returncode:
                raise subprocess.CalledProcessError(process.returncode, process.args)
        return time.perf_counter() - started
