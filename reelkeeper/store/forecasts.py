"""What runs of `forecast_costs` said, as it was recorded."""

from datetime import date, datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.store.tables import forecasts


class Expected(NamedTuple):
    """What one service will cost in one month, said at `as_of`; service "" is the total. Each band is of outcomes."""

    month: date
    service: str
    as_of: datetime
    mean_microusd: int
    lower80_microusd: int
    upper80_microusd: int
    lower95_microusd: int
    upper95_microusd: int
    method: str


def latest(session: Session, until: datetime) -> list[Expected]:
    """Give what the last run that looked at a moment up to `until` said, by month and service."""
    last = (
        sa.select(forecasts.c.run_id)
        .where(forecasts.c.as_of <= until)
        .order_by(forecasts.c.as_of.desc(), forecasts.c.run_id)
        .limit(1)
        .scalar_subquery()
    )
    columns = [forecasts.c[name] for name in Expected._fields]
    rows = session.execute(
        sa.select(*columns).where(forecasts.c.run_id == last).order_by(forecasts.c.month, forecasts.c.service)
    )
    return [Expected(*row) for row in rows]
