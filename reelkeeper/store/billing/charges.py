"""Store the charges of each UTC day, and sum them. Users' rows and the residual of user "" add up to the bill."""

from collections.abc import Iterable, Iterator
from datetime import date
from itertools import islice
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model.money import Charge
from reelkeeper.store.core.policies import in_force
from reelkeeper.store.tables import charges

By = Literal["user", "service", "day"]
_KEYS = {
    "user": (charges.c.user_id, sa.func.max(charges.c.tier).label("tier")),
    "service": (charges.c.service,),
    "day": (charges.c.day,),
}
_BATCH = 2_000
_COLUMNS = [charges.c[name] for name in Charge._fields]


class Sum(NamedTuple):
    """The sum of charges for one user, service or day. The user "" is the residual, such as allowances and rounding."""

    key: str
    tier: str | None
    list_nanousd: int
    billed_nanousd: int
    estimated: bool


class Settled(NamedTuple):
    """The sums of a day's charges for one line item, to be compared with the expected ones."""

    day: date
    sku: str
    consumed_quantity: int
    list_nanousd: int
    billed_nanousd: int
    estimated: bool


def replace(session: Session, days: Iterable[date], new: Iterable[Charge]) -> None:
    """Replace all charges of `days` with `new`. Safe to repeat.

    Replacements wait for each other; readers do not wait, and see the old charges until the commit.
    """
    if session.get_bind().dialect.name == "postgresql":  # SQLite has one writer at a time anyway
        # guard charges.turns: two processes that charge the same day charge it twice, or fail
        session.execute(sa.text("LOCK TABLE charges IN SHARE ROW EXCLUSIVE MODE"))
    # guard charges.replaced: charging a day again doubles its charges
    session.execute(sa.delete(charges).where(charges.c.day.in_(list(days))))
    version = in_force(session).version
    rows = ({**charge._asdict(), "policy_version": version} for charge in new)
    while batch := list(islice(rows, _BATCH)):
        session.execute(sa.insert(charges), batch)


def between(session: Session, first: date, last: date) -> Iterator[Charge]:
    """Stream the charges from day `first` to `last`, by day, billed item and user."""
    query = (
        sa.select(*_COLUMNS)
        .where(charges.c.day.between(first, last))
        .order_by(charges.c.day, charges.c.sku, charges.c.user_id)
    )
    for row in session.execute(query, execution_options={"yield_per": _BATCH}):
        yield Charge(*row)


def sums(session: Session, by: By, first: date, last: date) -> list[Sum]:
    """Sum the charges from day `first` to `last` in the database: days in order, other groups largest first."""
    keys, column = _KEYS[by], charges.c
    query: sa.Select[Any] = (
        sa.select(*keys, *_totals())
        .where(column.day.between(first, last))
        .group_by(keys[0])
        .order_by(keys[0] if by == "day" else sa.func.sum(column.list_nanousd).desc(), keys[0])
    )
    return [
        Sum(str(row[0]), row.tier if by == "user" else None, int(row.listed), int(row.billed), bool(row.estimated))
        for row in session.execute(query)
    ]


def by_scope(session: Session, first: date, last: date, apart: Iterable[str] = ()) -> list[Charge]:
    """Sum the charges of each day from `first` to `last` by service and tier, and for the users `apart` separately."""
    column = charges.c
    user = sa.case((column.user_id.in_(list(apart)), column.user_id), else_="").label("user")
    query = (
        sa.select(column.day, column.service, column.tier, user, *_totals())
        .where(column.day.between(first, last))
        .group_by(column.day, column.service, column.tier, user)
    )
    return [
        Charge(
            row.day,
            row.service,
            "",
            row.user,
            row.tier,
            0,
            "",
            int(row.listed),
            int(row.billed),
            "",
            bool(row.estimated),
        )
        for row in session.execute(query)
    ]


def settled(session: Session, first: date, last: date) -> list[Settled]:
    """Sum the charges of each day from `first` to `last` by billed item."""
    column = charges.c
    query = (
        sa.select(column.day, column.sku, sa.func.sum(column.consumed_quantity).label("consumed"), *_totals())
        .where(column.day.between(first, last))
        .group_by(column.day, column.sku)
    )
    return [
        Settled(row.day, row.sku, int(row.consumed), int(row.listed), int(row.billed), bool(row.estimated))
        for row in session.execute(query)
    ]


def _totals() -> tuple[sa.Label[int], sa.Label[int], sa.Label[int]]:
    return (
        sa.func.sum(charges.c.list_nanousd).label("listed"),
        sa.func.sum(charges.c.billed_nanousd).label("billed"),
        sa.func.max(sa.cast(charges.c.estimated, sa.Integer)).label("estimated"),
    )
