"""Quotas: bytes are reserved and counted once, and never exceed what a user may store."""

from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot
from sqlmodel import Session

from reelkeeper.errors import AmountRefused, Frozen, HoldClosed, IntegrityDoubt, KeyReused, NotFound, QuotaExceeded
from reelkeeper.model import VideoState
from reelkeeper.operations.billing import quota
from reelkeeper.operations.billing.quota import check_user_storage_quota
from reelkeeper.operations.core.freeze import freeze
from reelkeeper.rules.core.tiers import MAX_TIERS, Tiers
from reelkeeper.store.billing import quotas
from reelkeeper.store.billing.quotas import Reserved
from reelkeeper.store.core.audit import events
from reelkeeper.store.core.engine import Clock, reading, transaction
from reelkeeper.store.tables import reservations, storage_accounts, users, videos
from tests.marks import marked
from tests.operations.books import assert_bytes_add_up, make_user, storage, store_video
from tests.policies import put_in_force
from tests.tiers import tiers

MIB = 2**20


@pytest.fixture
def store(engine: sa.Engine) -> Iterator[sa.Engine]:
    """A store in which ann, of the free tier, has 60 MiB; everybody's bytes add up afterwards."""
    make_user(engine, "ann")
    with transaction(engine, "test") as session:
        store_video(session, "ann", "v1", 60 * MIB)
    yield engine
    with reading(engine) as session:
        assert_bytes_add_up(session)


def reserve(engine: sa.Engine, size: int, key: str = "upload 1", user: str = "ann") -> Reserved:
    with transaction(engine, "test") as session:
        return quota.reserve(session, user, size, key, lasting_seconds=600)


def settle(engine: sa.Engine, key: str, *, video: str, size: int) -> None:
    """Complete an upload of the reserved bytes: published and settled in one transaction."""
    with transaction(engine, "test") as session:
        store_video(session, "ann", video, size)
        quota.settle(session, key)


def release(engine: sa.Engine, key: str) -> None:
    with transaction(engine, "test") as session:
        quota.release(session, key)


def expire(engine: sa.Engine, limit: int = 200) -> list[Reserved]:
    with transaction(engine, "test") as session:
        return quota.expire(session, limit=limit)


def make_overdue(engine: sa.Engine, key: str) -> None:
    with transaction(engine, "test") as session:
        session.execute(sa.update(reservations).where(reservations.c.id == key).values(expires_at=Clock(-1)))


def test_a_promise_counts_against_the_next_one(store: sa.Engine) -> None:
    reserve(store, 30 * MIB)
    answer = check_user_storage_quota(store, "ann", 10 * MIB)
    assert (answer.can_upload, answer.usage_bytes, answer.reserved_bytes) == (True, 60 * MIB, 30 * MIB)
    assert not check_user_storage_quota(store, "ann", 10 * MIB + 1).can_upload
    with pytest.raises(QuotaExceeded) as refused:
        reserve(store, 10 * MIB + 1, "upload 2")
    assert str(refused.value) == snapshot(
        "nothing was reserved for user 'ann': 62,914,560 bytes used and 31,457,280 reserved of 104,857,600; 10,485,761 more do not fit. Delete videos, or choose a larger tier"
    )
    reserve(store, 10 * MIB, "upload 3")
    assert storage(store, "ann") == (60 * MIB, 40 * MIB)


def test_bytes_that_arrive_are_counted_once(store: sa.Engine) -> None:
    reserve(store, 30 * MIB)
    settle(store, "upload 1", video="v2", size=25 * MIB)
    assert storage(store, "ann") == (85 * MIB, 0)
    with transaction(store, "test") as session:
        quota.settle(session, "upload 1")
    assert storage(store, "ann") == (85 * MIB, 0)


def test_a_released_promise_makes_room(store: sa.Engine) -> None:
    reserve(store, 40 * MIB)
    release(store, "upload 1")
    release(store, "upload 1")
    assert storage(store, "ann") == (60 * MIB, 0)
    reserve(store, 40 * MIB, "upload 2")


def test_a_promise_ends_once(store: sa.Engine) -> None:
    reserve(store, 1)
    settle(store, "upload 1", video="v2", size=1)
    with pytest.raises(HoldClosed) as refused:
        release(store, "upload 1")
    assert str(refused.value) == snapshot("reservation 'upload 1' of 1 bytes cannot be released: its bytes are stored")
    reserve(store, 1, "upload 2")
    release(store, "upload 2")
    with pytest.raises(HoldClosed) as refused:
        settle(store, "upload 2", video="v3", size=1)
    assert str(refused.value) == snapshot("reservation 'upload 2' of 1 bytes is released. Make a new one")
    assert storage(store, "ann") == (60 * MIB + 1, 0)


def test_an_overdue_promise_expires_and_the_others_stay(store: sa.Engine) -> None:
    for number, size in enumerate((20 * MIB, 10 * MIB, 5 * MIB)):
        reserve(store, size, f"upload {number}")
    make_overdue(store, "upload 0")
    make_overdue(store, "upload 1")
    assert [reservation.id for reservation in expire(store, limit=1)] == ["upload 0"]
    assert [reservation.state for reservation in expire(store)] == ["expired"]
    assert not expire(store)
    assert storage(store, "ann") == (60 * MIB, 5 * MIB)


def test_the_same_promise_again_is_made_once(store: sa.Engine) -> None:
    first = reserve(store, 40 * MIB)
    assert reserve(store, 40 * MIB) == first
    assert storage(store, "ann") == (60 * MIB, 40 * MIB)
    release(store, "upload 1")
    assert reserve(store, 40 * MIB).state == "released"
    make_user(store, "bob")
    for size, user in ((1, "ann"), (40 * MIB, "bob")):
        with pytest.raises(KeyReused):
            reserve(store, size, user=user)


@pytest.mark.parametrize("tier", [None, "gold"])
def test_an_unknown_tier_is_promised_nothing(store: sa.Engine, tier: str | None) -> None:
    make_user(store, "bob", tier=tier)
    assert not check_user_storage_quota(store, "bob", 0).can_upload
    with pytest.raises(QuotaExceeded) as refused:
        reserve(store, 1, user="bob")
    assert marked(refused.value, TIER=repr(tier)) == snapshot(
        "nothing was reserved for user 'bob': tier TIER of user 'bob' is not one of free, premium, pro, so nothing new can be stored. The request itself is fine: ask the service's support to set the tier"
    )
    with transaction(store, "test") as session:
        quota.set_quota(session, "bob", 5, author="eve")
    reserve(store, 5, user="bob")


def test_a_downgrade_blocks_what_is_new_and_deletes_nothing(store: sa.Engine) -> None:
    with transaction(store, "test") as session:
        session.execute(sa.update(users).values(tier="pro"))
        store_video(session, "ann", "v2", 200 * MIB)
    reserve(store, 1)
    with transaction(store, "test") as session:
        session.execute(sa.update(users).values(tier="free"))
    with pytest.raises(QuotaExceeded):
        reserve(store, 1, "upload 2")
    assert storage(store, "ann") == (260 * MIB, 1)
    settle(store, "upload 1", video="v3", size=1)  # what was promised before stays promised


@pytest.mark.parametrize("size", [-1, 1.5, True, 2 * 10**15])
def test_a_quota_of_no_bytes_that_there_are_is_refused(store: sa.Engine, size: int) -> None:
    with pytest.raises(AmountRefused), transaction(store, "test") as session:
        quota.set_quota(session, "ann", size, author="eve")
    with reading(store) as session:
        assert not [*events(session, event="quota")]


def test_a_quota_set_by_a_person_replaces_the_tiers_and_is_audited(store: sa.Engine) -> None:
    with transaction(store, "test") as session:
        quota.set_quota(session, "ann", 60 * MIB, author="eve")
    assert not check_user_storage_quota(store, "ann", 1).can_upload
    with transaction(store, "test") as session:
        quota.set_quota(session, "ann", None, author="eve")
    assert check_user_storage_quota(store, "ann", 40 * MIB).can_upload
    with reading(store) as session:
        told = [(record.event.run_id, record.event.detail) for record in events(session, event="quota")]
    assert told == [
        ("eve", {"quota_bytes": None, "was": 60 * MIB}),
        ("eve", {"quota_bytes": 60 * MIB, "was": None}),
    ]


def test_a_deployment_may_grant_its_tiers_more(store: sa.Engine) -> None:
    put_in_force(store, tiers=tiers(free={"quota_bytes": 200 * MIB}))
    assert check_user_storage_quota(store, "ann", 140 * MIB).can_upload
    assert reserve(store, 140 * MIB)


def test_each_of_twenty_tiers_is_granted_its_own_and_others_that_come_theirs(engine: sa.Engine) -> None:
    def twenty(start: int) -> Tiers:
        tier = {"retention_days": 30}
        return Tiers.model_validate({f"t{n}": tier | {"quota_bytes": 100 + n} for n in range(start, start + MAX_TIERS)})

    for start in (0, 10):  # of the second, ten were there before
        put_in_force(engine, tiers=twenty(start))
        for number in (start, start + MAX_TIERS - 1):
            user = f"ann-{start}-{number}"
            make_user(engine, user, tier=f"t{number}")
            with pytest.raises(QuotaExceeded, match=f"reserved of {100 + number};"):
                reserve(engine, 101 + number, key=user, user=user)
            assert reserve(engine, 100 + number, key=user, user=user)
    make_user(engine, "left", tier="t0")
    with pytest.raises(QuotaExceeded) as refused:
        reserve(engine, 1, key="left", user="left")
    assert str(refused.value) == snapshot(
        "nothing was reserved for user 'left': tier 't0' of user 'left' is not one of t10, t11, t12, t13, t14, t15, t16, t17, t18, t19, t20, t21, t22, t23, t24, t25, t26, t27, t28, t29, so nothing new can be stored. The request itself is fine: ask the service's support to set the tier"
    )


def test_a_user_who_was_never_counted_is_counted_at_the_first_question(store: sa.Engine) -> None:
    with transaction(store, "test") as session:
        session.execute(sa.delete(storage_accounts))
    assert check_user_storage_quota(store, "ann", 0).usage_bytes == 60 * MIB
    reserve(store, 40 * MIB)
    assert storage(store, "ann") == (60 * MIB, 40 * MIB)


def test_a_wrong_count_does_not_prevent_a_deletion(store: sa.Engine) -> None:
    with transaction(store, "test") as session:
        store_video(session, "ann", "v2", 5)
        session.execute(sa.update(storage_accounts).values(used_bytes=4))
    with transaction(store, "test") as session, quotas.counted(session, ["v2"]):
        session.execute(sa.update(videos).where(videos.c.id == "v2").values(state=VideoState.RETIRED))
    assert storage(store, "ann") == (60 * MIB, 0)


def test_an_unknown_user_or_an_invalid_size_is_refused(store: sa.Engine) -> None:
    with pytest.raises(NotFound, match="'eve'"):
        check_user_storage_quota(store, "eve", 1)
    with pytest.raises(NotFound, match="'eve'"):
        reserve(store, 1, user="eve")
    for ask in (release, lambda engine, key: settle(engine, key, video="v2", size=1)):
        with pytest.raises(NotFound, match="'k'"):
            ask(store, "k")
    for size in (0, -1, 1.5):
        with pytest.raises(AmountRefused):
            reserve(store, size)  # type: ignore[arg-type]  # that is the point
    with pytest.raises(AmountRefused) as refused:
        reserve(store, 1, "")
    assert str(refused.value) == snapshot(
        "idempotency key '': it has 1 to 200 printable characters and does not begin with 'expire:'; nothing was changed"
    )


def test_no_bytes_are_reserved_during_a_freeze(store: sa.Engine) -> None:
    reserve(store, 1)
    freeze(store, by="test", reason="the books are in doubt")
    asks: list[Callable[[Session], object]] = [
        lambda session: quota.reserve(session, "ann", 1, "upload 2", lasting_seconds=1),
        lambda session: quota.release(session, "upload 1"),
        lambda session: quota.settle(session, "upload 1"),
        quota.expire,
        lambda session: quota.set_quota(session, "ann", 1, author="eve"),
    ]
    for ask in asks:
        with pytest.raises(Frozen), transaction(store, "test") as session:
            ask(session)
    assert storage(store, "ann") == (60 * MIB, 1)


def test_a_promise_that_the_account_does_not_cover_is_a_doubt(engine: sa.Engine) -> None:
    make_user(engine, "ann")
    reserve(engine, 5)
    with transaction(engine, "test") as session:
        session.execute(sa.update(storage_accounts).values(reserved_bytes=4))
    with pytest.raises(IntegrityDoubt, match="settle_accounts"):
        release(engine, "upload 1")
    assert storage(engine, "ann") == (0, 4)
