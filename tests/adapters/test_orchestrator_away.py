"""A Prefect server that is unreachable, refuses us or fails: reported with host, port and setting, in bounded time."""

import socket
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from inline_snapshot import snapshot

from reelkeeper.adapters import orchestrator
from reelkeeper.errors import Misconfigured, ReelkeeperError, Unavailable
from tests.doubles.prefect_api import PrefectDouble
from tests.doubles.serving import answering
from tests.marks import marked
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


def ours(said: str, url: str) -> str:
    """Cut off what the library said, which differs by its version and the system."""
    return marked(said.partition(" It said: ")[0], PORT=httpx.URL(url).port)


def test_a_reachable_server_passes_the_check() -> None:
    with PrefectDouble().serving() as double:
        orchestrator.require_answer(double.url)


def test_a_password_that_is_missing_or_wrong_is_a_setting_and_never_shown() -> None:
    with PrefectDouble("admin:right").serving() as double:
        said = refusal(double.url, Misconfigured, "admin:a-wrong-one")
        assert ours(said, double.url) == snapshot(
            "Prefect's API at 127.0.0.1, port PORT refuses our credentials (401): check PREFECT_API_AUTH_STRING (USER:PASSWORD) or PREFECT_API_KEY"
        )
        assert "a-wrong-one" not in said


def test_a_failing_server_is_retried_and_then_reported(serve: Serve) -> None:
    url = serve(503)
    assert ours(refusal(url, Unavailable), url) == snapshot(
        "Prefect's API at 127.0.0.1, port PORT answers 503: check its log and its database. PREFECT_API_URL is its address"
    )


def test_a_refused_connection_and_an_unknown_host_are_explained() -> None:
    url = f"http://127.0.0.1:{free_port()}/api"
    assert ours(refusal(url, Unavailable), url) == snapshot(
        "Prefect's API at 127.0.0.1, port PORT: nothing listens there: check that its server runs (prefect server start). PREFECT_API_URL is its address."
    )
    url = "https://prefect.invalid/api"
    assert ours(refusal(url, Unavailable), url) == snapshot(
        "Prefect's API at prefect.invalid, port 443: no address is known for that name. PREFECT_API_URL is its address."
    )


def test_a_server_that_never_answers_is_given_up_after_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    assert orchestrator.OPENING_ATTEMPTS * orchestrator.TIMEOUT_SECONDS + 3 < 35
    monkeypatch.setattr(orchestrator, "TIMEOUT_SECONDS", 1.0)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(16)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/api"
        assert ours(refusal(url, Unavailable), url) == snapshot(
            "Prefect's API at 127.0.0.1, port PORT: no answer in time: a firewall, a wrong port, or an overloaded server. PREFECT_API_URL is its address."
        )


def test_tls_where_none_is_spoken(serve: Serve) -> None:
    url = serve(200).replace("http:", "https:")
    assert ours(refusal(url, Unavailable), url) == snapshot(
        "Prefect's API at 127.0.0.1, port PORT: the TLS handshake failed: check http or https, and PREFECT_API_SSL_CERT_FILE. PREFECT_API_URL is its address."
    )
