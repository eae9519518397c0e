"""Benchmark planning a whole catalogue against a bare SELECT of the same rows; and simulating policies on it.

Each runs in a fresh process. The floor is one statement that reads every row, fetched whole by the driver; planning
has the database count what a rule keeps in any case, judges the others, and saves the tenth that needs an action.
"""

import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from functools import partial
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any

import sqlalchemy as sa

from bench.report import REELKEEPER, Ran, Row, ran
from reelkeeper.model import KeptTogether, SearchTotals, Verdict, Video
from reelkeeper.operations.lifecycle.plans import stream_candidates
from reelkeeper.rules.core.tiers import SHIPPED
from reelkeeper.rules.lifecycle import regions, segments
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy, reason, refusals, verdicts
from reelkeeper.rules.lifecycle.savings import of_verdict
from reelkeeper.rules.lifecycle.selection import for_tiering
from reelkeeper.rules.lifecycle.transcode import EFFICIENT_CODECS
from reelkeeper.rules.lifecycle.worth import Payback, unopened
from reelkeeper.store.core.engine import open_engine, reading
from reelkeeper.store.core.schema import upgrade
from reelkeeper.store.lifecycle.plan_writer import add_verdicts, begin_plan
from reelkeeper.store.videos.videos import live_videos

AS_OF = datetime(2026, 11, 24, 2, tzinfo=UTC)
SMALL, LARGE, ROUNDS = 100_000, 300_000, 3  # videos, and repetitions
MAX_MB, MAX_SIMULATE_SECONDS = 120.0, 60.0  # the latter for a million videos


def measure() -> Iterator[Row]:
    """Time planning of 100,000 videos as a ratio to the bare SELECT; peak memory at 100,000 and at 300,000."""
    with tempfile.TemporaryDirectory() as folder:
        small, large = (_filled(Path(folder), size, AS_OF) for size in (SMALL, LARGE))
        bare, ours = (min(float(_child(what, small).output) for _ in range(ROUNDS)) for what in ("bare", "ours"))
        few, many = (_child("ours", store).peak_mb for store in (small, large))
    yield Row(f"plan {SMALL:,} videos: time", ours, "a bare SELECT", bare, 1.5)
    yield Row(f"plan {LARGE:,} videos: peak memory", many, "promised", MAX_MB, 1.0, "MB")
    yield Row(f"plan {LARGE:,} videos: peak memory", many, f"{SMALL:,}", few, 1.3, "MB")


def simulate() -> Iterator[Row]:
    """Measure `simulate lifecycle` of two policies and a year, at two sizes: CPU for a million videos, and memory."""
    with tempfile.TemporaryDirectory() as folder:
        document = Path(folder) / "other.yaml"
        document.write_text("lifecycle: {retire_below_views: 3, compress_below_views: 10}\n")
        command = [REELKEEPER, "simulate", "lifecycle", "--json", "--policy", str(document)]
        stores = [_filled(Path(folder), size, datetime.now(UTC)) for size in (SMALL, LARGE)]  # the command's own day
        few, many = (ran(command, REELKEEPER_STATE_DIR=str(store.parent)) for store in stores)
    a_million = (many.cpu - few.cpu) * 10**6 / (LARGE - SMALL)
    yield Row("simulate 1,000,000 videos: CPU", a_million, "promised", MAX_SIMULATE_SECONDS, 1.0)
    yield Row(f"simulate {LARGE:,} videos: peak memory", many.peak_mb, f"{SMALL:,}", few.peak_mb, 1.3, "MB")


def _filled(folder: Path, size: int, as_of: datetime) -> Path:
    """Create a store of live videos: three tiers, ages up to 89 days, most watched; a tenth needs an action."""
    path = folder / str(size) / "store.sqlite3"
    engine = open_engine(f"sqlite:///{path}")
    upgrade(engine)
    engine.dispose()
    rng, users, today = Random(size), size // 10, as_of.date()
    connection = sqlite3.connect(path)
    connection.executemany(
        "INSERT INTO users (id, tier) VALUES (?, ?)",
        ((f"u{n:06}", rng.choice(["free", "premium", "pro"])) for n in range(users)),
    )
    connection.executemany(
        "INSERT INTO videos (id, user_id, blob_id, generation, state, created_at, model, tag)"
        " VALUES (?, ?, NULL, 1, 'live', ?, ?, ?)",
        (
            (
                f"v{n:07}",
                f"u{n % users:06}",
                f"{as_of - timedelta(days=rng.uniform(0, 89)):%Y-%m-%d %H:%M:%S.%f}",
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
    connection.executemany("INSERT INTO daily_views VALUES (?, ?, ?)", _views(rng, size, today))
    connection.executemany(
        "INSERT INTO view_days VALUES (?)", ((str(today - timedelta(days=n)),) for n in range(1, 40))
    )
    connection.commit()
    connection.execute("ANALYZE")
    connection.close()
    return path


def _views(rng: Random, size: int, today: date) -> Iterator[tuple[str, str, int]]:
    days = [str(today - timedelta(days=n)) for n in range(1, 30)]
    for n in range(size):
        if (watched := rng.random()) > 0.09:  # noqa: PLR2004  the rest is cold and, if old, to be retired
            count = 1 if watched < 0.19 else 5  # noqa: PLR2004  a few views: cold, to be compressed
            for day in rng.sample(days, count):
                yield f"v{n:07}", day, 1 if count == 1 else rng.randrange(1, 50)


def _child(what: str, path: Path) -> Ran:
    return ran([sys.executable, "-m", "bench.plan", what, str(path)])


def _bare(engine: sa.Engine, path: Path) -> float:
    sent: list[tuple[str, Any]] = []
    sa.event.listen(engine, "before_cursor_execute", lambda _c, _k, sql, parameters, *_: sent.append((sql, parameters)))
    with reading(engine) as session:
        next(live_videos(session, AS_OF, classified=False))
    started = time.process_time()
    sqlite3.connect(path).cursor().execute(*sent[-1]).fetchall()
    return time.process_time() - started


def _ours(engine: sa.Engine, _: Path) -> float:
    started, policy = time.process_time(), LifecyclePolicy()
    plan_id = begin_plan(engine, "tier_storage", policy.model_dump(mode="json"), AS_OF, "bench")
    payback, kept = Payback(horizon_days=365), list[KeptTogether]()
    worth = partial(unopened, "h264", payback, SearchTotals())

    def judged(videos: Iterable[Video]) -> Iterator[Verdict]:
        return for_tiering(verdicts(videos, policy, SHIPPED, AS_OF, "recipe", worth=worth))

    names = regions.names(policy, SHIPPED, EFFICIENT_CODECS, refusals("recipe", AS_OF))
    found = judged(stream_candidates(engine, AS_OF, policy, judged, names, kept))
    saving = partial(of_verdict, policy=policy, tiers=SHIPPED, as_of=AS_OF, payback=payback)
    add_verdicts(engine, plan_id, chain(found, kept), reason, saving, segments.of_verdict)
    return time.process_time() - started


if __name__ == "__main__":
    print({"bare": _bare, "ours": _ours}[sys.argv[1]](open_engine(f"sqlite:///{sys.argv[2]}"), Path(sys.argv[2])))
