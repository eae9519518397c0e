"""A Prefect server that is unreachable, refuses us or fails: reported with host, port and setting, in bounded time."""

import socket
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from reelkeeper.adapters import orchestrator
from reelkeeper.errors import Misconfigured, ReelkeeperError, Unavailable
from tests.doubles.prefect_api import PrefectDouble
from tests.doubles.serving import answering
from tests.ports import free_port

Serve = Callable[[int], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """A server that answers everything with one status."""
    running = []

    def serve(status: int) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:  # http.server's name
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        running.append(answering(server))
        running[-1].__enter__()
        return f"http://127.0.0.1:{server.server_address[1]}/api"

    yield serve
    for manager in running:
        manager.__exit__(None, None, None)


def refusal(url: str, kind: type[ReelkeeperError], auth: str | None = None, within: float = 10) -> str:
    began = time.monotonic()
    with pytest.raises(kind) as told:
        orchestrator.require_answer(url, auth)
    assert time.monotonic() - began < within
    return str(told.value)


def test_a_reachable_server_passes_the_check() -> None:
    with PrefectDouble().serving() as double:
        orchestrator.require_answer(double.url)


def test_a_password_that_is_missing_or_wrong_is_a_setting_and_never_shown() -> None:
    with PrefectDouble("admin:right").serving() as double:
        port = double.url.split(":")[2].partition("/")[0]
        said = refusal(double.url, Misconfigured, "admin:a-wrong-one")
        assert f"Prefect's API at 127.0.0.1, port {port} refuses our credentials (401)" in said
        assert "PREFECT_API_AUTH_STRING" in said
        assert "a-wrong-one" not in said


def test_a_failing_server_is_retried_and_then_reported(serve: Serve) -> None:
    said = refusal(serve(503), Unavailable)
    assert "answers 503: check its log and its database. PREFECT_API_URL is its address" in said


def test_a_refused_connection_and_an_unknown_host_are_explained() -> None:
    port = free_port()
    said = refusal(f"http://127.0.0.1:{port}/api", Unavailable)
    assert f"127.0.0.1, port {port}: nothing listens there" in said
    assert "PREFECT_API_URL is its address" in said
    assert "no address is known" in refusal("https://prefect.invalid/api", Unavailable)


def test_a_server_that_never_answers_is_given_up_after_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    assert orchestrator.OPENING_ATTEMPTS * orchestrator.TIMEOUT_SECONDS + 3 < 35
    monkeypatch.setattr(orchestrator, "TIMEOUT_SECONDS", 1.0)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(16)
        said = refusal(f"http://127.0.0.1:{silent.getsockname()[1]}/api", Unavailable)
        assert "no answer in time" in said


def test_tls_where_none_is_spoken(serve: Serve) -> None:
    assert "check http or https" in refusal(serve(200).replace("http:", "https:"), Unavailable)
