"""Check whether more bytes fit into a quota, and reserve bytes for an upload or a job before they arrive.

    reserve --> settle    the bytes have arrived, and were counted as used when they were published
        |---> release   they will not come
        '---> expire    neither happened in time

A check alone is soon out of date: two uploads that both passed it can together exceed a quota. A reservation is a
promise, made by one conditional UPDATE. Its key is the caller's idempotency key. Stored bytes are counted elsewhere:
every change to a video adds its net difference (`store/billing/quotas.counted`).
"""

from reelkeeper.errors import HoldClosed, IntegrityDoubt, KeyReused, NotFound, QuotaExceeded
from reelkeeper.model.money import QuotaUse, ReservationState
from reelkeeper.operations.core.freeze import require_permission
from reelkeeper.operations.core.policies import in_force
from reelkeeper.rules.billing.credits import require_key, require_lasting
from reelkeeper.rules.billing.quota import QuotaAnswer, judge, require_bytes
from reelkeeper.store import Engine, Session
from reelkeeper.store.billing import quotas
from reelkeeper.store.billing.quotas import Reserved
from reelkeeper.store.core.audit import Event, append
from reelkeeper.store.core.engine import reading


def check_user_storage_quota(engine: Engine, user_id: str, incoming_bytes: int) -> QuotaAnswer:
    """Return whether `incoming_bytes` more would fit at this moment. Raises NotFound for an unknown user."""
    require_bytes(incoming_bytes)
    with reading(engine) as session:
        return judge(_use_of(session, user_id), incoming_bytes, in_force(session).policies.tiers)


def reserve(session: Session, user_id: str, size_bytes: int, key: str, *, lasting_seconds: int) -> Reserved:
    """Reserve bytes until they are settled, released or expire. Repeated, it returns the present state.

    Raises QuotaExceeded with the figures, also where the tier is unknown; KeyReused; NotFound; Frozen.
    """
    require_bytes(size_bytes, least=1)
    require_lasting(lasting_seconds)
    require_key(key)
    require_permission(session)
    tiers = in_force(session).policies.tiers
    if quotas.promise(session, user_id, size_bytes, key, tiers.quota_bytes(), lasting_seconds=lasting_seconds):
        return Reserved(key, user_id, ReservationState.OPEN, size_bytes)
    before = quotas.find(session, key)
    if before is None:
        raise _exceeded(user_id, judge(_use_of(session, user_id), size_bytes, tiers))
    # guard quota.key_reused: one user's upload uses another's reservation
    if (before.user_id, before.size_bytes) != (user_id, size_bytes):
        raise KeyReused(
            f"reservation {key!r} is for {before.size_bytes:,} bytes of user {before.user_id!r}, not for "
            f"{size_bytes:,} of {user_id!r}; nothing was reserved. Use a new key for a new request"
        )
    return before


def require_space(session: Session, user_id: str, size_bytes: int) -> None:
    """Raise QuotaExceeded, as `reserve` would at this moment; nothing is reserved."""
    require_bytes(size_bytes, least=1)
    answer = judge(_use_of(session, user_id), size_bytes, in_force(session).policies.tiers)
    if not answer.can_upload:
        raise _exceeded(user_id, answer)


def _exceeded(user_id: str, answer: QuotaAnswer) -> QuotaExceeded:
    return QuotaExceeded(f"nothing was reserved for user {user_id!r}: {answer.reason}")


def release(session: Session, key: str) -> None:
    """Release a reservation: the bytes will not come. Safe to repeat.

    Raises HoldClosed when they have arrived, or an upload under way uses them; NotFound; Frozen.
    """
    require_permission(session)
    if not _end(session, key, ReservationState.RELEASED, even_in_use=False):
        reservation = _require(session, key)
        if reservation.state in (ReservationState.OPEN, ReservationState.SETTLED):
            under_way = (
                "an upload in progress uses it"
                if reservation.state == ReservationState.OPEN
                else "its bytes are stored"
            )
            raise HoldClosed(f"reservation {key!r} of {reservation.size_bytes:,} bytes cannot be released: {under_way}")


def settle(session: Session, key: str) -> None:
    """End a reservation whose bytes have arrived, in the transaction that counts them as used. Safe to repeat.

    Raises HoldClosed when it was released or has expired; NotFound; Frozen.
    """
    require_permission(session)
    if not _end(session, key, ReservationState.SETTLED):
        reservation = _require(session, key)
        if reservation.state != ReservationState.SETTLED:
            raise HoldClosed(
                f"reservation {key!r} of {reservation.size_bytes:,} bytes is {reservation.state}. Make a new one"
            )


def require_room(session: Session, key: str, user_id: str, size_bytes: int) -> None:
    """Bind an open reservation of the user's to an upload: it must be large enough and not bound to another.

    From then on, until the upload's intent is settled, it neither expires nor can be released. Raises QuotaExceeded,
    HoldClosed, NotFound.
    """
    reservation = _require(session, key)
    # guard quota.upload_owner: an upload uses the quota of another user
    if reservation.user_id != user_id:
        raise NotFound(f"no reservation {key!r} of user {user_id!r}")
    # guard quota.upload_open: an upload uses a closed reservation, and exceeds the quota
    if reservation.state != ReservationState.OPEN:
        raise HoldClosed(f"reservation {key!r} is {reservation.state}; nothing was stored. Make a new one")
    # guard quota.upload_size: more bytes are stored than were reserved
    if reservation.size_bytes < size_bytes:
        most = f"the {reservation.size_bytes:,} of reservation {key!r}"
        raise QuotaExceeded(f"{size_bytes:,} bytes are more than {most}; nothing was stored")
    # guard quota.upload_alone: two uploads use one reservation
    if quotas.is_in_use(session, key):
        raise HoldClosed(f"another upload uses reservation {key!r}; nothing was stored. Make a new one")


def expire(session: Session, *, limit: int = 200) -> list[Reserved]:
    """End at most `limit` open reservations that are expired by the database's clock and not bound to an upload."""
    require_permission(session)
    return [
        reservation._replace(state=ReservationState.EXPIRED)
        for reservation in quotas.expiring(session, limit)
        if _end(session, reservation.id, ReservationState.EXPIRED)
    ]


def set_quota(session: Session, user_id: str, quota_bytes: int | None, *, author: str) -> None:
    """Set the bytes that a user may store, instead of the tier's; None: as the tier. Raises NotFound, Frozen."""
    if quota_bytes is not None:
        require_bytes(quota_bytes)
    require_permission(session)
    before = _use_of(session, user_id)
    quotas.set_quota(session, user_id, quota_bytes)
    detail = {"quota_bytes": quota_bytes, "was": before.override_bytes}
    append(session, [Event("quota", author, user_id=user_id, detail=detail)])


def _end(session: Session, key: str, state: ReservationState, *, even_in_use: bool = True) -> bool:
    ended = quotas.end(session, key, state, even_in_use=even_in_use)
    if ended is not None and not quotas.take_back(session, ended.user_id, ended.size_bytes):
        raise IntegrityDoubt(
            f"reservation {key!r} is for {ended.size_bytes:,} bytes, but fewer are reserved for user "
            f"{ended.user_id!r}; nothing was changed. To find the mismatch: reelkeeper run settle_accounts"
        )
    return ended is not None


def _require(session: Session, key: str) -> Reserved:
    reservation = quotas.find(session, key)
    if reservation is None:
        raise NotFound(f"no reservation {key!r}; nothing was changed")
    return reservation


def _use_of(session: Session, user_id: str) -> QuotaUse:
    found = quotas.use_of(session, user_id)
    if found is None:
        raise NotFound(f"no user {user_id!r} in the catalogue")
    return found
