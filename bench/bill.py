"""A bill by user of 1,000,000 daily charges against the same aggregation in bare SQL, each in a fresh process.

Ours opens the store, adds up in the database, and writes every user's row like the command with --format csv. Both work
inside their process, so CPU time is compared, which does not depend on the machine's load.
"""

import contextlib
import io
import json
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from random import Random

from bench.report import Row
from reelkeeper.cli.commands.bill import write_charges
from reelkeeper.store.core.engine import open_engine, reading
from reelkeeper.store.core.schema import upgrade

FIRST, LAST = date(2026, 11, 1), date(2026, 11, 30)
ROWS, USERS, SERVICES = 1_000_000, 8_334, ("r2-storage", "r2-class-b", "compute", "api")  # 30 days of each
ROUNDS = 3
_COLUMNS = (
    "day, sku, user_id, service, tier, consumed_quantity, consumed_unit, list_nanousd, billed_nanousd, price_book, "
    "estimated"
)
_BARE = """
SELECT user_id, max(tier), sum(list_nanousd), sum(billed_nanousd) FROM charges
WHERE day BETWEEN ? AND ? GROUP BY user_id ORDER BY sum(list_nanousd) DESC
"""


def measure() -> list[Row]:
    """Time the bill by user as a ratio to the bare statement."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store.sqlite3"
        fill(path)
        runs: dict[str, list[dict[str, float]]] = {"bare": [], "ours": []}
        for what in [*runs] * ROUNDS:
            runs[what].append(_child(what, path))
    assert {run["users"] for both in runs.values() for run in both} == {USERS}  # noqa: S101  both did all of it
    bare, ours = (min(run["seconds"] for run in runs[what]) for what in ("bare", "ours"))
    return [Row(f"bill by user of {ROWS:,} charges: CPU time", ours, bare, ours / bare, 3.0, "s")]


def fill(path: Path) -> None:
    """Create a store with a month of charges."""
    engine = open_engine(f"sqlite:///{path}")
    upgrade(engine)
    engine.dispose()
    connection = sqlite3.connect(path)
    insert = f"INSERT INTO charges ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608  constants of ours
    connection.executemany(insert, _charges())
    connection.commit()
    connection.close()


def _charges() -> Iterator[tuple[object, ...]]:
    rng, made = Random(ROWS), 0
    for day in range(30):
        for service in SERVICES:
            for user in range(USERS):
                if made < ROWS:
                    made += 1
                    nanousd = rng.randrange(10**8)
                    whose = f"u{user:06}"
                    yield (
                        *(str(FIRST + timedelta(days=day)), f"{service}-standard", whose, service, "free"),
                        *(rng.randrange(10**9), "Byte-Days", nanousd, nanousd, "r2-2026-11", False),
                    )


def _child(what: str, path: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.bill", what, str(path)]
    finished = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    answer: dict[str, float] = json.loads(finished.stdout)
    return answer


def _bare(path: Path) -> None:
    connection = sqlite3.connect(path)
    started = time.process_time()
    rows = connection.execute(_BARE, (str(FIRST), str(LAST))).fetchall()
    print(json.dumps({"seconds": time.process_time() - started, "users": len(rows)}))


def _ours(path: Path) -> None:
    engine, out = open_engine(f"sqlite:///{path}"), io.StringIO()
    started = time.process_time()
    with reading(engine) as session, contextlib.redirect_stdout(out):
        write_charges(session, "csv", "user", FIRST, LAST)
    seconds = time.process_time() - started
    print(json.dumps({"seconds": seconds, "users": out.getvalue().count("\n") - 1}))


if __name__ == "__main__":
    {"bare": _bare, "ours": _ours}[sys.argv[1]](Path(sys.argv[2]))
