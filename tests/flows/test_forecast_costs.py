"""`forecast_costs`: a dry run only shows; a run saves the forecast, posts its chart and suggests savings."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from flows.forecast_costs import forecast_costs
from reelkeeper.model.money import Metric, StorageClass, Used
from reelkeeper.store.billing.usage import record
from reelkeeper.store.core.deployment import beats
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.tables import alerts, blobs, forecasts, outbox, users, videos, view_days
from tests.flows.scenes import Scene
from tests.jobs import hit, made, put
from tests.reading import as_read

NOW = datetime.now(UTC)
TODAY = NOW.date()
GB = 10**9


@pytest.fixture
def used(scene: Scene) -> Scene:
    """Forty days of usage, and two terabytes that nobody watches."""
    with transaction(scene.engine, "test") as session:
        for days in range(1, 41):
            day = TODAY - timedelta(days=days)
            record(
                session,
                [
                    Used(day, Metric.STORED_BYTES, 2000 * GB, storage_class=StorageClass.STANDARD),
                    Used(day, Metric.UPLOADED_BYTES, GB),
                    Used(day, Metric.JOBS, 300),
                ],
            )
        made = NOW - timedelta(days=38)
        session.execute(sa.insert(users).values(id="idle", tier="pro"))
        session.execute(
            sa.insert(videos).values(id="v-idle", user_id="idle", state="live", created_at=made, blob_id=None)
        )
        session.execute(
            sa.insert(blobs).values(
                id=99, video_id="v-idle", state="live", size_bytes=2000 * GB, key="k", codec="h264", stored_at=made
            )
        )
        session.execute(sa.update(videos).where(videos.c.id == "v-idle").values(blob_id=99))
        assert session.execute(sa.select(sa.func.count()).select_from(view_days)).scalar_one() >= 30
    return scene


def counted(scene: Scene, table: sa.Table) -> int:
    with reading(scene.engine) as session:
        return int(session.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


def test_a_dry_run_shows_the_forecast_and_keeps_nothing(used: Scene) -> None:
    report = forecast_costs()
    assert report.dry_run
    assert len(report.months) == 3
    assert report.months[0].startswith(f"{TODAY:%Y-%m}: $")
    assert [saving.partition(" 2,000.0 GB")[0] for saving in report.savings] == snapshot(
        ["Retire", "Ask user idle about", "Move"]
    )
    assert [counted(used, table) for table in (forecasts, outbox, alerts)] == [0, 0, 0]


@pytest.mark.long
def test_repeated_jobs_are_reported_with_their_cost(used: Scene) -> None:
    old, new = NOW - timedelta(days=40), NOW - timedelta(days=3)
    cost: dict[str, Any] = {"cost_microusd": 350_000, "user_id": "idle"}
    asked = [made(f"a{n}", new + timedelta(minutes=n), cache_key="again", **cost) for n in range(5)]
    others = [made("old", old, cache_key="again", **cost), made("b", new, **cost), made("c", old, **cost)]
    put(used.engine, [*asked, *others, hit("d", new, cache_key="again", user_id="idle")])
    report = forecast_costs()
    (told,) = [saving for saving in report.savings if saving.startswith("Answer")]
    assert as_read(told) == snapshot("Answer 5 jobs a month from the cache: $1.75 less a month")


@pytest.mark.long
def test_a_run_keeps_it_posts_the_chart_and_tells_what_would_save_once(used: Scene) -> None:
    report = forecast_costs(dry_run=False, months=2)
    assert counted(used, forecasts) == 2 * 4  # the total, storage, compute, API
    with reading(used.engine) as session:
        charts = session.execute(sa.select(outbox.c.state, outbox.c.payload).where(outbox.c.kind == "chart")).all()
        told = set(session.scalars(sa.select(alerts.c.scope).where(alerts.c.rule == "saving")))
        assert "forecast_costs" in beats(session)
    assert len(charts) == 1
    assert report.months[0] in str(charts[0].payload)
    assert told == {"class", "idle", "user:idle"}  # compressing waits for none that is to be retired
    forecast_costs(dry_run=False, months=2)
    assert counted(used, alerts) == len(told)
