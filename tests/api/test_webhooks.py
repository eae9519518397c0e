"""Webhooks over HTTP: the life of an endpoint, whose secret is shown only once."""

from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient
from inline_snapshot import snapshot

from reelkeeper.api.app import create_app
from reelkeeper.api.app_state import AppState
from reelkeeper.model.token_scopes import Scope
from reelkeeper.operations.alerts import webhooks
from reelkeeper.operations.core import tokens
from reelkeeper.store.core.engine import transaction
from reelkeeper.store.tables import webhook_endpoints
from tests.api.answers import problem
from tests.faults.world import World
from tests.marks import marked
from tests.worlds import AtFailpoint

KEY = {"Idempotency-Key": "k1"}


def _front(world: World, app_state: AppState, *, allow_private: bool) -> TestClient:
    _, text = tokens.create(world.workspace.engine, "a test", (Scope.WEBHOOKS,), author="test")
    app = create_app(AppState(app_state.workspace, app_state.scratch, allow_private=allow_private))
    return TestClient(app, headers={"Authorization": f"Bearer {text}"})


def test_an_endpoints_life(world: World, app_state: AppState) -> None:
    client = _front(world, app_state, allow_private=True)
    asked = {"url": "http://127.0.0.1:9/hook", "events": ["video.changed"]}
    made = client.post("/v1/webhooks", json=asked, headers=KEY)
    assert made.status_code == 201
    webhook, secret = made.json()["id"], made.json()["secret"]
    path = f"/v1/webhooks/{webhook}"
    again = client.post("/v1/webhooks", json=asked, headers=KEY).json()
    assert (again["id"], again["secret"] == secret) == (webhook, False), "an answer that was lost"
    other = problem(client.post("/v1/webhooks", json=asked | {"url": "http://127.0.0.1:8/"}, headers=KEY), 422)
    assert other["type"] == "urn:reelkeeper:key-reused"
    rotated = client.post(f"{path}/secret").json()
    assert rotated["id"] == webhook
    assert rotated["secret"].startswith("whsec_")
    assert rotated["secret"] != secret
    listed = client.get("/v1/webhooks")
    assert "whsec_" not in listed.text
    assert [line["events"] for line in listed.json()["webhooks"]] == [["video.changed"]]
    chosen = client.put(path, json={"events": ["video.purged", "job.ended"], "enabled": False}).json()
    assert (chosen["events"], bool(chosen["disabled_at"])) == (["job.ended", "video.purged"], True)
    assert client.put(path, json={"events": []}).json()["disabled_at"] is None
    assert client.post(f"{path}/replay", json={"since": "2026-01-01T00:00:00Z"}).json() == {"replayed": 0}
    assert client.delete(path).json() == {"removed": webhook}
    assert client.get("/v1/webhooks").json() == {"webhooks": []}
    for method, where in (("PUT", path), ("DELETE", path), ("POST", f"{path}/secret"), ("POST", f"{path}/replay")):
        problem(client.request(method, where, json={"events": []} if method == "PUT" else {}), 404)


def test_choosing_events_does_not_forget_since_when_an_endpoint_fails_or_is_disabled(
    world: World, app_state: AppState
) -> None:
    client = _front(world, app_state, allow_private=True)
    path = f"/v1/webhooks/{client.post('/v1/webhooks', json={'url': 'http://127.0.0.1:9/'}, headers=KEY).json()['id']}"
    since = datetime(2026, 1, 1, tzinfo=UTC)
    with transaction(world.workspace.engine, "test") as session:
        session.execute(sa.update(webhook_endpoints).values(failing_since=since, failures=7))
    failing = client.put(path, json={"events": ["job.ended"]}).json()
    assert datetime.fromisoformat(failing["failing_since"]) == since
    assert client.put(path, json={"events": [], "enabled": False}).json()["disabled_at"]
    with transaction(world.workspace.engine, "test") as session:
        session.execute(sa.update(webhook_endpoints).values(disabled_at=since))
    again = client.put(path, json={"events": [], "enabled": False}).json()
    assert datetime.fromisoformat(again["disabled_at"]) == since
    assert client.put(path, json={"events": []}).json()["failing_since"] is None


def test_an_address_of_our_own_network_and_an_event_that_is_none_are_refused(world: World, app_state: AppState) -> None:
    client = _front(world, app_state, allow_private=False)
    refused = problem(client.post("/v1/webhooks", json={"url": "https://127.0.0.1/"}, headers=KEY), 422)
    assert marked(refused["detail"]) == snapshot(
        "'127.0.0.1' is 127.0.0.1, which is not public. To allow addresses of your own network: REELKEEPER_ALLOW_PRIVATE_ADDRESSES=true"
    )
    problem(client.post("/v1/webhooks", json={"url": "https://127.0.0.1/", "events": ["video.lost"]}, headers=KEY), 422)
    assert client.get("/v1/webhooks").json() == {"webhooks": []}


@pytest.mark.parametrize("point", ["webhooks.choose.after_commit", "webhooks.disable.after_commit"])
def test_a_webhook_that_is_deleted_while_it_is_set_is_not_found(
    world: World, app_state: AppState, at_failpoint: AtFailpoint, point: str
) -> None:
    client = _front(world, app_state, allow_private=True)
    made = client.post("/v1/webhooks", json={"url": "http://127.0.0.1:9/"}, headers=KEY).json()["id"]

    at_failpoint(point, lambda: webhooks.remove(world.workspace.engine, made, author="another"))
    problem(client.put(f"/v1/webhooks/{made}", json={"events": [], "enabled": False}), 404)
