"""Users over HTTP: created at sign-up, paid, and shown what they have and when it expires."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from fastapi.testclient import TestClient
from inline_snapshot import snapshot

from reelkeeper.adapters.contract import CHECKS
from reelkeeper.api.app_state import AppState
from reelkeeper.client import _path
from reelkeeper.model import BlobState, VideoState
from reelkeeper.operations.billing import ledger
from reelkeeper.operations.health import accounts
from reelkeeper.operations.videos.hold import hold
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy
from reelkeeper.store.core import deployment
from reelkeeper.store.core.deployment import beats, record_beat
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.tables import audit_events, charges, videos
from reelkeeper.store.videos.holds import HoldTerms
from tests.api.answers import problem
from tests.faults.world import World
from tests.marks import marked
from tests.policies import put_in_force


def test_what_a_user_cost_is_listed_by_month_and_provider_and_page(client: TestClient, world: World) -> None:
    rows = [
        ("2026-01-31", "clips-fal:veo", "fal", "ann", 9, 8, True),
        ("2026-01-30", "r2-storage-standard", "Cloudflare", "ann", 3, 3, False),
        ("2026-01-31", "r2-storage-standard", "Cloudflare", "ann", 4, 4, False),
        ("2026-01-31", "r2-storage-standard", "Cloudflare", "bob", 70, 70, False),
        ("2026-03-01", "api-veo", "", "ann", 5, 5, False),
    ]
    names = ("day", "sku", "provider", "user_id", "list_nanousd", "billed_nanousd", "estimated")
    rest = {"service": "s", "consumed_quantity": 1, "consumed_unit": "u", "price_book": "b"}
    with transaction(world.workspace.engine, "test") as session:
        new = [dict(zip(names, (date.fromisoformat(row[0]), *row[1:]), strict=True)) | rest for row in rows]
        session.execute(sa.insert(charges), new)
    told = client.get("/v1/users/ann/costs", params={"limit": 2}).json()
    assert told == {
        "months": [
            {
                "month": "2026-01",
                "list_nanousd": 16,
                "billed_nanousd": 15,
                "providers": [
                    {"provider": "Cloudflare", "list_nanousd": 7, "billed_nanousd": 7, "estimated": False},
                    {"provider": "fal", "list_nanousd": 9, "billed_nanousd": 8, "estimated": True},
                ],
            }
        ],
        "after": "2026-01",
        "charged_at": None,
    }
    told = client.get("/v1/users/ann/costs", params={"after": told["after"]}).json()
    assert [(month["month"], month["providers"][0]["provider"]) for month in told["months"]] == [
        ("2026-03", "Generation")
    ]
    assert told["after"] is None
    with transaction(world.workspace.engine, "test") as session:
        record_beat(session, "monitor_costs", "run", 3600, 600)
        charged = beats(session)["monitor_costs"].last_ok_at
    told = client.get("/v1/users/ann/costs", params={"after": "2026-03"}).json()
    assert (told["months"], told["after"], datetime.fromisoformat(told["charged_at"])) == ([], None, charged)
    problem(client.get("/v1/users/nobody/costs"), 404)
    for wrong in ({"after": "2026-13"}, {"after": "2\u066026-01"}, {"limit": 0}, {"month": "2026-01"}):
        problem(client.get("/v1/users/ann/costs", params=wrong), 422)


def key(text: str) -> dict[str, str]:
    return {"Idempotency-Key": text}


def test_a_user_signs_up_and_changes_tier(client: TestClient, world: World) -> None:
    problem(client.get("/v1/users/bob"), 404)
    assert client.put("/v1/users/bob", json={"tier": "free"}).json()["tier"] == "free"
    for _ in range(2):
        told = client.put("/v1/users/bob", json={"tier": "pro"}).json()
    assert (told["tier"], told["used_bytes"], told["available_microusd"]) == ("pro", 0, 0)
    refused = problem(client.put("/v1/users/bob", json={"tier": "gold"}), 422)
    assert refused["type"] == "urn:reelkeeper:tier"
    assert refused["detail"] == snapshot("tier 'gold' is not one of free, premium, pro; nothing was changed")
    problem(client.put("/v1/users/bob", json={"tier": None}), 422)
    with reading(world.workspace.engine) as session:
        changes = (
            session.execute(sa.select(audit_events.c.detail).where(audit_events.c.event == "tier")).scalars().all()
        )
    assert changes == [{"tier": "free", "was": None}, {"tier": "pro", "was": "free"}]


def test_credits_are_granted_once_per_key_of_a_user(client: TestClient, world: World) -> None:
    client.put("/v1/users/bob", json={"tier": "free"})
    for _ in range(2):
        given = client.post("/v1/users/ann/credits", json={"amount_microusd": 5_000}, headers=key("order-1"))
        assert (given.status_code, given.json()["kind"], given.json()["available_microusd"]) == (201, "grant", 5_000)
    reused = problem(client.post("/v1/users/ann/credits", json={"amount_microusd": 6_000}, headers=key("order-1")), 422)
    assert marked(reused["detail"]) == snapshot(
        "idempotency key 'order-1' was used at DAY TIME for a grant of 5,000 micro-dollars with other parameters than this grant; no credits were moved. Use a new key for a new request"
    )
    assert (
        client.post("/v1/users/bob/credits", json={"amount_microusd": 7}, headers=key("order-1")).json()[
            "available_microusd"
        ]
        == 7
    )
    problem(client.post("/v1/users/nobody/credits", json={"amount_microusd": 1}, headers=key("order-2")), 404)
    problem(client.post("/v1/users/ann/credits", json={"amount_microusd": 0}, headers=key("order-3")), 422)
    assert accounts.recount(world.workspace.engine) == []


def test_two_different_keys_or_a_blank_reason_grant_nothing(client: TestClient) -> None:
    amount = {"amount_microusd": 5_000}
    two = [("Idempotency-Key", "order-1"), ("Idempotency-Key", "order-2")]
    refused = problem(client.post("/v1/users/ann/credits", json=amount, headers=two), 422)
    assert refused["faults"] == [
        {"where": "header.Idempotency-Key", "what": snapshot("It was sent several times, with different values")}
    ]
    problem(client.post("/v1/users/ann/credits", json=amount | {"reason": " "}, headers=key("order-3")), 422)
    assert client.get("/v1/users/ann").json()["available_microusd"] == 0
    assert client.post("/v1/users/ann/credits", json=amount, headers=[two[0], two[0]]).status_code == 201


def test_a_refund_goes_to_whoever_paid(client: TestClient, world: World) -> None:
    client.put("/v1/users/bob", json={"tier": "free"})
    with transaction(world.workspace.engine, "test") as session:
        ledger.grant(session, "ann", 9_000, "first", run_id="test")
        hold_id = str(ledger.hold(session, "ann", 9_000, "job", run_id="test", lasting_seconds=60).hold_id)
        ledger.capture(session, hold_id, 8_000, "done", run_id="test")
    asked = {"amount_microusd": 8_000, "hold_id": hold_id, "reason": "a bad video"}
    problem(client.post("/v1/users/bob/credits", json=asked, headers=key("r1")), 404)
    told = client.post("/v1/users/ann/credits", json=asked, headers=key("r1")).json()
    assert (told["kind"], told["available_microusd"], told["spent_microusd"]) == ("refund", 9_000, 0)
    problem(client.post("/v1/users/ann/credits", json=asked, headers=key("r2")), 422)
    assert accounts.recount(world.workspace.engine) == []


def test_a_users_videos_say_when_they_go_and_why(client: TestClient, world: World) -> None:
    world.video("v1")  # of a free user, and older than a month
    world.video("v2", state=VideoState.RETIRED, blob_state=BlobState.RETIRED)
    world.video("v3")
    hold(world.workspace.engine, HoldTerms("video", "v3", "a dispute", "test"))
    first = client.get("/v1/users/ann/videos", params={"limit": 2}).json()
    assert [(video["id"], video["state"]) for video in first["videos"]] == [("v1", "live"), ("v2", "retired")]
    assert "expire_videos" in first["videos"][0]["why"]
    assert "purge_retired" in first["videos"][1]["why"]
    assert all(video["expires_at"] for video in first["videos"])
    last = client.get("/v1/users/ann/videos", params={"limit": 2, "after": first["after"]}).json()
    assert [(video["id"], video["expires_at"]) for video in last["videos"]] == [("v3", None)]
    assert last["after"] is None
    problem(client.get("/v1/users/nobody/videos"), 404)


@pytest.mark.parametrize("is_tried", [False, True])
def test_a_users_videos_at_the_services_keys_go_only_where_the_bucket_keeps_its_contract(
    client: TestClient, app: FastAPI, world: World, is_tried: bool
) -> None:
    """Also where it was tried after the API began."""
    app.state.app_state = AppState(replace(world.workspace, keeps_contract=False), Path(world.address.folder))
    world.video("v1", key=f"{world.address.prefix}u/v1.mp4")
    world.video("v2", key=f"{world.address.prefix}u/v2.mp4", state=VideoState.RETIRED, blob_state=BlobState.RETIRED)
    world.video("v3")
    if is_tried:
        at = world.workspace.bucket
        with transaction(world.workspace.engine, "test") as session:
            deployment.record_contract(session, at.endpoint_url, at.name, CHECKS, [], run_id="doctor")
    found = client.get("/v1/users/ann/videos").json()["videos"]
    assert [bool(video["expires_at"]) for video in found] == [is_tried, is_tried, True]


def test_a_users_videos_say_by_which_segment_they_go(client: TestClient, world: World) -> None:
    drafts = {"name": "drafts", "tags": ["draft"], "retention_days": 3}
    put_in_force(world.workspace.engine, lifecycle=LifecyclePolicy.model_validate({"segments": [drafts]}))
    for video_id in ("v1", "v2"):
        world.video(video_id)
    with transaction(world.workspace.engine, "test") as session:
        made_at = datetime.now(UTC) - timedelta(days=1)
        session.execute(sa.update(videos).values(created_at=made_at))
        session.execute(sa.update(videos).where(videos.c.id == "v1").values(tag="draft"))
    told = client.get("/v1/users/ann/videos").json()["videos"]
    assert [video["tag"] for video in told] == ["draft", None]
    assert [datetime.fromisoformat(video["expires_at"]).date() for video in told] == [
        (made_at + timedelta(days=days)).date() for days in (3, 30)
    ]
    assert ["segment drafts: " in video["why"] for video in told] == [True, False]


def test_a_video_is_deleted_for_its_user_alone(client: TestClient, world: World) -> None:
    world.video("v1")
    problem(client.delete("/v1/videos/v1", params={"user_id": "eve"}), 404)
    problem(client.delete("/v1/videos/v1", params={"user": "eve"}), 422)
    told = client.delete("/v1/videos/v1", params={"user_id": "ann"})
    assert (told.status_code, told.json()["user_id"]) == (200, "ann")
    assert client.delete("/v1/videos/v1").json() == told.json()
    problem(client.get("/v1/videos/v1"), 404)
    world.video("v2")
    hold(world.workspace.engine, HoldTerms("video", "v2", "a dispute", "test"))
    assert problem(client.delete("/v1/videos/v2"), 409)["type"] == "urn:reelkeeper:held"


def test_unknown_routes_methods_and_broken_bodies_are_refused_with_the_way_out(client: TestClient) -> None:
    nowhere = problem(client.put("/v1/users/a/b", json={"tier": "free"}), 404)
    assert marked(nowhere["detail"]) == snapshot("there is no route '/v1/users/a/b'; /openapi.json lists all")
    assert marked(problem(client.patch("/v1/users/bob"), 405)["detail"]) == snapshot(
        "'/v1/users/bob' does not accept PATCH; the header Allow lists what it does"
    )
    for body in (b'{"tier": "\xff"}', b"[" * 100_000):
        broken = client.put("/v1/users/bob", content=body, headers={"Content-Type": "application/json"})
        assert problem(broken, 400)["detail"] == snapshot(
            "the body is not JSON in UTF-8, or nested too deeply; nothing was changed"
        )
    text = client.put("/v1/users/bob", content=b'{"tier": "free"}', headers={"Content-Type": "text/plain"})
    assert marked(problem(text, 422)["faults"]) == snapshot(
        "[{'where': 'body', 'what': 'The body was not sent as JSON, with `Content-Type: application/json`'}]"
    )
    # A redirect would lead past a proxy's path prefix, or from https to http.
    assert "no route '/v1/users/bob/'" in str(problem(client.get("/v1/users/bob/"), 404)["detail"])


def test_an_id_is_taken_as_it_was_sent(client: TestClient) -> None:
    names = ("a", "a/export", "a/videos", "a%2Fb", "a/b", "..", "Zoe K", "gina@example.com", "caf\u00e9", "cafe\u0301")
    for name in names:
        assert client.put(_path("users", name), json={"tier": "free"}).json()["id"] == name
    for name in names:
        assert client.get(_path("users", name)).json()["id"] == name
        assert client.get(_path("users", name, "videos")).json() == {"videos": [], "after": None}
    assert client.request("DELETE", "/v1/users/a%2Fvideos").json()["state"] == "erased"
    assert client.get("/v1/users/a").json()["tier"] == "free"
    problem(client.get("/v1/users/a%2Fvideos"), 404)
    for odd in ("%FF", "%00", "a%0Ab", "%20a", "b" * 201):
        problem(client.put(f"/v1/users/{odd}", json={"tier": "free"}), 422)
    shown = client.get("/v1/metrics").text
    assert 'route="/v1/users/{user_id}"' in shown
    assert "gina" not in shown
