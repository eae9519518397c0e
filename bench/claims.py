"""Benchmark claims on PostgreSQL, 64 at once, with 1,000 and with 100,000 waiting jobs, against bare SKIP LOCKED.

The bare peer takes the oldest jobs, in equal batches, without tiers, sizes, backlogs, limit or freeze.
"""

import random
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from bench.postgres import analyze, postgres
from bench.report import Row
from reelkeeper.model.jobs import JobState
from reelkeeper.operations.jobs.claim import claim
from reelkeeper.store.core.engine import Clock, transaction
from reelkeeper.store.tables import jobs, users

WAITING, AT_ONCE, ROUNDS, USERS = (1_000, 100_000), 64, 5, 500
PROMISED = 500.0  # claims a second
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def measure() -> Iterator[Row]:
    """Measure the milliseconds of a claim, the best of five alternating rounds of each."""
    took = dict[int, float]()
    with postgres() as (engine, _):
        for waiting in WAITING:
            _fill(engine, waiting)
            both = [(_timed(_ours, engine), _timed(_bare, engine)) for _ in range(ROUNDS)]
            ours, bare = map(min, zip(*both, strict=True))
            took[waiting] = ours
            what = f"a claim of {AT_ONCE}, each, {waiting:,} wait"
            yield Row(what, ours, "500 a second", 1_000 / PROMISED, 1.0, "ms")
            yield Row(what, ours, "bare SKIP LOCKED", bare, None, "ms")
    few, many = WAITING
    yield Row(f"a claim, {many:,} wait", took[many], f"{few:,} wait", took[few], 2.0, "ms")


def _timed(work: Callable[[sa.Engine], int], engine: sa.Engine) -> float:
    began = time.perf_counter()
    done = work(engine)
    return (time.perf_counter() - began) / done * 1_000


def _ours(engine: sa.Engine) -> int:
    return len(claim(engine, "bench", [None] * AT_ONCE, limit=10**9))


def _bare(engine: sa.Engine) -> int:
    oldest = sa.select(jobs.c.id).where(jobs.c.state == JobState.QUEUED).order_by(jobs.c.created_at).limit(AT_ONCE)
    taken = sa.update(jobs).where(jobs.c.id.in_(oldest.with_for_update(skip_locked=True)))
    with transaction(engine, "bench") as session:
        values = {"state": JobState.RUNNING, "lease_until": Clock(60), "claimed_by": "bare"}
        return len(session.execute(taken.values(values).returning(jobs.c.id)).all())


def _fill(engine: sa.Engine, waiting: int) -> None:
    chance = random.Random(7)
    people = [
        {"id": f"u{number}", "tier": chance.choices(["free", "premium", "pro"], [80, 15, 5])[0]}
        for number in range(USERS)
    ]
    with transaction(engine, "bench") as session:
        session.execute(sa.delete(jobs))
        session.execute(sa.delete(users))
        session.execute(sa.insert(users), people)
        session.execute(sa.insert(jobs), [_job(number, chance, people) for number in range(waiting)])
    analyze(engine)


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
