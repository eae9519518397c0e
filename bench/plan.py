"""Benchmark planning a whole catalogue against a bare SELECT of the same rows, each in a fresh process.

The floor is the statement that planning sends, fetched completely by the driver; planning also builds videos from the
rows, judges each, and saves the tenth of them that needs an action, with reasons. Policy segments are measured in
pairs: the same catalogue with a policy that has segments of every kind, and with one that has none.
"""

import json
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import sqlalchemy as sa

from bench.report import Row
from reelkeeper.model import SearchTotals
from reelkeeper.rules.core.tiers import SHIPPED
from reelkeeper.rules.lifecycle import segments
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy, reason, verdicts
from reelkeeper.rules.lifecycle.savings import of_verdict
from reelkeeper.rules.lifecycle.segments import Segment
from reelkeeper.rules.lifecycle.selection import for_tiering
from reelkeeper.rules.lifecycle.worth import Payback, unopened
from reelkeeper.store.core.engine import open_engine, reading
from reelkeeper.store.core.schema import upgrade
from reelkeeper.store.lifecycle.plan_writer import add_verdicts, begin_plan
from reelkeeper.store.videos.videos import live_videos

AS_OF = datetime(2026, 11, 24, 2, tzinfo=UTC)
SIZES = (100_000, 300_000)
ROUNDS = 3
SEGMENTS = (5, 20)
PAIRS = 5


def measure() -> list[Row]:
    """Time planning of 100,000 videos as a ratio to the bare SELECT; peak memory at 100,000 and at 300,000."""
    with tempfile.TemporaryDirectory() as folder:
        peaks = {}
        for size in SIZES:
            path = Path(folder) / f"{size}.sqlite3"
            fill(path, size)
            runs = {what: [_child(what, path) for _ in range(ROUNDS)] for what in ("bare", "ours")}
            peaks[size] = max(run["peak_bytes"] for run in runs["ours"]) / 1e6
            if size == SIZES[0]:
                bare, ours = (min(run["seconds"] for run in runs[what]) for what in ("bare", "ours"))
            if size == SIZES[0]:
                ratios = {count: _beside_none(path, count) for count in SEGMENTS}
    return [
        *(
            Row(f"plan by {count} segments, to none: CPU", *seconds, seconds[0] / seconds[1], 1.2, "s")
            for count, seconds in ratios.items()
        ),
        Row("plan 100,000 videos: time", ours, bare, ours / bare, 3.0, "s"),
        Row("plan 100,000 videos: peak memory, to its limit", peaks[SIZES[0]], 400.0, peaks[SIZES[0]] / 400, 1.0, "MB"),
        Row(
            "plan 300,000 videos: peak memory, to that at 100,000",
            peaks[SIZES[1]],
            peaks[SIZES[0]],
            peaks[SIZES[1]] / peaks[SIZES[0]],
            1.3,
            "MB",
        ),
    ]


def fill(path: Path, size: int) -> None:
    """Create a store of `size` live videos: three tiers, ages up to 400 days, most watched; a tenth needs an action."""
    engine = open_engine(f"sqlite:///{path}")
    upgrade(engine)
    engine.dispose()
    rng = Random(size)
    users, today = size // 10, AS_OF.date()
    connection = sqlite3.connect(path)
    tiers = [f"u{n:06}" for n in range(users)]
    connection.executemany(
        "INSERT INTO users (id, tier) VALUES (?, ?)", ((user, rng.choice(["free", "premium", "pro"])) for user in tiers)
    )
    connection.executemany(
        "INSERT INTO videos (id, user_id, blob_id, generation, state, created_at, model, tag)"
        " VALUES (?, ?, NULL, 1, 'live', ?, ?, ?)",
        (
            (
                f"v{n:07}",
                f"u{n % users:06}",
                f"{AS_OF - timedelta(days=rng.uniform(0, 89)):%Y-%m-%d %H:%M:%S.%f}",
                f"model-{n % 30}",
                f"tag-{n % 50}" if n % 3 else None,
            )
            for n in range(size)
        ),
    )
    connection.executemany(
        "INSERT INTO blobs (id, video_id, generation, key, is_ours, state, size_bytes, codec)"
        " VALUES (?, ?, 1, ?, 0, 'live', ?, ?)",
        (
            (n + 1, f"v{n:07}", f"videos/v{n:07}", rng.randrange(10**6, 10**8), rng.choice(["h264", "h264", "vp9"]))
            for n in range(size)
        ),
    )
    connection.execute("UPDATE videos SET blob_id = (SELECT b.id FROM blobs b WHERE b.video_id = videos.id)")
    connection.executemany("INSERT INTO daily_views VALUES (?, ?, ?)", _views(rng, size))
    connection.executemany(
        "INSERT INTO view_days VALUES (?)", ((str(today - timedelta(days=n)),) for n in range(1, 40))
    )
    connection.commit()
    connection.execute("ANALYZE")
    connection.close()


def _views(rng: Random, size: int) -> Iterator[tuple[str, str, int]]:
    days = [str(AS_OF.date() - timedelta(days=n)) for n in range(1, 30)]
    for n in range(size):
        watched = rng.random()
        if watched > 0.09:  # noqa: PLR2004  the rest is cold and, if old, to be retired
            count = 1 if watched < 0.19 else 5  # noqa: PLR2004  a few views: cold, to be compressed
            for day in rng.sample(days, count):
                yield f"v{n:07}", day, 1 if count == 1 else rng.randrange(1, 50)


def segmented(count: int) -> LifecyclePolicy:
    """Create a policy of `count` segments, by tag, model, key, and size and tier in turn, each for some videos."""

    def conditions(n: int) -> tuple[dict[str, Any], ...]:
        sizes = {"min_bytes": n * 10**6, "max_bytes": (n + 1) * 10**6, "tiers": ("free", "premium")}
        return {"tags": (f"tag-{n}",)}, {"models": (f"model-{n}",)}, {"key_globs": (f"videos/*{n:02}",)}, sizes

    return LifecyclePolicy(segments=tuple(Segment(name=f"s{n}", **conditions(n)[n % 4]) for n in range(count)))


def _beside_none(path: Path, count: int) -> tuple[float, float]:
    """Time planning with `count` segments and with none; return the CPU seconds of the pair with the median ratio."""
    pairs = [tuple(_child("ours", path, n)["cpu_seconds"] for n in (count, 0)) for _ in range(PAIRS)]
    (some, none) = sorted(pairs, key=lambda pair: pair[0] / pair[1])[PAIRS // 2]
    return some, none


def _child(what: str, path: Path, segments: int = 0) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.plan", what, str(path), str(segments)]
    finished = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    answer: dict[str, float] = json.loads(finished.stdout)
    return answer


def _statement(engine: sa.Engine) -> tuple[str, Any]:
    """Catch the statement that streams the videos, with its parameters."""
    sent: list[tuple[str, Any]] = []
    sa.event.listen(engine, "before_cursor_execute", lambda _c, _k, sql, parameters, *_: sent.append((sql, parameters)))
    with reading(engine) as session:
        next(live_videos(session, AS_OF, classified=False))
    return sent[-1]


def _bare(path: Path, _segments: int) -> int:
    engine = open_engine(f"sqlite:///{path}")
    sql, parameters = _statement(engine)
    engine.dispose()
    connection = sqlite3.connect(path)
    started = time.perf_counter()
    rows = connection.cursor().execute(sql, parameters).fetchall()
    _say(time.perf_counter() - started)
    return len(rows)


def _ours(path: Path, count: int) -> int:
    engine, policy = open_engine(f"sqlite:///{path}"), segmented(count)
    started, cpu = time.perf_counter(), time.process_time()
    plan_id = begin_plan(engine, "tier_storage", policy.model_dump(mode="json"), AS_OF, "bench")
    payback = Payback(horizon_days=365)
    worth = partial(unopened, "h264", payback, SearchTotals())
    with reading(engine) as session:
        live = live_videos(session, AS_OF, classified=bool(policy.segments))
        judged = for_tiering(verdicts(live, policy, SHIPPED, AS_OF, "recipe", worth=worth))
        saving = partial(of_verdict, policy=policy, tiers=SHIPPED, as_of=AS_OF, payback=payback)
        summary = add_verdicts(engine, plan_id, judged, reason, saving, segments.of_verdict)
    _say(
        time.perf_counter() - started,
        cpu_seconds=time.process_time() - cpu,
        acted_on=summary.retire.objects + summary.compress.objects,
    )
    return summary.population.objects


def _say(seconds: float, **more: float) -> None:
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    print(json.dumps({"seconds": seconds, "peak_bytes": int(peak[1]) * 1024 if peak else 0, **more}))


if __name__ == "__main__":
    {"bare": _bare, "ours": _ours}[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
