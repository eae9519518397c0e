"""What answers say beside their body: what is left of a rate, a replay, the methods of a path."""

import re
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from httpx import Response

from reelkeeper.api.app import create_app
from reelkeeper.api.app_state import AppState
from reelkeeper.model.requests import Queued
from reelkeeper.model.token_scopes import Scope
from reelkeeper.operations.core import tokens
from reelkeeper.rules.core.request_limits import AccessPolicy
from reelkeeper.store.core.engine import reading
from reelkeeper.store.videos.videos import list_videos
from tests.api.answers import problem
from tests.api.served import served
from tests.faults.world import World
from tests.operations.asking import ask, fox
from tests.operations.books import DOLLAR, make_user
from tests.policies import put_in_force
from tests.tiers import tiers

UNKNOWN = "0123456789abcdef0123456789abcdef"
CHANGING = {"date", "x-request-id", "ratelimit", "content-length", "location"}


def left(answer: Response) -> tuple[int, int]:
    """Read what is left of a rate: requests, and the seconds to one more."""
    stated = answer.headers["ratelimit"]
    found = re.fullmatch(r'"token";r=(\d+);t=(\d+)', stated)
    assert found, stated
    return int(found[1]), int(found[2])


def test_each_answer_to_a_caller_says_what_is_left_of_its_rate(world: World, app_state: AppState) -> None:
    app_state.load.limit(AccessPolicy(requests_a_second=0.01, burst=2))
    _, text = tokens.create(world.workspace.engine, "often", (Scope.USERS,), author="test")
    client = TestClient(create_app(app_state), headers={"Authorization": f"Bearer {text}"})
    answers = [client.get("/v1/users/ann"), client.get("/v1/none"), client.get("/v1/users/ann")]
    assert [answer.status_code for answer in answers] == [200, 404, 429]
    assert {answer.headers["ratelimit-policy"] for answer in answers} == {'"token";q=2;w=200'}
    assert [left(answer)[0] for answer in answers] == [1, 0, 0]
    assert all(90 <= left(answer)[1] <= 101 for answer in answers)
    assert left(answers[2])[1] == int(answers[2].headers["retry-after"])


def test_an_internal_error_says_what_every_answer_says(world: World, app_state: AppState) -> None:
    page = {"Origin": "https://video.example.com"}
    app = create_app(replace(app_state, cors_origins=tuple(page.values())))

    @app.get("/v1/broken")
    def break_down() -> None:
        raise RuntimeError("a secret")

    _, text = tokens.create(world.workspace.engine, "a page", (Scope.USERS,), author="test")
    client = TestClient(app, headers={"Authorization": f"Bearer {text}", **page}, raise_server_exceptions=False)
    answer = client.get("/v1/broken")
    assert problem(answer, 500)["type"] == "urn:reelkeeper:unforeseen"
    assert {"ratelimit", "ratelimit-policy", "x-request-id", "access-control-allow-origin"} <= answer.headers.keys()
    with pytest.raises(RuntimeError):  # the server logs it
        TestClient(app, headers=client.headers).get("/v1/broken")


def test_who_has_no_rate_is_told_none(app: FastAPI) -> None:
    with TestClient(app) as client:
        for path in ("/healthz", "/openapi.json", "/v1/users/ann"):
            assert not {"ratelimit", "ratelimit-policy"} & client.get(path).headers.keys()


@pytest.fixture
def of_bob(world: World) -> str:
    """A user with a dollar, a video to keep and a job."""
    make_user(world.workspace.engine, "bob", DOLLAR)
    world.video("v1")
    put_in_force(world.workspace.engine, tiers=tiers(free={"keep_days": 30}, premium={"keep_days": 30}))
    job = ask(world.workspace.engine, "k0", fox(), user="bob")
    assert isinstance(job, Queued)
    return job.job_id


REPEATABLE: dict[str, dict[str, object] | None] = {
    "/v1/jobs": {"user_id": "bob", "request": {"model": "m", "prompt": "a hare"}},
    "/v1/uploads": {"user_id": "bob", "video_id": "new", "size_bytes": 10, "md5": "0" * 32},
    "/v1/users/bob/credits": {"amount_microusd": 5},
    "/v1/videos/v1/keep": None,
    "/v1/holds": {"scope": "video", "subject": "v1", "reason": "a dispute"},
    "/v1/webhooks": {"url": "https://127.0.0.1/hook"},
}


@pytest.mark.usefixtures("of_bob")
def test_an_answer_that_a_key_brings_back_is_marked_and_no_other(
    world: World, app_state: AppState, app: FastAPI
) -> None:
    object.__setattr__(app_state, "allow_private", True)
    _, text = tokens.create(world.workspace.engine, "a test", tuple(Scope), author="test")
    client = TestClient(app, headers={"Authorization": f"Bearer {text}"})
    assert set(REPEATABLE) == {
        path.replace("{user_id}", "bob").replace("{video_id}", "v1")
        for path, operations in app.openapi()["paths"].items()
        for operation in operations.values()
        if any(each["name"] == "Idempotency-Key" for each in operation.get("parameters", ()))
    }
    for path, body in REPEATABLE.items():
        answers = [client.post(path, json=body, headers={"Idempotency-Key": key}) for key in ("a1", "a1", "a2")]
        marks = [answer.headers.get("idempotency-replayed") for answer in answers]
        assert marks[:2] == [None, "true"], (path, answers[1].text)
        assert marks[2] is None, path
        assert answers[0].status_code == answers[1].status_code < 300, path
        if body and (changed := {**body, **_other(body)}) != body:
            answer = client.post(path, json=changed, headers={"Idempotency-Key": "a1"})
            assert "idempotency-replayed" not in answer.headers, path


def _other(body: dict[str, object]) -> dict[str, object]:
    values = {"amount_microusd": 6, "size_bytes": 11, "url": "https://127.0.0.2/hook", "subject": "bob"}
    return {name: value for name, value in values.items() if name in body}


def paths(app: FastAPI, job_id: str) -> Iterator[tuple[str, set[str]]]:
    """Give each path of the schema, with ids of things that exist where there are some, and its methods there."""
    ids = {"user_id": "bob", "video_id": "v1", "job_id": job_id, "upload_id": UNKNOWN, "hold_id": UNKNOWN[:12]}
    for path, operations in app.openapi()["paths"].items():
        yield path.format(**ids, webhook_id="w"), {method.upper() for method in operations}


def test_a_method_that_a_path_has_not_is_answered_with_all_that_it_has(
    app: FastAPI, client: TestClient, of_bob: str
) -> None:
    for path, has in paths(app, of_bob):
        allowed = has | {"OPTIONS"} | ({"HEAD"} if "GET" in has else set())
        answer = client.patch(path)
        problem(answer, 405)
        assert set(answer.headers["allow"].split(", ")) == allowed, path
        asked = client.options(path)
        assert (asked.status_code, asked.content) == (204, b"")
        assert asked.headers["allow"] == answer.headers["allow"]
    problem(client.options("/v1/none"), 404)


def test_head_has_the_headers_of_get_without_a_body_and_counts_no_view(
    app: FastAPI, client: TestClient, world: World, of_bob: str
) -> None:
    got = [path for path, has in paths(app, of_bob) if "GET" in has and not path.endswith("/events")]
    assert len(got) > 10
    for path in got:
        head, whole = client.head(path), client.get(path)
        assert (head.status_code, head.content) == (whole.status_code, b""), path
        assert head.headers.keys() == whole.headers.keys(), path
        for name in head.headers.keys() - CHANGING:
            assert head.headers[name] == whole.headers[name], (path, name)
    stream = client.head(f"/v1/jobs/{of_bob}/events")
    assert (stream.status_code, stream.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    with reading(world.workspace.engine) as session:
        (video,) = list_videos(session, video_id="v1")
    assert video.views == 1  # of the GET


@pytest.mark.long("a server")
def test_a_server_sends_no_body_after_head_and_goes_on_with_the_connection(sqlite_world: World, tmp_path: Path) -> None:
    sqlite_world.video("v1")
    _, token = tokens.create(sqlite_world.workspace.engine, "a test", tuple(Scope), author="test")
    with served(sqlite_world, tmp_path) as server, socket.create_connection((server.host, server.port), 60) as caller:
        for path in ("users/ann", "users/ann/export", "videos/v1", "metrics", "users/none", "levers"):
            caller.sendall(f"HEAD /v1/{path} HTTP/1.1\r\nHost: api\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
            said = b""
            while b"\r\n\r\n" not in said:
                said += caller.recv(65_536)
            head, _, rest = said.partition(b"\r\n\r\n")
            assert re.match(rb"HTTP/1\.1 (200|307|404) ", head), (path, head)  # not the body of the one before
            assert rest == b"", path
            assert b"ratelimit:" in head.lower()
