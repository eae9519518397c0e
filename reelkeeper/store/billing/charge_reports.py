"""Sum the charges of a range of days, rolled up or not, for reports and rules; nothing here grows with users."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from datetime import date
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model.money import Charge
from reelkeeper.store.billing.charges import rolled_up, totals
from reelkeeper.store.core.engine import one_of
from reelkeeper.store.tables import charge_days, charge_months, charges, usage_days


class Spent(NamedTuple):
    """The amount billed for one service on one day, users and residual together."""

    day: date
    service: str
    billed_nanousd: int


class SkuLine(NamedTuple):
    """The sum for one billed item. `estimated`: part of it is based on incomplete usage."""

    service: str
    sku: str
    consumed_quantity: int
    consumed_unit: str
    list_nanousd: int
    billed_nanousd: int
    estimated: bool


class Settled(NamedTuple):
    """The sums of a day's charges for one line item, to be compared with the expected ones."""

    day: date
    sku: str
    service: str
    unit: str
    provider: str
    consumed_quantity: int
    list_nanousd: int
    billed_nanousd: int
    estimated: bool


def by_day_and_service(session: Session, first: date, last: date) -> list[Spent]:
    """Sum what was billed from day `first` to `last`, by day and service."""
    service = charge_days.c.service
    rows = session.execute(
        sa.select(charge_days.c.day, service, sa.func.sum(charge_days.c.billed_nanousd))
        .where(charge_days.c.day.between(first, last))
        .group_by(charge_days.c.day, service)
        .order_by(charge_days.c.day, service)
    )
    return [Spent(day, service, int(billed)) for day, service, billed in rows]


def billed(session: Session, day: date) -> tuple[int, int]:
    """Sum what was billed on `day`, and in its month up to that day, in nano-dollars."""
    on_day = sa.case((charge_days.c.day == day, charge_days.c.billed_nanousd), else_=0)
    row = session.execute(
        sa.select(
            sa.func.coalesce(sa.func.sum(on_day), 0), sa.func.coalesce(sa.func.sum(charge_days.c.billed_nanousd), 0)
        ).where(charge_days.c.day.between(day.replace(day=1), day))
    ).one()
    return int(row[0]), int(row[1])


def by_sku(session: Session, first: date, last: date) -> list[SkuLine]:
    """Sum the charges from day `first` to `last` by billed item, the largest first."""
    of = charge_days.c
    billed = sa.func.sum(of.billed_nanousd)
    rows = session.execute(
        sa.select(
            of.service,
            of.sku,
            sa.func.sum(of.consumed_quantity),
            sa.func.min(of.consumed_unit),
            sa.func.sum(of.list_nanousd),
            billed,
            sa.func.max(sa.cast(of.estimated, sa.Integer)),
        )
        .where(charge_days.c.day.between(first, last))
        .group_by(of.service, of.sku)
        .order_by(billed.desc(), of.sku)
    )
    return [
        SkuLine(service, sku, int(quantity), unit, int(listed), int(amount), bool(estimated))
        for service, sku, quantity, unit, listed, amount, estimated in rows
    ]


def by_month(session: Session, first: date, last: date) -> dict[date, int]:
    """Sum what was billed from day `first` to `last`, by the first day of the month, in nano-dollars.

    A month without charges from its first day on, such as the very first, is not comparable, and is left out.
    """
    found = _sums_by_month(session, charge_days.c.billed_nanousd, first, last)
    return {day: billed for day, billed in found.items() if day.day == 1}


def last_day(session: Session) -> date | None:
    """Return the last day with charges; None: nothing was charged yet."""
    return session.execute(sa.select(sa.func.max(charge_days.c.day))).scalar()


def unlike(session: Session, unit: str, metrics: Collection[str], first: date, last: date) -> list[date]:
    """List the months from day `first` to `last` of whose `metrics` another sum was used than is charged in `unit`.

    Each is named by its first day, in order.
    """
    of_metrics = (usage_days.c.metric.in_(metrics), usage_days.c.user_id == "")
    more = Counter[date]()  # than is charged
    for day, used in _sums_by_month(session, usage_days.c.quantity, first, last, *of_metrics).items():
        more[day.replace(day=1)] += used
    of_unit = charge_days.c.consumed_unit == unit
    for day, charged in _sums_by_month(session, charge_days.c.consumed_quantity, first, last, of_unit).items():
        more[day.replace(day=1)] -= charged
    return sorted(month for month, quantity in more.items() if quantity)


def _sums_by_month(
    session: Session, quantity: sa.Column[Any], first: date, last: date, *chosen: sa.ColumnElement[bool]
) -> dict[date, int]:
    """Sum a column of a table of days by month, in order, each named by the first of its days that has a row."""
    day = quantity.table.c.day
    year, month = (sa.extract(part, day) for part in ("year", "month"))
    query = sa.select(sa.func.min(day), sa.func.sum(quantity)).where(day.between(first, last), *chosen)
    return {row[0]: int(row[1]) for row in session.execute(query.group_by(year, month).order_by(year, month))}


def settled(session: Session, first: date, last: date) -> list[Settled]:
    """Sum the charges of each day from `first` to `last` by billed item."""
    of = charge_days.c
    texts = [sa.func.min(of[name]).label(name) for name in ("service", "consumed_unit", "provider")]
    consumed = sa.func.sum(of.consumed_quantity)
    query = sa.select(charge_days.c.day, of.sku, *texts, consumed, *totals(charge_days)).where(
        charge_days.c.day.between(first, last)
    )
    return [
        Settled(*row[:5], int(row[5]), int(row.listed), int(row.billed), bool(row.estimated))
        for row in session.execute(query.group_by(of.day, of.sku))
    ]


def by_scope(session: Session, first: date, last: date, apart: Collection[str] = ()) -> list[Charge]:
    """Sum the charges of each day from `first` to `last` by service and tier, and for the users `apart` separately.

    What such a user cost on a month's rolled-up days is spread evenly over these.
    """
    of = charge_days.c
    query = sa.select(of.day, of.service, of.tier, *totals(charge_days)).where(of.day.between(first, last))
    found = {
        (row.day, row.service, row.tier): _sum(
            row.day, row.service, row.tier, "", int(row.listed), int(row.billed), bool(row.estimated)
        )
        for row in session.execute(query.group_by(of.day, of.service, of.tier))
    }
    own = [*_apart(session, first, last, apart)] if apart else []
    for charge in own:
        key = (charge.day, charge.service, charge.tier or "")
        rest = found.get(key) or _sum(*key, "", 0, 0, charge.estimated)
        found[key] = rest._replace(
            list_nanousd=rest.list_nanousd - charge.list_nanousd,
            billed_nanousd=rest.billed_nanousd - charge.billed_nanousd,
        )
    return [*found.values(), *own]


def _apart(session: Session, first: date, last: date, users: Collection[str]) -> Iterator[Charge]:
    """Sum the charges of these users by day, service and tier."""
    month = first.replace(day=1)
    days = defaultdict[date, list[date]](list)
    for over in rolled_up(session, month, last):
        days[over.replace(day=1)].append(over)
    for rows in (charges, charge_months):
        of = rows.c
        day = of.month if rows is charge_months else of.day
        query = sa.select(day.label("day"), of.service, of.tier, of.user_id, *totals(rows))
        query = query.where(one_of(session, of.user_id, list(users)), day.between(month, last))
        for row in session.execute(query.group_by(day, of.service, of.tier, of.user_id)):
            spread = days[row.day] if rows is charge_months else [row.day]
            for number, each in enumerate(spread):
                if each >= first:
                    listed, billed = (_part(int(whole), number, len(spread)) for whole in (row.listed, row.billed))
                    yield _sum(each, row.service, row.tier, row.user_id, listed, billed, bool(row.estimated))


def _part(whole: int, number: int, count: int) -> int:
    """Return one of `count` even parts, which sum to the whole."""
    return whole * (number + 1) // count - whole * number // count


def _sum(day: date, service: str, tier: str | None, user_id: str, listed: int, billed: int, estimated: bool) -> Charge:
    return Charge(day, service, "", user_id, tier or None, 0, "", listed, billed, "", estimated)
