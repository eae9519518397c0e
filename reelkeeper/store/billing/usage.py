"""Store the usage of each UTC day, by user and source. A day without a row is unknown, which is not zero.

Only `record` writes, and `take_of_users` deletes what is charged for good. Usage that both the store and Cloudflare
counted has a row from each.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model.money import Metric, UsageSource, Used, each_day
from reelkeeper.store.core.engine import insert_into
from reelkeeper.store.tables import usage_days

PEAKS = (Metric.STORED_BYTES, Metric.USERS)  # a day keeps the largest value; all other metrics are sums
KEY = ("day", "metric", "source", "resource", "storage_class", "user_id", "provider")
_BATCH = 2_000
_METRICS: Final = {str(metric): metric for metric in Metric}  # a look-up takes a fifth of the time of making one
_SOURCES: Final = {str(source): source for source in UsageSource}
_COLUMNS = [usage_days.c[name] for name in Used._fields]


def record(session: Session, used: Iterable[Used], *, add: bool = False) -> None:
    """Record usage: of a peak the larger value is kept; a sum replaces the earlier one, or with `add` is added to it.

    Cloudflare's figures always replace its earlier ones. Rows are written in the order of their keys, so that two
    writers of the same rows wait for each other without a deadlock.
    """
    rows = [
        usage._asdict() for usage in sorted(used, key=lambda usage: tuple(str(getattr(usage, name)) for name in KEY))
    ]
    statement = insert_into(session, usage_days)
    new, old = statement.excluded, usage_days.c
    larger = sa.case((new.quantity > old.quantity, new.quantity), else_=old.quantity)
    own_peak = sa.and_(sa.or_(*(old.metric == metric for metric in PEAKS)), old.source == UsageSource.STORE)
    summed = old.quantity + new.quantity if add else new.quantity
    statement = statement.on_conflict_do_update(
        index_elements=KEY,
        set_={
            "quantity": sa.case((own_peak, larger), else_=summed),
            "sampled": sa.or_(new.sampled, old.sampled) if add else new.sampled,
        },
    )
    for start in range(0, len(rows), _BATCH):
        session.execute(statement, rows[start : start + _BATCH])


def days(
    session: Session,
    first: date,
    last: date,
    *,
    metrics: Sequence[Metric] = tuple(Metric),
    source: UsageSource | None = None,
    of_users: bool | None = None,
) -> Iterator[Used]:
    """Stream the usage from day `first` to `last`, by day; filtered by source, and by users or account.

    `of_users`: True for the usage of users, False for the account as a whole.
    """
    column = usage_days.c
    query = (
        sa.select(*_COLUMNS)
        .where(column.day.between(first, last), column.metric.in_(metrics))
        .order_by(*(column[name] for name in KEY))
    )
    if source is not None:
        query = query.where(column.source == source)
    if of_users is not None:
        query = query.where(column.user_id != "" if of_users else column.user_id == "")
    yield from map(_used, session.execute(query, execution_options={"yield_per": _BATCH}))


def _used(row: Sequence[Any]) -> Used:
    day, metric, quantity, resource, storage_class, user_id, source, sampled, provider = row
    return Used(day, _METRICS[metric], quantity, resource, storage_class, user_id, _SOURCES[source], sampled, provider)


def first_day(session: Session, metrics: Sequence[Metric]) -> date | None:
    """Return the first day on which the account has usage of any of `metrics`; None: there is none."""
    column = usage_days.c
    known = sa.select(sa.func.min(column.day)).where(column.metric.in_(metrics), column.user_id == "")
    return session.execute(known).scalar()


def days_of_users(session: Session, first: date, last: date) -> list[date]:
    """List the days from `first` to `last` that have usage of users."""
    column = usage_days.c
    query = sa.select(column.day).distinct().where(column.day.between(first, last), column.user_id != "")
    return list(session.scalars(query))


def take_of_users(session: Session, day: date) -> list[Used]:
    """Delete the usage of users on a day, and return what of it is known at this moment."""
    own = sa.delete(usage_days).where(usage_days.c.day == day, usage_days.c.user_id != "").returning(*_COLUMNS)
    return list(map(_used, session.execute(own)))


def operations(session: Session, first: date, last: date) -> dict[str, int]:
    """Sum the operations that we caused in the bucket from day `first` to `last`, by R2's name of each."""
    column = usage_days.c
    rows = session.execute(
        sa.select(column.resource, sa.func.sum(column.quantity))
        .where(
            column.day.in_(list(each_day(first, last))),  # with the metric, the front of the primary key
            column.metric == Metric.OPERATIONS,
            column.source == UsageSource.STORE,
            column.user_id == "",
        )
        .group_by(column.resource)
        .order_by(column.resource)
    )
    return {action: int(quantity) for action, quantity in rows}


def missing_days(
    session: Session, metric: Metric, first: date, last: date, source: UsageSource | None = None
) -> list[date]:
    """List the days from `first` to `last` without usage of `metric`, from any source or from `source`."""
    known = {usage.day for usage in days(session, first, last, metrics=[metric], source=source, of_users=False)}
    return [day for day in each_day(first, last) if day not in known]


def gaps(session: Session, metric: Metric, first: date, last: date) -> list[date]:
    """List the days without usage of `metric` that lie after its first known day, up to `last`.

    Only days since `first` count: days before counting began are no gaps.
    """
    missing = missing_days(session, metric, first, last)
    known = {*each_day(first, last)} - {*missing}
    return [day for day in missing if known and day > min(known)]
