"""Invariants of the ledger, and users with credits."""

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model import BlobState, VideoState
from reelkeeper.model.money import AccountKind, HoldState, ReservationState
from reelkeeper.operations.billing import ledger
from reelkeeper.store.billing import quotas
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.tables import (
    accounts,
    blobs,
    credit_holds,
    entries,
    reservations,
    storage_accounts,
    transfers,
    users,
    videos,
)

DOLLAR = 10**6


def make_user(engine: sa.Engine, user_id: str, microusd: int = 0, *, tier: str | None = "free") -> None:
    """Add a user with these credits."""
    with transaction(engine, "test") as session:
        session.execute(sa.insert(users).values(id=user_id, tier=tier))
        if microusd:
            ledger.grant(session, user_id, microusd, f"first of {user_id}", run_id="test")


def balances(engine: sa.Engine, user_id: str) -> tuple[int, int]:
    """Return what a user may spend, and what is held."""
    with reading(engine) as session:
        found = {
            row.kind: row.balance_microusd
            for row in session.execute(sa.select(accounts).where(accounts.c.user_id == user_id))
        }
    return found.get(AccountKind.USER, 0), found.get(AccountKind.HELD, 0)


def assert_books_balance(session: Session) -> None:
    """Check that entries sum to zero, balances match entries, held credits match open holds, and there are no debts."""
    total = session.execute(sa.select(sa.func.coalesce(sa.func.sum(entries.c.amount_microusd), 0))).scalar_one()
    assert total == 0
    of_entries = {
        account: int(amount)
        for account, amount in session.execute(
            sa.select(entries.c.account_id, sa.func.sum(entries.c.amount_microusd)).group_by(entries.c.account_id)
        )
    }
    for row in session.execute(sa.select(accounts)):
        assert row.balance_microusd == of_entries.get(row.id, 0), row.id
        assert row.balance_microusd >= 0 or row.kind == AccountKind.HOUSE, row.id
    uneven = sa.select(entries.c.transfer_id).group_by(entries.c.transfer_id)
    assert not session.execute(uneven.having(sa.func.sum(entries.c.amount_microusd) != 0)).all()
    bare = sa.select(transfers.c.id).where(~sa.exists().where(entries.c.transfer_id == transfers.c.id))
    assert not session.execute(bare).all()
    open_holds = {
        user: int(amount)
        for user, amount in session.execute(
            sa.select(credit_holds.c.user_id, sa.func.sum(credit_holds.c.amount_microusd))
            .where(credit_holds.c.state == HoldState.OPEN)
            .group_by(credit_holds.c.user_id)
        )
    }
    for row in session.execute(sa.select(accounts).where(accounts.c.kind == AccountKind.HELD)):
        assert row.balance_microusd == open_holds.get(row.user_id, 0), row.id


def store_video(session: Session, user_id: str, video_id: str, size_bytes: int) -> None:
    """Publish a video of `size_bytes`, as an upload does at its end, without an object."""
    with quotas.counted(session, [video_id]):
        session.execute(sa.insert(videos).values(id=video_id, user_id=user_id, generation=1, state=VideoState.LIVE))
        blob = sa.insert(blobs).values(video_id=video_id, key=video_id, state=BlobState.LIVE, size_bytes=size_bytes)
        blob_id = session.execute(blob.returning(blobs.c.id)).scalar_one()
        session.execute(sa.update(videos).where(videos.c.id == video_id).values(blob_id=blob_id))


def storage(engine: sa.Engine, user_id: str) -> tuple[int, int]:
    """Return what a user is said to store, and to have reserved."""
    with reading(engine) as session:
        row = session.execute(sa.select(storage_accounts).where(storage_accounts.c.user_id == user_id)).one()
    return row.used_bytes, row.reserved_bytes


def assert_bytes_add_up(session: Session) -> None:
    """Check that each user's bytes are those of the live videos, and what is reserved is the open reservations."""
    stored = quotas.live_bytes(session)
    reserved = {
        user: int(size)
        for user, size in session.execute(
            sa.select(reservations.c.user_id, sa.func.sum(reservations.c.size_bytes))
            .where(reservations.c.state == ReservationState.OPEN)
            .group_by(reservations.c.user_id)
        )
    }
    for row in session.execute(sa.select(storage_accounts)):
        assert row.used_bytes == stored.get(row.user_id, 0), row.user_id
        assert row.reserved_bytes == reserved.get(row.user_id, 0), row.user_id
