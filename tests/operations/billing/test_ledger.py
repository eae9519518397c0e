"""Credits: the effect of each transfer on the ledger, once, and refusals with figures."""

from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot
from sqlmodel import Session

from reelkeeper.errors import (
    AmountRefused,
    Frozen,
    HoldClosed,
    InsufficientCredits,
    IntegrityDoubt,
    KeyReused,
    NotFound,
    ReelkeeperError,
)
from reelkeeper.model.money import Moved
from reelkeeper.operations.billing import ledger, users
from reelkeeper.operations.core.freeze import freeze
from reelkeeper.store.billing.ledger import balance
from reelkeeper.store.core.audit import events, verify
from reelkeeper.store.core.engine import Clock, reading, transaction
from reelkeeper.store.tables import accounts, credit_holds, entries, transfers
from tests.marks import marked
from tests.operations.books import DOLLAR, assert_books_balance, balances, make_user

RUN = "test"
WHY_FROZEN = "the books are in doubt"


@pytest.fixture
def books(engine: sa.Engine) -> Iterator[sa.Engine]:
    """A store in which ann has a dollar; its books balance afterwards, and its audit is whole."""
    make_user(engine, "ann", DOLLAR)
    yield engine
    with reading(engine) as session:
        assert_books_balance(session)
        verify(session)


def hold(engine: sa.Engine, amount: int, key: str = "job 1", *, user: str = "ann") -> str:
    with transaction(engine, "test") as session:
        moved = ledger.hold(session, user, amount, key, run_id=RUN, lasting_seconds=600, price_book="2026-11")
    assert moved.hold_id
    return moved.hold_id


def capture(engine: sa.Engine, hold_id: str, amount: int, key: str = "job 1 done") -> Moved:
    with transaction(engine, "test") as session:
        return ledger.capture(session, hold_id, amount, key, run_id=RUN)


def release(engine: sa.Engine, hold_id: str, key: str = "job 1 failed") -> Moved:
    with transaction(engine, "test") as session:
        return ledger.release(session, hold_id, key, run_id=RUN)


def refund(engine: sa.Engine, hold_id: str, amount: int, key: str = "sorry") -> Moved:
    with transaction(engine, "test") as session:
        return ledger.refund(session, hold_id, amount, key, run_id=RUN, reason="a complaint")


def make_overdue(engine: sa.Engine, hold_id: str) -> None:
    with transaction(engine, "test") as session:
        session.execute(sa.update(credit_holds).where(credit_holds.c.id == hold_id).values(expires_at=Clock(-1)))


def expire(engine: sa.Engine, limit: int = 200) -> list[Moved]:
    with transaction(engine, "test") as session:
        return ledger.expire(session, run_id=RUN, limit=limit)


def test_held_credits_cannot_be_spent_elsewhere(books: sa.Engine) -> None:
    hold(books, 700_000)
    assert balances(books, "ann") == (300_000, 700_000)
    with pytest.raises(InsufficientCredits) as refused:
        hold(books, 300_001, "job 2")
    assert str(refused.value) == snapshot(
        "this costs $0.300001, but user 'ann' has only $0.30 available; $0.70 more are held for jobs in progress. Nothing was charged. Add credits, or wait until those jobs have ended: credits that they do not need are released"
    )
    assert balances(books, "ann") == (300_000, 700_000)
    hold(books, 300_000, "job 3")
    assert balances(books, "ann") == (0, DOLLAR)


def test_a_capture_gives_the_rest_of_its_hold_back(books: sa.Engine) -> None:
    moved = capture(books, hold(books, 700_000), 450_000)
    assert (moved.kind, moved.amount_microusd) == ("capture", 450_000)
    assert balances(books, "ann") == (550_000, 0)
    with reading(books) as session:
        assert balance(session, "ann") == (550_000, 0, 450_000)


def test_a_capture_of_nothing_spends_nothing(books: sa.Engine) -> None:
    capture(books, hold(books, 700_000), 0)
    assert balances(books, "ann") == (DOLLAR, 0)


def test_a_capture_of_more_than_the_hold_is_refused(books: sa.Engine) -> None:
    held = hold(books, 700_000)
    with pytest.raises(AmountRefused) as refused:
        capture(books, held, 700_001)
    assert marked(refused.value) == snapshot(
        "cannot capture 700,001 micro-dollars of hold ID, which is open: 700,000 held, 0 captured, 0 refunded; no credits were moved"
    )
    assert balances(books, "ann") == (300_000, 700_000)


def test_a_release_gives_all_of_it_back(books: sa.Engine) -> None:
    assert release(books, hold(books, 700_000)).amount_microusd == 700_000
    assert balances(books, "ann") == (DOLLAR, 0)


def test_a_hold_ends_once(books: sa.Engine) -> None:
    captured, released = hold(books, 1), hold(books, 2, "job 2")
    capture(books, captured, 1)
    release(books, released)
    for held in (captured, released):
        with pytest.raises(HoldClosed):
            capture(books, held, 1, "again")
        with pytest.raises(HoldClosed):
            release(books, held, "again")
    assert not expire(books)
    assert balances(books, "ann") == (DOLLAR - 1, 0)


def test_an_overdue_hold_expires_once_and_the_others_stay(books: sa.Engine) -> None:
    overdue, young = hold(books, 400_000), hold(books, 500_000, "job 2")
    make_overdue(books, overdue)
    (moved,) = expire(books)
    assert (moved.kind, moved.hold_id, moved.amount_microusd) == ("expire", overdue, 400_000)
    assert balances(books, "ann") == (500_000, 500_000)
    assert not expire(books)
    with pytest.raises(HoldClosed, match="which is expired"):
        capture(books, overdue, 1)
    capture(books, young, 500_000)


def test_an_overdue_hold_can_be_captured_until_it_is_voided(books: sa.Engine) -> None:
    overdue = hold(books, 400_000)
    make_overdue(books, overdue)
    capture(books, overdue, 400_000)
    assert not expire(books)
    assert balances(books, "ann") == (600_000, 0)


def test_expiry_works_in_batches(books: sa.Engine) -> None:
    for number in range(5):
        make_overdue(books, hold(books, 1, f"job {number}"))
    assert [len(expire(books, limit=3)) for _ in range(3)] == [3, 2, 0]


def test_refunds_come_to_at_most_what_was_captured(books: sa.Engine) -> None:
    held = hold(books, 700_000)
    with pytest.raises(AmountRefused, match="which is open"):
        refund(books, held, 1)
    capture(books, held, 500_000)
    refund(books, held, 200_000)
    refund(books, held, 300_000, "and the rest")
    assert balances(books, "ann") == (DOLLAR, 0)
    with pytest.raises(AmountRefused) as refused:
        refund(books, held, 1, "more")
    assert marked(refused.value) == snapshot(
        "cannot refund 1 micro-dollars of hold ID, which is captured: 700,000 held, 500,000 captured, 500,000 refunded; no credits were moved"
    )
    with reading(books) as session:
        assert balance(session, "ann").spent_microusd == 0


def test_the_same_request_again_gives_the_first_answer_and_moves_nothing(books: sa.Engine) -> None:
    def twice(ask: Callable[[], Moved]) -> Moved:
        move, other = ask(), ask()
        assert move == other
        return move

    with transaction(books, "test") as session:
        twice(lambda: ledger.grant(session, "ann", 5, "gift", run_id=RUN, reason="kindness"))
    held = hold(books, 9)
    assert hold(books, 9) == held
    twice(lambda: capture(books, held, 7))
    twice(lambda: refund(books, held, 3))
    lost = hold(books, 8, "job 2")
    twice(lambda: release(books, lost))
    assert balances(books, "ann") == (DOLLAR + 5 - 7 + 3, 0)


@pytest.mark.parametrize(
    "other",
    [
        lambda session: ledger.hold(session, "ann", 2, "job 1", run_id=RUN, lasting_seconds=600, price_book="2026-11"),
        lambda session: ledger.hold(session, "ann", 1, "job 1", run_id=RUN, lasting_seconds=601, price_book="2026-11"),
        lambda session: ledger.hold(session, "ann", 1, "job 1", run_id=RUN, lasting_seconds=600, price_book="2026-12"),
        lambda session: ledger.hold(session, "bob", 1, "job 1", run_id=RUN, lasting_seconds=600, price_book="2026-11"),
        lambda session: ledger.grant(session, "ann", 1, "job 1", run_id=RUN),
        lambda session: ledger.capture(session, "h", 1, "job 1", run_id=RUN),
        lambda session: ledger.release(session, "h", "job 1", run_id=RUN),
        lambda session: ledger.refund(session, "h", 1, "job 1", run_id=RUN),
    ],
    ids=["amount", "lasting", "price book", "user", "grant", "capture", "release", "refund"],
)
def test_the_same_key_with_other_parameters_is_refused(books: sa.Engine, other: Callable[[Session], Moved]) -> None:
    hold(books, 1)
    used = r"'job 1' was used at .* for a hold of 1 micro-dollars"
    with pytest.raises(KeyReused, match=used), transaction(books, "test") as session:
        other(session)
    assert balances(books, "ann") == (DOLLAR - 1, 1)


def test_a_refusal_leaves_the_callers_transaction_as_it_was(books: sa.Engine) -> None:
    with transaction(books, "test") as session:
        with pytest.raises(InsufficientCredits):
            ledger.hold(session, "ann", DOLLAR + 1, "job 1", run_id=RUN, lasting_seconds=1)
        with pytest.raises(NotFound):
            ledger.capture(session, "no such", 1, "job 2", run_id=RUN)
        ledger.hold(session, "ann", DOLLAR, "job 1", run_id=RUN, lasting_seconds=1)
    assert balances(books, "ann") == (0, DOLLAR)


def test_all_moves_of_a_transaction_are_committed_or_none(books: sa.Engine) -> None:
    def admit_and_stumble() -> None:
        with transaction(books, "test") as session:
            moved = ledger.hold(session, "ann", 1, "job 1", run_id=RUN, lasting_seconds=1)
            ledger.capture(session, str(moved.hold_id), 1, "job 1 done", run_id=RUN)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        admit_and_stumble()
    assert balances(books, "ann") == (DOLLAR, 0)
    with reading(books) as session:
        assert [record.event.event for record in events(session)] == ["credits_grant"]


def test_an_unknown_user_gets_no_credits(books: sa.Engine) -> None:
    make_user(books, "bob")
    with pytest.raises(InsufficientCredits) as refused:
        hold(books, 1, user="bob")
    assert str(refused.value) == snapshot(
        "this costs $0.000001, but user 'bob' has only $0.00 available. Nothing was charged. Add credits"
    )
    asks: list[Callable[[Session], Moved]] = [
        lambda session: ledger.grant(session, "eve", 1, "k", run_id=RUN),
        lambda session: ledger.hold(session, "eve", 1, "k", run_id=RUN, lasting_seconds=1),
        lambda session: ledger.capture(session, "h", 1, "k", run_id=RUN),
        lambda session: ledger.release(session, "h", "k", run_id=RUN),
        lambda session: ledger.refund(session, "h", 1, "k", run_id=RUN),
    ]
    told = list[str]()
    for ask in asks:
        with pytest.raises(NotFound) as unknown, transaction(books, "test") as session:
            ask(session)
        told.append(str(unknown.value))
    assert told == snapshot(
        [
            "no user 'eve' in the catalogue; no credits were moved",
            "no user 'eve' in the catalogue; no credits were moved",
            "no hold 'h'; no credits were moved",
            "no hold 'h'; no credits were moved",
            "no hold 'h'; no credits were moved",
        ]
    )


@pytest.mark.parametrize("key", ["", "a\nb", "k" * 201, "expire:1"])
def test_invalid_keys_are_refused_everywhere(books: sa.Engine, key: str) -> None:
    held = hold(books, 1)
    asks: list[Callable[[Session], Moved]] = [
        lambda session: ledger.grant(session, "ann", 1, key, run_id=RUN),
        lambda session: ledger.hold(session, "ann", 1, key, run_id=RUN, lasting_seconds=1),
        lambda session: ledger.capture(session, held, 1, key, run_id=RUN),
        lambda session: ledger.refund(session, held, 1, key, run_id=RUN),
        lambda session: ledger.release(session, held, key, run_id=RUN),
    ]
    for ask in asks:
        with pytest.raises(AmountRefused), transaction(books, "test") as session:
            ask(session)
    with pytest.raises(AmountRefused):
        users.give(books, "ann", 1, key, by="test")
    assert balances(books, "ann") == (DOLLAR - 1, 1)


@pytest.mark.parametrize("amount", [0, -5, 1.5, True, 10**12 + 1])
def test_invalid_amounts_are_refused_everywhere(books: sa.Engine, amount: int) -> None:
    held = hold(books, 1)
    asks: list[Callable[[Session], Moved]] = [
        lambda session: ledger.grant(session, "ann", amount, "k", run_id=RUN),
        lambda session: ledger.hold(session, "ann", amount, "k", run_id=RUN, lasting_seconds=1),
        lambda session: ledger.capture(session, held, amount or -1, "k", run_id=RUN),
        lambda session: ledger.refund(session, held, amount, "k", run_id=RUN),
    ]
    for ask in asks:
        with pytest.raises(AmountRefused), transaction(books, "test") as session:
            ask(session)
    assert balances(books, "ann") == (DOLLAR - 1, 1)


def test_no_credits_move_during_a_freeze(books: sa.Engine) -> None:
    held = hold(books, 1)
    make_overdue(books, held)
    freeze(books, by="test", reason=WHY_FROZEN)
    asks: list[Callable[[Session], object]] = [
        lambda session: ledger.grant(session, "ann", 1, "k", run_id=RUN),
        lambda session: ledger.hold(session, "ann", 1, "k", run_id=RUN, lasting_seconds=1),
        lambda session: ledger.capture(session, held, 1, "k", run_id=RUN),
        lambda session: ledger.release(session, held, "k", run_id=RUN),
        lambda session: ledger.refund(session, held, 1, "k", run_id=RUN),
        lambda session: ledger.expire(session, run_id=RUN),
    ]
    for ask in asks:
        with pytest.raises(Frozen) as frozen, transaction(books, "test") as session:
            ask(session)
        assert WHY_FROZEN in str(frozen.value)
    with pytest.raises(Frozen):
        ledger.deduct_user_credits(books, "ann", 1, "k")
    assert balances(books, "ann") == (DOLLAR - 1, 1)


def test_deducting_is_all_or_nothing_and_once(books: sa.Engine) -> None:
    assert ledger.deduct_user_credits(books, "ann", 600_000, "video 1")
    assert ledger.deduct_user_credits(books, "ann", 600_000, "video 1")
    assert not ledger.deduct_user_credits(books, "ann", 600_000, "video 2")
    assert balances(books, "ann") == (400_000, 0)
    with transaction(books, "test") as session:
        ledger.grant(session, "ann", 200_000, "top up", run_id=RUN)
    assert ledger.deduct_user_credits(books, "ann", 600_000, "video 2")
    assert balances(books, "ann") == (0, 0)


def test_each_move_is_on_record_with_its_figures(books: sa.Engine) -> None:
    held = hold(books, 700_000)
    capture(books, held, 500_000)
    refund(books, held, 200_000)
    with reading(books) as session:
        told = [record.event for record in events(session, user_id="ann")][::-1]
    assert [(event.event, event.detail["microusd"]) for event in told] == [
        ("credits_grant", DOLLAR),
        ("credits_hold", 700_000),
        ("credits_capture", 500_000),
        ("credits_refund", 200_000),
    ]
    assert told[3].detail["reason"] == "a complaint"
    assert {event.detail["hold"] for event in told[1:]} == {held}


def test_entries_and_transfers_cannot_be_changed_or_deleted(books: sa.Engine) -> None:
    changes: list[sa.Update | sa.Delete] = [
        sa.update(entries).values(amount_microusd=0),
        sa.update(transfers).values(amount_microusd=0),
        sa.update(entries).where(entries.c.account_id == "user/ann").values(account_id="house/grants"),
        sa.update(transfers).values(idempotency_key=transfers.c.id),
        sa.update(transfers).values(detail={"reason": "another"}),
        sa.delete(entries),
        sa.delete(transfers),
    ]
    for change in changes:
        with pytest.raises(sa.exc.DBAPIError, match="append-only"), transaction(books, "test") as session:
            session.execute(change)


def test_the_database_itself_refuses_a_debt(books: sa.Engine) -> None:
    debt = sa.update(accounts).where(accounts.c.id == "user/ann").values(balance_microusd=-1)
    with pytest.raises(sa.exc.IntegrityError, match="no_debt"), transaction(books, "test") as session:
        session.execute(debt)


def test_a_hold_that_the_books_do_not_cover_is_a_doubt(engine: sa.Engine) -> None:
    make_user(engine, "ann", DOLLAR)
    held = hold(engine, 5)
    with transaction(engine, "test") as session:
        session.execute(sa.update(accounts).where(accounts.c.id == "held/ann").values(balance_microusd=4))
    with pytest.raises(IntegrityDoubt, match="settle_accounts"):
        capture(engine, held, 5)
    assert balances(engine, "ann") == (DOLLAR - 5, 4)


def test_every_refusal_ends_a_command_with_9() -> None:
    kinds: list[type[ReelkeeperError]] = [AmountRefused, InsufficientCredits, KeyReused, HoldClosed]
    assert {kind.exit_code for kind in kinds} == {9}
