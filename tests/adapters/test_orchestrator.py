"""A run is started through Prefect's API, once per key, with password and CSRF; errors contain no secret."""

from collections.abc import Iterator

import pytest
from inline_snapshot import snapshot

from reelkeeper.adapters.orchestrator import Orchestrator
from reelkeeper.errors import OrchestratorError
from tests.doubles.prefect_api import PrefectDouble
from tests.marks import marked

AUTH = "admin:a pass:word"


@pytest.fixture
def server() -> Iterator[PrefectDouble]:
    with PrefectDouble().serving() as double:
        yield double


def start(server: PrefectDouble, key: str = "k", auth: str | None = None, flow: str = "dispatch-jobs") -> str:
    return Orchestrator(server.url, auth).start(flow, "every-5-minutes", {"seconds": 40}, key=key)


def test_a_run_is_started_with_its_parameters_and_once_for_each_key(server: PrefectDouble) -> None:
    assert start(server, "k1") == start(server, "k1") == "run-0"
    assert start(server, "k2") == "run-1"
    assert [run["parameters"] for run in server.runs.values()] == [{"seconds": 40}] * 2


def test_a_server_on_this_machine_is_asked_without_the_proxy_of_the_environment(
    server: PrefectDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    assert start(server) == "run-0"


def test_a_protected_server_gets_its_password_and_token() -> None:
    with PrefectDouble(AUTH, has_csrf=True).serving() as server:
        assert start(server, auth=AUTH) == "run-0"
        for auth in (None, "admin:wrong"):
            with pytest.raises(OrchestratorError) as refused:
                start(server, auth=auth)
            assert marked(refused.value) == snapshot(
                "Prefect answered 401 to GET of deployment dispatch-jobs/every-5-minutes"
            )


def test_errors_contain_neither_address_nor_password(server: PrefectDouble) -> None:
    with pytest.raises(OrchestratorError) as refused:
        start(server, flow="nothing")
    assert marked(refused.value) == snapshot("Prefect answered 404 to GET of deployment nothing/every-5-minutes")
    server.status = 503
    with pytest.raises(OrchestratorError) as refused:
        start(server)
    assert marked(refused.value) == snapshot("Prefect answered 503 to POST of a new run")
    with pytest.raises(OrchestratorError) as told:
        Orchestrator("http://127.0.0.1:1/api", AUTH).start("dispatch-jobs", "every-5-minutes", {}, key="k")
    assert "ConnectError" in str(told.value)
    assert "127.0.0.1" not in str(told.value)
    assert "word" not in str(told.value)
