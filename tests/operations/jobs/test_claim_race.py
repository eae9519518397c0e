"""Many workers share one queue, and some are killed or suspended: each job is completed exactly once.

Quick here, and in the long suite at full size: 4,000 jobs, 8 processes, on each database.
"""

import os
import random
import secrets
import signal
import time
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import sqlalchemy as sa

from reelkeeper.model.jobs import JobState
from reelkeeper.operations.jobs.claim import claim
from reelkeeper.store.core.engine import open_engine, reading, transaction
from reelkeeper.store.jobs import endings
from reelkeeper.store.tables import jobs
from tests.children import FORKED
from tests.operations.books import make_user
from tests.operations.queue import enqueue, expire_claims, row

SLOTS = 16


def work(url: str, name: str, effects: str, jobs_in_all: int, seconds: float) -> None:
    """Run jobs until all are done: the effect of each is a line in a file, written after its claim is settled."""
    os.environ["PGAPPNAME"] = str(os.getpid())  # what PostgreSQL knows it by
    engine, chance = open_engine(url), random.Random(name)
    with Path(effects).open("a", buffering=1) as lines:
        while True:
            held = claim(engine, name, [None] * SLOTS, limit=10 * SLOTS)
            for job in held:
                time.sleep(chance.random() * seconds)
                with transaction(engine, "test.settle") as session:
                    if endings.end(session, *job.fence, JobState.SUCCEEDED, cost_microusd=None) is None:
                        continue
                lines.write(f"{job.id}\n")
            if not held:
                with reading(engine) as session:
                    done = sa.select(sa.func.count()).where(jobs.c.state == JobState.SUCCEEDED)
                    if session.execute(done).scalar_one() == jobs_in_all:
                        break
                time.sleep(0.05)
    engine.dispose()


def start(engine: sa.Engine, folder: Path, number: int, jobs_in_all: int, seconds: float) -> BaseProcess:
    url, effects = engine.url.render_as_string(hide_password=False), str(folder / f"{number}.txt")
    name = f"worker {number} {secrets.token_hex(2)}"
    child = FORKED.Process(target=work, args=(url, name, effects, jobs_in_all, seconds))
    child.start()
    return child


def race(engine: sa.Engine, folder: Path, *, jobs_in_all: int, processes: int, seconds: float, victims: int) -> None:
    """Run them all; meanwhile kill a worker, or put one to sleep past its claims, `victims` times."""
    make_user(engine, "ann")
    for first in range(0, jobs_in_all, 500):
        enqueue(engine, *(row(f"j{n}") for n in range(first, min(first + 500, jobs_in_all))))
    children = [start(engine, folder, number, jobs_in_all, seconds) for number in range(processes)]
    try:
        _disturb(engine, folder, children, jobs_in_all, seconds, victims)
        while any(child.is_alive() for child in children):
            time.sleep(0.5)
            if victims:
                expire_claims(engine)
    finally:
        for child in children:  # one that sleeps would never end
            child.kill()
    assert {child.exitcode for child in children} <= {0, -signal.SIGKILL}
    settled = Counter(line for path in folder.glob("*.txt") for line in path.read_text().split())
    assert not {job: times for job, times in settled.items() if times > 1}, "run to its end more than once"
    assert len(settled) >= jobs_in_all - victims  # a kill between a settlement and its line loses the line alone
    with reading(engine) as session:
        states = dict(session.execute(sa.select(jobs.c.state, sa.func.count()).group_by(jobs.c.state)).all())
        attempts = session.execute(sa.select(sa.func.max(jobs.c.attempts))).scalar_one()
    assert states == {JobState.SUCCEEDED: jobs_in_all}
    assert victims or attempts == 1, "given out twice"


def _disturb(
    engine: sa.Engine, folder: Path, children: list[BaseProcess], jobs_in_all: int, seconds: float, victims: int
) -> None:
    asleep: list[int] = []
    for number in range(victims):
        wait_for_progress(folder, (number + 1) * jobs_in_all // (victims + 2))
        victim = children[number % len(children)]
        assert victim.pid
        if number % 2:
            put_to_sleep(engine, victim.pid)
            asleep.append(victim.pid)
        else:
            victim.kill()
            victim.join()
            children.append(start(engine, folder, len(children), jobs_in_all, seconds))
        expire_claims(engine)  # also those of workers that are well: they find out as they settle
    for pid in asleep:
        os.kill(pid, signal.SIGCONT)


def put_to_sleep(engine: sa.Engine, pid: int) -> None:
    """Stop a worker, but not within a transaction, where it has SQLite's only lock or that of all who claim."""
    for _ in range(100):
        os.kill(pid, signal.SIGSTOP)
        if not is_within_a_transaction(engine, pid):
            return
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.01)
    raise AssertionError("it is never caught outside a transaction")


def is_within_a_transaction(engine: sa.Engine, pid: int) -> bool:
    """Whether this stopped worker is. On PostgreSQL what it has sent goes on without it, and may wait for a lock."""
    if engine.dialect.name == "postgresql":
        time.sleep(0.1)  # what it has sent has begun by then
        busy = sa.text("SELECT count(*) FROM pg_stat_activity WHERE application_name = :name AND state <> 'idle'")
        with engine.connect() as connection:
            return bool(connection.execute(busy, {"name": str(pid)}).scalar_one())
    with engine.connect().execution_options(sqlite_begin="DEFERRED") as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout = 200")
        try:
            connection.execute(sa.update(jobs).values(progress=jobs.c.progress))
        except sa.exc.OperationalError:
            return True
        else:
            return False
        finally:
            connection.rollback()
            connection.exec_driver_sql("PRAGMA busy_timeout = 30000")


def wait_for_progress(folder: Path, wanted: int) -> None:
    deadline = time.monotonic() + 240
    while sum(path.read_text().count("\n") for path in folder.glob("*.txt")) < wanted:
        assert time.monotonic() < deadline, "the workers do not get on"
        time.sleep(0.05)


def test_some_workers_share_a_queue_and_each_job_is_claimed_once(engine: sa.Engine, tmp_path: Path) -> None:
    race(engine, tmp_path, jobs_in_all=200, processes=2, seconds=0.0, victims=0)


@pytest.mark.long
def test_eight_workers_of_which_some_are_killed_or_asleep_run_4000_jobs_once_each(
    engine: sa.Engine, tmp_path: Path
) -> None:
    race(engine, tmp_path, jobs_in_all=4_000, processes=8, seconds=0.002, victims=12)
