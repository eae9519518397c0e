"""Store the forecasts of `forecast_costs`, and read the jobs that they count."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model.jobs import JobState, Repeated
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


def repeats(session: Session, since: datetime) -> Iterator[Repeated]:
    """Stream the jobs made since then whose request had been made before, by the same user or another.

    Requests are equal by their digest, which leaves out the user. A cost is the provider's, or else the expected one.
    """
    cost = sa.func.coalesce(jobs.c.cost_microusd, jobs.c.quoted_cost_microusd, 0)

    def place(*equal: sa.Column[Any]) -> sa.ColumnElement[int]:
        return sa.func.row_number().over(partition_by=equal, order_by=(jobs.c.finished_at, jobs.c.id))

    last = sa.func.lag(jobs.c.created_at, type_=jobs.c.created_at.type).over(
        partition_by=(jobs.c.request_sha256, jobs.c.user_id), order_by=(jobs.c.created_at, jobs.c.id)
    )
    made = (
        sa.select(
            place(jobs.c.request_sha256).label("of_request"),
            place(jobs.c.cache_key).label("of_entry"),
            jobs.c.created_at,
            jobs.c.finished_at,
            last.label("last"),
            cost.label("cost"),
        )
        .where(_MADE)
        .subquery()
    )
    query = sa.select(made.c.of_entry, made.c.created_at, made.c.last, made.c.cost).where(
        sa.or_(made.c.of_request > 1, made.c.of_entry > 1), made.c.finished_at >= since
    )
    for of_entry, at, last_at, microusd in session.execute(query.execution_options(yield_per=_BATCH)):
        yield Repeated(of_entry > 1, at - last_at if last_at else None, int(microusd))


def requests_made(session: Session, since: datetime) -> Iterator[tuple[dict[str, Any], str | None]]:
    """Stream the requests that became a video since then, each with the provider that made it."""
    query = sa.select(jobs.c.request, jobs.c.provider).where(
        _MADE, jobs.c.leader_id.is_(None), jobs.c.finished_at >= since
    )
    yield from (tuple(row) for row in session.execute(query.execution_options(yield_per=_BATCH)))
