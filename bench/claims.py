"""Benchmark claims of 1 and of 64, however many jobs wait and whose, and a drain, in CPU of claimer and store."""

from collections.abc import Iterator
from datetime import timedelta
from itertools import product
from typing import Any

import psutil
import sqlalchemy as sa

from bench.report import Row
from bench.stores import analyze, postgres, sqlite
from reelkeeper.model.jobs import JobState
from reelkeeper.operations.jobs.claim import claim
from reelkeeper.rules.core.tiers import SHIPPED
from reelkeeper.rules.jobs import dispatch
from reelkeeper.rules.jobs.caps import Cap
from reelkeeper.rules.jobs.concurrency import ConcurrencyPolicy
from reelkeeper.store.core.engine import transaction
from reelkeeper.store.jobs import scores
from reelkeeper.store.tables import jobs, users
from tests.jobs import NOON, waiting
from tests.policies import put_in_force

CAPPED, WAITING = 10_000, (1_000, 100_000, 1_000_000)
USERS = {"of 500": 500, "of one user": 1, f"{CAPPED:,} capped in front": 500}
ROUNDS = {1: 40, 64: 5}  # by jobs of one claim: of the smallest queue, some are left
DRAINED, SLOTS, DRAIN_SECONDS = 100_000, 8, 250.0


def measure() -> Iterator[Row]:
    """Measure the CPU milliseconds of a claim, as a mean, and the CPU seconds of a drain."""
    for name, opened in (("PostgreSQL", postgres), ("SQLite", sqlite)):
        first = dict[tuple[str, int], float]()
        with opened() as (engine, _):
            put_in_force(engine, concurrency=ConcurrencyPolicy(caps=(Cap(scope="model:capped", jobs=1),)))
            for waits, (whose, people) in product(WAITING, USERS.items()):
                _fill(engine, waits, people, CAPPED * ("capped" in whose))
                _score(engine)
                for count, rounds in ROUNDS.items():
                    _claim(engine, count, 2)  # the cap is full now, and the statements are built
                    ours = _claim(engine, count, rounds) / rounds * 1_000
                    what, peer = f"{name}: a claim of {count}, {waits:,} wait {whose}", f"{WAITING[0]:,} wait"
                    yield Row(what, ours, peer, first.setdefault((whose, count), ours), 2.0, "ms")
            _fill(engine, DRAINED, 500, 0)
            began = _cpu(processes := _processes(engine))
            _score(engine)
            _claim(engine, SLOTS, DRAINED // SLOTS)
            yield Row(f"{name}: drain {DRAINED:,} by {SLOTS}", _cpu(processes) - began, "promise", DRAIN_SECONDS, 1.0)


def _processes(engine: sa.Engine) -> list[psutil.Process]:
    """List this process, and PostgreSQL's, whose first one has the CPU of those that end."""
    if engine.dialect.name == "sqlite":
        return [psutil.Process()]
    with engine.connect() as connection:
        server = psutil.Process(connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()).parent()
    return [psutil.Process(), server, *server.children()]


def _cpu(processes: list[psutil.Process]) -> float:
    return float(sum(sum(process.cpu_times()[:4]) for process in processes))


def _claim(engine: sa.Engine, count: int, times: int) -> float:
    """Claim `count` jobs `times` times, and end them; return the CPU seconds of the claims."""
    seconds, processes = 0.0, _processes(engine)
    for _ in range(times):
        began = _cpu(processes)
        job_ids = [job.id for job in claim(engine, "bench", [None] * count, limit=10**9)]
        seconds += _cpu(processes) - began
        with transaction(engine, "bench") as session:
            session.execute(sa.update(jobs).where(jobs.c.id.in_(job_ids)).values(state=JobState.SUCCEEDED))
    return seconds


def _score(engine: sa.Engine) -> None:
    lines, rank = None, dispatch.window(dispatch.DispatchPolicy(), SHIPPED)
    while rank and lines is None:
        with transaction(engine, "bench") as session:
            lines = scores.score(session, rank)
    analyze(engine)


def _fill(engine: sa.Engine, waits: int, people: int, capped: int) -> None:
    """Let a job come each second; of twenty users one is pro, and three are premium."""
    one = sa.select(sa.literal(0, sa.BigInteger).label("number")).cte("one", recursive=True)
    one = one.union_all(sa.select(one.c.number + 1).where(one.c.number < waits + capped - 1))
    n, whose, row = one.c.number, one.c.number % people, dict[str, sa.ColumnElement[Any]]()
    row |= {name: sa.literal(value, jobs.c[name].type) for name, value in waiting("").items() if value is not None}
    row |= dict.fromkeys(("id", "client_key", "cache_key"), "j" + sa.cast(n, sa.String))
    row |= {"user_id": "u" + sa.cast(whose, sa.String), "estimate_seconds": 120 + n * 7919 % 1009 / 2.0}
    row["model"] = sa.case((n < capped, "capped"), else_="m" + sa.cast(n % 3, sa.String))
    row["tier"] = sa.case({0: "pro", 1: "premium", 2: "premium", 3: "premium"}, value=whose % 20, else_="free")
    in_text = sa.func.strftime("%Y-%m-%d %H:%M:%f000", f"{NOON:%F %T}", sa.cast(n, sa.String) + " seconds")
    row["created_at"] = in_text if engine.dialect.name == "sqlite" else NOON + n * sa.literal(timedelta(seconds=1))
    with transaction(engine, "bench") as session:
        session.execute(sa.delete(jobs))
        session.execute(sa.delete(users))
        session.execute(sa.insert(users), [{"id": f"u{number}", "tier": "free"} for number in range(people)])
        session.execute(sa.insert(jobs).from_select(list(row), sa.select(*row.values())))
