"""A double of the little of Prefect's API that starts runs, with password and CSRF tokens as a hardened server has."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.doubles.serving import answering


class PrefectDouble:
    """`runs` are the runs that were started, once for each idempotency key. `auth` is USER:PASSWORD, or None."""

    def __init__(self, auth: str | None = None, *, has_csrf: bool = False) -> None:
        self.auth, self.has_csrf, self.status = auth, has_csrf, 201
        self.deployments = {"dispatch-jobs/every-5-minutes": "d-1"}
        self.paused = set[str]()  # names of deployments
        self.unscheduled = set[str]()  # the same, with all schedules paused
        self.runs: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        double = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:  # http.server's name
                self._tell(*double._get(self.path, dict(self.headers)))

            def do_POST(self) -> None:  # http.server's name
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self._tell(*double._post(self.path, dict(self.headers), body))

            def _tell(self, status: int, body: object) -> None:
                text = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/api"

    @contextmanager
    def serving(self) -> Iterator["PrefectDouble"]:
        """Answer requests until left."""
        with answering(self._server):
            yield self

    def _is_let_in(self, headers: dict[str, str]) -> bool:
        expected = base64.b64encode((self.auth or "").encode()).decode()
        return self.auth is None or headers.get("Authorization") == f"Basic {expected}"

    def _get(self, path: str, headers: dict[str, str]) -> tuple[int, object]:
        self.asked.append(path)
        split = urlsplit(path)
        if not self._is_let_in(headers):
            return 401, {"exception_message": "Unauthorized"}
        if split.path == "/api/csrf-token":
            if not self.has_csrf:
                return 422, {"detail": "CSRF protection is disabled."}
            return 200, {"token": f"token of {parse_qs(split.query)['client'][0]}"}
        name = split.path.removeprefix("/api/deployments/name/")
        if name not in self.deployments:
            return 404, {"detail": "not found"}
        schedules = [{"active": name not in self.unscheduled}]
        return 200, {"id": self.deployments[name], "paused": name in self.paused, "schedules": schedules}

    def _post(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> tuple[int, object]:
        self.asked.append(path)
        if not self._is_let_in(headers):
            return 401, {"exception_message": "Unauthorized"}
        client = headers.get("Prefect-Csrf-Client")
        if self.has_csrf and headers.get("Prefect-Csrf-Token") != f"token of {client}":
            return 403, {"detail": "Invalid CSRF token or client identifier."}
        deployment = path.removeprefix("/api/deployments/").removesuffix("/create_flow_run")
        if deployment not in self.deployments.values() or self.status >= 400:
            return max(self.status, 404), {"detail": "no"}
        run = self.runs.setdefault(body["idempotency_key"], {"id": f"run-{len(self.runs)}", **body})
        return self.status, run
