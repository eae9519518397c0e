"""Benchmark claims on PostgreSQL, of 1 and of 64, however many jobs wait and whose they are, against bare SKIP LOCKED.

The bare peer takes the oldest jobs, in equal batches, without tiers, sizes, backlogs, limit or freeze.
"""

import random
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import product

import sqlalchemy as sa

from bench.postgres import analyze, postgres
from bench.report import Row
from reelkeeper.model.jobs import JobState
from reelkeeper.operations.jobs.claim import claim
from reelkeeper.rules.jobs.caps import Cap
from reelkeeper.rules.jobs.concurrency import ConcurrencyPolicy
from reelkeeper.store.core.engine import Clock, transaction
from reelkeeper.store.jobs.scores import BATCH
from reelkeeper.store.tables import jobs, users
from tests.policies import put_in_force

WAITING, AT_ONCE, ROUNDS, CAPPED = (1_000, 100_000, 1_000_000), (1, 64), 5, 10_000
USERS = {"of 500": 500, "of one user": 1, f"{CAPPED:,} capped in front": 500}
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def measure() -> Iterator[Row]:
    """Measure the milliseconds of a claim, the best of five rounds of each; all jobs have a score then."""
    first = dict[tuple[str, int], float]()
    with postgres() as (engine, _):
        put_in_force(engine, concurrency=ConcurrencyPolicy(caps=(Cap(scope="model:capped", jobs=1),)))
        for waiting, (whose, people) in product(WAITING, USERS.items()):
            _fill(engine, waiting, people, CAPPED * ("capped" in whose))
            for _ in range((waiting + CAPPED) // BATCH + 1):
                claim(engine, "bench", [None], limit=10**9)
            for count in AT_ONCE:
                work = partial(claim, engine, "bench", [None] * count, limit=10**9), partial(_bare, engine)
                ours, bare = (min(_timed(one) for _ in range(ROUNDS)) for one in work)
                what = f"a claim of {count}, {waiting:,} wait {whose}"
                yield Row(what, ours, f"{WAITING[0]:,} wait", first.setdefault((whose, count), ours), 2.0, "ms")
            yield Row(f"{what}, each", ours / count, "500 a second", 2.0, 1.0, "ms")
            yield Row(f"{what}, each", ours / count, "bare SKIP LOCKED", bare / count, None, "ms")


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1_000


def _bare(engine: sa.Engine) -> None:
    oldest = sa.select(jobs.c.id).where(jobs.c.state == JobState.QUEUED).order_by(jobs.c.created_at).limit(AT_ONCE[-1])
    taken = sa.update(jobs).where(jobs.c.id.in_(oldest.with_for_update(skip_locked=True)))
    with transaction(engine, "bench") as session:
        values = {"state": JobState.RUNNING, "lease_until": Clock(60), "claimed_by": "bare"}
        session.execute(taken.values(values).returning(jobs.c.id)).all()


def _fill(engine: sa.Engine, waiting: int, people_count: int, capped: int) -> None:
    chance = random.Random(7)
    people = [
        {"id": f"u{number}", "tier": chance.choices(["free", "premium", "pro"], [80, 15, 5])[0]}
        for number in range(people_count)
    ]
    with transaction(engine, "bench") as session:
        session.execute(sa.delete(jobs))
        session.execute(sa.delete(users))
        session.execute(sa.insert(users), people)
        for begin in range(0, waiting + capped, BATCH):
            some = range(begin, begin + BATCH)
            session.execute(sa.insert(jobs), [_job(number, chance, people, capped) for number in some])
    analyze(engine)


def _job(number: int, chance: random.Random, people: list[dict[str, str]], capped: int) -> dict[str, object]:
    owner, name = chance.choice(people), f"j{number}"
    return {
        "id": name,
        "user_id": owner["id"],
        "client_key": name,
        "request_sha256": name,
        "cache_key": name,
        "state": JobState.QUEUED,
        "tier": owner["tier"],
        "model": "capped" if number < capped else chance.choice(["a", "b", "c"]),
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
