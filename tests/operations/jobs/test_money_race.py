"""Many processes spend, store and settle for the same users: nobody overdraws, pays twice or exceeds a quota.

Quick here, in the long suite with 8 processes of 500 operations each, and ten times that in make test-soak.
"""

import multiprocessing
import random
import secrets
import time
from collections import Counter
from multiprocessing.process import BaseProcess
from typing import NamedTuple

import pytest
import sqlalchemy as sa
from sqlmodel import Session

from reelkeeper.errors import HoldClosed, InsufficientCredits, QuotaExceeded
from reelkeeper.model.money import HoldState, ReservationState, TransferKind
from reelkeeper.operations.billing import ledger, quota
from reelkeeper.operations.health import accounts
from reelkeeper.store.core.engine import open_engine, reading, transaction
from reelkeeper.store.tables import accounts as balances
from reelkeeper.store.tables import credit_holds, storage_accounts, transfers
from tests.children import FORKED
from tests.operations.books import make_user, store_video
from tests.policies import put_in_force
from tests.tiers import tiers

USERS = ["ann", "bob", "eve"]
START = 1_500  # micro-dollars of each: less than is asked for
POLICY = tiers(free={"quota_bytes": 1_500})  # and so is this
JOBS = 40  # shared by all processes: each is admitted, and settled, by whoever comes first, and asked again by others


class RacedJob(NamedTuple):
    """A piece of work that several processes do at once, as after a crash: the same in each of them."""

    id: str
    user: str
    amount: int
    captured: int


def work(
    url: str, label: str, seed: int, operations: int, results: "multiprocessing.SimpleQueue[tuple[int, int]]"
) -> None:
    """Deduct, hold, capture, release, reserve, store and give back at random."""
    engine, chance = open_engine(url), random.Random(seed)
    done = refused = 0
    for number in range(operations):
        name = f"{label} {number // JOBS}-{chance.randrange(JOBS)}"
        of_job = random.Random(name)
        amount = of_job.randint(1, 60)
        job = RacedJob(name, f"{of_job.choice(USERS)} {label}", amount, of_job.randint(0, amount))
        try:
            match chance.randrange(6):
                case 0:
                    granted = ledger.deduct_user_credits(engine, job.user, job.amount, f"once {job.id}")
                case 1:
                    granted = ledger.deduct_user_credits(engine, job.user, job.amount, f"{label} {seed}-{number}")
                case 2 | 3 as way:
                    granted = _spend(engine, job, capture=way == 2)
                case way:
                    granted = _store(engine, job, arrives=way == 4)
        except (InsufficientCredits, QuotaExceeded, HoldClosed):
            granted = False
        done, refused = done + granted, refused + (not granted)
    engine.dispose()
    results.put((done, refused))


def _spend(engine: sa.Engine, job: RacedJob, *, capture: bool) -> bool:
    with transaction(engine, "test") as session:
        held = ledger.hold(session, job.user, job.amount, f"hold {job.id}", run_id="race", lasting_seconds=600)
    with transaction(engine, "test") as session:
        if capture:
            ledger.capture(session, str(held.hold_id), job.captured, f"win {job.id}", run_id="race")
        else:
            ledger.release(session, str(held.hold_id), f"lose {job.id}", run_id="race")
    return True


def _store(engine: sa.Engine, job: RacedJob, *, arrives: bool) -> bool:
    with transaction(engine, "test") as session:
        quota.reserve(session, job.user, job.amount, job.id, lasting_seconds=600)
    with transaction(engine, "test") as session:
        reservation = quota.reserve(session, job.user, job.amount, job.id, lasting_seconds=600)
        if not arrives:
            quota.release(session, job.id)
        elif reservation.state == ReservationState.OPEN:
            store_video(session, job.user, job.id, job.captured)  # at most what was promised
            quota.settle(session, job.id)
    return True


def race(engine: sa.Engine, label: str, processes: int, operations: int) -> tuple[int, int, float]:
    """Run processes on the same users; return the numbers done and refused, and the seconds taken."""
    results: multiprocessing.SimpleQueue[tuple[int, int]] = FORKED.SimpleQueue()
    url, seed = engine.url.render_as_string(hide_password=False), secrets.randbelow(10**6)
    print(f"seed {seed}")  # noqa: T201  shown where it fails
    children: list[BaseProcess] = [
        FORKED.Process(target=work, args=(url, label, seed + number, operations, results))
        for number in range(processes)
    ]
    put_in_force(engine, tiers=POLICY)
    for user in USERS:
        make_user(engine, f"{user} {label}", START)
    began = time.monotonic()
    for child in children:
        child.start()
    while any(child.is_alive() for child in children):
        time.sleep(0.05)
        with reading(engine) as session:
            _assert_within_bounds(session)
    seconds = time.monotonic() - began
    assert [child.exitcode for child in children] == [0] * processes
    counts = [results.get() for _ in children]
    return sum(done for done, _ in counts), sum(refused for _, refused in counts), seconds


def _assert_within_bounds(session: Session) -> None:
    """At any moment: no balance below zero, and nobody above the quota."""
    least = sa.select(sa.func.min(balances.c.balance_microusd)).where(balances.c.user_id.is_not(None))
    assert session.execute(least).scalar_one() >= 0
    most = sa.select(sa.func.max(storage_accounts.c.used_bytes + storage_accounts.c.reserved_bytes))
    assert (session.execute(most).scalar_one() or 0) <= POLICY.quota_bytes()["free"]


def check(engine: sa.Engine, granted: int) -> None:
    """Everything adds up, each hold was settled at most once, and no credit came from nowhere or went there."""
    assert accounts.recount(engine) == []
    with reading(engine) as session:
        _assert_within_bounds(session)
        settled: Counter[str] = Counter()
        for kind, hold_id in session.execute(sa.select(transfers.c.kind, transfers.c.hold_id)):
            settled[hold_id] += kind in (TransferKind.CAPTURE, TransferKind.RELEASE)
        for row in session.execute(sa.select(credit_holds)):
            assert settled[row.id] == (row.state != HoldState.OPEN), (
                f"hold {row.id} was settled {settled[row.id]} times"
            )
        of_users = sa.select(sa.func.sum(balances.c.balance_microusd)).where(balances.c.user_id.is_not(None))
        spent = sa.select(sa.func.sum(credit_holds.c.captured_microusd))
        assert session.execute(of_users).scalar_one() + session.execute(spent).scalar_one() == granted


@pytest.mark.long
@pytest.mark.parametrize("rounds", [1, pytest.param(10, marks=pytest.mark.soak)])
def test_eight_processes_keep_the_books(rounds: int, engine: sa.Engine, capsys: pytest.CaptureFixture[str]) -> None:
    rates = []
    for round_number in range(rounds):
        done, refused, seconds = race(engine, f"round {round_number}", processes=8, operations=500)
        assert done
        assert refused
        rates.append((done + refused) / seconds)
        check(engine, START * len(USERS) * (round_number + 1))
    with capsys.disabled():
        print(f"\n{engine.dialect.name}: {min(rates):,.0f} to {max(rates):,.0f} operations/s of 8 processes")  # noqa: T201  the figure that this is run for
