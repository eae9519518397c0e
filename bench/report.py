"""What a benchmark reports, and how it measures: rows of a table, and the CPU and wall seconds of a piece of work."""

import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Final, NamedTuple, TypeVar

from rich import box
from rich.table import Table

REELKEEPER: Final = str(Path(sys.executable).with_name("reelkeeper"))

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison in one run on one machine; smaller is better.

    `peer` names what ours is compared with: a bare implementation, another program or rule, or a promise. `limit` is
    the most that the ratio of ours to the peer's may be; None where the figure is only told.
    """

    what: str
    ours: float
    peer: str
    theirs: float
    limit: float | None
    unit: str = "s"

    @property
    def ratio(self) -> float:
        """Return ours to the peer's."""
        return self.ours / self.theirs if self.theirs else float("inf") if self.ours else 0.0

    @property
    def verdict(self) -> str:
        """Return "ok", "over", or an empty text without a limit. A ratio that is not a number is over."""
        if self.limit is None:
            return ""
        return "ok" if self.ratio <= self.limit else "over"


def table(title: str, rows: Iterable[Row]) -> Table:
    """Format the rows of one benchmark as a table."""
    laid = Table("what", title=title, title_justify="left", box=box.SIMPLE_HEAD)
    laid.add_column("ours", justify="right")
    laid.add_column("peer")
    for heading in ("theirs", "ratio", "limit"):
        laid.add_column(heading, justify="right")
    laid.add_column("verdict")
    for row in rows:
        limit = "" if row.limit is None else f"{row.limit:.2f}x"
        style = {"over": "bold red", "ok": "green"}.get(row.verdict, "default")
        figures = (row.peer, _amount(row.theirs, row), f"{row.ratio:.2f}x", limit)
        laid.add_row(row.what, _amount(row.ours, row), *figures, f"[{style}]{row.verdict}[/]")
    return laid


def _amount(value: float, row: Row) -> str:
    digits = ".0f" if abs(value) >= 100 else ".3g"  # noqa: PLR2004  three digits are enough to compare
    return f"{value:,{digits}} {row.unit}"


class Spent(NamedTuple):
    """Seconds of CPU and of wall time."""

    cpu: float
    wall: float


def spent(work: Callable[[], T]) -> tuple[T, Spent]:
    """Return the result of `work`, and what it took: this process, its threads, and the programs that it ran."""
    cpu, wall = _cpu(), time.perf_counter()
    result = work()
    return result, Spent(_cpu() - cpu, time.perf_counter() - wall)


def _cpu() -> float:
    ran = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in ran)


class Ran(NamedTuple):
    """What a process printed and took: CPU and wall seconds, and its largest resident memory in MB."""

    output: str
    cpu: float
    wall: float
    peak_mb: float


def ran(command: Sequence[str], folder: Path | None = None, **environment: str) -> Ran:
    """Run a process without settings of Reelkeeper's but those in `environment`. Raises RuntimeError where it fails."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("REELKEEPER_")} | environment
    started, peak_kb = time.monotonic(), 0
    with (
        tempfile.TemporaryFile("w+") as output,
        subprocess.Popen(command, env=kept, cwd=folder, stdout=output, stderr=subprocess.DEVNULL) as process,
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
    return Ran(text, used.ru_utime + used.ru_stime, time.monotonic() - started, peak_kb / 1000)


# Student's t, two-sided 95 %, by how many values there are: NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2
_STUDENT: Final = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean of at most 12 results, and the half width of its 95 % confidence interval; NaN for one."""
    if len(values) == 1:
        return values[0], float("nan")
    return fmean(values), _STUDENT[len(values) - 2] * stdev(values) / sqrt(len(values))
