"""Keep each user's stored and reserved bytes: every change updates them in its own transaction, once.

    with counted(session, [video_id]):
        ...                                           # the change to these videos

`used_bytes` are the present bytes of the videos that count: the live ones and, where the policy says so, those that
their user deleted and that are not purged yet. A user without a row here has not been counted yet.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model.money import QuotaUse, ReservationState
from reelkeeper.store.core.engine import Clock, changed, checked, insert_into, one_of
from reelkeeper.store.tables import blobs, operations, reservations, storage_accounts, users, videos
from reelkeeper.store.videos.conditions import counts, stands_on

_TIER_SETS: Final = 16  # cached statements: for the tiers in force, and some earlier ones
_LIVE = videos.join(blobs, blobs.c.id == videos.c.blob_id)
_SIZE = sa.cast(sa.func.coalesce(sa.func.sum(blobs.c.size_bytes), 0), sa.BigInteger)  # PostgreSQL sums to NUMERIC


class Reserved(NamedTuple):
    """The current state of a reservation."""

    id: str
    user_id: str
    state: str
    size_bytes: int


_RESERVED = tuple(reservations.c[name] for name in Reserved._fields)
_OPEN = reservations.c.state == ReservationState.OPEN
_RESERVE = sa.insert(reservations).values(
    state=ReservationState.OPEN,
    created_at=Clock(),
    expires_at=Clock(sa.bindparam("lasting_seconds", type_=sa.Float)),
)
_IN_USE = sa.exists().where(  # an upload under way uses it
    operations.c.state == "open", operations.c.detail["reservation"].as_string() == reservations.c.id
)


def live_bytes(session: Session, wanted: sa.ColumnElement[bool] | None = None) -> dict[str, int]:
    """Sum the present bytes, by user, of the videos that count towards quotas and are `wanted`; None: of all."""
    chosen = counts() if wanted is None else sa.and_(wanted, checked(counts()))
    query = sa.select(videos.c.user_id, _SIZE).select_from(_LIVE).where(chosen)
    rows = session.execute(query.group_by(videos.c.user_id))
    return {user_id: int(size_bytes) for user_id, size_bytes in rows}


@contextmanager
def counted(
    session: Session, video_ids: Sequence[str] = (), *, standing_on: Sequence[int] | None = None
) -> Iterator[None]:
    """Wrap a change to videos, or to those on some blobs, and record its bytes in their users' accounts.

    The caller's transaction has locked the deployment row, as every change does, so nothing else changes meanwhile.
    """
    wanted = one_of(session, videos.c.id, video_ids) if standing_on is None else stands_on(session, standing_on)
    before = live_bytes(session, wanted)
    yield
    after = live_bytes(session, wanted)
    adjust(session, {user: after.get(user, 0) - before.get(user, 0) for user in before.keys() | after.keys()})


def adjust(session: Session, deltas: Mapping[str, int]) -> None:
    """Add `deltas`, of bytes already changed in this transaction, to the users' stored bytes.

    A user without a count is counted from the videos. So is one whose sum would be negative: a wrong count must
    not prevent a correct change.
    """
    moved = {user: delta for user, delta in sorted(deltas.items()) if delta}
    for user, delta in moved.items():
        used = storage_accounts.c.used_bytes + delta
        counted_anew = _count_of(storage_accounts.c.user_id)
        session.execute(
            sa.update(storage_accounts)
            .where(storage_accounts.c.user_id == user)
            .values(used_bytes=sa.case((used >= 0, used), else_=counted_anew))
        )
    ensure(session, moved)


def ensure(session: Session, user_ids: Iterable[str]) -> int:
    """Insert storage accounts, counted from the videos, for users without one; return how many."""
    wanted = list(user_ids)
    if not wanted:
        return 0
    has_account = sa.exists().where(storage_accounts.c.user_id == users.c.id)
    chosen = sa.select(users.c.id, _count_of(users.c.id), sa.literal(0)).where(users.c.id.in_(wanted), ~has_account)
    insert = insert_into(session, storage_accounts).from_select(["user_id", "used_bytes", "reserved_bytes"], chosen)
    return len(session.execute(insert.on_conflict_do_nothing().returning(storage_accounts.c.user_id)).all())


def _count_of(user_id: sa.ColumnElement[Any]) -> sa.ScalarSelect[int]:
    counted_now = sa.select(_SIZE).select_from(_LIVE).where(counts())
    return counted_now.where(videos.c.user_id == user_id).scalar_subquery()


_USE = sa.select(
    users.c.id,
    users.c.tier,
    sa.func.coalesce(storage_accounts.c.used_bytes, _count_of(users.c.id)),
    sa.func.coalesce(storage_accounts.c.reserved_bytes, 0),
    storage_accounts.c.quota_bytes,
).select_from(users.outerjoin(storage_accounts, storage_accounts.c.user_id == users.c.id))


def use_of(session: Session, user_id: str) -> QuotaUse | None:
    """Read a user's stored and reserved bytes; None where there is no such user."""
    row = session.execute(_USE.where(users.c.id == user_id)).one_or_none()
    return QuotaUse._make(row) if row else None


def uses(session: Session, after: str, limit: int) -> list[QuotaUse]:
    """Read the stored and reserved bytes of at most `limit` users after an id; those erased are left out."""
    present = sa.and_(users.c.id > after, users.c.erasing_at.is_(None))
    return [QuotaUse._make(row) for row in session.execute(_USE.where(present).order_by(users.c.id).limit(limit))]


@lru_cache(maxsize=_TIER_SETS)
def _promise(tiers: tuple[str, ...]) -> sa.Update:
    by_tier = {tier: sa.bindparam(f"of_tier_{place}", type_=sa.BigInteger) for place, tier in enumerate(tiers)}
    granted = sa.select(sa.case(by_tier, value=users.c.tier)).where(users.c.id == storage_accounts.c.user_id)
    quota = sa.func.coalesce(storage_accounts.c.quota_bytes, granted.scalar_subquery())
    size = sa.bindparam("size_bytes", type_=sa.BigInteger)
    taken = storage_accounts.c.used_bytes + storage_accounts.c.reserved_bytes
    is_new = ~sa.exists().where(reservations.c.id == sa.bindparam("key"))
    return (
        sa.update(storage_accounts)
        # guard quota.room: a user stores more than the quota
        # guard quota.once: a repeated request reserves its bytes twice
        .where(storage_accounts.c.user_id == sa.bindparam("owner"), taken + size <= quota, is_new)
        .values(reserved_bytes=storage_accounts.c.reserved_bytes + size)
    )


def promise(
    session: Session, user_id: str, size_bytes: int, key: str, by_tier: Mapping[str, int], *, lasting_seconds: int
) -> bool:
    """Reserve bytes if they fit into the user's quota; False, and nothing is changed, if not, or if it is unknown.

    Nothing is changed either where the reservation `key` exists. `by_tier` has each tier's quota in bytes. The user's
    stored, reserved and allowed bytes are read in the UPDATE itself.
    """
    statement = _promise(tuple(by_tier))
    granted = {f"of_tier_{place}": size for place, size in enumerate(by_tier.values())}
    parameters = {"owner": user_id, "size_bytes": size_bytes, "key": key, **granted}
    if not changed(session, statement, **parameters) and not (
        ensure(session, [user_id]) and changed(session, statement, **parameters)
    ):
        return False
    new = {"id": key, "user_id": user_id, "size_bytes": size_bytes, "lasting_seconds": lasting_seconds}
    session.execute(_RESERVE, new)
    return True


def find(session: Session, key: str) -> Reserved | None:
    """Find a reservation, whatever its state."""
    row = session.execute(sa.select(*_RESERVED).where(reservations.c.id == key)).one_or_none()
    return Reserved._make(row) if row else None


def is_in_use(session: Session, key: str) -> bool:
    """Return whether an upload under way uses a reservation."""
    return session.execute(sa.select(reservations.c.id).where(reservations.c.id == key, _IN_USE)).scalar() is not None


def end(session: Session, key: str, state: ReservationState, *, even_in_use: bool = True) -> Reserved | None:
    """End an open reservation; None where it is not open. Its bytes stay reserved until `take_back`."""
    row = session.execute(
        sa.update(reservations)
        # guard quota.ends_once: bytes are released twice, and the user stores more than the quota
        # guard quota.release_in_use: the bytes of an upload under way are reserved for another
        .where(reservations.c.id == key, _OPEN, sa.true() if even_in_use else ~_IN_USE)
        .values(state=state, settled_at=Clock())
        .returning(*_RESERVED)
    ).one_or_none()
    return Reserved._make(row) if row else None


def take_back(session: Session, user_id: str, size_bytes: int) -> bool:
    """Release reserved bytes; False, and nothing changed, when fewer are reserved."""
    reserved = storage_accounts.c.reserved_bytes
    # guard quota.covered: a user's reserved bytes fall below zero, which extends the quota
    statement = sa.update(storage_accounts).where(storage_accounts.c.user_id == user_id, reserved >= size_bytes)
    return changed(session, statement.values(reserved_bytes=reserved - size_bytes)) == 1


def overdue(session: Session) -> tuple[int, int]:
    """Count the expired open reservations, and their bytes."""
    figures = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(reservations.c.size_bytes), 0))
    row = session.execute(figures.where(_OPEN, reservations.c.expires_at <= Clock())).one()
    return int(row[0]), int(row[1])


def expiring(session: Session, limit: int) -> list[Reserved]:
    """List at most `limit` expired open reservations, without those that an upload under way uses."""
    # guard quota.expire_in_use: the reservation of a slow upload expires during the upload
    # guard quota.overdue: reservations expire at once, and uploads lose their bytes
    query = sa.select(*_RESERVED).where(_OPEN, reservations.c.expires_at <= Clock(), ~_IN_USE)
    rows = session.execute(query.order_by(reservations.c.expires_at, reservations.c.id).limit(limit))
    return [Reserved._make(row) for row in rows]


def set_quota(session: Session, user_id: str, quota_bytes: int | None) -> None:
    """Set the bytes that a user may store; None: the tier's quota."""
    ensure(session, [user_id])
    statement = sa.update(storage_accounts).where(storage_accounts.c.user_id == user_id)
    session.execute(statement.values(quota_bytes=quota_bytes))


def tiers(session: Session) -> dict[str, str | None]:
    """Read the tier of every user; None where it is unknown."""
    return {row.id: row.tier for row in session.execute(sa.select(users.c.id, users.c.tier))}
