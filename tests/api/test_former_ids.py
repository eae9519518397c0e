"""Users and videos answer to the ids that they had: before a rename, and as an earlier version made them of names."""

from urllib.parse import quote

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from reelkeeper.adapters.s3.seaweed import Endpoint
from reelkeeper.errors import InputRefused
from reelkeeper.model.ids import earlier_id
from reelkeeper.operations.billing import users
from reelkeeper.operations.billing.users import import_users
from reelkeeper.store.core.engine import reading, transaction
from reelkeeper.store.tables import daily_views, videos
from reelkeeper.store.videos.imports import import_videos, import_views
from tests.databases import statements
from tests.faults.world import World
from tests.operations.removals.test_rename import GINA, MADE, made_row, renamed

NAME, DAY = "my clip", "2026-11-20"
ID = earlier_id(NAME, MADE)


def counted(world: World) -> int:
    """Return the views recorded of Gina's video."""
    with reading(world.workspace.engine) as session:
        query = sa.select(sa.func.coalesce(sa.func.sum(daily_views.c.views), 0)).where(daily_views.c.video_id == ID)
        return int(session.execute(query).scalar_one())


@pytest.mark.parametrize("is_renamed", [False, True], ids=["as made", "renamed"])
def test_a_video_is_found_by_the_name_of_which_its_id_was_made(
    world: World, endpoint: Endpoint, client: TestClient, is_renamed: bool
) -> None:
    made_row(world, endpoint)
    if is_renamed:
        renamed(world, MADE)
    path = f"/v1/videos/{quote(NAME)}"
    assert client.get(path).status_code == 307
    assert client.get(path, params={"user_id": GINA}).status_code == 307
    assert client.get(path, params={"user_id": "ann"}).status_code == 404
    told = client.post("/v1/views", json={"views": [{"video_id": NAME, "views": 3}, {"video_id": ID, "views": 4}]})
    assert told.json() == {"counted": 2, "unknown": []}
    assert counted(world) == 2 + 3 + 4
    held = {"scope": "video", "subject": NAME, "reason": "a dispute"}
    hold_id = client.post("/v1/holds", json=held, headers={"Idempotency-Key": "one"}).json()["id"]
    assert client.get("/v1/holds").json()["holds"][0]["subject"] == ID
    assert client.delete(path).status_code == 409
    client.delete(f"/v1/holds/{hold_id}")
    assert client.delete(path).json()["video_id"] == ID
    taken_down = client.post("/v1/takedowns", json={"video_id": NAME, "reason": "an order"}).json()
    assert taken_down["video_ids"] == [ID]
    assert client.get(f"/v1/takedowns/{quote(NAME)}").json()["video_id"] == ID


def test_a_name_that_two_users_gave_means_neither_video(world: World, endpoint: Endpoint, client: TestClient) -> None:
    made_row(world, endpoint)
    with transaction(world.workspace.engine, "test") as session:
        session.execute(sa.insert(videos).values(id=earlier_id(NAME, "ann"), user_id="ann", state="live", generation=1))
    assert client.get(f"/v1/videos/{quote(NAME)}").status_code == 404
    assert client.get(f"/v1/videos/{quote(NAME)}", params={"user_id": GINA}).status_code == 307
    assert client.post("/v1/views", json={"views": [{"video_id": NAME}]}).json()["unknown"] == [NAME]


def test_a_report_of_unknown_names_looks_through_the_catalogue_once(
    world: World, endpoint: Endpoint, client: TestClient
) -> None:
    """Else one report of a thousand, which no other write can pass on SQLite, takes minutes in a large catalogue."""
    made_row(world, endpoint)

    def report(*names: str) -> int:
        with statements(world.workspace.engine) as asked:
            told = client.post("/v1/views", json={"views": [{"video_id": name} for name in names]}).json()
        assert (told["counted"], told["unknown"]) == (1, sorted(set(names) - {NAME}))
        return sum("former_ids" in statement for statement in asked)

    assert report(NAME, "a/b") == report(NAME, *(f"folder {n}/\u2603" for n in range(50)))


def test_views_are_imported_by_either_name(world: World, endpoint: Endpoint) -> None:
    made_row(world, endpoint)
    engine, head = world.workspace.engine, "video_id,day,views"
    assert import_views(engine, [head, f"{NAME},{DAY},5"]).lines == 1
    assert counted(world) == 5
    with pytest.raises(InputRefused):
        import_views(engine, [head, f"{NAME},{DAY},5", f"{ID},{DAY},6"])
    assert counted(world) == 5


def test_a_users_lines_under_both_its_ids_are_refused(world: World, client: TestClient) -> None:
    engine, head = world.workspace.engine, "id,tier,created_at"
    import_users(engine, [head, "ann,pro,"])
    renamed(world, "ann")
    import_users(engine, [head, "ann,premium,"])
    for lines in (["ann,free,", f"{GINA},pro,"], [f"{GINA},pro,", "ann,free,"]):
        with pytest.raises(InputRefused):
            import_users(engine, [head, *lines])
    assert client.get(f"/v1/users/{GINA}").json()["tier"] == "premium"


def test_a_videos_lines_under_both_its_ids_are_refused(world: World, endpoint: Endpoint) -> None:
    made_row(world, endpoint)
    both = [f"{NAME},{GINA},2026-01-01T00:00:00Z", f"{ID},{GINA},2020-01-01T00:00:00Z"]
    with pytest.raises(InputRefused):
        import_videos(world.workspace.engine, ["id,user_id,created_at", *both])


def test_requests_by_the_id_that_a_user_had_are_answered_as_reads_are(world: World, client: TestClient) -> None:
    users.put(world.workspace.engine, "ann", "pro", by="front")
    renamed(world, "ann")
    key = {"Idempotency-Key": "one"}
    assert client.get("/v1/users/ann").json()["id"] == GINA
    refused = client.put("/v1/users/ann", json={"tier": "free"})
    assert refused.status_code == 422
    assert GINA in refused.json()["detail"]
    assert client.get(f"/v1/users/{GINA}").json()["tier"] == "pro"
    assert client.post("/v1/users/ann/credits", json={"amount_microusd": 10**9}, headers=key).status_code == 201
    assert client.post("/v1/quota/check", json={"user_id": "ann", "incoming_bytes": 1}).json()["can_upload"]
    wanted = {"user_id": "ann", "request": {"model": "sketch-1", "prompt": "A fox"}}
    job_id = client.post("/v1/jobs", json=wanted, headers=key).json()["job_id"]
    assert client.get(f"/v1/jobs/{job_id}", params={"user_id": "ann"}).json()["user_id"] == GINA
    assert client.delete(f"/v1/jobs/{job_id}", params={"user_id": "ann"}).json()["state"] == "cancelled"
    client.post("/v1/holds", json={"scope": "user", "subject": "ann", "reason": "a dispute"}, headers=key)
    assert client.get("/v1/holds").json()["holds"][0]["subject"] == GINA
    upload = {"user_id": "ann", "video_id": "new", "size_bytes": 9, "md5": "0" * 32, "extension": "mp4"}
    assert client.post("/v1/uploads", json=upload, headers=key).json()["user_id"] == GINA
