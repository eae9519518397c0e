"""Store what each UTC day cost, and sum it by user. Users' rows and the residual of user "" add up to the bill.

    charges         the days that may still change, by billed item and user
    charge_months   the days of a month that are rolled up, by item and user
    charge_days     all days, by item and tier: the sums of the others (`charge_reports` reads them)

So what is kept grows with users and months, and with days, but not with users and days.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import date
from itertools import groupby, islice
from operator import attrgetter
from typing import Any, Final, Literal, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model.money import Charge, next_month
from reelkeeper.store.core.engine import changed, insert_into, one_of
from reelkeeper.store.core.policies import in_force
from reelkeeper.store.tables import charge_days, charge_months, charges

By = Literal["user", "service", "provider", "day"]
_BATCH: Final = 2_000
_AMOUNTS: Final = ("consumed_quantity", "list_nanousd", "billed_nanousd")
_STORED: Final = tuple(name for name in Charge._fields if name in charges.c)


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


class Others(NamedTuple):
    """The sum of charges for users that are not listed."""

    users: int
    list_nanousd: int
    billed_nanousd: int


def take_turns(session: Session) -> None:
    """Wait for others that write charges, until the transaction ends; readers see the earlier ones until the commit."""
    if session.get_bind().dialect.name == "postgresql":  # SQLite has one writer at a time anyway
        # guard charges.turns: two processes that charge the same day charge it twice, or fail
        session.execute(sa.text("LOCK TABLE charges IN SHARE ROW EXCLUSIVE MODE"))


def replace(session: Session, days: Iterable[date], new: Iterable[Charge]) -> None:
    """Replace the charges of `days`, none of them rolled up, with `new`, which come item by item. Safe to repeat.

    Rows that stay as they are, are not written. The caller takes turns.
    """
    days, written, version = list(days), list[tuple[date, str]](), in_force(session).version
    for item, rows in groupby(new, attrgetter("day", "sku")):
        _replace_item(session, item, rows, version)
        written.append(item)
    is_left = sa.tuple_(charges.c.day, charges.c.sku).not_in(written)
    # guard charges.replaced: charging a day again doubles its charges
    session.execute(sa.delete(charges).where(charges.c.day.in_(days), is_left))
    session.execute(sa.delete(charge_days).where(charge_days.c.day.in_(days)))
    _sum_up(session, days)


def _replace_item(session: Session, item: tuple[date, str], rows: Iterable[Charge], version: int) -> None:
    of_item = sa.and_(charges.c.day == item[0], charges.c.sku == item[1])
    columns = [charges.c[name] for name in _STORED]
    kept = {row.user_id: tuple(row) for row in session.execute(sa.select(*columns).where(of_item))}
    different = (row._asdict() for row in rows if kept.pop(row.user_id, None) != row[: len(_STORED)])
    insert = insert_into(session, charges)
    new = {column.name: insert.excluded[column.name] for column in charges.c if not column.primary_key}
    insert = insert.on_conflict_do_update(index_elements=list(charges.primary_key), set_=new)
    while batch := [{**row, "policy_version": version} for row in islice(different, _BATCH)]:
        session.execute(insert, batch)
    users = iter(kept)  # those that are left have no row any more
    while gone := list(islice(users, _BATCH)):
        # guard charges.without_user: a user whose usage is gone is charged for it
        session.execute(sa.delete(charges).where(of_item, one_of(session, charges.c.user_id, gone)))


def adjust(session: Session, day: date, late: Iterable[Charge]) -> None:
    """Add `late` costs, one row for each item and user, to a day that is rolled up, and to its month.

    The caller takes turns.
    """
    rows = iter(late)
    while batch := [{**row._asdict(), "policy_version": in_force(session).version} for row in islice(rows, _BATCH)]:
        session.execute(sa.insert(charges), batch)
    _sum_up(session, [day])
    same = sa.and_(charges.c.day == charge_days.c.day, charges.c.sku == charge_days.c.sku)
    is_estimate = sa.select(sa.func.max(sa.cast(charges.c.estimated, sa.Integer)) == 1).where(same).scalar_subquery()
    now_known = sa.update(charge_days).where(charge_days.c.day == day, sa.exists().where(same))
    session.execute(now_known.values(estimated=is_estimate))
    roll_up(session, day)


def roll_up(session: Session, day: date) -> int:
    """Add the charges of a day to its month, by item and user, and delete them; return how many.

    The caller takes turns.
    """
    names = [column.name for column in charge_months.c if column.name != "month"]
    rows = sa.select(sa.literal(day.replace(day=1), sa.Date), *(charges.c[name] for name in names)).where(
        charges.c.day == day
    )
    insert = insert_into(session, charge_months).from_select(["month", *names], rows)
    new, old = insert.excluded, charge_months.c
    values: dict[str, Any] = {name: old[name] + new[name] for name in _AMOUNTS}
    values |= {name: new[name] for name in ("tier", "price_book", "policy_version")}
    values["estimated"] = sa.or_(old.estimated, new.estimated)
    # guard charges.month: of a month's rolled-up days, only the first counts for a user
    session.execute(insert.on_conflict_do_update(index_elements=list(charge_months.primary_key), set_=values))
    return changed(session, sa.delete(charges).where(charges.c.day == day))


def _sum_up(session: Session, days: list[date]) -> None:
    """Add the charges of these days to the sums of each day, item and tier."""
    of = charges.c
    tier = sa.func.coalesce(of.tier, "")
    texts = [sa.func.min(of[name]) for name in ("service", "consumed_unit", "provider")]
    amounts = [sa.func.sum(of[name]) for name in _AMOUNTS]
    is_estimate = sa.func.max(sa.cast(of.estimated, sa.Integer)) == 1
    rows = sa.select(of.day, of.sku, tier, *texts, *amounts, is_estimate).where(of.day.in_(days))
    names = ["day", "sku", "tier", "service", "consumed_unit", "provider", *_AMOUNTS, "estimated"]
    insert = insert_into(session, charge_days).from_select(names, rows.group_by(of.day, of.sku, tier))
    more = {name: charge_days.c[name] + insert.excluded[name] for name in _AMOUNTS}
    session.execute(insert.on_conflict_do_update(index_elements=list(charge_days.primary_key), set_=more))


def open_before(session: Session, day: date) -> list[date]:
    """List the days before `day` that are not rolled up, in order."""
    return list(session.scalars(sa.select(charges.c.day).distinct().where(charges.c.day < day).order_by(charges.c.day)))


def rolled_up(session: Session, first: date, last: date) -> list[date]:
    """List the days from `first` to `last` that are rolled up, in order."""
    day = charge_days.c.day
    gone = sa.select(day).distinct().where(day.between(first, last), ~sa.exists().where(charges.c.day == day))
    return list(session.scalars(gone.order_by(day)))


def between(session: Session, first: date, last: date) -> Iterator[Charge]:
    """Stream the charges from day `first` to `last`, by day, billed item and user; both are the ends of months.

    Those of days that are rolled up are a charge each of the span from the first of their month to `until`.
    """
    begins = {day.replace(day=1): day for day in reversed(open_before(session, date.max)) if first <= day <= last}
    lines = _lines(first, last)
    query = sa.select(lines).order_by(lines.c.day, lines.c.sku, lines.c.user_id, lines.c.is_month.desc())
    for row in session.execute(query, execution_options={"yield_per": _BATCH}):
        until = begins.get(row.day) or next_month(row.day)
        yield Charge(*row[:-1])._replace(until=until if row.is_month else None)


def sums(session: Session, by: By, first: date, last: date) -> list[Sum]:
    """Sum the charges from day `first` to `last` in the database: days in order, other groups largest first.

    By user, both days are the ends of months.
    """
    query = _summed(by, first, last)
    in_order = query.order_by(*(["key"] if by == "day" else [sa.desc("listed"), "key"]))
    return list(map(_sum, session.execute(in_order)))


def dearest(session: Session, first: date, last: date, most: int) -> tuple[list[Sum], Others]:
    """Sum the charges of `most` users and the residual, the largest first, and of the others together."""
    each = _summed("user", first, last).subquery().c
    of_all = [sa.func.sum(value).over() for value in (sa.literal(1), each.listed, each.billed)]
    query = sa.select(*each, *of_all).order_by(each.key != "", each.listed.desc(), each.key).limit(most + 1)
    rows = session.execute(query).all()  # the residual first
    found = [_sum(row) for row in rows]
    if len(found) > most and found[0].key:
        found.pop()
    count, listed, billed = map(int, rows[0][-3:]) if rows else (0, 0, 0)
    listed -= sum(one.list_nanousd for one in found)
    others = Others(count - len(found), listed, billed - sum(one.billed_nanousd for one in found))
    return sorted(found, key=lambda one: (-one.list_nanousd, one.key)), others


def _summed(by: By, first: date, last: date) -> sa.Select[Any]:
    rows = _lines(first, last) if by == "user" else charge_days
    key = rows.c[{"user": "user_id"}.get(by, by)]
    tier = sa.func.max(rows.c.tier) if by == "user" else sa.null()
    chosen = sa.select(key.label("key"), tier.label("tier"), *totals(rows)).where(rows.c.day.between(first, last))
    return chosen.group_by(key)


def _sum(row: sa.Row[Any]) -> Sum:
    return Sum(str(row.key), row.tier, int(row.listed), int(row.billed), bool(row.estimated))


def billed_by_provider(session: Session, first: date, last: date) -> dict[str, dict[str, int]]:
    """Sum what was billed from day `first` to `last`, ends of months, for each user, by provider, in nano-dollars."""
    of = _lines(first, last).c
    query = sa.select(of.user_id, of.provider, sa.func.sum(of.billed_nanousd)).group_by(of.user_id, of.provider)
    found: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for whose, name, billed in session.execute(query.order_by(of.user_id, of.provider)):
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
    """Sum a user's charges by month and provider for `months` months, beginning with the first charged since `first`.

    Return also whether there are later ones. Reads the user's rows of these months alone.
    """
    later = _lines(first, date.max, user_id)
    begin = session.execute(sa.select(sa.func.min(later.c.day))).scalar()
    if begin is None:
        return [], False
    count = begin.year * 12 + begin.month - 1 + months
    end = date(count // 12, count % 12 + 1, 1)
    lines = _lines(begin, end, user_id)
    year, month = (sa.extract(part, lines.c.day) for part in ("year", "month"))
    query = (
        sa.select(year, month, lines.c.provider, *totals(lines))
        .where(lines.c.day < end)
        .group_by(year, month, lines.c.provider)
        .order_by(year, month, lines.c.provider)
    )
    found = [
        MonthSum(date(int(row[0]), int(row[1]), 1), row.provider, int(row.listed), int(row.billed), bool(row.estimated))
        for row in session.execute(query)
    ]
    return found, session.execute(sa.select(sa.exists().where(later.c.day >= end))).scalar_one()


def _lines(first: date, last: date, user_id: str | None = None) -> sa.Subquery:
    """Select the charges by user from day `first` to `last`: those of a month's rolled-up days are of its first."""
    parts = []
    for table, day in ((charges, charges.c.day), (charge_months, charge_months.c.month)):
        columns = [day.label("day") if name == "day" else table.c[name] for name in _STORED]
        part = sa.select(*columns, sa.literal(table is charge_months).label("is_month")).where(day.between(first, last))
        parts.append(part if user_id is None else part.where(table.c.user_id == user_id))
    return sa.union_all(*parts).subquery()


def totals(rows: sa.FromClause) -> tuple[sa.Label[int], sa.Label[int], sa.Label[int]]:
    """Build the sums of costs: at list price, billed, and 1 where any is an estimate."""
    return (
        sa.func.sum(rows.c.list_nanousd).label("listed"),
        sa.func.sum(rows.c.billed_nanousd).label("billed"),
        sa.func.max(sa.cast(rows.c.estimated, sa.Integer)).label("estimated"),
    )
