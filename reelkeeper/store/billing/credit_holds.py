"""Open holds on credits, and end each once. Each change checks in its own WHERE whether it is still allowed."""

from typing import NamedTuple
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model.money import HoldState
from reelkeeper.store.core.engine import Clock
from reelkeeper.store.tables import credit_holds


class Held(NamedTuple):
    """The current state of a hold on credits."""

    id: str
    user_id: str
    state: str
    amount_microusd: int
    captured_microusd: int
    refunded_microusd: int


_HELD = tuple(credit_holds.c[name] for name in Held._fields)
_BEGIN = sa.insert(credit_holds).values(
    state=HoldState.OPEN,
    captured_microusd=0,
    refunded_microusd=0,
    created_at=Clock(),
    expires_at=Clock(sa.bindparam("lasting_seconds", type_=sa.Float)),
)


def begin(session: Session, user_id: str, amount_microusd: int, *, lasting_seconds: int, price_book: str | None) -> str:
    """Insert an open hold; return its id."""
    hold_id = uuid4().hex
    session.execute(
        _BEGIN,
        {
            "id": hold_id,
            "user_id": user_id,
            "amount_microusd": amount_microusd,
            "price_book": price_book,
            "lasting_seconds": lasting_seconds,
        },
    )
    return hold_id


def close(session: Session, hold_id: str, state: HoldState, captured_microusd: int = 0) -> Held | None:
    """End an open hold that covers the captured amount; None where there is none."""
    return _held_after(
        session,
        sa.update(credit_holds)
        .where(
            credit_holds.c.id == hold_id,
            # guard ledger.hold_ends_once: a hold is both captured and released, and its credits move twice
            credit_holds.c.state == HoldState.OPEN,
            # guard ledger.hold_covers: more is charged than was held
            credit_holds.c.amount_microusd >= captured_microusd,
        )
        .values(state=state, captured_microusd=captured_microusd, settled_at=Clock()),
    )


def close_overdue(session: Session, limit: int) -> list[Held]:
    """End as expired at most `limit` open holds whose time is over by the database's clock, the oldest first."""
    overdue = (
        sa.select(credit_holds.c.id)
        # guard ledger.overdue: a hold is released while its job runs, and the credits are spent elsewhere
        .where(credit_holds.c.state == HoldState.OPEN, credit_holds.c.expires_at <= Clock())
        .order_by(credit_holds.c.expires_at, credit_holds.c.id)
        .limit(limit)
    )
    rows = session.execute(
        sa.update(credit_holds)
        .where(credit_holds.c.id.in_(overdue), credit_holds.c.state == HoldState.OPEN)
        .values(state=HoldState.EXPIRED, settled_at=Clock())
        .returning(*_HELD)
    )
    return sorted(Held._make(row) for row in rows)


def overdue(session: Session) -> tuple[int, int]:
    """Count the open holds whose time is over, and their micro-dollars."""
    row = session.execute(
        sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(credit_holds.c.amount_microusd), 0)).where(
            credit_holds.c.state == HoldState.OPEN, credit_holds.c.expires_at <= Clock()
        )
    ).one()
    return int(row[0]), int(row[1])


def note_refund(session: Session, hold_id: str, amount_microusd: int) -> Held | None:
    """Record a refund on a hold with at least that much captured and not yet refunded; None without such a hold."""
    left = credit_holds.c.captured_microusd - credit_holds.c.refunded_microusd
    return _held_after(
        session,
        sa.update(credit_holds)
        # guard ledger.refund_left: more is refunded than was paid
        .where(credit_holds.c.id == hold_id, left >= amount_microusd)
        .values(refunded_microusd=credit_holds.c.refunded_microusd + amount_microusd),
    )


def find(session: Session, hold_id: str) -> Held | None:
    """Find a hold, whatever its state."""
    row = session.execute(sa.select(*_HELD).where(credit_holds.c.id == hold_id)).one_or_none()
    return Held._make(row) if row else None


def captured(session: Session, hold_id: str | None) -> int:
    """Read the captured amount of a hold, in micro-dollars; 0 without such a hold."""
    chosen = sa.select(credit_holds.c.captured_microusd).where(credit_holds.c.id == hold_id)
    return session.execute(chosen).scalar() or 0


def _held_after(session: Session, statement: sa.Update) -> Held | None:
    row = session.execute(statement.returning(*_HELD)).one_or_none()
    return Held._make(row) if row else None
