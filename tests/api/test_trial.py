"""The API in a trial: it reads, and refuses by name what would end in the bucket."""

from dataclasses import replace

import pytest
from fastapi.testclient import TestClient

from reelkeeper.api.app_state import AppState
from reelkeeper.rules.core.wording import UNTIL_LIVE
from tests.api.answers import problem
from tests.api.conftest import NewClient
from tests.faults.world import World

KEY = {"Idempotency-Key": "key-1"}
CHANGES = [
    "POST /v1/jobs",
    "DELETE /v1/jobs/j",
    "POST /v1/images",
    "POST /v1/uploads",
    "POST /v1/uploads/ann.key-1/complete",
    "DELETE /v1/videos/v",
    "DELETE /v1/users/ann",
    "POST /v1/takedowns",
    "POST /v1/holds",
]


@pytest.fixture
def app_state(app_state: AppState) -> AppState:
    return AppState(replace(app_state.workspace, on_trial=True), app_state.scratch)


@pytest.fixture
def client(client_for: NewClient) -> TestClient:
    return client_for()


@pytest.mark.parametrize("change", CHANGES)
def test_what_would_end_in_the_bucket_is_refused_by_name(client: TestClient, change: str) -> None:
    answer = client.request(*change.split(), headers=KEY, json={})
    assert problem(answer, 409)["type"] == "urn:reelkeeper:trial"
    assert "retry-after" not in answer.headers  # to wait does not help


@pytest.mark.parametrize("path", ["/v1/users/ann/videos", "/v1/holds", "/v1/users/ann"])
def test_it_reads(client: TestClient, path: str) -> None:
    assert client.get(path).is_success


def test_no_video_is_said_to_go_while_nothing_goes(client: TestClient, world: World) -> None:
    world.video("v1")  # past its retention
    (video,) = client.get("/v1/users/ann/videos").json()["videos"]
    assert (video["expires_at"], video["why"]) == (None, UNTIL_LIVE)
