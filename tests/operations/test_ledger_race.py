"""Many processes spend and settle one another's credits at once: nobody overdraws, nobody pays twice.

Quick here, and in the long suite at full size: 8 processes, 500 operations each, 10 times, on each database.
"""

import multiprocessing
import random
import secrets
import time
from collections import Counter
from multiprocessing.process import BaseProcess

import pytest
import sqlalchemy as sa

from reelkeeper.errors import HoldClosed, InsufficientCredits
from reelkeeper.model.money import HoldState, Moved, TransferKind
from reelkeeper.operations import ledger
from reelkeeper.store.engine import open_engine, reading, transaction
from reelkeeper.store.tables import accounts, credit_holds, transfers
from tests.operations.books import assert_books_balance, make_user

USERS = ["ann", "bob", "eve"]
START = 2_000  # micro-dollars of each: far less than is asked for
JOBS = 40  # shared by all processes: each is admitted, and settled, by whoever comes first, and asked again by others


def spend(
    url: str, label: str, seed: int, operations: int, results: "multiprocessing.SimpleQueue[tuple[int, int]]"
) -> None:
    """Ask for holds, captures, releases and deductions at random; most keys are asked for by other processes too."""
    engine, chance = open_engine(url), random.Random(seed)
    done = refused = 0
    for number in range(operations):
        user, amount = f"{chance.choice(USERS)} {label}", chance.randint(1, 60)
        job = f"{label} {number // JOBS}-{chance.randrange(JOBS)}"  # the same user and amount in every process
        choice = random.Random(job)
        job_user, job_amount = f"{choice.choice(USERS)} {label}", choice.randint(1, 60)
        try:
            match chance.randrange(4):
                case 0:
                    ledger.deduct_user_credits(engine, job_user, job_amount, f"once {job}")
                case 1:
                    _run_job(engine, job, job_user, job_amount, captured=choice.randint(0, job_amount))
                case 2:
                    _run_job(engine, job, job_user, job_amount, captured=None)
                case _:
                    ledger.deduct_user_credits(engine, user, amount, f"{label} {seed}-{number}")
            done += 1
        except (InsufficientCredits, HoldClosed):
            refused += 1
    engine.dispose()
    results.put((done, refused))


def _run_job(engine: sa.Engine, job: str, user: str, amount: int, *, captured: int | None) -> Moved:
    with transaction(engine, "test") as session:
        held = ledger.hold(session, user, amount, f"hold {job}", run_id="race", lasting_seconds=600)
    with transaction(engine, "test") as session:
        if captured is None:
            return ledger.release(session, str(held.hold_id), f"lose {job}", run_id="race")
        return ledger.capture(session, str(held.hold_id), captured, f"win {job}", run_id="race")


def race(engine: sa.Engine, label: str, processes: int, operations: int) -> tuple[int, int, float]:
    """Let processes loose on the same users; returns what was done and refused, and the seconds it took."""
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.SimpleQueue[tuple[int, int]] = context.SimpleQueue()
    url, seed = engine.url.render_as_string(hide_password=False), secrets.randbelow(10**6)
    print(f"seed {seed}")  # noqa: T201  shown where it fails
    children: list[BaseProcess] = [
        context.Process(target=spend, args=(url, label, seed + number, operations, results))
        for number in range(processes)
    ]
    for user in USERS:
        make_user(engine, f"{user} {label}", START)
    began = time.monotonic()
    for child in children:
        child.start()
    for child in children:
        child.join(280)
        assert child.exitcode == 0
    counts = [results.get() for _ in children]
    return sum(done for done, _ in counts), sum(refused for _, refused in counts), time.monotonic() - began


def check(engine: sa.Engine, granted: int) -> None:
    """Nobody's balance is below zero, all entries sum to zero, and each hold was paid for at most once."""
    with reading(engine) as session:
        assert_books_balance(session)
        settled: Counter[str] = Counter()
        for kind, hold_id in session.execute(sa.select(transfers.c.kind, transfers.c.hold_id)):
            settled[hold_id] += kind in (TransferKind.CAPTURE, TransferKind.RELEASE)
        del settled[None]  # grants have no hold
        for one in session.execute(sa.select(credit_holds)):
            assert settled[one.id] == (one.state != HoldState.OPEN), (
                f"hold {one.id} was settled {settled[one.id]} times"
            )
        of_users = sa.select(sa.func.sum(accounts.c.balance_microusd)).where(accounts.c.user_id.is_not(None))
        spent = sa.select(sa.func.sum(credit_holds.c.captured_microusd))
        assert session.execute(of_users).scalar_one() + session.execute(spent).scalar_one() == granted


@pytest.mark.timeout(600)
def test_some_processes_at_once_keep_the_books(engine: sa.Engine) -> None:
    done, refused, _ = race(engine, "once", processes=3, operations=60)
    assert done
    assert refused
    check(engine, START * len(USERS))


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_eight_processes_at_once_ten_times_keep_the_books(
    engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = []
    for round_number in range(10):
        done, refused, seconds = race(engine, f"round {round_number}", processes=8, operations=500)
        rates.append((done + refused) / seconds)
        check(engine, START * len(USERS) * (round_number + 1))
    with capsys.disabled():
        print(f"\n{engine.dialect.name}: {min(rates):,.0f} to {max(rates):,.0f} operations/s of 8 processes")  # noqa: T201  the figure that this is run for
