"""Requests for videos, views and users, which a service makes while a person waits."""

from datetime import UTC, datetime, timedelta

import httpx
import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient
from inline_snapshot import snapshot

from reelkeeper import redaction
from reelkeeper.model import BlobState, VideoState
from reelkeeper.operations.billing import ledger, quota
from reelkeeper.rules.lifecycle.lifecycle import LifecyclePolicy
from reelkeeper.store.core.engine import transaction
from reelkeeper.store.tables import blobs, daily_views, videos
from tests.api.answers import problem
from tests.faults.world import World
from tests.marks import marked
from tests.policies import put_in_force
from tests.tiers import tiers


def views_of(world: World, video_id: str) -> int:
    total = sa.select(sa.func.sum(daily_views.c.views)).where(daily_views.c.video_id == video_id)
    with transaction(world.workspace.engine, "test") as session:
        return int(session.execute(total).scalar() or 0)


def test_a_video_is_a_redirect_to_its_present_bytes_and_one_more_view(client: TestClient, world: World) -> None:
    world.swapped("v1", run_id="run")
    answer = client.get("/v1/videos/v1")
    assert answer.status_code == 307
    assert answer.headers["cache-control"] == "no-store"
    assert "/g2-" in answer.headers["location"]
    assert httpx.get(answer.headers["location"], trust_env=False, timeout=60).content == world.clip.read_bytes()
    assert views_of(world, "v1") == 1


def codecs(world: World, **codec_of_generation: str | None) -> None:
    """Say in which codec each generation is: g1="h264"."""
    with transaction(world.workspace.engine, "test") as session:
        for generation, codec in codec_of_generation.items():
            wanted = blobs.c.generation == int(generation[1:])
            session.execute(sa.update(blobs).where(wanted).values(codec=codec))


def location(client: TestClient, plays: str) -> str:
    answer = client.get(f"/v1/videos/v1?plays={plays}")
    assert answer.status_code == 307, answer.text
    return str(answer.headers["location"])


def test_a_video_is_given_to_its_user_alone(client: TestClient, world: World) -> None:
    world.video("v1")
    problem(client.get("/v1/videos/v1?user_id=eve"), 404)
    problem(client.get("/v1/videos/v1?user=eve"), 422)
    assert client.get("/v1/videos/v1?user_id=ann").status_code == 307


def test_a_client_gets_bytes_in_a_codec_that_it_plays(client: TestClient, world: World) -> None:
    world.swapped("v1", run_id="run")
    codecs(world, g1="h264", g2="av1")
    assert "/g2-" in location(client, "av1")
    assert "/g2-" in location(client, "h264,av1")  # the smaller ones, where both would do
    assert "/g1-" in location(client, "h264,vp9")  # the original, within its grace
    assert httpx.get(location(client, "h264"), trust_env=False, timeout=60).content == world.clip.read_bytes()
    codecs(world, g2=None)
    assert "/g2-" in location(client, "vp9")  # nobody has looked: the service's own


def test_a_client_without_a_playable_codec_gets_an_error(client: TestClient, world: World) -> None:
    world.swapped("v1", run_id="run")
    codecs(world, g1="hevc", g2="av1")
    said = problem(client.get("/v1/videos/v1?plays=h264,vp9"), 406)
    assert said["type"] == "urn:reelkeeper:not-playable"
    assert said["detail"] == snapshot("video 'v1' is stored as av1 and hevc, but the client plays only h264, vp9")
    assert views_of(world, "v1") == 0
    problem(client.get("/v1/videos/v1?plays=H.264"), 422)
    codecs(world, g1="h264", g2="h264")
    assert marked(problem(client.get("/v1/videos/v1?plays=av1"), 406)["detail"]) == snapshot(
        "video 'v1' is stored as h264, but the client plays only av1"
    )


def test_an_original_to_be_purged_before_the_url_expires_is_not_served(client: TestClient, world: World) -> None:
    world.swapped("v1", run_id="run")
    codecs(world, g1="h264", g2="av1")
    soon = datetime.now(UTC) + timedelta(minutes=1)
    with transaction(world.workspace.engine, "test") as session:
        session.execute(sa.update(blobs).where(blobs.c.generation == 1).values(purge_after=soon))
    assert marked(problem(client.get("/v1/videos/v1?plays=h264"), 406)["detail"]) == snapshot(
        "video 'v1' is stored as av1, but the client plays only h264"
    )


def test_bytes_that_an_upload_replaced_are_not_served(client: TestClient, world: World) -> None:
    world.swapped("v1", run_id="run")
    codecs(world, g1="h264", g2="av1")
    with transaction(world.workspace.engine, "test") as session:
        session.execute(sa.update(blobs).where(blobs.c.generation == 2).values(recipe=None))
    problem(client.get("/v1/videos/v1?plays=h264"), 406)


def test_a_url_is_for_one_object_and_cannot_be_turned_to_another(client: TestClient, world: World) -> None:
    world.video("v1")
    world.video("v2")
    item, two = (client.get(f"/v1/videos/{name}").headers["location"] for name in ("v1", "v2"))
    forged = two.split("?")[0] + "?" + item.split("?")[1]
    assert httpx.get(forged, trust_env=False, timeout=60).status_code == 403
    assert httpx.delete(item, trust_env=False, timeout=60).status_code == 403


@pytest.mark.parametrize("state", [VideoState.RETIRED, VideoState.GONE, VideoState.LOST])
def test_a_video_that_is_not_live_is_not_found(client: TestClient, world: World, state: VideoState) -> None:
    world.video("v1", state=state, blob_state=BlobState(state))
    assert f"is {state}" in str(problem(client.get("/v1/videos/v1"), 404)["detail"])
    assert views_of(world, "v1") == 0


def test_a_name_that_no_video_can_have_is_refused(client: TestClient) -> None:
    for name in ("a%00b", "%FF", "x" * 201, "%20a", "a%0A"):
        problem(client.get(f"/v1/videos/{name}"), 422)
    problem(client.get("/v1/videos/none"), 404)


def test_views_are_added_and_unknown_videos_left_out(client: TestClient, world: World) -> None:
    world.video("v1")
    told = {"views": [{"video_id": "v1", "views": 3}, {"video_id": "v1"}, {"video_id": "none", "views": 9}]}
    assert client.post("/v1/views", json=told).json() == {"counted": 1, "unknown": ["none"]}
    assert client.post("/v1/views", json=told).json() == {"counted": 1, "unknown": ["none"]}
    assert views_of(world, "v1") == 8


@pytest.mark.long("a stored video and four requests")
def test_views_have_a_time_that_can_be(client: TestClient, world: World) -> None:
    world.video("v1")
    now = datetime.now(UTC)
    for at in (now - timedelta(days=30, minutes=1), now + timedelta(minutes=6)):
        told = problem(client.post("/v1/views", json={"views": [{"video_id": "v1"}], "at": at.isoformat()}), 422)
        assert told["type"] == "urn:reelkeeper:refused"
    for at in (now - timedelta(days=30, minutes=-1), now + timedelta(minutes=4)):
        with transaction(world.workspace.engine, "test") as session:
            session.execute(sa.update(videos).values(last_viewed_at=None))
        asked = {"views": [{"video_id": "v1"}], "at": at.isoformat()}
        assert client.post("/v1/views", json=asked).status_code == 200
        with transaction(world.workspace.engine, "test") as session:
            viewed_at = session.execute(sa.select(videos.c.last_viewed_at)).scalar_one()
        assert now <= viewed_at < now + timedelta(minutes=1) if at > now else viewed_at == at


def test_views_never_exceed_what_the_store_can_count(client: TestClient, world: World) -> None:
    world.video("v1")
    with transaction(world.workspace.engine, "test") as session:
        session.execute(sa.insert(daily_views).values(video_id="v1", day=datetime.now(UTC).date(), views=2**31 - 10))
    asked = {"views": [{"video_id": "v1", "views": 1_000_000}]}
    assert client.post("/v1/views", json=asked).json() == {"counted": 1, "unknown": []}
    assert views_of(world, "v1") == 2**31 - 1


def test_a_user_is_shown_with_tier_bytes_and_credits(client: TestClient, world: World) -> None:
    world.video("v1")
    with transaction(world.workspace.engine, "test") as session:
        quota.reserve(session, "ann", 1000, "a", lasting_seconds=60)
        ledger.grant(session, "ann", 5_000_000, "g", run_id="r")
        ledger.hold(session, "ann", 1_000_000, "h", run_id="r", lasting_seconds=60)
    assert client.get("/v1/users/ann").json() == {
        "id": "ann",
        "tier": "free",
        "used_bytes": world.clip.stat().st_size,
        "reserved_bytes": 1000,
        "quota_bytes": 104_857_600,
        "available_microusd": 4_000_000,
        "held_microusd": 1_000_000,
        "spent_microusd": 0,
    }
    problem(client.get("/v1/users/bob"), 404)


def test_a_refusal_shows_no_secret_though_its_sentence_would(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redaction, "_known", frozenset())
    monkeypatch.setattr(redaction, "_pattern", redaction._pattern)
    redaction.hide(["canary-8d1f"])
    assert problem(client.get("/v1/users/canary-8d1f"), 404)["detail"] == snapshot("no user '***' in the catalogue")


def test_a_quota_is_asked_with_the_sentence_that_a_user_reads(client: TestClient) -> None:
    def ask(size: object) -> httpx.Response:
        answer: httpx.Response = client.post("/v1/quota/check", json={"user_id": "ann", "incoming_bytes": size})
        return answer

    assert ask(104_857_600).json()["can_upload"] is True
    told = ask(104_857_601).json()
    assert told["can_upload"] is False
    assert marked(told["reason"]) == snapshot(
        "0 bytes used and 0 reserved of 104,857,600; 104,857,601 more do not fit. Delete videos, or choose a larger tier"
    )
    for wrong in (-1, 1.5, "1", True, None, 10**16):
        problem(ask(wrong), 422)
    problem(client.post("/v1/quota/check", json={"user_id": "bob", "incoming_bytes": 1}), 404)


def test_a_video_is_kept_once_for_each_key_and_shown_with_its_new_end(client: TestClient, world: World) -> None:
    world.video("v1")
    refused = problem(client.post("/v1/videos/v1/keep", headers={"Idempotency-Key": "a"}), 409)
    assert refused["type"] == "urn:reelkeeper:not-kept"
    assert marked(refused["detail"]) == snapshot("the tier free does not keep videos longer on request")
    put_in_force(world.workspace.engine, lifecycle=LifecyclePolicy(keep_times=1), tiers=tiers(free={"keep_days": 30}))
    path = "/v1/videos/v1/keep?user_id=ann"
    kept = [client.post(path, headers={"Idempotency-Key": "a"}).json() for _ in range(2)]
    assert kept[0] == kept[1] == {"video_id": "v1", "until": kept[0]["until"], "times": 1}
    until = datetime.fromisoformat(kept[0]["until"])
    assert timedelta(days=29) < until - datetime.now(UTC) < timedelta(days=31)
    (shown,) = client.get("/v1/users/ann/videos").json()["videos"]
    assert datetime.fromisoformat(shown["expires_at"]) == until
    assert problem(client.post(path, headers={"Idempotency-Key": "b"}), 409)["type"] == "urn:reelkeeper:not-kept"
    problem(client.post("/v1/videos/v1/keep?user_id=bob", headers={"Idempotency-Key": "a"}), 404)
    problem(client.post("/v1/videos/v1/keep?user=ann", headers={"Idempotency-Key": "c"}), 422)
    problem(client.post("/v1/videos/v1/keep"), 422)
