"""Uploads by presigned URL: exactly the announced bytes, once, published only when verified."""

import hashlib
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient
from inline_snapshot import snapshot

from reelkeeper.adapters.s3.keys import key_name
from reelkeeper.client import _path
from reelkeeper.model import BlobState, Grace
from reelkeeper.operations.billing import users
from reelkeeper.operations.core import freeze
from reelkeeper.operations.core.lease import LeaseManager
from reelkeeper.operations.health import accounts
from reelkeeper.operations.sync.survey import survey
from reelkeeper.operations.sync.sync import mend
from reelkeeper.store.core import audit
from reelkeeper.store.core.engine import Clock, reading, transaction
from reelkeeper.store.tables import blobs, reservations, uploads, videos
from tests.api.answers import problem
from tests.faults.world import World
from tests.marks import marked
from tests.operations.books import storage

KEY = {"Idempotency-Key": "key-1"}


def announced(data: bytes, **other: object) -> dict[str, Any]:
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    return {"user_id": "ann", "video_id": "new", "size_bytes": len(data), "md5": md5, "extension": "mp4", **other}


def put(ticket: dict[str, Any], data: bytes, **other: str) -> httpx.Response:
    return httpx.put(ticket["url"], content=data, headers={**ticket["headers"], **other}, trust_env=False, timeout=60)


def begin(client: TestClient, data: bytes, **other: object) -> dict[str, Any]:
    answer = client.post("/v1/uploads", json=announced(data, **other), headers=KEY)
    assert answer.status_code == 201, answer.text
    told: dict[str, Any] = answer.json()
    return told


def complete(client: TestClient, upload: dict[str, Any]) -> httpx.Response:
    answer: httpx.Response = client.post(f"/v1/uploads/{upload['id']}/complete")
    return answer


@pytest.mark.long
def test_an_upload_goes_from_promise_to_live_video(client: TestClient, world: World) -> None:
    data = world.clip.read_bytes()
    upload = begin(client, data, tag="draft")
    assert begin(client, data, tag="final")["id"] == upload["id"]  # the first tag stays
    assert storage(world.workspace.engine, "ann") == (0, len(data))
    problem(client.get("/v1/videos/new"), 404)
    assert put(upload, data).status_code == 200
    assert complete(client, upload).json()["state"] == "stored"
    assert storage(world.workspace.engine, "ann") == (len(data), 0)
    location = client.get("/v1/videos/new").headers["location"]
    assert httpx.get(location, trust_env=False, timeout=60).content == data
    with reading(world.workspace.engine) as session:
        assert session.execute(sa.select(videos.c.tag).where(videos.c.id == "new")).scalar() == "draft"
    assert complete(client, upload).json()["state"] == "stored"
    assert client.get(f"/v1/uploads/{upload['id']}").json()["state"] == "stored"
    world.check()


def test_the_same_key_gives_the_same_upload_and_other_parameters_are_refused(client: TestClient, world: World) -> None:
    data = world.clip.read_bytes()
    first, again = begin(client, data), begin(client, data)
    assert first["id"] == again["id"]
    assert storage(world.workspace.engine, "ann") == (0, len(data))
    problem(client.post("/v1/uploads", json=announced(data, video_id="other"), headers=KEY), 422)
    problem(client.post("/v1/uploads", json=announced(data)), 422)


def test_an_upload_of_a_caller_whose_clock_is_ahead_is_repeated_like_any_other(
    client: TestClient, world: World
) -> None:
    data = world.clip.read_bytes()
    ahead = (datetime.now(UTC) + timedelta(minutes=2)).isoformat()
    assert begin(client, data, created_at=ahead)["id"] == begin(client, data, created_at=ahead)["id"]
    with reading(world.workspace.engine) as session:
        made_at = session.execute(sa.select(uploads.c.video_created_at)).scalar_one()
        assert made_at <= session.execute(sa.select(Clock())).scalar_one()


@pytest.mark.parametrize("asked_as", ["ann", "anna"])
def test_an_upload_that_was_begun_before_its_user_was_renamed_is_found_by_its_key(
    client: TestClient, world: World, asked_as: str
) -> None:
    data = world.clip.read_bytes()
    first = begin(client, data)
    users.rename(world.workspace.engine, "ann", "anna", by="ops", apply=True)
    again = begin(client, data, user_id=asked_as)
    assert (again["id"], again["user_id"]) == (first["id"], "anna")
    assert storage(world.workspace.engine, "anna") == (0, len(data))
    other = problem(client.post("/v1/uploads", json=announced(data, user_id="anna", video_id="x"), headers=KEY), 422)
    assert other["type"] == "urn:reelkeeper:key-reused"


def test_only_the_bytes_that_were_announced_can_be_put_and_only_once(client: TestClient, world: World) -> None:
    data = world.clip.read_bytes()
    upload = begin(client, data)
    longer, other = data + b"x", bytes([data[0] ^ 1]) + data[1:]
    md5 = hashlib.md5(other, usedforsecurity=False).hexdigest()
    for wrong in (
        put(upload, longer, **{"Content-Length": str(len(longer))}),
        put(upload, other),
        put(upload, other, **{"Content-MD5": md5}),
        httpx.put(upload["url"], content=data, trust_env=False, timeout=60),
    ):
        assert 400 <= wrong.status_code < 500, wrong.text
    assert put(upload, data).status_code == 200
    assert put(upload, data).status_code == 412


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("Content-Length", None),  # of one byte more
        ("Content-MD5", b64encode(bytes(16)).decode()),
        ("Content-Type", "text/html"),
        ("If-None-Match", ""),
    ],
)
def test_a_url_holds_for_each_header_as_it_was_signed(
    client: TestClient, world: World, header: str, value: str | None
) -> None:
    data = world.clip.read_bytes()
    upload = begin(client, data)
    sent = data if value is not None else data + b"x"
    wrong = put(upload, sent, **{header: str(len(sent)) if value is None else value})
    assert wrong.status_code == 403, wrong.text
    assert "SignatureDoesNotMatch" in wrong.text
    assert put(upload, data).status_code == 200  # nothing was there


def test_bytes_other_than_the_announced_ones_are_never_published(client: TestClient, world: World) -> None:
    mine, other = (world.clip.read_bytes() + (12).to_bytes(4, "big") + b"free" + box for box in (b"mine", b"else"))
    upload = begin(client, mine)
    with reading(world.workspace.engine) as session:
        key = session.execute(sa.select(blobs.c.key)).scalar_one()
    world.workspace.bucket.put_bytes_once(key, other, "video/mp4")
    assert complete(client, upload).status_code >= 400
    problem(client.get("/v1/videos/new"), 404)


def test_a_video_that_came_to_be_meanwhile_is_not_replaced(client: TestClient, world: World) -> None:
    data = world.clip.read_bytes()
    upload = begin(client, data)
    put(upload, data)
    world.video("new")
    with reading(world.workspace.engine) as session:
        before = session.execute(sa.select(videos.c.blob_id, videos.c.state)).one()
    assert marked(problem(complete(client, upload), 422)["detail"]) == snapshot(
        "video 'new' was created after upload ID began; use another id"
    )
    with reading(world.workspace.engine) as session:
        assert session.execute(sa.select(videos.c.blob_id, videos.c.state)).one() == before


def test_an_upload_is_not_published_before_its_bytes_were_put(client: TestClient, world: World) -> None:
    upload = begin(client, world.clip.read_bytes())
    assert marked(problem(complete(client, upload), 409)["detail"]) == snapshot(
        "no bytes are stored yet for upload ID. Put them at its URL, then complete it"
    )
    assert client.get(f"/v1/uploads/{upload['id']}").json()["state"] == "open"


def test_an_upload_that_is_no_video_is_refused_and_its_bytes_released(client: TestClient, world: World) -> None:
    data = b"this is no video" * 100
    upload = begin(client, data)
    put(upload, data)
    problem(complete(client, upload), 422)
    assert client.get(f"/v1/uploads/{upload['id']}").json()["state"] == "refused"
    problem(complete(client, upload), 409)
    assert storage(world.workspace.engine, "ann") == (0, 0)
    world.check()


def test_a_cut_video_is_refused_when_it_is_decoded(client: TestClient, world: World) -> None:
    whole = world.clip.read_bytes()
    data = whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2)
    upload = begin(client, data)
    put(upload, data)
    assert complete(client, upload).status_code in (409, 422)
    assert client.get(f"/v1/uploads/{upload['id']}").json()["state"] == "refused"
    problem(client.get("/v1/videos/new"), 404)
    assert storage(world.workspace.engine, "ann") == (0, 0)
    world.check()


def test_the_owner_of_an_upload_that_does_not_decode_to_its_end_is_told_why_it_was_refused(
    client: TestClient, world: World
) -> None:
    whole = world.clip.read_bytes()
    middle = len(whole) // 2
    data = whole[: middle - 500] + bytes(1_000) + whole[middle + 500 :]
    upload = begin(client, data)
    put(upload, data)
    told = problem(complete(client, upload), 409)["detail"]
    shown = client.get(f"/v1/uploads/{upload['id']}").json()
    assert (shown["state"], bool(shown["reason"])) == ("refused", True)
    assert shown["reason"] in str(told)
    assert storage(world.workspace.engine, "ann") == (0, 0)


def test_an_upload_that_does_not_fit_or_already_exists_is_refused(client: TestClient, world: World) -> None:
    world.video("v1")
    data = world.clip.read_bytes()
    told = problem(client.post("/v1/uploads", json=announced(data, size_bytes=200_000_000), headers=KEY), 403)
    assert told["type"] == "urn:reelkeeper:quota"
    problem(client.post("/v1/uploads", json=announced(data, video_id="v1"), headers=KEY), 422)
    problem(client.post("/v1/uploads", json=announced(data, user_id="bob"), headers=KEY), 404)
    problem(client.post("/v1/uploads", json=announced(data, video_id="x\n"), headers=KEY), 422)
    long_ago = announced(data, created_at="0001-01-01T00:00:00+14:00")
    problem(client.post("/v1/uploads", json=long_ago, headers=KEY), 422)
    never_set = announced(data, created_at="0001-01-01T00:00:00Z")
    problem(client.post("/v1/uploads", json=never_set, headers=KEY), 422)
    endless = announced(data, created_at=10**400)
    problem(client.post("/v1/uploads", json=endless, headers=KEY), 422)


def test_the_bytes_of_an_upload_are_reserved_for_an_hour_longer_than_its_url_works(
    client: TestClient, world: World
) -> None:
    begin(client, b"a video")
    with reading(world.workspace.engine) as session:
        its = uploads.c.reservation_id == reservations.c.id
        until = session.execute(sa.select(reservations.c.expires_at, uploads.c.url_until).where(its)).one()
    assert abs(until.expires_at - until.url_until - timedelta(hours=1)) < timedelta(seconds=5)


@pytest.mark.long
@pytest.mark.parametrize("came", [True, False])
def test_an_upload_that_is_never_completed_expires(client: TestClient, world: World, came: bool) -> None:
    data = world.clip.read_bytes()
    upload = begin(client, data)
    if came:
        put(upload, data)
    with transaction(world.workspace.engine, "test") as session:
        session.execute(sa.update(reservations).values(expires_at=Clock(-1)))
        session.execute(sa.update(blobs).values(stored_at=Clock(-100_000)))
    with LeaseManager(world.workspace.engine) as manager:
        (lease,) = manager.take(["settle_accounts"])
        assert len(accounts.void_reservations(world.workspace.engine, lease=lease)) == 1
        assert client.get(f"/v1/uploads/{upload['id']}").json()["state"] == "expired"
        problem(complete(client, upload), 409)
        found = survey(world.workspace, run_id="run", note=True)
        assert (found.missing, len(found.reappeared)) == ([], int(came))
        mend(world.workspace, found, lease=lease, run_id="run", grace=Grace())
    with reading(world.workspace.engine) as session:
        state = session.execute(sa.select(blobs.c.state)).scalar_one()
    assert state == (BlobState.RETIRED if came else BlobState.GONE)
    assert storage(world.workspace.engine, "ann") == (0, 0)
    world.check()


def test_while_changes_are_stopped_nothing_begins_and_nothing_is_published(client: TestClient, world: World) -> None:
    data = world.clip.read_bytes()
    upload = begin(client, data)
    put(upload, data)
    freeze.freeze(world.workspace.engine, by="ann", reason="a test")
    assert problem(complete(client, upload), 503)["type"] == "urn:reelkeeper:frozen"
    problem(client.post("/v1/uploads", json=announced(data), headers={"Idempotency-Key": "k2"}), 503)
    freeze.thaw(world.workspace.engine, by="ann")
    assert complete(client, upload).json()["state"] == "stored"


@pytest.mark.long
def test_the_answers_hold_no_secret_and_the_record_tells_the_upload(client: TestClient, world: World) -> None:
    data = world.clip.read_bytes()
    upload = begin(client, data)
    put(upload, data)
    told = complete(client, upload).text
    assert world.address.secret_access_key not in told + str(upload)
    with reading(world.workspace.engine) as session:
        events = [record.event.event for record in audit.events(session)]
    assert events[0] == "upload"


@pytest.mark.parametrize("name", ["gina@example.com", "a/../b", "Zoe K|+=%40", "e\u0301 🎬", "日" * 200])
def test_a_video_of_any_id_is_uploaded_shown_and_deleted(client: TestClient, world: World, name: str) -> None:
    data = world.clip.read_bytes()
    assert client.put(_path("users", name), json={"tier": "free"}).status_code == 200
    upload = begin(client, data, user_id=name, video_id=name)
    assert put(upload, data).status_code == 200
    assert complete(client, upload).json()["state"] == "stored"
    location = client.get(_path("videos", name)).headers["location"]
    assert httpx.get(location, trust_env=False, timeout=60).content == data
    with reading(world.workspace.engine) as session:
        key = session.execute(sa.select(blobs.c.key).where(blobs.c.video_id == name)).scalar_one()
    assert key.startswith(f"{world.address.prefix}{key_name(name)}/{key_name(name)}/g1-")
    assert client.post("/v1/views", json={"views": [{"video_id": name}]}).json() == {"counted": 1, "unknown": []}
    gone = client.request("DELETE", f"{_path('videos', name)}?user_id={quote(name, safe='')}").json()
    assert (gone["video_id"], gone["user_id"]) == (name, name)
