"""Pages of the origins in the settings may call the API, those of others may not, and tokens still count."""

from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from httpx import Response
from pydantic import ValidationError

from reelkeeper.api.app import create_app
from reelkeeper.api.app_state import AppState
from reelkeeper.model.token_scopes import Scope
from reelkeeper.operations.core import tokens
from reelkeeper.settings import Settings
from tests.faults.world import World

OURS, THEIRS = "https://app.example.com", "https://evil.example.com"
PAGES = (
    THEIRS,
    "null",
    "https://app.example.com.evil.com",
    "http://app.example.com",
    f"{OURS}:444",
    "https://example.com",
)


@pytest.fixture
def client(app_state: AppState) -> TestClient:
    """A client without a token of an API that the pages of one origin may call."""
    object.__setattr__(app_state, "cors_origins", (OURS,))
    return TestClient(create_app(app_state))


def preflight(client: TestClient, origin: str, method: str = "POST", header: str = "authorization") -> Response:
    asked = {"Origin": origin, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": header}
    answer: Response = client.options("/v1/jobs", headers=asked)
    return answer


def permissions(answer: Response) -> set[str]:
    return {"access-control-allow-origin", "access-control-allow-credentials"} & answer.headers.keys()


def test_a_listed_page_is_told_before_it_has_a_token_that_it_may_ask(client: TestClient) -> None:
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE"):
        answer = preflight(client, OURS, method, "authorization, content-type, idempotency-key, x-request-id")
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, OURS)
        assert "access-control-allow-credentials" not in answer.headers


def test_a_listed_page_reads_the_answer_and_the_headers_about_it(client: TestClient, world: World) -> None:
    _, text = tokens.create(world.workspace.engine, "a page", (Scope.USERS,), author="test")
    answer = client.get("/v1/users/ann", headers={"Origin": OURS, "Authorization": f"Bearer {text}"})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, OURS)
    exposed = set(answer.headers["access-control-expose-headers"].lower().split(", "))
    assert exposed == {"ratelimit", "ratelimit-policy", "retry-after", "idempotency-replayed", "x-request-id"}
    assert "origin" in answer.headers["vary"].lower()


@pytest.mark.parametrize("origin", PAGES)
def test_a_page_that_is_not_listed_gets_no_permission(client: TestClient, origin: str) -> None:
    asked = preflight(client, origin)
    assert (asked.status_code, permissions(asked)) == (400, set())
    assert permissions(client.get("/healthz", headers={"Origin": origin})) == set()


def test_a_preflight_lets_nothing_else_through(client: TestClient) -> None:
    for headers in ({"Origin": OURS}, {"Access-Control-Request-Method": "POST"}):
        assert client.options("/v1/jobs", headers=headers).status_code == 401
    asked = {"Origin": OURS, "Access-Control-Request-Method": "GET"}
    for method in ("GET", "POST", "DELETE"):
        answer = client.request(method, "/v1/users/ann", headers=asked)
        assert (answer.status_code, permissions(answer)) == (401, {"access-control-allow-origin"})
    assert preflight(client, OURS, "PATCH").status_code == 400
    assert preflight(client, OURS, header="x-other").status_code == 400


def test_without_the_setting_no_page_of_another_origin_gets_a_permission(app_state: AppState) -> None:
    client = TestClient(create_app(app_state))
    asked = preflight(client, OURS)
    assert (asked.status_code, permissions(asked)) == (401, set())
    assert not [name for name in client.get("/healthz", headers={"Origin": OURS}).headers if name.startswith("access-")]


def test_origins_are_exact(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # no .env of the developer's
    monkeypatch.setenv("REELKEEPER_CORS_ORIGINS", f"{OURS}, http://localhost:3000,http://[::1]:3000")
    assert Settings().cors_origins == (OURS, "http://localhost:3000", "http://[::1]:3000")
    for wrong in ("*", f"{OURS}/", f"{OURS}/app", "https://*.example.com", "app.example.com", "null"):
        monkeypatch.setenv("REELKEEPER_CORS_ORIGINS", wrong)
        with pytest.raises(ValidationError):
            Settings()
