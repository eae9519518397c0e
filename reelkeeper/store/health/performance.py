"""Read performance figures: ended jobs, jobs in flight, and stored bytes; record and list windows."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model.jobs import IN_FLIGHT, JobState
from reelkeeper.model.performance import Filled, FinishedJob, InFlight, JobAtWork, Window
from reelkeeper.store.core.engine import insert_into
from reelkeeper.store.tables import jobs, performance_windows, storage_accounts, users
from reelkeeper.store.tables.columns import UtcDateTime

_FULL = 100  # percent


def ended(
    session: Session, since: datetime, until: datetime, by_lane: Mapping[str, datetime] | None = None
) -> list[FinishedJob]:
    """List the jobs that ended from `since` on and before `until`, in that order.

    `by_lane` has another start for some lanes; "" is the lane of jobs without a provider.
    """
    starts = {lane: sa.literal(start, UtcDateTime()) for lane, start in (by_lane or {}).items()}
    lane = sa.func.coalesce(jobs.c.lane, "")
    start = sa.case(starts, value=lane, else_=sa.literal(since, UtcDateTime())) if starts else since
    earliest = min([since, *(by_lane or {}).values()])
    names = [name for name in FinishedJob._fields if name not in ("state", "is_follower")]
    rows = session.execute(
        sa.select(jobs.c.state, jobs.c.leader_id, *(jobs.c[name] for name in names))
        .where(jobs.c.finished_at >= earliest, jobs.c.finished_at >= start, jobs.c.finished_at < until)
        .order_by(jobs.c.finished_at, jobs.c.id)
    )
    return [
        FinishedJob(
            state=JobState(row.state),
            is_follower=row.leader_id is not None,
            **{name: getattr(row, name) for name in names},
        )
        for row in rows
    ]


def at_work(session: Session) -> list[JobAtWork]:
    """List the jobs that run or are parked."""
    begun = sa.and_(jobs.c.state.in_((JobState.RUNNING, JobState.PARKED)), jobs.c.started_at.is_not(None))
    columns = (jobs.c[name] for name in JobAtWork._fields)
    return [JobAtWork(*row) for row in session.execute(sa.select(*columns).where(begun))]


def in_flight(session: Session) -> list[InFlight]:
    """Count the jobs in flight by tier, model and state, without followers."""
    group = (jobs.c.tier, jobs.c.model, jobs.c.state)
    rows = session.execute(
        sa.select(
            *group,
            sa.func.count(),
            sa.func.min(jobs.c.created_at),
            sa.func.coalesce(sa.func.sum(jobs.c.estimate_seconds), 0),
        )
        .where(jobs.c.state.in_(IN_FLIGHT), jobs.c.leader_id.is_(None))
        .group_by(*group)
        .order_by(*group)
    )
    return [
        InFlight(tier, model, JobState(state), int(count), oldest, float(seconds))
        for tier, model, state, count, oldest, seconds in rows
    ]


def filled(
    session: Session, by_tier: Mapping[str, int], budget_bytes: int | None, full_percent: float | None
) -> Filled:
    """Sum the bytes that users store and may store, by tier or their own quota. An unknown tier may store nothing."""
    quota = sa.func.coalesce(
        storage_accounts.c.quota_bytes,
        sa.case(*((users.c.tier == tier, size) for tier, size in by_tier.items()), else_=0),
    )
    used = storage_accounts.c.used_bytes
    is_full = sa.false() if full_percent is None else used * _FULL > quota * full_percent
    row = session.execute(
        sa.select(
            sa.func.coalesce(sa.func.sum(used), 0),
            sa.func.coalesce(sa.func.sum(quota), 0),
            sa.func.coalesce(sa.func.sum(sa.case((is_full, 1), else_=0)), 0),
        ).select_from(users.outerjoin(storage_accounts, storage_accounts.c.user_id == users.c.id))
    ).one()
    return Filled(int(row[0]), int(row[1]) if budget_bytes is None else budget_bytes, int(row[2]))


def last_window(session: Session) -> datetime | None:
    """Read the start of the last recorded window."""
    last: datetime | None = session.execute(sa.select(sa.func.max(performance_windows.c.start_at))).scalar()
    return last


def record(session: Session, found: Sequence[Window]) -> None:
    """Record windows; a known one is replaced."""
    if not found:
        return
    insert = insert_into(session, performance_windows)
    new = {name: insert.excluded[name] for name in ("seconds", "figures")}
    keys = ["start_at", "tier", "model"]
    session.execute(insert.on_conflict_do_update(index_elements=keys, set_=new), [window._asdict() for window in found])


def recorded(session: Session, since: datetime, *, tier: str = "", model: str = "") -> list[Window]:
    """List the windows of one tier or model, or of all together, that began at `since` or later, in their order."""
    table = performance_windows
    rows = session.execute(
        sa.select(*(table.c[name] for name in Window._fields))
        .where(table.c.start_at >= since, table.c.tier == tier, table.c.model == model)
        .order_by(table.c.start_at)
    )
    return [Window(*row) for row in rows]
