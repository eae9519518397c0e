"""Recount every stored total from its records: credits from entries, bytes from videos.

    transfer         the entries of a transfer               sum to zero, and so do all
    balance          an account                              the sum of its entries
    held             a user's credits that are set aside     the sum of the open holds
    spent            what was captured and not refunded      the same by the transfers
    used_bytes       a user's stored bytes                   the present bytes of the videos that count
    reserved_bytes   a user's reserved bytes                 the sum of the open reservations
    in_flight        what jobs in flight will cost, by scope the sum of their expected costs
    jobs_in_flight   how many they are                       their number
    ms_in_flight     how long they will take                 the sum of their expected milliseconds
    charged          a month's cost of an item, by day       the sum of its users' and the residual, in nano-dollars

All is read from one snapshot (`engine.reading`), so that a concurrent change is in all totals or in none.
"""

from datetime import date, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model.money import AccountKind, HoldState, Mismatch, ReservationState, TransferKind
from reelkeeper.store.billing import job_totals
from reelkeeper.store.billing.charge_reports import last_day
from reelkeeper.store.jobs.queue import leads
from reelkeeper.store.tables import (
    accounts,
    blobs,
    charge_days,
    charge_months,
    charges,
    credit_holds,
    entries,
    jobs,
    reservations,
    storage_accounts,
    transfers,
    videos,
)
from reelkeeper.store.tables import job_totals as totals
from reelkeeper.store.videos.conditions import counts

MAX_OF_A_KIND: Final = 200  # mismatches that one recount lists of each kind
_NEVER: Final = date(1970, 1, 1)
_Select = sa.Select[Any]
_FLYING: Final = {"in_flight": "microusd", "jobs_in_flight": "jobs", "ms_in_flight": "milliseconds"}
_KEPT: Final = {  # figures derived from records, which may be corrected
    "balance": (accounts.c.id, accounts.c.balance_microusd),
    "used_bytes": (storage_accounts.c.user_id, storage_accounts.c.used_bytes),
    "reserved_bytes": (storage_accounts.c.user_id, storage_accounts.c.reserved_bytes),
}


def mismatches(session: Session) -> list[Mismatch]:
    """List the totals that differ from the recount, at most 200 of a kind."""
    return [
        Mismatch(what, str(row.subject), int(row.kept), int(row.counted))
        for what, (kept, record) in {**_figures(), "charged": _charged(session)}.items()
        for row in session.execute(_differing(kept, record))
    ]


def write_anew(session: Session, mismatch: Mismatch) -> bool:
    """Correct a total that is derived from its records; False for others, and for one that cannot be written."""
    if mismatch.what in _FLYING:
        job_totals.write_in_flight(session, mismatch.subject, _FLYING[mismatch.what], mismatch.counted)
        return True
    if mismatch.what not in _KEPT or not (mismatch.counted >= 0 or mismatch.subject.startswith("house/")):
        return False
    subject, kept = _KEPT[mismatch.what]
    session.execute(sa.update(kept.table).where(subject == mismatch.subject).values({kept: mismatch.counted}))
    return True


def _figures() -> dict[str, tuple[_Select, _Select]]:
    signed = sa.case(
        (transfers.c.kind == TransferKind.CAPTURE, transfers.c.amount_microusd),
        (transfers.c.kind == TransferKind.REFUND, -transfers.c.amount_microusd),
        else_=0,
    )
    live = (
        _amounts(videos.c.user_id, blobs.c.size_bytes)
        .select_from(videos.join(blobs, blobs.c.id == videos.c.blob_id))
        .where(
            counts(),
            sa.exists().where(storage_accounts.c.user_id == videos.c.user_id),  # others are not counted yet
        )
    )
    return {
        "transfer": (
            _amounts(transfers.c.id, sa.literal(0)),
            _amounts(entries.c.transfer_id, entries.c.amount_microusd),
        ),
        "balance": (
            _amounts(accounts.c.id, accounts.c.balance_microusd),
            _amounts(entries.c.account_id, entries.c.amount_microusd),
        ),
        "held": (
            _amounts(accounts.c.user_id, accounts.c.balance_microusd).where(accounts.c.kind == AccountKind.HELD),
            _amounts(credit_holds.c.user_id, credit_holds.c.amount_microusd).where(
                credit_holds.c.state == HoldState.OPEN
            ),
        ),
        "spent": (
            _amounts(credit_holds.c.user_id, credit_holds.c.captured_microusd - credit_holds.c.refunded_microusd),
            _amounts(transfers.c.user_id, signed),
        ),
        "used_bytes": (_amounts(storage_accounts.c.user_id, storage_accounts.c.used_bytes), live),
        "reserved_bytes": (
            _amounts(storage_accounts.c.user_id, storage_accounts.c.reserved_bytes),
            _amounts(reservations.c.user_id, reservations.c.size_bytes).where(
                reservations.c.state == ReservationState.OPEN
            ),
        ),
        **{
            what: (
                _amounts(totals.c.scope, totals.c[figure]).where(totals.c.period == job_totals.IN_FLIGHT),
                _in_flight(figure),
            )
            for what, figure in _FLYING.items()
        },
    }


def _charged(session: Session) -> tuple[_Select, _Select]:
    """Select what was charged in the last month with charges and the one before: earlier ones seldom change."""
    last = last_day(session) or _NEVER
    since = (last.replace(day=1) - timedelta(days=1)).replace(day=1)

    def billed(rows: sa.Table, day: sa.Column[date]) -> _Select:
        month = sa.func.substr(sa.cast(day, sa.String), 1, 7)
        return _amounts(month.concat("/").concat(rows.c.sku), rows.c.billed_nanousd).where(day >= since)

    of_users = sa.union_all(billed(charges, charges.c.day), billed(charge_months, charge_months.c.month)).subquery()
    return billed(charge_days, charge_days.c.day), _amounts(of_users.c.subject, of_users.c.amount)


def _in_flight(figure: str) -> _Select:
    """Select each job in flight once for each scope that it belongs to."""
    amount = {
        "microusd": sa.func.coalesce(jobs.c.quoted_cost_microusd, jobs.c.price_microusd),
        "jobs": sa.literal(1),
        "milliseconds": sa.cast(sa.func.round(jobs.c.estimate_seconds * 1_000), sa.BigInteger),
    }[figure]
    kinds = (("provider", jobs.c.lane), ("model", jobs.c.model), ("tier", jobs.c.tier), ("user", jobs.c.user_id))
    parts = (
        _amounts(sa.literal(f"{kind}:") + column, amount).where(leads(jobs), column.is_not(None), column != "")
        for kind, column in kinds
    )
    every = sa.union_all(*parts, _amounts(sa.literal(job_totals.ALL), amount).where(leads(jobs))).subquery()
    return _amounts(every.c.subject, every.c.amount)


def _amounts(subject: sa.ColumnElement[Any], amount: sa.ColumnElement[Any]) -> _Select:
    return sa.select(subject.label("subject"), amount.label("amount"))


def _differing(kept: _Select, record: _Select) -> _Select:
    """Sum both sides by subject, and keep the subjects whose sums differ; a missing side counts as 0."""
    item, other = kept.subquery(), record.subquery()
    zero = sa.literal(0)
    both = sa.union_all(
        sa.select(item.c.subject, item.c.amount.label("kept"), zero.label("counted")),
        sa.select(other.c.subject, zero.label("kept"), other.c.amount.label("counted")),
    ).subquery()
    summed, counted = sa.func.sum(both.c.kept), sa.func.sum(both.c.counted)
    return (
        sa.select(both.c.subject, summed.label("kept"), counted.label("counted"))
        .group_by(both.c.subject)
        .having(summed != counted)
        .order_by(both.c.subject)
        .limit(MAX_OF_A_KIND)
    )
