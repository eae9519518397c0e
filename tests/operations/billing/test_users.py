"""Assigning tiers to users: only tiers in force, never one that is being removed."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from reelkeeper.errors import Frozen, InputRefused, KeyReused, NotFound, Refused, TierRefused
from reelkeeper.operations.billing import ledger
from reelkeeper.operations.billing.users import give, import_users, put, rename
from reelkeeper.operations.core.freeze import freeze
from reelkeeper.operations.core.policies import current
from reelkeeper.operations.lifecycle.policies import apply, effect_of
from reelkeeper.rules.core.tiers import GIB, SHIPPED, TierPolicy, Tiers
from reelkeeper.rules.policies import DEFAULTS
from reelkeeper.store.core.audit import events
from reelkeeper.store.core.engine import Clock, reading, transaction
from reelkeeper.store.tables import leases
from reelkeeper.store.videos.videos import users_by_tier
from tests.databases import is_held_up
from tests.operations.books import make_user
from tests.policies import put_in_force
from tests.worlds import AtFailpoint

WITH_GOLD: Final = Tiers(SHIPPED.root | {"gold": TierPolicy(retention_days=None, quota_bytes=20 * GIB)})
_A_MOMENT: Final = 0.3  # seconds in which what is not held up is over
Act = Callable[[sa.Engine], object]


@pytest.fixture
def store(engine: sa.Engine) -> sa.Engine:
    put_in_force(engine, tiers=WITH_GOLD)
    return engine


def sign_up(engine: sa.Engine) -> None:
    put(engine, "ann", "gold", by="test")


def bring_in(engine: sa.Engine) -> None:
    import_users(engine, ["id,tier,created_at", "ann,gold,"])


def remove_gold(engine: sa.Engine) -> int:
    return apply(engine, effect_of(engine, DEFAULTS), author="ops", reason="nobody buys it")


def everyone(engine: sa.Engine) -> dict[str, int]:
    with reading(engine) as session:
        return users_by_tier(session)


def outcome(done: "Future[object]") -> type[Exception] | None:
    error = done.exception(timeout=30)
    assert error is None or isinstance(error, Refused)
    return type(error) if error else None


@pytest.mark.parametrize("put_in", [sign_up, bring_in])
def test_a_user_is_put_in_any_tier_that_is_in_force_and_in_no_other(store: sa.Engine, put_in: Act) -> None:
    put_in(store)
    put(store, "ben", "free", by="test")
    assert everyone(store) == {"gold": 1, "free": 1}
    with pytest.raises(TierRefused) as refused:
        put(store, "ann", "silver", by="test")
    assert str(refused.value) == snapshot("tier 'silver' is not one of free, premium, pro, gold; nothing was changed")
    with pytest.raises(InputRefused) as input_refused:
        import_users(store, ["id,tier,created_at", "ben,gold,", "ann,silver,"])
    assert str(input_refused.value) == snapshot(
        "nothing of it was taken, because 1 field is invalid: line 3, column tier: 'silver' is not one of free, premium, pro, gold, and not empty"
    )
    assert everyone(store) == {"gold": 1, "free": 1}


def test_no_user_is_added_put_in_another_tier_or_renamed_during_a_freeze(store: sa.Engine) -> None:
    put(store, "ben", "free", by="test")
    freeze(store, by="test", reason="the books are in doubt")
    acts: list[Act] = [
        sign_up,
        lambda engine: put(engine, "ben", "gold", by="test"),
        lambda engine: rename(engine, "ben", "benny", by="test", apply=True),
    ]
    for act in acts:
        with pytest.raises(Frozen):
            act(store)
    assert everyone(store) == {"free": 1}


def test_no_run_begins_while_a_user_is_renamed(postgresql_engine: sa.Engine, at_failpoint: AtFailpoint) -> None:
    """It would read the former id, and write it again."""
    make_user(postgresql_engine, "ann")
    held_up, begin = list[bool](), sa.insert(leases).values(name="flow/x", holder="run", token=1, expires_at=Clock(60))
    at_failpoint("users.rename.before_commit", lambda: held_up.append(is_held_up(postgresql_engine, begin)))
    assert rename(postgresql_engine, "ann", "anna", by="test", apply=True).is_done
    assert held_up == [True]


@pytest.mark.parametrize(("put_in", "point"), [(sign_up, "users.put"), (bring_in, "import.users")])
def test_a_tier_that_a_user_is_being_put_in_is_not_removed(
    store: sa.Engine, at_failpoint: AtFailpoint, put_in: Act, point: str
) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting: list[Future[object]] = []

        def meanwhile() -> None:
            waiting.append(pool.submit(remove_gold, store))
            assert not is_over(waiting[0])

        at_failpoint(f"{point}.before_commit", meanwhile)
        put_in(store)
        assert outcome(waiting[0]) is TierRefused
    assert everyone(store) == {"gold": 1}
    assert "gold" in current(store).policies.tiers.names


@pytest.mark.parametrize(("put_in", "refused"), [(sign_up, TierRefused), (bring_in, InputRefused)])
def test_no_user_is_put_in_a_tier_that_is_being_removed(
    store: sa.Engine, at_failpoint: AtFailpoint, put_in: Act, refused: type[Exception]
) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting: list[Future[object]] = []

        def meanwhile() -> None:
            waiting.append(pool.submit(put_in, store))
            assert not is_over(waiting[0])

        at_failpoint("policy.apply.before_commit", meanwhile)
        remove_gold(store)
        assert outcome(waiting[0]) is refused
    assert everyone(store) == {}
    assert "gold" not in current(store).policies.tiers.names


def is_over(done: "Future[object]") -> bool:
    try:
        done.exception(timeout=_A_MOMENT)
    except TimeoutError:
        return False
    return True


def test_a_key_that_the_command_kept_as_it_was_given_grants_nothing_again(engine: sa.Engine) -> None:
    make_user(engine, "ann")
    make_user(engine, "bob")
    with transaction(engine, "test") as session:
        ledger.grant(session, "ann", 500, "order 1", run_id="the command before", reason="a gift")
    moved, balance = give(engine, "ann", 500, "order 1", by="front", reason="a gift")
    assert (moved.amount_microusd, balance.available_microusd) == (500, 500)
    with pytest.raises(KeyReused):
        give(engine, "ann", 700, "order 1", by="front", reason="a gift")
    _, balance = give(engine, "bob", 500, "order 1", by="front", reason="a gift")  # a key is one user's
    assert balance.available_microusd == 500


def test_a_grant_that_is_repeated_after_its_user_was_renamed_grants_nothing_again(engine: sa.Engine) -> None:
    make_user(engine, "ann")
    first, before = give(engine, "ann", 500, "order 1", by="front", reason="a gift")
    rename(engine, "ann", "anna", by="ops", apply=True)
    rename(engine, "anna", "anne", by="ops", apply=True)
    for user_id in ("ann", "anna", "anne"):
        moved, balance = give(engine, user_id, 500, "order 1", by="front", reason="a gift")
        assert (moved.id, moved.user_id, balance) == (first.id, "anne", before)
        with pytest.raises(KeyReused):
            give(engine, user_id, 700, "order 1", by="front", reason="a gift")
    _, balance = give(engine, "ann", 500, "order 2", by="front", reason="a gift")
    assert balance.available_microusd == 1000


def test_the_record_of_a_user_has_what_was_done_before_a_rename(engine: sa.Engine) -> None:
    make_user(engine, "ann")
    make_user(engine, "bob", 7)
    give(engine, "ann", 500, "order 1", by="front", reason="a gift")
    rename(engine, "ann", "anne", by="ops", apply=True)
    with reading(engine) as session:
        for user_id in ("ann", "anne"):
            told = [record.event.event for record in events(session, user_id=user_id)]
            assert told == ["rename", "credits_grant"]


def test_a_refund_finds_its_user_by_the_hold(engine: sa.Engine) -> None:
    make_user(engine, "ann", 900)
    with transaction(engine, "test") as session:
        hold_id = str(ledger.hold(session, "ann", 900, "job", run_id="test", lasting_seconds=60).hold_id)
        ledger.capture(session, hold_id, 800, "done", run_id="test")
    for user_id in (None, "ann"):
        moved, balance = give(engine, user_id, 300, "refund 1", by="front", hold_id=hold_id)
        assert (moved.user_id, moved.kind, balance.spent_microusd) == ("ann", "refund", 500)
    with pytest.raises(NotFound):
        give(engine, None, 300, "refund 2", by="front", hold_id="none")
