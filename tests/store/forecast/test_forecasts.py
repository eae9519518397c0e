"""Saved forecasts of a month."""

from datetime import UTC, date, datetime, timedelta

import sqlalchemy as sa

from reelkeeper.model.money import CostForecast
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.forecast.forecasts import latest
from reelkeeper.store.tables import forecasts

NOW = datetime(2026, 11, 23, 6, tzinfo=UTC)


def test_the_last_run_up_to_a_moment_counts_by_month_and_service(engine: sa.Engine) -> None:
    whole = CostForecast(date(2026, 11, 1), "", NOW, 5, 4, 6, 3, 7, "E5 median")
    last = [whole, whole._replace(service="compute"), whole._replace(month=date(2026, 12, 1))]
    before = whole._replace(as_of=NOW - timedelta(days=7))
    with transaction(engine, "test") as session:
        session.execute(
            sa.insert(forecasts), [forecast._asdict() | {"run_id": f"{forecast.as_of}"} for forecast in (before, *last)]
        )
    with reading(engine) as session:
        assert latest(session, NOW) == last
        assert latest(session, NOW - timedelta(seconds=1)) == [before]
        assert latest(session, NOW - timedelta(days=8)) == []
