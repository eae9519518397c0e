"""Benchmark `reelkeeper scan` of a million objects against a bare boto3 pagination: CPU, time and memory.

Both are processes of their own, and so is the server, which makes up its pages (bench/s3/counted.py).
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.report import Row

SIZE = 1_000_000
MAX_CPU, MAX_MB = 0.4, 150
_BARE = (
    "import sys; from tests.buckets import bare_boto3; from reelkeeper.adapters.s3.seaweed import Endpoint; "
    "pages = bare_boto3(Endpoint(sys.argv[1], 'key', 'secret')).get_paginator('list_objects_v2')"
    ".paginate(Bucket='reelkeeper', Prefix='u/'); print(sum(len(page['Contents']) for page in pages))"
)


def measure() -> list[Row]:
    """Measure one run of each."""
    with serving() as url, tempfile.TemporaryDirectory() as folder:
        bare, bare_cpu, bare_wall, _ = _run([sys.executable, "-c", _BARE, url], {}, Path.cwd())
        command = [str(Path(sys.executable).with_name("reelkeeper")), "scan", "--json"]
        settings = {"S3_ENDPOINT_URL": url, "S3_ACCESS_KEY_ID": "key", "S3_SECRET_ACCESS_KEY": "secret", "PREFIX": "u/"}
        ours, cpu, wall, peak_mb = _run(command, settings, Path(folder))
        if (int(bare), json.loads(ours)["total"]["objects"]) != (SIZE, SIZE) or any(Path(folder).iterdir()):
            raise RuntimeError(f"bare boto3 listed {bare}, scan {ours[:300]}")
    return [
        Row(f"{SIZE:,} objects, scan, to a bare boto3 listing: CPU", cpu, bare_cpu, cpu / bare_cpu, MAX_CPU),
        Row(f"{SIZE:,} objects, scan, to a bare boto3 listing: time", wall, bare_wall, wall / bare_wall, None),
        Row(f"{SIZE:,} objects, scan: peak memory, to its limit", peak_mb, MAX_MB, peak_mb / MAX_MB, 1.0, "MB"),
    ]


@contextmanager
def serving() -> Iterator[str]:
    """Serve the listings, and give their address."""
    command = [sys.executable, "-m", "bench.s3.counted", str(SIZE)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            yield f"http://127.0.0.1:{server.stdout.readline().strip()}" if server.stdout else ""
        finally:
            server.terminate()


def _run(command: Sequence[str], settings: dict[str, str], folder: Path) -> tuple[str, float, float, float]:
    """Run a process; return its output, CPU and wall seconds, and its largest resident memory in MB."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("REELKEEPER_")}
    surroundings = kept | {f"REELKEEPER_{name}": value for name, value in settings.items()}
    started, peak_kb = time.monotonic(), 0
    with (
        tempfile.TemporaryFile("w+") as output,
        subprocess.Popen(command, env=surroundings, cwd=folder, stdout=output, stderr=subprocess.DEVNULL) as process,
    ):
        while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            # not ru_maxrss: that of a new process begins with the memory of the one that started it
            found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
            peak_kb = max(peak_kb, int(found[1]) if found else 0)
            time.sleep(0.05)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    if process.returncode:
        raise RuntimeError(f"{command}: exit code {process.returncode}")
    return text, used.ru_utime + used.ru_stime, time.monotonic() - started, peak_kb / 1000
