"""Store what each vendor has shown to take, and count the jobs of ours that it has.

Each vendor has a row of `controls`. It is locked after the deployment row and before a job's, where these are needed.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model.jobs import JobState, Occupied
from reelkeeper.store.core import controls
from reelkeeper.store.core.engine import Clock
from reelkeeper.store.tables import jobs, vendor_jobs

_PREFIX: Final = "lane:"
_STATE: Final = sa.func.coalesce(jobs.c.state, "")  # not by its index: SQLite would read all jobs that wait


def known(session: Session) -> dict[str, dict[str, Any]]:
    """Read what each vendor takes, without a lock."""
    return controls.of_each(session, _PREFIX)


def find(session: Session, provider: str) -> dict[str, Any] | None:
    """Read what one vendor takes, without a lock; None: it has never refused a job."""
    name = f"{_PREFIX}{provider}"
    found: dict[str, Any] | None = controls.remembered(session, [name]).get(name)
    return found


def locked(session: Session, provider: str) -> tuple[dict[str, Any], datetime]:
    """Read and lock what one vendor takes until the transaction ends; return it and the time."""
    return controls.locked(session, f"{_PREFIX}{provider}")


def write(session: Session, provider: str, state: dict[str, Any]) -> None:
    """Write what a vendor takes."""
    controls.write(session, f"{_PREFIX}{provider}", state)


def there(session: Session, provider: str | None = None) -> Iterator[tuple[str, int, int]]:
    """Count, for each vendor or for one, the jobs that it has accepted and those that it has not answered about.

    A job that it has ended is not there any more; one in doubt, which it may never have got, counts for nothing. The
    cost depends on the jobs that vendors have, however many wait.
    """
    column = vendor_jobs.c
    # guard lanes.over: what a vendor has ended holds up the next job while it is fetched and stored
    is_there = sa.and_(column.ended_at.is_(None), _STATE.in_((JobState.RUNNING, JobState.QUEUED)))
    accepted = sa.func.count(column.vendor_id)
    rows = session.execute(
        sa.select(column.provider, accepted, sa.func.count() - accepted)
        .join_from(vendor_jobs, jobs, jobs.c.provider_key == column.key)
        .where(is_there, *([column.provider == provider] if provider else []))
        .group_by(column.provider)
    )
    yield from ((row[0], row[1], row[2]) for row in rows)


def occupied(session: Session) -> list[Occupied]:
    """Count the jobs that a worker or a provider is working on, by their scopes; a parked one it may not have.

    What a provider has ended, and is being fetched and stored, takes no place.
    """
    scopes = (jobs.c.lane, jobs.c.model, jobs.c.tier, jobs.c.user_id)
    key, is_there = vendor_jobs.c.key, vendor_jobs.c.ended_at.is_(None)
    at_work = sa.select(*scopes).join_from(jobs, vendor_jobs, jobs.c.provider_key == key, isouter=True)
    # guard claims.parked_place: jobs in doubt hold up all new ones of their provider for a day
    at_work = at_work.where(jobs.c.state == JobState.RUNNING, is_there)
    handed_over = sa.select(*scopes).join_from(vendor_jobs, jobs, jobs.c.provider_key == key)
    # guard claims.occupied: a job that continues at its provider is not counted, and its cap is exceeded
    handed_over = handed_over.where(_STATE == JobState.QUEUED, is_there)
    both = sa.union_all(at_work, handed_over).subquery()  # not `or`, which would read all jobs that wait
    rows = session.execute(sa.select(*both.c, sa.func.count()).group_by(*both.c))
    return [Occupied._make(row) for row in rows]


def pending(session: Session, otherwise: str | None) -> dict[str, int]:
    """Count the jobs that living workers are about to send, by vendor, and `otherwise` for those without one."""
    lane = sa.func.coalesce(jobs.c.lane, otherwise)
    is_unsent = sa.func.coalesce(jobs.c.provider_key, "") == ""  # as above
    claimed = sa.and_(jobs.c.state == JobState.RUNNING, is_unsent, jobs.c.lease_until > Clock())
    rows = session.execute(sa.select(lane, sa.func.count()).where(claimed).group_by(lane))
    return {row[0]: row[1] for row in rows if row[0]}


def parked(session: Session) -> dict[str, int]:
    """Count the jobs in doubt, by the vendor that may have them."""
    counts = sa.select(jobs.c.provider, sa.func.count()).where(jobs.c.state == JobState.PARKED)
    return {row[0]: row[1] for row in session.execute(counts.group_by(jobs.c.provider)) if row[0]}


def accepted_lately(session: Session, provider: str, seconds: float, but: str) -> tuple[int, datetime | None]:
    """Count the jobs that a vendor has accepted in the last `seconds`, and return when the first was sent.

    `but`: the key of a job that is left out.
    """
    column = vendor_jobs.c
    lately = sa.and_(column.provider == provider, column.sent_at > Clock(-seconds), column.key != but)
    row = session.execute(
        sa.select(sa.func.count(), sa.func.min(column.sent_at, type_=column.sent_at.type)).where(lately)
    ).one()
    return row[0], row[1]
