"""Keep the jobs that providers have made or may have made: each key that a request was sent under, until it is pruned.

A request that is sent again has one row for each attempt, so that what the vendors made can be counted and compared.
"""

from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.store.core.engine import Clock, insert_into
from reelkeeper.store.tables import jobs, vendor_erasures, vendor_jobs


class Counted(NamedTuple):
    """What counts as spent for a job at its vendor, since when, whether its vendor has named it, and who that is."""

    microusd: int
    at: datetime
    is_named: bool
    provider: str


class SentRow(NamedTuple):
    """A job at a vendor, with its job here and the parameters that its price was quoted from."""

    key: str
    job_id: str
    vendor_id: str | None
    sent_at: datetime
    ended_at: datetime | None
    counted_microusd: int | None
    quoted_cost_microusd: int | None
    lease_token: int
    model: str
    tier: str | None
    policy_version: int
    request: dict[str, Any]


def announce(session: Session, key: str, job_id: str, provider: str) -> None:
    """Record that a request is about to be sent; a key that was announced before keeps its time."""
    row = {"key": key, "job_id": job_id, "provider": provider, "sent_at": Clock()}
    session.execute(insert_into(session, vendor_jobs).values(row).on_conflict_do_nothing(index_elements=["key"]))


def name(session: Session, key: str, vendor_id: str) -> None:
    """Record the vendor's id of a job."""
    session.execute(sa.update(vendor_jobs).where(vendor_jobs.c.key == key).values(vendor_id=vendor_id))


def over(session: Session, key: str) -> None:
    """Record that a vendor is done with a job, which remains to be fetched."""
    chosen = sa.and_(vendor_jobs.c.key == key, vendor_jobs.c.ended_at.is_(None))
    session.execute(sa.update(vendor_jobs).where(chosen).values(ended_at=Clock()))


def forget(session: Session, key: str) -> None:
    """Remove a job that its vendor certainly did not take."""
    session.execute(sa.delete(vendor_erasures).where(vendor_erasures.c.key == key))
    session.execute(sa.delete(vendor_jobs).where(vendor_jobs.c.key == key))


def sent_at(session: Session, key: str) -> datetime | None:
    """Return when a job was first about to be sent."""
    return session.execute(sa.select(vendor_jobs.c.sent_at).where(vendor_jobs.c.key == key)).scalar_one_or_none()


def counted(session: Session, key: str) -> Counted | None:
    """Return what counts for a job already, such as one that was given up in doubt; None: nothing."""
    column = vendor_jobs.c
    columns = (column.counted_microusd, column.ended_at, column.vendor_id.is_not(None), column.provider)
    wanted = sa.select(*columns).where(column.key == key, column.counted_microusd > 0)
    row = session.execute(wanted).one_or_none()
    return Counted(*row) if row else None


def end(session: Session, key: str, at: datetime, counted_microusd: int, reported_microusd: int | None) -> None:
    """Record that a job is over, what counts for it, and what its vendor reported."""
    new = {"ended_at": at, "counted_microusd": counted_microusd, "reported_microusd": reported_microusd}
    session.execute(sa.update(vendor_jobs).where(vendor_jobs.c.key == key).values(**new))


def sent_between(session: Session, provider: str, first: datetime, end: datetime) -> list[SentRow]:
    """List the jobs that were sent to this provider in this period."""
    own = SentRow._fields[:6]
    columns = [vendor_jobs.c[name] for name in own] + [jobs.c[name] for name in SentRow._fields[6:]]
    column = vendor_jobs.c
    rows = session.execute(
        sa.select(*columns)
        .join_from(vendor_jobs, jobs, jobs.c.id == column.job_id)
        .where(column.provider == provider, column.sent_at >= first, column.sent_at < end)
        .order_by(column.sent_at, column.key)
    )
    return [SentRow(*row) for row in rows]
