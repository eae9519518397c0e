"""Takedowns over HTTP: bytes are deleted at once, and the certificate lists deleted and remaining objects."""

from datetime import datetime

import pytest
from fastapi.testclient import TestClient
from inline_snapshot import snapshot

from reelkeeper.api.routes import takedowns
from reelkeeper.settings import Settings
from tests.api.answers import problem
from tests.doubles.cloudflare import ACCOUNT, TOKEN, ZONE, CloudflareDouble
from tests.faults.world import World
from tests.marks import marked


def test_a_video_is_taken_down_and_certified(client: TestClient, world: World) -> None:
    world.video("v1")
    world.video("v2")
    asked = {"video_id": "v1", "reason": "court order 17", "same_bytes": True}
    done = client.post("/v1/takedowns", json=asked).json()
    assert (done["by"], done["reason"], done["video_ids"], done["left"]) == ("a test", asked["reason"], ["v1", "v2"], 0)
    assert all(datetime.fromisoformat(item["purged_at"]) and item["sha256"] for item in done["objects"])
    assert client.get("/v1/takedowns/v1").json() == done
    problem(client.get("/v1/videos/v1"), 404)
    problem(client.delete("/v1/videos/v1"), 404)
    world.check()


def test_objects_kept_by_a_legal_hold_are_named(client: TestClient, world: World) -> None:
    world.video("v1")
    held = {"scope": "video", "subject": "v1", "reason": "evidence", "legal": True}
    assert client.post("/v1/holds", json=held, headers={"Idempotency-Key": "case-17"}).status_code == 201
    assert client.get("/v1/holds").json()["holds"][0]["is_legal"]
    done = client.post("/v1/takedowns", json={"video_id": "v1", "reason": "r"}).json()
    assert done["left"] == 1
    assert marked(done["objects"][0]["why"]) == snapshot(
        "a legal hold keeps it; it is not served to anyone. Repeat the takedown when the hold has ended"
    )
    problem(client.get("/v1/videos/v1"), 404)


def test_a_takedown_of_an_unknown_video_or_without_a_reason_is_refused(client: TestClient, world: World) -> None:
    world.video("v1")
    world.video("v2")
    problem(client.post("/v1/takedowns", json={"video_id": "none", "reason": "r"}), 404)
    problem(client.get("/v1/takedowns/v1"), 404)
    for wrong in ({"reason": ""}, {"reason": "a\x00b"}, {"video_id": " v"}, {"same_byte": True}, {"max_videos": -1}):
        problem(client.post("/v1/takedowns", json={"video_id": "v1", "reason": "r"} | wrong), 422)


def test_a_takedown_whose_others_are_too_many_certifies_the_video_itself_and_tells_the_cdn(
    client: TestClient, world: World, cloudflare: CloudflareDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = {"PUBLIC_URL": "https://videos.example.com", "CACHE_ZONE_ID": ZONE, "CACHE_PURGE_TOKEN": TOKEN}
    for name, value in {"CLOUDFLARE_ACCOUNT_ID": ACCOUNT, "CLOUDFLARE_API_URL": cloudflare.url, **public}.items():
        monkeypatch.setenv(f"REELKEEPER_{name}", value)
    monkeypatch.setattr(takedowns, "settings", Settings)  # read anew
    world.video("v1")
    world.video("v2")
    asked = {"video_id": "v1", "reason": "r", "same_bytes": True, "max_videos": 0}
    done = client.post("/v1/takedowns", json=asked).json()
    assert (done["video_ids"], done["left"], done["others_kept"]) == (["v1"], 0, 1)
    assert cloudflare.forgotten == [[f"https://videos.example.com/{item['key']}" for item in done["objects"]]]
    assert client.get("/v1/videos/v2").status_code == 307
    assert client.post("/v1/takedowns", json=asked | {"max_videos": 1}).json()["others_kept"] == 0
    assert client.get("/v1/videos/v2").status_code == 404
