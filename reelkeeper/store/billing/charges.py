"""Store the charges of each UTC day, and sum them. Users' rows and the residual of user "" add up to the bill."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import date
from itertools import islice
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model.money import Charge
from reelkeeper.store.core.policies import in_force
from reelkeeper.store.tables import charges

By = Literal["user", "service", "provider", "day"]
_KEYS = {
    "user": (charges.c.user_id, sa.func.max(charges.c.tier).label("tier")),
    "service": (charges.c.service,),
    "provider": (charges.c.provider,),
    "day": (charges.c.day,),
}
_BATCH = 2_000
_COLUMNS = [charges.c[name] for name in Charge._fields]


class Sum(NamedTuple):
    """The sum of charges for one user, service, provider or day.

    The user "" is the residual, such as allowances and rounding; the provider "" is that of jobs from before it was
    recorded.
    """

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


def billed_by_provider(session: Session, first: date, last: date) -> dict[str, dict[str, int]]:
    """Sum what was billed from day `first` to `last` for each user, by provider, in nano-dollars."""
    user_id, provider, day = charges.c.user_id, charges.c.provider, charges.c.day
    query = sa.select(user_id, provider, sa.func.sum(charges.c.billed_nanousd)).where(day.between(first, last))
    found: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for whose, name, billed in session.execute(query.group_by(user_id, provider).order_by(user_id, provider)):
        found[whose][name] = int(billed)
    return found


class MonthSum(NamedTuple):
    """The sum of a user's charges in one month from one provider."""

    month: date  # its first day
    provider: str
    list_nanousd: int
    billed_nanousd: int
    estimated: bool


def of_user(session: Session, user_id: str, first: date, months: int) -> tuple[list[MonthSum], bool]:
    """Sum a user's charges by month and provider, for so many months from the first with any since day `first`.

    Return also whether there are later ones. Reads the user's rows of these months alone.
    """
    day, own = charges.c.day, charges.c.user_id == user_id
    begin = session.execute(sa.select(sa.func.min(day)).where(own, day >= first)).scalar()
    if begin is None:
        return [], False
    count = begin.year * 12 + begin.month - 1 + months
    end = date(count // 12, count % 12 + 1, 1)
    year, month = (sa.extract(part, day) for part in ("year", "month"))
    query = (
        sa.select(year, month, charges.c.provider, *_totals())
        .where(own, day >= begin, day < end)
        .group_by(year, month, charges.c.provider)
        .order_by(year, month, charges.c.provider)
    )
    found = [
        MonthSum(date(int(row[0]), int(row[1]), 1), row.provider, int(row.listed), int(row.billed), bool(row.estimated))
        for row in session.execute(query)
    ]
    return found, session.execute(sa.select(sa.exists().where(own, day >= end))).scalar_one()


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
