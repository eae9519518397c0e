"""The metrics for Prometheus: parseable, named by its conventions, listed in docs/, and true to the store."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from reelkeeper.api.collector import KEPT_SECONDS
from reelkeeper.model import BlobState
from reelkeeper.model.alerts import Severity
from reelkeeper.model.money import Charge
from reelkeeper.operations.core.freeze import freeze
from reelkeeper.operations.core.workspace import flush_operations
from reelkeeper.operations.health.watchdog import beat
from reelkeeper.operations.jobs.breaker import note_failed
from reelkeeper.rules.alerts.cadence import CADENCES
from reelkeeper.rules.billing.quote import PriceBook
from reelkeeper.rules.jobs.admission import AdmissionPolicy
from reelkeeper.rules.spend.limits import SpendLimit
from reelkeeper.store.billing import charges
from reelkeeper.store.core import controls as states
from reelkeeper.store.core.engine import now, reading, transaction
from reelkeeper.store.jobs import lanes
from reelkeeper.store.sync.scans import BUCKET_EVENTS
from reelkeeper.store.tables import alerts, controls, operations, plans, users, verdicts
from tests.faults.world import World
from tests.jobs import put, waiting
from tests.policies import put_in_force

PAGE = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text()
Figures = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def collected(client: TestClient) -> list[Metric]:
    answer = client.get("/v1/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    return list(text_string_to_metric_families(answer.text))


def figures(client: TestClient) -> Figures:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for each in collected(client)
        for sample in each.samples
    }


@pytest.fixture
def full(world: World) -> World:
    """A store of which every figure is known."""
    engine = world.workspace.engine
    planned = {name: world.video(name) for name in ("v1", "v3", "v4")}
    world.video("v2", blob_state=BlobState.RETIRED)
    beat(engine, "sync_catalog", run_id="r", run_seconds=2.5, **CADENCES["sync_catalog"]._asdict())
    with reading(engine) as session:
        at = now(session)
    with transaction(engine, "test") as session:
        steered = {"limit": 4, "lanes": {"fal": {"limit": 3}, "ltx": {"limit": 1}}}
        session.execute(sa.insert(controls).values(name="concurrency", state=steered, updated_at=at))
        followed = {"since": at.isoformat(), "caught_up_at": at.isoformat(), "backlog": 7, "counts": {"adopted": 3}}
        states.write(session, BUCKET_EVENTS, followed)
        session.execute(
            sa.insert(plans).values(
                id="p", flow="tier_storage", state="applied", as_of=at, created_at=at, run_id="r", policy={},
                policy_hash="", population=2, population_bytes=2,
                kept={"beyond_compress_limit": 3, "left_to_next_run": 4},
            )
        )  # fmt: skip
        verdict = {"generation": 1, "rule": "cold_compress", "reason": "cold", "size_bytes": 10}
        rows = [{"plan_id": "p", "blob_id": planned[name], "video_id": name, "action": "compress", "outcome": done,
                 **verdict} for name, done in (("v1", None), ("v3", "failed"), ("v4", "compressed"))]  # fmt: skip
        session.execute(sa.insert(verdicts), rows)
        said = {"text": "", "suggestion": "", "figures": [], "run_id": "r", "state": "firing", "is_told": False}
        session.execute(
            sa.insert(alerts).values(
                id="a", rule="budget", scope="total", period="", level="100", severity=Severity.WARNING,
                title="spent", first_at=at, last_at=at, **said,
            )
        )  # fmt: skip
        cost = 1_500_000_000
        charges.replace(
            session, [at.date()], [Charge(at.date(), "compute", "c", "", None, 1, "Jobs", cost, cost, "test")]
        )
    world.workspace.bucket.head(world.workspace.bucket.identity_key)
    put(engine, [waiting("j")])
    flush_operations(engine, world.workspace.bucket)
    return world


def test_the_readme_lists_exactly_the_exported_figures(client: TestClient, full: World) -> None:
    limited = SpendLimit(scope="provider:fal", usd=Decimal(5))
    price = {"unit": "second", "rates": [{"usd": "0.1"}], "source": "a list", "read_on": "2026-11-28"}
    book = PriceBook.model_validate({"models": [{"model": "veo", "provider": "fal", "price": price}]})
    put_in_force(full.workspace.engine, admission=AdmissionPolicy(spend_limits=(limited,)), book=book)
    with transaction(full.workspace.engine, "test") as session:
        lanes.write(session, "fal", {"limit": 2, "until": (datetime.now(UTC) + timedelta(hours=1)).isoformat()})
    note_failed(full.workspace.engine, "fal", "j", "no balance", is_locked=True, run_id="test")
    freeze(full.workspace.engine, by="test", reason="test")
    client.get("/healthz")
    given = {
        (metric.name + ("_total" if metric.type == "counter" else "")): metric
        for metric in collected(client)
        if not metric.name.endswith("_created")
    }
    listed = {
        name: set(re.findall(r"`(\w+)`", labels))
        for name, labels in re.findall(r"^\| `(reelkeeper_\w+)` \| ?(.*?) ?\| .+ \|$", PAGE, re.MULTILINE)
    }
    assert given.keys() == listed.keys()
    for name, family in given.items():
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        assert labels == listed[name]
        assert family.documentation


def _names(families: list[Metric]) -> Iterator[tuple[str, str]]:
    yield from ((metric.name, metric.type) for metric in families)


@pytest.mark.usefixtures("full")
def test_names_and_units_follow_the_conventions(client: TestClient) -> None:
    for name, kind in _names(collected(client)):
        assert re.fullmatch(r"reelkeeper(_[a-z0-9]+)+", name), name
        assert not re.search(r"_(ms|minutes|hours|days|kb|mb|gb|usd|percent|total)(_|$)", name), name  # base units
        assert kind in {"gauge", "counter", "histogram"}, name
        assert not (kind == "gauge" and name.endswith(("_count", "_sum", "_bucket"))), name
        assert name == "reelkeeper_build_info" or not name.endswith("_info"), name


def test_the_figures_are_those_of_the_store(client: TestClient, full: World) -> None:
    found = figures(client)
    assert found["reelkeeper_flow_last_duration_seconds", (("flow", "sync_catalog"),)] == 2.5
    assert abs(
        found["reelkeeper_flow_last_success_timestamp_seconds", (("flow", "sync_catalog"),)]
        - datetime.now(UTC).timestamp()
    ) < 600  # fmt: skip
    assert found["reelkeeper_flow_overdue", (("flow", "tier_storage"),)] == 0
    assert found["reelkeeper_backlog_videos", (("action", "compress"), ("flow", "tier_storage"))] == 2 + 3
    assert found["reelkeeper_backlog_videos", (("action", "retire"), ("flow", "tier_storage"))] == 4
    assert found["reelkeeper_retired_blobs", ()] == 1
    assert found["reelkeeper_retired_bytes", ()] > 0
    assert found["reelkeeper_jobs_limit", ()] == 4
    assert found["reelkeeper_provider_jobs_limit", (("provider", "fal"),)] == 3
    assert found["reelkeeper_events_handled_total", (("outcome", "adopted"),)] == 3
    assert found["reelkeeper_events_waiting", ()] == 7
    assert abs(found["reelkeeper_events_caught_up_timestamp_seconds", ()] - datetime.now(UTC).timestamp()) < 600
    assert found["reelkeeper_alerts", (("severity", "warning"),)] == 1
    assert found["reelkeeper_spend_dollars", (("period", "day"),)] == 1.5
    assert found["reelkeeper_budget_dollars", (("period", "month"),)] == 200
    assert found["reelkeeper_r2_operations_total", (("action", "HeadObject"), ("class", "B"))] >= 1
    assert found["reelkeeper_store_bytes", ()] > 100_000
    if full.workspace.engine.dialect.name == "sqlite":  # PostgreSQL's statistics come later
        assert found["reelkeeper_store_rows", (("table", "users"),)] == 1


def test_expensive_figures_are_cached_and_all_others_read_at_each_scrape(
    client: TestClient, full: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = figures(client)
    with transaction(full.workspace.engine, "test") as session:
        session.execute(sa.insert(users).values(id="new"))
        session.execute(sa.delete(alerts))
        session.execute(sa.delete(operations))
        charges.replace(session, [now(session).date()], [])
    at_once = figures(client)
    spent = "reelkeeper_spend_dollars", (("period", "day"),)
    assert (at_once[spent], before[spent]) == (1.5, 1.5)
    assert ("reelkeeper_alerts", (("severity", "warning"),)) not in at_once
    with monkeypatch.context() as patched:
        import time  # noqa: PLC0415  its clock is put on

        real = time.monotonic
        patched.setattr(time, "monotonic", lambda: real() + KEPT_SECONDS + 1)
        assert figures(client)[spent] == 0
