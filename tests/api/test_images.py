"""An input image is uploaded before its job, and found by the worker on any machine."""

import hashlib

from fastapi.testclient import TestClient

from reelkeeper.api.app_state import AppState
from reelkeeper.model.token_scopes import Scope
from reelkeeper.operations.videos.images import MAX_BYTES
from tests.api.answers import problem
from tests.api.conftest import NewClient
from tests.disks import fill, small_disk

PNG = b"\x89PNG\r\n\x1a\n" + b"whatever comes then"


def test_an_image_is_kept_and_named_by_its_digest_and_a_second_time_changes_nothing(client: TestClient) -> None:
    for _ in range(2):
        answer = client.post("/v1/images", content=PNG)
        assert answer.status_code == 200
        told = {"sha256": hashlib.sha256(PNG).hexdigest(), "size_bytes": len(PNG), "content_type": "image/png"}
        assert answer.json() == told


def test_an_image_may_be_larger_than_other_bodies_up_to_its_own_limit(client: TestClient) -> None:
    assert client.post("/v1/images", content=PNG + bytes(1_000_000)).status_code == 200
    problem(client.post("/v1/images", content=PNG + bytes(MAX_BYTES)), 413)
    problem(client.post("/v1/images", content=iter([PNG, bytes(MAX_BYTES)])), 413)  # of a length that is not said


def test_a_file_that_is_no_image_or_a_token_without_the_scope_is_refused(
    client: TestClient, client_for: NewClient
) -> None:
    problem(client.post("/v1/images", content=b"GIF89a"), 422)
    problem(client.post("/v1/images"), 422)
    problem(client_for(Scope.VIDEOS).post("/v1/images", content=PNG), 403)


def test_a_full_disk_is_told_as_such_and_passes(client: TestClient, app_state: AppState) -> None:
    """Else a client gives up at once on what a minute later is kept."""
    with small_disk(app_state.scratch, 1) as scratch:
        filler = fill(scratch)
        assert problem(client.post("/v1/images", content=PNG + bytes(1_000_000)), 503)["type"] == "urn:reelkeeper:full"
        filler.unlink()
        assert client.post("/v1/images", content=PNG).status_code == 200
