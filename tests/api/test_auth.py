"""Checks before all routes: tokens, scopes, rate and size limits, and the form of errors."""

import asyncio
import re
from collections.abc import MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from threading import Event
from time import sleep
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from fastapi.testclient import TestClient
from inline_snapshot import snapshot
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Send

from reelkeeper.api import auth, following, load
from reelkeeper.api.app import create_app
from reelkeeper.api.app_state import AppState
from reelkeeper.api.auth import AuthMiddleware
from reelkeeper.api.load import Load
from reelkeeper.api.routes import hooks
from reelkeeper.model.requests import Queued
from reelkeeper.model.token_scopes import Scope
from reelkeeper.operations.core import freeze, tokens
from reelkeeper.operations.jobs import settle
from reelkeeper.rules.core.request_limits import BODY_BYTES, AccessPolicy
from reelkeeper.store.core.engine import newest_schema, transaction
from reelkeeper.store.tables import api_tokens
from tests.api.answers import problem
from tests.api.conftest import NewClient
from tests.faults.world import World
from tests.marks import marked
from tests.operations.asking import ask, fox
from tests.operations.books import DOLLAR, make_user

CHECK = Load.check  # which the other tests do without


@pytest.mark.long("45 routes, each asked three times")
def test_without_a_token_existing_and_unknown_paths_return_401(app: FastAPI) -> None:
    routes = [(m.upper(), path) for path, methods in app.openapi()["paths"].items() for m in methods]
    asked = [route for route in routes if route[1].startswith("/v1")]
    asked += [("GET", "/v1/none"), ("PUT", "/v1/jobs"), ("GET", "/admin"), ("GET", "/healthz/"), ("GET", "//healthz")]
    asked += [("PATCH", "/v1/users/ann"), ("OPTIONS", "/v1/jobs"), ("GET", "/docs")]
    assert len(asked) == 45
    with TestClient(app) as client:
        for method, path in asked:
            for shown in ({}, {"Authorization": "Bearer rk_" + "A" * 43}, {"Authorization": "Basic YTpi"}):
                answer = client.request(method, path, headers=shown, content=b"{")
                problem(answer, 401)
                assert answer.headers["www-authenticate"] == "Bearer"


def test_health_needs_no_token_and_says_whether_changes_are_stopped(app: FastAPI, world: World) -> None:
    with TestClient(app) as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        assert [client.head(path).status_code for path in ("/healthz", "/readyz")] == [200, 200]  # of uptime checks
        assert client.get("/readyz").json() == {"status": "ready", "frozen": False}
        freeze.freeze(world.workspace.engine, by="ann", reason="a test")
        assert client.get("/readyz").json() == {"status": "ready", "frozen": True}


SCOPES = {  # by path, or by method and path where they differ
    "/v1/holds": Scope.HOLDS,
    "/v1/holds/{hold_id}": Scope.HOLDS,
    "/v1/images": Scope.JOBS,
    "/v1/jobs": Scope.JOBS,
    "/v1/jobs/{job_id}": Scope.JOBS,
    "/v1/jobs/{job_id}/events": Scope.JOBS,
    "/v1/levers": Scope.METRICS,
    "/v1/metrics": Scope.METRICS,
    "/v1/quota/check": Scope.USERS,
    "/v1/quotes": Scope.JOBS,
    "/v1/takedowns": Scope.TAKEDOWNS,
    "/v1/takedowns/{video_id}": Scope.TAKEDOWNS,
    "/v1/uploads": Scope.UPLOADS,
    "/v1/uploads/{upload_id}": Scope.UPLOADS,
    "/v1/uploads/{upload_id}/complete": Scope.UPLOADS,
    "/v1/users": Scope.USERS,
    "/v1/users/{user_id}": Scope.USERS,
    "put /v1/users/{user_id}": Scope.ACCOUNTS,
    "delete /v1/users/{user_id}": Scope.ERASE,
    "/v1/users/{user_id}/export": Scope.EXPORT,
    "/v1/users/{user_id}/credits": Scope.ACCOUNTS,
    "/v1/users/{user_id}/videos": Scope.USERS,
    "/v1/users/{user_id}/ledger": Scope.USERS,
    "/v1/users/{user_id}/costs": Scope.USERS,
    "/v1/videos/{video_id}": Scope.VIDEOS,
    "delete /v1/videos/{video_id}": Scope.DELETIONS,
    "/v1/videos/{video_id}/keep": Scope.KEEPS,
    "/v1/views": Scope.VIEWS,
    "/v1/webhooks": Scope.WEBHOOKS,
    "/v1/webhooks/{webhook_id}": Scope.WEBHOOKS,
    "/v1/webhooks/{webhook_id}/replay": Scope.WEBHOOKS,
    "/v1/webhooks/{webhook_id}/secret": Scope.WEBHOOKS,
}


def test_each_route_takes_a_token_of_its_scope_and_no_other(app: FastAPI, client_for: NewClient) -> None:
    routes = [(method, path) for path, methods in app.openapi()["paths"].items() for method in methods]
    keys = {(method, path): f"{method} {path}" if f"{method} {path}" in SCOPES else path for method, path in routes}
    asked = {(*route, SCOPES[key]) for route, key in keys.items() if route[1].startswith("/v1")}
    asked.add(("post", hooks.RUNS_PATH, Scope.RUNS))
    assert SCOPES.keys() <= set(keys.values())
    others = {scope: client_for(*(set(Scope) - {scope})) for scope in Scope}
    theirs = {scope: client_for(scope) for scope in Scope}
    for method, path, scope in asked:
        told = problem(others[scope].request(method, path, json={}), 403)
        assert str(scope) in str(told["detail"]).partition(",")[0].split()
        assert theirs[scope].request(method, path, json={}).status_code not in (401, 403)


@pytest.mark.long("an API for each token")
def test_a_token_is_taken_from_a_bearer_alone(app: FastAPI, world: World) -> None:
    _, text = tokens.create(world.workspace.engine, "a test", tuple(Scope), author="test")
    with TestClient(app) as client:
        shown = ("Bearer", "bearer", "Basic", "Token", "")
        found = [client.get("/v1/none", headers={"Authorization": f"{kind} {text}"}).status_code for kind in shown]
    assert found == [404, 404, 401, 401, 401]


def test_a_token_does_only_what_its_scopes_say(client_for: NewClient) -> None:
    told = problem(client_for(Scope.JOBS).get("/v1/metrics"), 403)
    assert marked(told["detail"]) == snapshot("this request needs the scope metrics, but token ID has jobs")
    assert client_for(Scope.METRICS).get("/v1/metrics").status_code == 200


def test_a_revoked_token_is_refused_after_a_second_by_each_process(app_state: AppState, world: World) -> None:
    line, text = tokens.create(world.workspace.engine, "a test", tuple(Scope), author="test")
    held = {"Authorization": f"Bearer {text}"}
    with ExitStack() as stack:
        clients = [stack.enter_context(TestClient(create_app(app_state), headers=held)) for _ in range(2)]
        assert [client.get("/v1/none").status_code for client in clients] == [404, 404]
        tokens.revoke(world.workspace.engine, line.id, author="test")
        sleep(1)
        for client in clients:
            problem(client.get("/v1/none"), 401)


def test_a_token_works_at_once_though_it_was_unknown_a_moment_ago(app: FastAPI, world: World) -> None:
    """A service may call before its token is stored, or while the store is restored."""
    engine = world.workspace.engine
    _, text = tokens.create(engine, "a test", tuple(Scope), author="test")
    with transaction(engine, "test") as session:
        row = session.execute(sa.select(api_tokens)).mappings().one()
        session.execute(sa.delete(api_tokens))
    with TestClient(app, headers={"Authorization": f"Bearer {text}"}) as client:
        assert client.get("/v1/none").status_code == 401
        with transaction(engine, "test") as session:
            session.execute(sa.insert(api_tokens).values(dict(row)))
        assert client.get("/v1/none").status_code == 404


def test_a_token_that_one_request_found_revoked_is_refused_to_all(app_state: AppState, world: World) -> None:
    line, text = tokens.create(world.workspace.engine, "a test", tuple(Scope), author="test")
    at = [0.0]
    checked = AuthMiddleware(PlainTextResponse("yes"), world.workspace.engine, app_state.load, lambda: at[0])
    client = TestClient(checked, headers={"Authorization": f"Bearer {text}"})

    def answers(*seconds: float) -> list[int]:
        found = []
        for at[0] in seconds:
            found.append(client.get("/v1/none").status_code)
        return found

    assert answers(0.0) == [200]
    tokens.revoke(world.workspace.engine, line.id, author="test")
    assert answers(0.49) == [200]
    assert answers(0.5, 0.51, 0.99, 60.0) == [401, 401, 401, 401]


@pytest.mark.parametrize(("path", "status"), [("/v1/none", 429), ("/v1/jobs/j/events", 200)])
def test_requests_in_progress_are_limited_and_event_streams_are_not_among_them(
    app_state: AppState, world: World, path: str, status: int
) -> None:
    _, text = tokens.create(world.workspace.engine, "a test", tuple(Scope), author="test")
    told: list[int] = []

    async def meanwhile(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["path"] == path and not told:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(checked), base_url="http://api") as other:
                told.append((await other.get("/v1/other", headers={"Authorization": f"Bearer {text}"})).status_code)
        await PlainTextResponse("yes")(scope, receive, send)

    app_state.load.limit(AccessPolicy(requests_of_token=1))
    checked = AuthMiddleware(meanwhile, world.workspace.engine, app_state.load)
    assert TestClient(checked, headers={"Authorization": f"Bearer {text}"}).get(path).status_code == 200
    assert told == [status]


@pytest.mark.parametrize(("late_seconds", "status"), [(0.9, 401), (1.1, 503)])
def test_a_process_that_is_a_second_late_refuses_before_it_asks_the_store(
    app_state: AppState, world: World, monkeypatch: pytest.MonkeyPatch, late_seconds: float, status: int
) -> None:
    monkeypatch.setattr(Load, "check", CHECK)
    monkeypatch.setattr(load, "WAIT_SECONDS", 2)
    client = TestClient(AuthMiddleware(PlainTextResponse("yes"), world.workspace.engine, app_state.load))
    app_state.load._late_seconds = late_seconds
    answer = client.get("/v1/none", headers={"Authorization": "Bearer rk_" + "A" * 43})
    assert (answer.status_code, "retry-after" in answer.headers) == (status, status == 503)
    assert client.get("/healthz").status_code == 200


def test_a_long_answer_ends_where_the_store_cannot_say_that_its_token_is_valid(
    app_state: AppState, world: World
) -> None:
    engine, at, known = world.workspace.engine, [0.0], list[bool]()
    _, text = tokens.create(engine, "a test", tuple(Scope), author="test")

    async def follow(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        known.append(await scope["state"]["is_known"]())
        with engine.begin() as connection:
            connection.execute(sa.text("ALTER TABLE api_tokens RENAME TO elsewhere"))
        for at[0] in (0.49, 1.0):
            known.append(await scope["state"]["is_known"]())
        await PlainTextResponse("yes")(scope, receive, send)

    checked = AuthMiddleware(follow, engine, app_state.load, lambda: at[0])
    assert TestClient(checked, headers={"Authorization": f"Bearer {text}"}).get("/v1/none").status_code == 200
    assert known == [True, True, False]


def test_an_open_event_stream_ends_with_its_token(
    client_for: NewClient, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, client = world.workspace.engine, client_for()
    make_user(engine, "bob", DOLLAR)
    job = ask(engine, "k1", fox(), user="bob")
    assert isinstance(job, Queued)
    monkeypatch.setattr(following, "LOOK_SECONDS", 0.02)
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(client.get, f"/v1/jobs/{job.job_id}/events")
        sleep(0.3)  # it follows
        tokens.revoke(engine, tokens.listed(engine)[0].id, author="test")
        sleep(1)
        settle.cancel(engine, job.job_id, run_id="test")
        told = stream.result(timeout=20).text
    assert ("event: job" in told, "event: end" in told) == (True, False)


def test_a_caller_over_the_rate_limit_is_told_how_long_to_wait(world: World, app_state: AppState) -> None:
    app_state.load.limit(AccessPolicy(requests_a_second=0.01, burst=2))
    _, text = tokens.create(world.workspace.engine, "often", tuple(Scope), author="test")
    client = TestClient(create_app(app_state), headers={"Authorization": f"Bearer {text}"})
    answers = [client.get("/v1/none") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [404, 404, 429]
    assert [answer.headers["ratelimit"].partition(";t")[0] for answer in answers] == [
        f'"token";r={n}' for n in (1, 0, 0)
    ]
    answer = client.get("/v1/none")
    problem(answer, 429)
    assert 90 <= int(answer.headers["retry-after"]) <= 101


def test_a_body_that_is_too_large_is_refused_with_or_without_its_length(client: TestClient) -> None:
    large, allowed = b"x" * 300_000, b"x" * BODY_BYTES
    problem(client.post("/v1/none", content=allowed), 404)
    problem(client.post("/healthz", content=large), 413)
    problem(client.post("/v1/views", content=iter([b"{", large])), 413)
    problem(client.get("/v1/none", headers={"Content-Length": "1x"}), 413)


def test_an_unknown_path_returns_a_problem(client: TestClient) -> None:
    problem(client.get("/v1/none"), 404)
    problem(client.put("/healthz"), 405)


def test_an_answer_has_the_callers_request_id_or_a_new_one(client: TestClient) -> None:
    named = client.get("/healthz", headers={"X-Request-ID": "front-7"})
    assert named.headers["x-request-id"] == "front-7"
    for given in ({}, {"X-Request-ID": "two words"}, {"X-Request-ID": "x" * 129}):
        anew = client.get("/healthz", headers=given).headers["x-request-id"]
        assert re.fullmatch(r"[0-9a-f]{32}", anew)


def test_the_figures_count_the_routes_and_the_store(client: TestClient, world: World) -> None:
    world.video("v1")
    client.get("/v1/somebody's/text")
    text = client.get("/v1/metrics").text
    assert 'reelkeeper_videos{state="live"} 1.0' in text
    assert "reelkeeper_frozen 0.0" in text
    assert 'route="other",status="404"' in text
    assert "somebody" not in text


def test_a_running_api_of_another_version_answers_no_request(
    app: FastAPI, app_state: AppState, client: TestClient, world: World
) -> None:
    def is_now(revision: str) -> None:
        with transaction(world.workspace.engine, "test") as session:
            session.execute(sa.text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
        asyncio.run(app_state.load.look())

    assert client.get("/v1/videos/none").status_code == 404
    is_now("9999")
    try:
        for path in ("/v1/videos/none", "/readyz"):
            assert str(problem(client.get(path), 503)["type"]).endswith("schema")
        assert client.get("/healthz").status_code == 200
    finally:
        is_now(newest_schema())
    assert client.get("/v1/videos/none").status_code == 404
    assert app.state.load is app_state.load


def test_a_revoked_token_works_for_a_second_at_most_while_another_request_looks_it_up(
    app_state: AppState, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    line, text = tokens.create(world.workspace.engine, "a test", tuple(Scope), author="test")
    at, begun, goes_on = [0.0], Event(), Event()
    checked = AuthMiddleware(PlainTextResponse("yes"), world.workspace.engine, app_state.load, lambda: at[0])
    transport = httpx.ASGITransport(checked)

    def look_up(engine: sa.Engine, known: str) -> object:
        if at[0]:
            begun.set()
            goes_on.wait(20)
        return tokens.authenticate(engine, known)

    async def ask() -> list[int]:
        async with httpx.AsyncClient(transport=transport, base_url="http://api", headers=held) as client:
            answers = [await client.get("/v1/none")]
            tokens.revoke(world.workspace.engine, line.id, author="test")
            at[0] = 0.6
            first = asyncio.create_task(client.get("/v1/none"))
            await asyncio.to_thread(begun.wait, 20)
            at[0] = 0.99
            answers.append(await asyncio.wait_for(client.get("/v1/none"), 20))
            at[0] = 1.0
            late = asyncio.create_task(client.get("/v1/none"))
            await asyncio.sleep(0.05)
            goes_on.set()
            answers += [await late, await first]
        return [answer.status_code for answer in answers]

    monkeypatch.setattr(auth, "authenticate", look_up)
    held = {"Authorization": f"Bearer {text}"}
    assert asyncio.run(ask()) == [200, 200, 401, 401]


@dataclass
class Sender:
    """A caller that sends its body in parts: their sizes and the time at which each is awaited, then hangs up."""

    parts: list[tuple[float, int]]
    at: float = 0.0

    async def __call__(self) -> Message:
        await asyncio.sleep(0)
        if not self.parts:
            return {"type": "http.disconnect"}
        size = self.parts.pop(0)[1]
        more = {"more_body": True} if self.parts else {}
        return {"type": "http.request", "body": b"x" * size, **more}


def answered(app_state: AppState, sender: Sender) -> int:
    """Send a body to an app that reads it, and then waits for the caller to hang up; return the status."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def read(scope: Message, receive: Receive, send: Send) -> None:
        while sender.parts:
            sender.at = sender.parts[0][0]
            await receive()
        sender.at += 3_600
        assert await receive() == {"type": "http.disconnect"}
        await PlainTextResponse("read")(scope, receive, send)

    checked = AuthMiddleware(read, app_state.workspace.engine, app_state.load, lambda: sender.at)
    asyncio.run(checked({"type": "http", "path": "/healthz", "method": "POST", "headers": []}, sender, send))
    return int(sent[0]["status"])


@pytest.mark.parametrize(("last", "status"), [(500, 200), (501, 413)])
def test_a_body_in_parts_has_the_limit_of_a_whole_one(
    app_state: AppState, monkeypatch: pytest.MonkeyPatch, last: int, status: int
) -> None:
    monkeypatch.setattr(auth, "BODY_BYTES", 2_000)
    assert answered(app_state, Sender([(0, 1_000), (0, 500), (0, last)])) == status


@pytest.mark.parametrize(("until", "status"), [(21.9, 200), (22.1, 408)])
def test_a_body_has_twenty_seconds_and_one_more_for_each_100_kb_that_came(
    app_state: AppState, until: float, status: int
) -> None:
    assert answered(app_state, Sender([(0, 100_000), (10, 100_000), (until, 1)])) == status
