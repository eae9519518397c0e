"""Store the forecasts of `forecast_costs`."""

from collections.abc import Iterable
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model.money import CostForecast
from reelkeeper.store.tables import forecasts


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
