"""The ledger against a plain dictionary: 10,000 random steps, with balanced books after each.

A failing run prints the steps that led there, and the seed of pytest-randomly replays them.
"""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlmodel import Session

from reelkeeper.errors import AmountRefused, HoldClosed, InsufficientCredits, KeyReused
from reelkeeper.model.money import HoldState
from reelkeeper.operations.billing import ledger
from reelkeeper.store.billing.ledger import balance
from reelkeeper.store.core.engine import Clock, open_engine, transaction
from reelkeeper.store.tables import credit_holds, users
from tests.operations.books import assert_books_balance

USERS = st.sampled_from(["ann", "bob", "eve"])
AMOUNTS = st.integers(1, 120)
STEPS = 100  # of an example, at most


@dataclass
class Held:
    """A hold as the model knows it."""

    user: str
    amount: int
    state: HoldState = HoldState.OPEN
    captured: int = 0
    refunded: int = 0
    overdue: bool = False


class LedgerMachine(RuleBasedStateMachine):
    """Every operation in any order, with keys used again; the model is what a person would write down."""

    migrated: ClassVar[Path]
    steps: ClassVar[int] = 0
    holds = Bundle("holds")
    keys = Bundle("keys")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="reelkeeper-ledger-")
        path = Path(self.folder.name) / "store.sqlite3"
        shutil.copyfile(self.migrated, path)
        self.engine = open_engine(f"sqlite:///{path}")
        sa.event.listen(self.engine, "connect", _hurry)
        self.money: dict[str, int] = {"ann": 0, "bob": 0, "eve": 0}
        self.held: dict[str, Held] = {}
        self.used: dict[str, tuple[str, str, int]] = {}  # key -> what was granted with it: a user, an amount
        self.count = 0
        with transaction(self.engine, "test") as session:
            session.execute(sa.insert(users), [{"id": user} for user in self.money])

    def teardown(self) -> None:
        self.engine.dispose()
        self.folder.cleanup()

    def key(self) -> str:
        self.count += 1
        return f"key {self.count}"

    @initialize()
    def begin_with_something(self) -> None:
        self.grant("ann", 100)

    @rule(target=keys, user=USERS, amount=AMOUNTS)
    def grant(self, user: str, amount: int) -> str:
        key = self.key()
        with transaction(self.engine, "test") as session:
            ledger.grant(session, user, amount, key, run_id="test")
        self.money[user] += amount
        self.used[key] = ("grant", user, amount)
        return key

    @rule(key=keys, user=USERS, amount=AMOUNTS)
    def grant_with_a_used_key(self, key: str, user: str, amount: int) -> None:
        same = self.used[key] == ("grant", user, amount)
        self.expect(
            None if same else KeyReused, lambda session: ledger.grant(session, user, amount, key, run_id="test")
        )

    @rule(target=holds, user=USERS, amount=AMOUNTS)
    def hold(self, user: str, amount: int) -> object:
        key = self.key()
        with transaction(self.engine, "test") as session:
            try:
                moved = ledger.hold(session, user, amount, key, run_id="test", lasting_seconds=600)
            except InsufficientCredits:
                assert amount > self.money[user]
                return multiple()
            again = ledger.hold(session, user, amount, key, run_id="test", lasting_seconds=600)
            assert again == moved
        assert amount <= self.money[user]
        self.money[user] -= amount
        self.held[str(moved.hold_id)] = Held(user, amount)
        return moved.hold_id

    @rule(hold_id=holds, amount=st.integers(0, 120))
    def capture(self, hold_id: str, amount: int) -> None:
        hold = self.held[hold_id]
        wrong = HoldClosed if hold.state != HoldState.OPEN else AmountRefused if amount > hold.amount else None
        key = self.key()
        self.expect(wrong, lambda session: ledger.capture(session, hold_id, amount, key, run_id="test"))
        if wrong is None:
            hold.state, hold.captured = HoldState.CAPTURED, amount
            self.money[hold.user] += hold.amount - amount

    @rule(hold_id=holds)
    def release(self, hold_id: str) -> None:
        hold = self.held[hold_id]
        wrong = HoldClosed if hold.state != HoldState.OPEN else None
        key = self.key()
        self.expect(wrong, lambda session: ledger.release(session, hold_id, key, run_id="test"))
        if wrong is None:
            hold.state = HoldState.RELEASED
            self.money[hold.user] += hold.amount

    @rule(hold_id=holds, amount=AMOUNTS)
    def refund(self, hold_id: str, amount: int) -> None:
        hold = self.held[hold_id]
        wrong = AmountRefused if amount > hold.captured - hold.refunded else None
        key = self.key()
        self.expect(wrong, lambda session: ledger.refund(session, hold_id, amount, key, run_id="test"))
        if wrong is None:
            hold.refunded += amount
            self.money[hold.user] += amount

    @rule(user=USERS, amount=AMOUNTS)
    def deduct(self, user: str, amount: int) -> None:
        key = self.key()
        assert ledger.deduct_user_credits(self.engine, user, amount, key) == (amount <= self.money[user])
        if amount <= self.money[user]:
            assert ledger.deduct_user_credits(self.engine, user, amount, key)
            self.money[user] -= amount

    @rule(hold_id=consumes(holds))
    def let_the_time_pass(self, hold_id: str) -> None:
        with transaction(self.engine, "test") as session:
            session.execute(sa.update(credit_holds).where(credit_holds.c.id == hold_id).values(expires_at=Clock(-1)))
        self.held[hold_id].overdue = True

    @rule()
    def expire(self) -> None:
        due = {key for key, hold in self.held.items() if hold.overdue and hold.state == HoldState.OPEN}
        with transaction(self.engine, "test") as session:
            assert {moved.hold_id for moved in ledger.expire(session, run_id="test")} == due
        for key in due:
            self.held[key].state = HoldState.EXPIRED
            self.money[self.held[key].user] += self.held[key].amount

    @invariant()
    def the_books_balance_and_say_what_the_model_says(self) -> None:
        LedgerMachine.steps += 1
        with transaction(self.engine, "test") as session:
            assert_books_balance(session)
            for user, amount in self.money.items():
                mine = [hold for hold in self.held.values() if hold.user == user]
                is_held = sum(hold.amount for hold in mine if hold.state == HoldState.OPEN)
                assert balance(session, user)[:2] == (amount, is_held)

    def expect(self, wrong: type[Exception] | None, ask: object) -> None:
        """Ask twice: the second time changes nothing, whether the first was granted or refused."""
        assert callable(ask)
        for _ in range(2):
            with transaction(self.engine, "test") as session:
                if wrong is None:
                    ask(session)
                else:
                    _refused(session, wrong, ask)


def _refused(session: Session, wrong: type[Exception], ask: object) -> None:
    assert callable(ask)
    with pytest.raises(wrong):
        ask(session)


def _hurry(connection: DBAPIConnection, _record: object) -> None:
    """Durability on a power cut is not tested here."""
    connection.cursor().execute("PRAGMA synchronous=OFF")


@pytest.mark.long
@pytest.mark.parametrize(("examples", "least"), [(8, 300), pytest.param(150, 10_000, marks=pytest.mark.soak)])
def test_any_steps_keep_the_books(migrated_file: Path, examples: int, least: int) -> None:
    assert _run(migrated_file, examples) >= least


def _run(migrated_file: Path, examples: int) -> int:
    LedgerMachine.migrated, LedgerMachine.steps = migrated_file, 0
    run_state_machine_as_test(
        LedgerMachine,
        settings=settings(
            max_examples=examples, stateful_step_count=STEPS, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
    return LedgerMachine.steps
