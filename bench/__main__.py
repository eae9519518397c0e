"""`python -m bench [--strict] [NAME ...]`: run the named benchmarks, or all, and print their results.

The exit code is 1 if a benchmark failed, and with --strict also if a ratio is over its limit; without it, that is 0,
since a busy machine is not a defect.
"""

import argparse
import importlib
import sys
import time
import traceback
from collections.abc import Iterable
from typing import Final

from rich.console import Console

from bench.report import Row, table

BENCHES: Final = {  # command -> the function that measures, read when it is asked for
    "anomalies": "bench.anomalies:measure",
    "api": "bench.api:measure",
    "claims": "bench.claims:measure",
    "concurrency": "bench.concurrency:measure",
    "forecasts": "bench.forecasts:measure",
    "listing": "bench.listing:measure",
    "plan": "bench.plan:measure",
    "pruning": "bench.pruning:measure",
    "purging": "bench.purging:measure",
    "queue": "bench.queue:measure",
    "scan": "bench.listing:scan",
    "simulate": "bench.plan:simulate",
    "webhooks": "bench.webhooks:measure",
    "worth": "bench.worth:measure",
}


def main() -> int:
    """Run and print the benchmarks; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Ratios against named peers and floors")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one or more of {', '.join(BENCHES)}; all by default")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a ratio is over its limit")
    asked = parser.parse_args()
    if unknown := set(asked.names) - set(BENCHES):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; choose from {', '.join(BENCHES)}")

    console, found, failed = Console(), list[Row](), list[str]()
    for name in asked.names or BENCHES:
        console.print(f"{name} ...", style="dim")
        started, rows = time.monotonic(), list[Row]()
        try:
            for row in _measured(name):
                rows.append(row)  # rows before a failure count
        except Exception:  # noqa: BLE001  one benchmark that fails must not hide what the others find
            traceback.print_exc()
            failed.append(name)
        console.print(table(f"{name}, {time.monotonic() - started:.0f} s", rows))
        found += rows

    promised = [row for row in found if row.verdict]
    over = [row for row in promised if row.verdict == "over"]
    console.print(f"{len(promised) - len(over)} of {len(promised)} ratios within their limits", style="bold")
    for row in over:
        console.print(f"over: {row.what}, to {row.peer}: {row.ratio:.2f}x", style="red")
    for name in failed:
        console.print(f"failed: {name}", style="red")
    return 1 if failed or (asked.strict and over) else 0


def _measured(name: str) -> Iterable[Row]:
    module, _, function = BENCHES[name].partition(":")
    rows: Iterable[Row] = getattr(importlib.import_module(module), function)()
    return rows


if __name__ == "__main__":
    sys.exit(main())
