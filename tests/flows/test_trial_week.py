"""A week of `up` as a trial: the flows of prefect.yaml as it deploys them, while the past moves back by days."""

from datetime import timedelta
from html import unescape
from importlib import import_module
from typing import Any, Final

import pytest
import sqlalchemy as sa
import yaml
from sqlmodel import SQLModel

from deployments.deploy import only_look
from deployments.up import find_prefect_yaml
from flows.forecast_costs import forecast_costs
from reelkeeper.operations.alerts.outbox import configured_sinks
from reelkeeper.operations.core.workspace import note_trial
from reelkeeper.operations.health.status import gather
from reelkeeper.operations.health.watchdog import watch
from reelkeeper.operations.reports import page, report, text
from reelkeeper.rules.alerts.cadence import CADENCES
from reelkeeper.settings import settings
from reelkeeper.store.alerts import alerts
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.tables import outbox, users, videos
from reelkeeper.store.tables.columns import UtcDateTime
from tests.buckets import BUCKET
from tests.flows.scenes import Scene

pytestmark = pytest.mark.long
DAYS: Final = 7
# What is never changed, and when objects were stored, by which the service's are known.
_UNMOVED: Final = {"audit_events", "policy_versions", "blobs"}
COLD: Final = 2  # of the videos, which plans retire
SIZE_BYTES: Final = 5 * 10**6  # $0.000075 a month
_HOURLY: Final = timedelta(hours=1).total_seconds()


def let_a_day_pass(engine: sa.Engine) -> None:
    """Make all that is on record a day older, which is what a day later looks like."""
    with transaction(engine, "test") as session:
        for table in SQLModel.metadata.tables.values():
            columns = [column for column in table.c if isinstance(column.type, UtcDateTime)]
            if columns and table.name not in _UNMOVED:
                earlier: dict[str, Any] = {
                    column.name: sa.literal_column(
                        f"strftime('%Y-%m-%d %H:%M:%f', {column.name}, '-1 day') || '000'"  # as `Clock` writes it
                    )
                    for column in columns
                }
                session.execute(sa.update(table).values(earlier))


def deployed() -> list[tuple[Any, dict[str, Any]]]:
    """Return each scheduled flow and its parameters, as `up` deploys them in a trial; jobs are not waited for."""
    document = yaml.safe_load(find_prefect_yaml().read_text())
    only_look(document)
    found = []
    for entry in document["deployments"]:
        module, _, name = entry["entrypoint"].rpartition(".")
        more = {"dispatch_jobs": {"until_idle": True}, "deliver_alerts": {"follow": False}}.get(name, {})
        if "schedules" in entry:
            found.append((getattr(import_module(module), name), entry["parameters"] | more))
    return found


@pytest.fixture
def trial(scene: Scene) -> Scene:
    """A bucket of a service's, with two videos that nobody has watched for long, and two that are new."""
    bucket, client = scene.world.workspace.bucket, scene.double.client
    for number in range(4):
        bucket.put_bytes_once(f"{bucket.prefix}ann/v{number}.mp4", bytes(SIZE_BYTES), "video/mp4")
    client.delete_object(Bucket=BUCKET, Key=bucket.identity_key)
    note_trial(scene.engine, bucket, begins=True)
    scene.double.requests.clear()
    return scene


def test_a_week_of_a_trial_alarms_nobody_changes_nothing_and_says_what_it_would_have_saved(trial: Scene) -> None:
    engine, sinks = trial.engine, configured_sinks(settings())
    for day in range(DAYS):
        every = deployed()
        # Between the first and the last day, only daily flows and the sync, for the time that the others take.
        run = {name for name, cadence in CADENCES.items() if day in {0, DAYS - 1} or cadence.period_seconds > _HOURLY}
        run |= {"sync_catalog"}
        for flow, parameters in every:
            if flow.fn.__name__ in run:
                flow(**parameters)
        if day == 0:
            with transaction(engine, "test") as session:
                cold = videos.c.id.in_([f"v{number}" for number in range(COLD)])
                session.execute(sa.update(videos).where(cold).values(created_at=now(session) - timedelta(days=100)))
                session.execute(sa.update(users).values(tier="pro"))
        state = gather(engine)
        assert (run.intersection(state.overdue), state.alerts, state.on_trial) == (set(), (), True)
        assert watch(engine, sinks, flows=run, run_id="watchdog").findings == ()
        let_a_day_pass(engine)
    with reading(engine) as session:
        assert not alerts.listed(session, everything=True, limit=9)
        at = now(session)
    assert not [request for request in trial.double.requests if request.writes]
    assert set(trial.states().values()) == {"live"}

    found = report.gather(engine, at.date().replace(day=1), at)
    assert found.trial is not None
    (retired,) = found.trial.planned["tier_storage"]
    assert (retired.action, retired.objects) == ("retire", COLD)
    assert (retired.size_bytes, retired.saving_microusd) == (COLD * SIZE_BYTES, COLD * 75)
    assert f"retire {COLD} videos" in text.trial(found.trial)
    assert text.trial(found.trial) in unescape(page.page(found))
    forecast_costs(dry_run=False)
    with reading(engine) as session:
        posted = session.scalars(sa.select(outbox.c.payload).where(outbox.c.kind == "chart"))
        assert f"retire {COLD} videos" in str(posted.all()[-1])
