"""Store the forecasts of `forecast_costs`, and read the jobs that they count."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model.jobs import JobState
from reelkeeper.model.money import CostForecast
from reelkeeper.store.tables import forecasts, jobs

_BATCH: Final = 1_000  # rows read at once
_MADE: Final = sa.and_(jobs.c.state == JobState.SUCCEEDED, jobs.c.processing_seconds > 0)


def latest(session: Session, until: datetime) -> list[CostForecast]:
    """Read the forecast of the last run as of a moment up to `until`, by month and service."""
    last = (
        sa.select(forecasts.c.run_id)
        .where(forecasts.c.as_of <= until)
        .order_by(forecasts.c.as_of.desc(), forecasts.c.run_id)
        .limit(1)
        .scalar_subquery()
    )
    columns = [forecasts.c[name] for name in CostForecast._fields]
    rows = session.execute(
        sa.select(*columns).where(forecasts.c.run_id == last).order_by(forecasts.c.month, forecasts.c.service)
    )
    return [CostForecast(*row) for row in rows]


def record(session: Session, run_id: str, costs: Iterable[CostForecast]) -> None:
    """Record a run's forecast, in place of one that the same run recorded before a crash."""
    session.execute(sa.delete(forecasts).where(forecasts.c.run_id == run_id))
    if rows := [{"run_id": run_id, **forecast._asdict()} for forecast in costs]:
        session.execute(sa.insert(forecasts), rows)


def repeats(session: Session, since: datetime) -> tuple[int, int]:
    """Count the jobs made since then that repeated an earlier request, and sum their cost to us.

    Requests are equal if their cache key is: of one user, unless the user shares. A cost is the provider's, or
    else the expected one.
    """
    cost = sa.func.coalesce(jobs.c.cost_microusd, jobs.c.quoted_cost_microusd, 0)
    place = sa.func.row_number().over(partition_by=jobs.c.cache_key, order_by=(jobs.c.finished_at, jobs.c.id))
    made = sa.select(jobs.c.finished_at, cost.label("cost"), place.label("place")).where(_MADE).subquery()
    count, microusd = session.execute(
        sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(made.c.cost), 0)).where(
            made.c.place > 1, made.c.finished_at >= since
        )
    ).one()
    return int(count), int(microusd)


def requests_made(session: Session, since: datetime) -> Iterator[tuple[dict[str, Any], str | None]]:
    """Stream the requests that became a video since then, each with the provider that made it."""
    query = sa.select(jobs.c.request, jobs.c.provider).where(
        _MADE, jobs.c.leader_id.is_(None), jobs.c.finished_at >= since
    )
    yield from (tuple(row) for row in session.execute(query.execution_options(yield_per=_BATCH)))
