"""Prefect's automations report failed runs: with a dedicated token, once, and as plain text."""

from typing import Any

import pytest
from inline_snapshot import snapshot

from reelkeeper.api.routes.hooks import RUNS_PATH
from reelkeeper.errors import GuardRefused, OnTrial, PartialFailure
from reelkeeper.model.token_scopes import Scope
from reelkeeper.operations.alerts.alerts import observe
from reelkeeper.rules.alerts import alerting
from reelkeeper.settings import settings
from reelkeeper.store.alerts import alerts, outbox
from reelkeeper.store.core.engine import reading
from tests.api.answers import problem
from tests.api.conftest import NewClient
from tests.faults.world import World

RUN: dict[str, Any] = {
    "trouble": "failed",
    "flow": "tier-storage",
    "run_id": "a949bf33-cecb-430f-a764-37291829dec9",
    "run_name": "tier-storage 2026-11-24",
    "message": "PartialFailure: <!channel> & 1 of 3",
    "url": "http://127.0.0.1:4200/runs/flow-run/a949bf33-cecb-430f-a764-37291829dec9",
}


def told(world: World) -> list[str]:
    with reading(world.workspace.engine) as session:
        return [waiting.title for waiting in outbox.listed(session, everything=False, limit=10)]


def test_a_failed_run_raises_one_alert_however_often_it_is_reported_or_fails_again(
    client_for: NewClient, world: World
) -> None:
    client = client_for(Scope.RUNS)
    for again in (RUN, RUN, RUN | {"run_id": "0" * 32}):
        assert client.post(RUNS_PATH, json=again).status_code == 204
    assert told(world) == [snapshot("A run of tier_storage failed")]
    assert client.post(RUNS_PATH, json=RUN | {"trouble": "crashed"}).status_code == 204
    assert len(told(world)) == 2
    with reading(world.workspace.engine) as session:
        (found,) = [alert for alert in alerts.listed(session, everything=False, limit=9) if alert.rule == "run_failed"]
    assert found.text == RUN["message"]
    assert [label for label, _ in found.figures] == ["Run"]  # its address opens on this machine alone


@pytest.mark.parametrize(
    ("flow", "error", "is_told"),
    [
        ("expire-videos", GuardRefused("refused, and nothing was changed"), False),  # its plan has an alert of its own
        ("tier_storage", OnTrial(), False),
        ("sync-catalog", GuardRefused("the listing shows half"), True),
        ("expire-videos", PartialFailure("1 of 3: GuardRefused: no"), True),
    ],
)
def test_a_run_that_was_only_refused_raises_no_alert_of_a_failure(
    client_for: NewClient, world: World, flow: str, error: Exception, *, is_told: bool
) -> None:
    message = (
        f"Flow run encountered an exception: {type(error).__name__}: {error}"  # see tests/flows/test_expire_videos
    )
    failed = RUN | {"flow": flow, "message": message}
    assert client_for(Scope.RUNS).post(RUNS_PATH, json=failed).status_code == 204
    assert len(told(world)) == is_told


@pytest.mark.parametrize(
    ("ui_url", "url", "link"),
    [
        ("https://prefect.example", RUN["url"], "https://prefect.example/v2/runs/flow-run/"),
        (
            "http://127.0.0.1:4200",
            RUN["url"].replace("127.0.0.1:4200", "10.0.0.5"),
            "http://10.0.0.5/v2/runs/flow-run/",
        ),
        (None, RUN["url"].replace("127.0.0.1", "localhost"), None),
        (None, RUN["url"].replace("127.0.0.1", "[::1]"), None),
        (None, None, None),
    ],
)
def test_a_link_opens_from_elsewhere_or_is_not_there(
    client_for: NewClient, world: World, monkeypatch: pytest.MonkeyPatch, ui_url: str | None, url: str, link: str | None
) -> None:
    if ui_url:
        monkeypatch.setenv("REELKEEPER_UI_URL", ui_url)
    settings.cache_clear()
    assert client_for(Scope.RUNS).post(RUNS_PATH, json=RUN | {"url": url}).status_code == 204
    with reading(world.workspace.engine) as session:
        (found,) = [alert for alert in alerts.listed(session, everything=False, limit=9) if alert.rule == "run_failed"]
    assert {figure[0]: figure[1] for figure in found.figures}.get("Look") == (link and f"{link}{RUN['run_id']}")


def test_the_alert_of_a_flow_is_resolved_by_its_own_success_only(client_for: NewClient, world: World) -> None:
    client = client_for(Scope.RUNS)
    for flow in ("tier-storage", "sync-catalog"):
        client.post(RUNS_PATH, json=RUN | {"flow": flow})
    observe(world.workspace.engine, [], rules=alerting.RULES, scope=alerting.scope("tier_storage"), run_id="a run")
    with reading(world.workspace.engine) as session:
        assert [alert.scope for alert in alerts.listed(session, everything=False, limit=9)] == ["flow:sync_catalog"]


def test_a_dry_run_by_hand_raises_no_alert_as_its_person_sees_the_error(client_for: NewClient, world: World) -> None:
    assert client_for(Scope.RUNS).post(RUNS_PATH, json=RUN | {"is_manual_dry_run": True}).status_code == 204
    assert told(world) == []


def test_fields_that_prefect_does_not_know_are_left_out(client_for: NewClient, world: World) -> None:
    bare = {name: RUN[name] for name in ("trouble", "flow", "run_id")} | {"message": None, "url": None}
    assert client_for(Scope.RUNS).post(RUNS_PATH, json=bare).status_code == 204
    assert len(told(world)) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"trouble": "fine"},
        {"flow": "a flow"},
        {"flow": ""},
        {"run_id": "x"},
        {"run_name": "x" * 1_001},
        {"url": "javascript:alert(1)"},
        {"url": "http://a b"},
    ],
)
def test_a_body_that_is_no_report_is_refused_without_an_alert(
    client_for: NewClient, world: World, wrong: dict[str, str]
) -> None:
    problem(client_for(Scope.RUNS).post(RUNS_PATH, json=RUN | wrong), 422)
    assert told(world) == []


def test_the_route_requires_a_token_with_its_scope(client_for: NewClient, world: World) -> None:
    client = client_for(Scope.JOBS, Scope.METRICS)
    problem(client.post(RUNS_PATH, json=RUN), 403)
    del client.headers["authorization"]
    problem(client.post(RUNS_PATH, json=RUN), 401)
    assert told(world) == []
