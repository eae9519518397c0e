"""`forecast`: months and services with bands, assumed growth, and JSON."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from inline_snapshot import snapshot

from reelkeeper.model.money import Metric, StorageClass, Used
from reelkeeper.settings import Settings
from reelkeeper.store.billing.usage import record
from reelkeeper.store.core.engine import open_store, transaction
from tests.cli.conftest import Run
from tests.reading import as_read

GB = 10**9


@pytest.fixture
def used(configured: Settings) -> None:
    today = datetime.now(UTC).date()
    with open_store(configured) as engine, transaction(engine, "test") as session:
        for days in range(1, 41):
            day = today - timedelta(days=days)
            stored = Used(day, Metric.STORED_BYTES, 100 * GB, storage_class=StorageClass.STANDARD)
            record(session, [stored, Used(day, Metric.JOBS, 100)])


@pytest.mark.long
@pytest.mark.usefixtures("used")
def test_months_are_shown_by_service_with_their_bands_and_how_they_were_found(reelkeeper: Run) -> None:
    said = reelkeeper("forecast", "--months", 2).stdout
    today = datetime.now(UTC)
    assert f"{today:%Y-%m}  total" in said
    assert "  constant" in said, "by what the forecast was made"
    assert "GB stored" in said


@pytest.mark.long
@pytest.mark.usefixtures("used")
def test_growth_can_be_asked_for_and_json_holds_every_figure(ask: Callable[..., Any]) -> None:
    plain, grown = ask("forecast"), ask("forecast", "--growth", 30)
    assert (plain["growth_percent_per_month"], grown["growth_percent_per_month"]) == (None, 30)
    assert len({cost["month"] for cost in plain["costs"]}) == 3
    last = [found["costs"][-1] for found in (plain, grown)]
    assert last[0]["service"] == last[1]["service"] == "api"
    assert last[1]["mean_usd"] > 1.3 * last[0]["mean_usd"]
    assert last[1]["bounds"]["80"][0] < last[1]["mean_usd"] < last[1]["bounds"]["95"][1]
    assert plain["next_month"]["stored_bytes"] == 100 * GB


@pytest.mark.usefixtures("used")
def test_growth_beyond_what_any_account_has_is_refused(configured: Settings, reelkeeper: Run) -> None:
    with open_store(configured) as engine, transaction(engine, "test") as session:
        day = datetime.now(UTC).date() - timedelta(days=1)
        record(session, [Used(day, Metric.UPLOADED_BYTES, 50 * GB)])
    reelkeeper("forecast", "--months", 12, "--growth", 900, exit_code=9)


def test_a_forecast_of_an_empty_store_explains_what_is_missing(reelkeeper: Run) -> None:
    reelkeeper("db", "upgrade")
    assert as_read(reelkeeper("forecast", exit_code=1).output, day=datetime.now(UTC).date()) == snapshot("""\
error: no usage is recorded for any day before <day>. A forecast needs at least one whole day:
  monitor_costs records usage every hour\
""")
