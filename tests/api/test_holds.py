"""Holds over HTTP: placed once for each key, in force until they are released."""

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from reelkeeper.store.core.engine import now, transaction
from reelkeeper.store.tables import holds
from tests.api.answers import problem
from tests.faults.world import World

KEY = {"Idempotency-Key": "case-17"}


def test_a_video_is_held_once_and_let_go(client: TestClient, world: World) -> None:
    world.video("v1")
    asked = {"scope": "video", "subject": "v1", "reason": "a dispute"}
    placed = [client.post("/v1/holds", json=asked, headers=KEY).json() for _ in range(2)]
    assert placed[0] == placed[1] == {"id": placed[0]["id"], "too_late": 0}
    (hold,) = client.get("/v1/holds").json()["holds"]
    assert (hold["id"], hold["author"], hold["expires_at"]) == (placed[0]["id"], "a test", None)
    assert problem(client.delete("/v1/videos/v1"), 409)["type"] == "urn:reelkeeper:held"
    assert client.delete(f"/v1/holds/{hold['id']}").json() == {"released": hold["id"]}
    problem(client.delete(f"/v1/holds/{hold['id']}"), 404)
    assert client.delete("/v1/videos/v1").status_code == 200
    world.check()


@pytest.mark.parametrize("column", ["released_at", "expires_at"])
def test_a_repetition_does_not_confirm_a_hold_that_has_ended(client: TestClient, world: World, column: str) -> None:
    world.video("v1")
    asked = {"scope": "video", "subject": "v1", "reason": "a dispute"}
    assert client.post("/v1/holds", json=asked, headers=KEY).status_code == 201
    with transaction(world.workspace.engine, "test") as session:
        session.execute(sa.update(holds).values({column: now(session)}))
    refused = problem(client.post("/v1/holds", json=asked, headers=KEY), 422)
    assert refused["type"] == "urn:reelkeeper:key-reused"
    again = client.post("/v1/holds", json=asked, headers={"Idempotency-Key": "case-17-again"})
    assert [hold["id"] for hold in client.get("/v1/holds").json()["holds"]] == [again.json()["id"]]


def test_a_hold_of_a_user_ends_by_itself(client: TestClient) -> None:
    until = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    asked = {"scope": "user", "subject": "ann", "reason": "a dispute", "until": until}
    assert client.post("/v1/holds", json=asked, headers=KEY).status_code == 201
    (hold,) = client.get("/v1/holds").json()["holds"]
    assert datetime.fromisoformat(hold["expires_at"]) == datetime.fromisoformat(until)


def test_a_hold_that_would_be_over_already_is_refused(client: TestClient, world: World) -> None:
    """A mistyped year must not answer that the video is held."""
    world.video("v1")
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    asked = {"scope": "video", "subject": "v1", "reason": "a dispute", "until": past}
    refused = problem(client.post("/v1/holds", json=asked, headers=KEY), 422)
    assert refused["type"] == "urn:reelkeeper:refused"
    assert client.get("/v1/holds").json()["holds"] == []
    asked["until"] = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    assert client.post("/v1/holds", json=asked, headers=KEY).status_code == 201  # its key is not used up
    world.check()


def test_a_hold_on_an_unknown_video_or_without_a_reason_is_refused(client: TestClient) -> None:
    problem(client.post("/v1/holds", json={"scope": "video", "subject": "none", "reason": "r"}, headers=KEY), 404)
    for wrong in (
        {"reason": ""},
        {"reason": "a\x00b"},
        {"reason": "x" * 201},
        {"scope": "bucket"},
        {"reason": " "},
        {"until": "2026-01-01T00:00:00"},
        {"until": "9999-12-31T23:59:59-12:00"},
        {"until": "0001-01-01T00:00:00+14:00"},
    ):
        asked = {"scope": "user", "subject": "ann", "reason": "r"} | wrong
        problem(client.post("/v1/holds", json=asked, headers=KEY), 422)
    half = client.post("/v1/holds", content='{"scope": "user", "subject": "ann", "reason": "\\ud800"}', headers=KEY)
    assert half.status_code in {400, 422}
    assert client.get("/v1/holds").json() == {"holds": []}
