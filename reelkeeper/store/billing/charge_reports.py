"""Sum the charges of a range of days, for reports."""

from datetime import date
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.store.tables import charges


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


def by_day_and_service(session: Session, first: date, last: date) -> list[Spent]:
    """Sum what was billed from day `first` to `last`, by day and service."""
    rows = session.execute(
        sa.select(charges.c.day, charges.c.service, sa.func.sum(charges.c.billed_nanousd))
        .where(charges.c.day.between(first, last))
        .group_by(charges.c.day, charges.c.service)
        .order_by(charges.c.day, charges.c.service)
    )
    return [Spent(day, service, int(billed)) for day, service, billed in rows]


def billed(session: Session, day: date) -> tuple[int, int]:
    """Sum what was billed on `day`, and in its month up to that day, in nano-dollars."""
    on_day = sa.case((charges.c.day == day, charges.c.billed_nanousd), else_=0)
    row = session.execute(
        sa.select(
            sa.func.coalesce(sa.func.sum(on_day), 0), sa.func.coalesce(sa.func.sum(charges.c.billed_nanousd), 0)
        ).where(charges.c.day.between(day.replace(day=1), day))
    ).one()
    return int(row[0]), int(row[1])


def by_sku(session: Session, first: date, last: date) -> list[SkuLine]:
    """Sum the charges from day `first` to `last` by billed item, the largest first."""
    billed = sa.func.sum(charges.c.billed_nanousd)
    rows = session.execute(
        sa.select(
            charges.c.service,
            charges.c.sku,
            sa.func.sum(charges.c.consumed_quantity),
            sa.func.min(charges.c.consumed_unit),
            sa.func.sum(charges.c.list_nanousd),
            billed,
            sa.func.max(sa.cast(charges.c.estimated, sa.Integer)),
        )
        .where(charges.c.day.between(first, last))
        .group_by(charges.c.service, charges.c.sku)
        .order_by(billed.desc(), charges.c.sku)
    )
    return [
        SkuLine(service, sku, int(quantity), unit, int(listed), int(amount), bool(estimated))
        for service, sku, quantity, unit, listed, amount, estimated in rows
    ]


def by_month(session: Session, first: date, last: date) -> dict[date, int]:
    """Sum what was billed from day `first` to `last`, by the first day of the month, in nano-dollars.

    A month without charges from its first day on, such as the very first, is not comparable, and is left out.
    """
    year, month = (sa.extract(part, charges.c.day) for part in ("year", "month"))
    rows = session.execute(
        sa.select(sa.func.min(charges.c.day), sa.func.sum(charges.c.billed_nanousd))
        .where(charges.c.day.between(first, last))
        .group_by(year, month)
        .order_by(year, month)
    )
    return {day: int(billed) for day, billed in rows if day.day == 1}
