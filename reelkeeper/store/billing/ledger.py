"""Keep accounts of credits, and the transfers between them, in double entry. Operations decide what is allowed.

    user/ID        what the user may spend           never below zero
    held/ID        what is set aside for work        never below zero
    house/grants   where granted credits come from   goes below zero: credits outstanding
    house/revenue  what was captured

Each statement that takes credits checks the balance in its own WHERE.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.errors import IntegrityDoubt, KeyReused
from reelkeeper.model.ids import Span
from reelkeeper.model.money import AccountKind, Balance, Moved, TransferKind
from reelkeeper.store.core.engine import Clock, changed, insert_into, newest, one_of
from reelkeeper.store.tables import accounts, credit_holds, entries, transfers, users

_ALL: Final = Span()
_OF_JOB: Final = re.compile("job/([0-9a-f]{32})")  # the key of a job's hold
GRANTS, REVENUE = "house/grants", "house/revenue"
_MOVED = tuple(transfers.c[name] for name in Moved._fields)
# Built once: building a statement costs more than sending it.
_FIRST = sa.select(transfers.c.request_sha256, *_MOVED).where(transfers.c.idempotency_key == sa.bindparam("key"))
_ADD = (
    sa.update(accounts)
    .where(accounts.c.id == sa.bindparam("account"))
    .values(balance_microusd=accounts.c.balance_microusd + sa.bindparam("amount", type_=sa.BigInteger))
)
_TAKE = _ADD.where(
    sa.or_(
        accounts.c.kind == AccountKind.HOUSE,
        # guard ledger.balance: a user spends more credits than the balance
        accounts.c.balance_microusd >= -sa.bindparam("amount", type_=sa.BigInteger),
    ),
    # guard ledger.once: a repeated request moves credits twice
    ~sa.exists().where(transfers.c.idempotency_key == sa.bindparam("key", type_=sa.String)),
)
_TRANSFER = sa.insert(transfers).values(at=Clock()).returning(*_MOVED)
_ENTRIES = sa.insert(entries)


class Request(NamedTuple):
    """A request to move credits, once: `sha256` is of all its parameters."""

    kind: TransferKind
    key: str
    sha256: str


def spendable(user_id: str) -> str:
    """Name the account of the credits that a user may spend."""
    return f"user/{user_id}"


def held(user_id: str) -> str:
    """Name the account of a user's credits that are set aside."""
    return f"held/{user_id}"


def open_accounts(session: Session, user_id: str) -> None:
    """Insert the user's two accounts and the house's, where they are missing."""
    rows: list[Mapping[str, Any]] = [
        {"id": spendable(user_id), "kind": AccountKind.USER, "user_id": user_id},
        {"id": held(user_id), "kind": AccountKind.HELD, "user_id": user_id},
        {"id": GRANTS, "kind": AccountKind.HOUSE, "user_id": None},
        {"id": REVENUE, "kind": AccountKind.HOUSE, "user_id": None},
    ]
    insert = insert_into(session, accounts).values(balance_microusd=0).on_conflict_do_nothing()
    session.execute(insert, rows)


def first(session: Session, request: Request) -> Moved | None:
    """Find the outcome of an earlier request with this key. Raises KeyReused if its parameters differed."""
    row = session.execute(_FIRST, {"key": request.key}).one_or_none()
    if row is None:
        return None
    # guard ledger.key_reused: a new request gets the answer of another with the same key, and is never done
    if row.request_sha256 != request.sha256:
        raise KeyReused(
            f"idempotency key {request.key!r} was used at {row.at:%Y-%m-%d %H:%M:%S} for a {row.kind} of "
            f"{row.amount_microusd:,} micro-dollars with other parameters than this {request.kind}; "
            "no credits were moved. Use a new key for a new request"
        )
    return _moved(row[1:])


def was_given(session: Session, user_id: str, key: str) -> bool:
    """Check whether this key, as it is, stands on a grant or refund of the user."""
    given = transfers.c.kind.in_((TransferKind.GRANT, TransferKind.REFUND))
    theirs = sa.exists().where(transfers.c.idempotency_key == key, transfers.c.user_id == user_id, given)
    return bool(session.execute(sa.select(theirs)).scalar_one())


def move(session: Session, amounts: Mapping[str, int], key: str = "") -> bool:
    """Add `amounts` to the balances of their accounts; False, and nothing is changed, when the payer has too little.

    They sum to zero, and one is negative. Nothing is changed either where a transfer with this `key` exists.
    """
    (payer,) = (account for account, amount in amounts.items() if amount < 0)
    if sum(amounts.values()):
        raise IntegrityDoubt(f"the amounts of a transfer do not sum to zero: {dict(amounts)}; no credits were moved")
    if not changed(session, _TAKE, account=payer, amount=amounts[payer], key=key):
        return False
    for account, amount in amounts.items():
        if amount > 0 and not changed(session, _ADD, account=account, amount=amount):
            raise IntegrityDoubt(f"the account {account!r} is missing; no credits were moved")
    return True


def record(
    session: Session,
    request: Request,
    amounts: Mapping[str, int],
    *,
    user_id: str,
    hold_id: str | None,
    amount_microusd: int,
    detail: Mapping[str, Any],
) -> Moved:
    """Insert the transfer and its entries, which never change."""
    row = session.execute(
        _TRANSFER,
        {
            "id": uuid4().hex,
            "idempotency_key": request.key,
            "request_sha256": request.sha256,
            "kind": request.kind,
            "user_id": user_id,
            "hold_id": hold_id,
            "amount_microusd": amount_microusd,
            "detail": dict(detail),
        },
    ).one()
    session.execute(
        _ENTRIES,
        [
            {"transfer_id": row.id, "account_id": account, "amount_microusd": amount}
            for account, amount in amounts.items()
        ],
    )
    return _moved(row)


def _moved(row: Any) -> Moved:  # noqa: ANN401  a row of _MOVED
    moved = Moved._make(row)
    return moved._replace(kind=TransferKind(moved.kind))


class Move(NamedTuple):
    """One transfer of a user's credits, and how it changed the user's balance."""

    id: str
    kind: TransferKind
    user_id: str
    hold_id: str | None
    amount_microusd: int
    at: datetime
    reason: str  # of a grant or refund; "" without one
    job_id: str | None  # the job that the hold is, or was, for
    available_microusd: int
    held_microusd: int


def moves(
    session: Session, user_id: str, limit: int, *, kind: TransferKind | None = None, span: Span = _ALL
) -> list[Move]:
    """List the newest `limit` moves of a user's credits in a span of time, of one kind or of all."""
    columns = (*_MOVED, transfers.c.detail)
    parts = [
        sa.select(*columns).where(transfers.c.user_id == user_id, transfers.c.kind == each)
        for each in ([kind] if kind else TransferKind)
    ]
    rows = newest(session, parts, transfers.c.at, span, limit)
    effects = _effects(session, user_id, [row.id for row in rows])
    job_ids = _jobs(session, {row.hold_id for row in rows if row.hold_id})
    return [
        Move(
            *_moved(row[: len(_MOVED)]),
            str(row.detail.get("reason", "")),
            job_ids.get(row.hold_id),
            effects.get((row.id, spendable(user_id)), 0),
            effects.get((row.id, held(user_id)), 0),
        )
        for row in rows
    ]


def _effects(session: Session, user_id: str, transfer_ids: Sequence[str]) -> dict[tuple[str, str], int]:
    """Read what these transfers added to the user's accounts, by transfer and account."""
    own = entries.c.account_id.in_([spendable(user_id), held(user_id)])
    chosen = sa.select(entries).where(one_of(session, entries.c.transfer_id, transfer_ids), own)
    return {(row.transfer_id, row.account_id): row.amount_microusd for row in session.execute(chosen)}


def _jobs(session: Session, hold_ids: Collection[str]) -> dict[str, str]:
    """Find the jobs of holds, by the keys that admissions give them."""
    made = transfers.c.kind == TransferKind.HOLD
    chosen = sa.select(transfers.c.hold_id, transfers.c.idempotency_key)
    rows = session.execute(chosen.where(one_of(session, transfers.c.hold_id, sorted(hold_ids)), made))
    return {hold_id: found[1] for hold_id, key in rows if (found := _OF_JOB.fullmatch(key))}


def paid(session: Session, first: datetime, end: datetime) -> dict[str, int]:
    """Sum what each user paid from `first` on and before `end`, less refunds; users who moved nothing are left out."""
    amount, back = transfers.c.amount_microusd, transfers.c.kind == TransferKind.REFUND
    rows = session.execute(
        sa.select(users.c.id, sa.func.sum(sa.case((back, -amount), else_=amount)))
        .join_from(users, transfers, transfers.c.user_id == users.c.id)  # by its index of users, kinds and times
        .where(
            transfers.c.at >= first,
            transfers.c.at < end,
            transfers.c.kind.in_([TransferKind.CAPTURE, TransferKind.REFUND]),
        )
        .group_by(users.c.id)
    )
    return {user_id: int(microusd) for user_id, microusd in rows}


def balances(session: Session, user_ids: Sequence[str]) -> dict[tuple[str, str], int]:
    """Read what users may spend and what is held for them, by user and kind of account."""
    chosen = sa.select(accounts.c.user_id, accounts.c.kind, accounts.c.balance_microusd)
    rows = session.execute(chosen.where(one_of(session, accounts.c.user_id, user_ids)))
    return {(row.user_id, row.kind): row.balance_microusd for row in rows}


def balance(session: Session, user_id: str) -> Balance:
    """Read a user's balance of credits; zeros for a user who never had any."""
    found = dict(
        session.execute(
            sa.select(accounts.c.kind, accounts.c.balance_microusd).where(accounts.c.user_id == user_id)
        ).all()
    )
    spent = session.execute(
        sa.select(
            sa.func.coalesce(sa.func.sum(credit_holds.c.captured_microusd - credit_holds.c.refunded_microusd), 0)
        ).where(credit_holds.c.user_id == user_id)
    ).scalar_one()
    return Balance(found.get(AccountKind.USER, 0), found.get(AccountKind.HELD, 0), int(spent))
