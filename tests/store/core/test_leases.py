"""Leases: one holder at a time, and a token that only grows."""

import multiprocessing
import threading
from datetime import timedelta

import pytest
import sqlalchemy as sa

from reelkeeper.store.core.engine import Clock, now, open_engine, reading, transaction
from reelkeeper.store.core.leases import Lease, acquire, current, holder, release, renew, standing
from reelkeeper.store.tables import leases
from tests.children import FORKED

NAMES = [f"video/{number}" for number in range(300)]


def expire(engine: sa.Engine) -> None:
    with transaction(engine, "test.expire") as session:
        session.execute(sa.update(leases).values(expires_at=Clock(-1)))


def is_current(engine: sa.Engine, lease: Lease) -> bool:
    with reading(engine) as session:
        return current(session, lease)


def test_free_leases_are_granted_and_held_ones_left_out(engine: sa.Engine) -> None:
    assert acquire(engine, ["b", "a"], "ada") == [Lease("b", "ada", 1), Lease("a", "ada", 1)]
    assert [holder(engine, name) for name in ("a", "b", "c")] == ["ada", "ada", None]
    with reading(engine) as session:
        left = session.execute(sa.select(sa.func.max(leases.c.expires_at))).scalar_one() - now(session)
    assert timedelta(seconds=55) < left <= timedelta(seconds=60)
    assert acquire(engine, ["a", "c", "b", "c"], "bob") == [Lease("c", "bob", 1)]


def test_an_expired_lease_passes_on_with_a_higher_token_and_fences_off_its_old_holder(engine: sa.Engine) -> None:
    (old,) = acquire(engine, ["a"], "ada")
    expire(engine)
    assert is_current(engine, old)
    (new,) = acquire(engine, ["a"], "bob")
    assert new.token == 2
    assert (is_current(engine, old), is_current(engine, new)) == (False, True)
    assert renew(engine, [old, new]) == [new]
    release(engine, [old])
    assert acquire(engine, ["a"], "cyd") == []


def test_an_earlier_holder_cannot_renew_a_lease_for_its_new_holder(engine: sa.Engine) -> None:
    (old,) = acquire(engine, ["a"], "ada")
    expire(engine)
    acquire(engine, ["a"], "bob")
    expire(engine)
    assert renew(engine, [old]) == []
    assert acquire(engine, ["a"], "cyd") == [Lease("a", "cyd", 3)]


def test_an_expired_lease_that_nobody_took_can_be_renewed(engine: sa.Engine) -> None:
    taken = acquire(engine, ["a"], "ada")
    expire(engine)
    assert renew(engine, taken) == taken
    assert acquire(engine, ["a"], "bob") == []


def test_a_token_never_comes_twice_even_after_release(engine: sa.Engine) -> None:
    tokens = []
    for _ in range(5):
        (lease,) = acquire(engine, ["a"], "ada")
        tokens.append(lease.token)
        release(engine, [lease])
        assert not is_current(engine, lease)
    assert tokens == [1, 2, 3, 4, 5]


@pytest.mark.long("2,500 leases")
def test_hundreds_of_names_at_once(engine: sa.Engine) -> None:
    names = [f"video/{number}" for number in range(2_500)]
    taken = acquire(engine, names, "ada")
    assert [lease.name for lease in taken] == names
    assert renew(engine, taken) == taken
    release(engine, taken)
    assert len(acquire(engine, names, "bob")) == 2_500


def test_acquiring_no_names_grants_nothing(engine: sa.Engine) -> None:
    assert acquire(engine, [], "ada") == renew(engine, []) == []
    release(engine, [])


def compete(url: str, holder: str, barrier: threading.Barrier, granted: "multiprocessing.Queue[list[Lease]]") -> None:
    engine = open_engine(url)
    barrier.wait()
    won = []
    for start in range(0, len(NAMES), 20):
        won += acquire(engine, NAMES[start : start + 20][:: 1 if holder < "4" else -1], holder)
    granted.put(won)
    engine.dispose()


def test_one_of_eight_processes_gets_each_name(engine: sa.Engine) -> None:
    barrier, granted = FORKED.Barrier(8), FORKED.Queue()
    url = engine.url.render_as_string(hide_password=False)
    rivals = [FORKED.Process(target=compete, args=(url, str(number), barrier, granted)) for number in range(8)]
    for rival in rivals:
        rival.start()
    won = [lease for _ in rivals for lease in granted.get(timeout=240)]
    for rival in rivals:
        rival.join()
    assert sorted(lease.name for lease in won) == sorted(NAMES)
    assert {lease.token for lease in won} == {1}


@pytest.mark.parametrize(("seconds", "granted"), [(50, 0), (61, 1)])
def test_a_lease_ends_a_minute_after_its_holders_last_sign_of_life(
    engine: sa.Engine, seconds: float, granted: int
) -> None:
    renew(engine, acquire(engine, ["a"], "ada"))
    with transaction(engine, "test") as session:
        ends = session.execute(sa.select(leases.c.expires_at)).scalar_one()
        session.execute(sa.update(leases).values(expires_at=ends - timedelta(seconds=seconds)))
    assert len(acquire(engine, ["a"], "bob")) == granted


def test_a_helper_asks_for_the_very_lease_that_it_works_under(engine: sa.Engine) -> None:
    def stands(lease: Lease) -> bool:
        with reading(engine) as session:
            return standing(session, lease)

    (old,) = acquire(engine, ["a"], "ada")
    assert stands(old)
    expire(engine)
    assert not stands(old)
    (new, other) = acquire(engine, ["a", "b"], "bob")
    assert [stands(each) for each in (old, new, other, new._replace(name="c"))] == [False, True, True, False]


@pytest.mark.parametrize(("seconds", "granted"), [(6 * 3600, 0), (8 * 3600, 1)])
def test_a_lease_of_a_clock_that_was_ahead_is_free(engine: sa.Engine, seconds: float, granted: int) -> None:
    acquire(engine, ["a"], "ada", seconds)
    assert len(acquire(engine, ["a"], "bob")) == granted
