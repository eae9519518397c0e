"""A user's own data over HTTP: export and erasure."""

import io
import os
import shutil
import threading
import time
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from anyio import run
from anyio.to_thread import run_sync
from fastapi.testclient import TestClient
from inline_snapshot import snapshot

from reelkeeper.adapters.ffmpeg.intake import sweep_scratch_dirs
from reelkeeper.api import load
from reelkeeper.api.app_state import AppState
from reelkeeper.api.routes import personal
from reelkeeper.errors import LeaseLost
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.videos.export import Exported, export
from reelkeeper.operations.videos.hold import hold
from reelkeeper.store.videos.holds import HoldTerms
from tests.api.answers import problem
from tests.buckets import BUCKET
from tests.faults.world import World

JOB = {"user_id": "ann", "request": {"model": "sketch-1", "prompt": "a cat"}}
UPLOAD = {"user_id": "ann", "video_id": "v9", "size_bytes": 100, "md5": "0" * 32, "extension": "mp4"}


def test_an_erased_user_may_sign_up_again(client: TestClient, world: World) -> None:
    world.video("v1")
    done = client.delete("/v1/users/ann").json()
    assert (done["state"], done["left"], done["rows"]["videos"]) == ("erased", [], 1)
    assert done["pseudonym"].startswith("erased-")
    problem(client.get("/v1/users/ann"), 404)
    problem(client.delete("/v1/users/ann"), 404)
    problem(client.delete(f"/v1/users/{done['pseudonym']}"), 404)
    assert client.put("/v1/users/ann", json={"tier": "pro"}).json()["used_bytes"] == 0
    assert client.get("/v1/users/ann/videos").json()["videos"] == []


def test_the_services_files_are_named_or_deleted_on_demand(client: TestClient, world: World) -> None:
    prefix = world.address.prefix
    for user in ("ann", "bob"):
        client.put(f"/v1/users/{user}", json={"tier": "pro"})
        world.double.client.put_object(Bucket=BUCKET, Key=f"{prefix}{user}/v1.jpg", Body=b"12345")
    left = {"key": f"{prefix}ann/v1.jpg", "size_bytes": 5, "by": "pattern", "upload_id": ""}
    done = client.delete("/v1/users/ann").json()
    assert (done["state"], done["files"], done["files_deleted"]) == ("erased", [left], 0)
    done = client.delete("/v1/users/bob?with_files=true").json()
    assert (done["state"], done["files"], done["files_deleted"]) == ("erased", [], 1)


def test_an_unfinished_erasure_names_what_is_left_and_nothing_new_is_accepted(client: TestClient, world: World) -> None:
    world.video("v1")
    hold(world.workspace.engine, HoldTerms("video", "v1", "evidence", "counsel", is_legal=True))
    done = client.delete("/v1/users/ann").json()
    assert (done["state"], [item["why"] for item in done["left"]]) == ("under way", [snapshot("a legal hold keeps it")])
    key = {"Idempotency-Key": "k1"}
    for answer in (
        client.post("/v1/jobs", json=JOB, headers=key),
        client.post("/v1/uploads", json=UPLOAD, headers=key),
        client.post("/v1/users/ann/credits", json={"amount_microusd": 5}, headers=key),
        client.put("/v1/users/ann", json={"tier": "pro"}),
        client.get("/v1/users/ann/export"),
    ):
        assert problem(answer, 410)["type"] == "urn:reelkeeper:erased"


def test_a_user_gets_a_copy_of_all_data_and_the_server_keeps_none(
    client: TestClient, world: World, app_state: AppState
) -> None:
    world.video("v1")
    answer = client.get("/v1/users/ann/export")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/zip")
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.read("videos/v1.mp4") == world.clip.read_bytes()
        assert b'"id": "ann"' in archive.read("data/user.jsonl")
        assert "missing.txt" not in archive.namelist()
    assert list(app_state.scratch.iterdir()) == []
    problem(client.get("/v1/users/nobody/export"), 404)


def test_what_a_killed_server_leaves_of_an_export_is_swept(
    client: TestClient, world: World, app_state: AppState, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.video("v1")

    def write(workspace: Workspace, user_id: str, target: Path) -> Exported:
        done = export(workspace, user_id, target)
        shutil.copytree(target.parent, app_state.scratch / target.parent.name.replace("desk-", "desk-left-"))
        return done

    monkeypatch.setattr(personal, "write_export", write)
    assert client.get("/v1/users/ann/export").status_code == 200
    (left,) = app_state.scratch.iterdir()
    os.utime(left, (0, 0))
    assert sweep_scratch_dirs(app_state.scratch) == 1
    assert list(app_state.scratch.iterdir()) == []


def test_unreadable_objects_are_named_in_the_copy(client: TestClient, world: World) -> None:
    world.video("v1", stored=False)
    answer = client.get("/v1/users/ann/export")
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.read("missing.txt").startswith(b"video v1: ")


def test_a_large_copy_is_streamed_in_flat_memory(world: World, app_state: AppState, tmp_path: Path) -> None:
    large = tmp_path / "large.mp4"
    large.write_bytes(world.clip.read_bytes() + bytes(30_000_000))
    world.video("v1", clip=large)

    async def taken() -> int:
        answer = await run_sync(personal.export_user, "ann", app_state)
        return sum([len(chunk) async for chunk in answer.body_iterator])

    tracemalloc.start()
    size = run(taken)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size > 30_000_000
    assert peak < 10_000_000


@pytest.mark.parametrize(
    ("work", "method", "path"),
    [
        ("reelkeeper.api.routes.personal.write_export", "GET", "/v1/users/ann/export"),
        ("reelkeeper.operations.removals.erase.erase", "DELETE", "/v1/users/ann"),
        ("reelkeeper.operations.removals.takedown.take_down", "POST", "/v1/takedowns"),
    ],
)
def test_long_work_leaves_room_for_other_requests(
    client: TestClient, world: World, monkeypatch: pytest.MonkeyPatch, work: str, method: str, path: str
) -> None:
    """With many or large videos it takes minutes, in which no user could play a video or ask for one."""
    world.video("v1")
    under_way, may_end = threading.Semaphore(0), threading.Event()

    def slow(*_about: object, **_how: object) -> None:
        under_way.release()
        assert may_end.wait(60)
        raise LeaseLost

    monkeypatch.setattr(load, "WAIT_SECONDS", 10.0)  # long for this machine when it is busy, too
    monkeypatch.setattr(work, slow)
    body = {"video_id": "v1", "reason": "r"} if method == "POST" else None
    with client, ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(client.request, method, path, json=body) for _ in range(12)]
        try:
            assert under_way.acquire(timeout=60)
            time.sleep(1)  # all that get a place have it
            assert client.get("/v1/users/ann").status_code == 200
            assert client.get("/v1/videos/v1").status_code == 307
        finally:
            may_end.set()
        assert {answer.result().status_code for answer in asked} == {409}  # all the others had their turn
