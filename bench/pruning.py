"""Compare the cache with S3-FIFO and W-TinyLFU of the same size, on seven kinds of requests.

The figure is the share of the cost that is still spent. W-TinyLFU has two variants, with the paper's window and with an
adaptive one. The interval is of the difference, 95 %, over the seeds. `unlimited` keeps everything.
"""

from itertools import product
from statistics import fmean

from bench.report import Row
from bench.simulation import interval
from bench.simulation.cache import CACHES, GB, serve
from bench.simulation.traces import TRACES

SEEDS, DAYS, SIZES_GB = (11, 12, 13), 30, (10, 50, 200)
SHOWN = ("ours", "S3-FIFO", "W-TinyLFU", "W-TinyLFU, climbing", "unlimited")
LEAD = 0.005  # by which a public cache may be better


def measure() -> list[Row]:
    """Return the share of the cost without a cache that is still spent, by trace and size."""
    return [row for trace, size_gb in product(TRACES, SIZES_GB) for row in _rows(trace, size_gb)]


def _rows(trace: str, size_gb: int) -> list[Row]:
    spent: dict[str, list[float]] = {name: [] for name in SHOWN}
    for seed in SEEDS:
        coming = list(TRACES[trace](seed=seed, days=DAYS))
        for name, of_one in spent.items():
            of_one.append(1 - serve(name, CACHES[name](size_gb * GB), coming).cost_hits)
    best = min(SHOWN[1:-1], key=lambda name: fmean(spent[name]))
    ours, rows = fmean(spent["ours"]), []
    for name in (*SHOWN[1:-1], "unlimited"):
        floor = fmean(spent[name])
        apart, half = interval([100 * (mine - theirs) for mine, theirs in zip(spent["ours"], spent[name], strict=True)])
        what = f"{trace}, {size_gb} GB: {apart:+.1f} points, give or take {half:.1f}; floor: {name}"
        rows.append(
            Row(what, ours, floor, ours / floor, (floor + LEAD) / floor if name == best else None, "of the cost")
        )
    return rows
