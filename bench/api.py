"""Benchmark admission over HTTP on PostgreSQL, 16 clients: hits, new jobs, refusals, against a route with a SELECT.

`python -m bench.api bare|ours STORE_URL` serves on a free port of loopback, and prints the port.
"""

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from unittest.mock import Mock

import sqlalchemy as sa
import uvicorn
from fastapi import FastAPI, HTTPException
from sqlmodel import Session

from bench.report import Row
from bench.stores import analyze, postgres
from reelkeeper.adapters.s3 import r2
from reelkeeper.api.app import create_app
from reelkeeper.api.app_state import AppState
from reelkeeper.model.requests import Queued
from reelkeeper.model.token_scopes import Scope
from reelkeeper.operations.billing import ledger
from reelkeeper.operations.core import tokens
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.jobs import settle
from reelkeeper.operations.jobs.settle import Attempt
from reelkeeper.rules.core.request_limits import AccessPolicy
from reelkeeper.store.core.engine import open_engine, transaction
from reelkeeper.store.tables import storage_accounts, users, videos
from tests.operations.asking import ask, claim, fox, make
from tests.operations.books import store_video
from tests.policies import put_in_force

CLIENTS, REQUESTS = 16, 600  # requests of each kind
CACHED = 200  # videos in the cache
ROUNDS = 2
LIMITS = {"hit": 3.0, "admission": 8.0, "refusal": 8.0, "the same key again": 3.0}  # of each, in bare requests


class Sent(NamedTuple):
    """One request."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any = None


def measure() -> Iterator[Row]:
    """Time a request in milliseconds of wall time, all clients together; the better of two rounds, bare and ours."""
    with postgres() as (engine, url):
        token = _prepare(engine)
        with _served("bare", url) as floor, _served("ours", url) as port:
            found = _best(floor, port, token)
    for name, limit in LIMITS.items():
        yield Row(f"{name}, a request", found[name], "bare FastAPI with a SELECT", found["bare"], limit, "ms")


def _prepare(engine: sa.Engine) -> str:
    """Create a user with credits and quota, one without, and the cached videos."""
    put_in_force(engine, access=AccessPolicy(requests_a_second=100_000, burst=1_000_000))  # the clients never pause
    with transaction(engine, "bench") as session:
        session.execute(sa.insert(users), [{"id": "ann", "tier": "pro"}, {"id": "bob", "tier": "pro"}])
        ledger.grant(session, "ann", 10**12, "first", run_id="bench")
        room = {"used_bytes": 0, "reserved_bytes": 0, "quota_bytes": 10**15}
        session.execute(sa.insert(storage_accounts), [{"user_id": "ann", **room}, {"user_id": "bob", **room}])
    for number in range(CACHED):
        queued = ask(engine, f"cached-{number}", fox(prompt=f"cached {number}"))
        if not isinstance(queued, Queued):
            raise TypeError(queued)
        lease_token = claim(engine, queued.job_id)
        make(engine, queued.job_id)
        settle.succeed(engine, Attempt(queued.job_id, lease_token), run_id="bench")
    with transaction(engine, "bench") as session:
        store_video(session, "ann", "floor", 1_000)
    analyze(engine)
    return tokens.create(engine, "bench", [Scope.JOBS], author="bench")[1]


def _best(floor: int, port: int, token: str) -> dict[str, float]:
    keys = count()

    def job(user: str, prompt: str, key: str) -> Sent:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json", "Idempotency-Key": key}
        asked = {"user_id": user, "request": {"model": "m", "prompt": prompt}}
        return Sent("POST", "/v1/jobs", headers, asked)

    kinds: dict[str, tuple[int, Callable[[int], Sent], int]] = {
        "bare": (floor, lambda _: Sent("GET", "/videos/floor", {}), 200),
        "hit": (port, lambda n: job("ann", f"cached {n % CACHED}", f"hit-{next(keys)}"), 200),
        "the same key again": (port, lambda n: job("ann", f"cached {n % CACHED}", f"cached-{n % CACHED}"), 200),
        "refusal": (port, lambda n: job("bob", f"refused {n}", f"refused-{next(keys)}"), 402),
        "admission": (port, lambda _: job("ann", f"new {(key := next(keys))}", f"new-{key}"), 202),
    }
    best: dict[str, float] = {}
    for _ in range(ROUNDS):
        for name, (at, request, status) in kinds.items():
            rush(at, 50, request, status)  # warm
            item = rush(at, REQUESTS, request, status)
            best[name] = min(best.get(name, item), item)
    return best


def rush(port: int, requests: int, request: Callable[[int], Sent], status: int) -> float:
    """Send requests over kept connections, the next after each answer; return the milliseconds of one, of all together.

    Raises AssertionError for another status.
    """
    wrong: list[str] = []
    numbers = iter(range(requests))
    lock = threading.Lock()

    def client() -> None:
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        while True:
            with lock:
                number = next(numbers, None)
            if number is None or wrong:
                break
            asked = request(number)
            body = None if asked.body is None else json.dumps(asked.body)
            connection.request(asked.method, asked.path, body, asked.headers)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != status:
                wrong.append(f"{asked.method} {asked.path}: {answer.status}, {text[:300]!r}")
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    if wrong:
        raise AssertionError(wrong[0])
    return took / requests * 1e3


@contextmanager
def _served(which: str, url: str) -> Iterator[int]:
    command = [sys.executable, "-m", "bench.api", which, url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield int(next(iter(process.stdout or ())))
        finally:
            process.terminate()


def _bare(engine: sa.Engine, _: Path) -> FastAPI:
    """Make the floor: FastAPI, one route, one indexed SELECT, nothing else."""
    app = FastAPI()

    @app.get("/videos/{video_id}")
    def video(video_id: str) -> dict[str, str]:
        with Session(engine) as session:
            found = session.execute(sa.select(videos.c.id, videos.c.state).where(videos.c.id == video_id)).one_or_none()
        if found is None:
            raise HTTPException(404)
        return {"id": found.id, "state": found.state}

    return app


def _ours(engine: sa.Engine, folder: Path) -> FastAPI:
    """Make Reelkeeper's app. No request of this benchmark reaches its bucket."""
    return create_app(AppState(Workspace(engine, Mock(spec=r2.Bucket), "bench"), folder))


def _serve(which: str, url: str) -> None:
    """Serve until a signal to stop."""
    with TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as listening:
        app = {"bare": _bare, "ours": _ours}[which](open_engine(url), Path(folder))
        sys.stdout.write(f"{listening.getsockname()[1]}\n")
        sys.stdout.flush()
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False))
        server.run(sockets=[listening])


if __name__ == "__main__":
    _serve(*sys.argv[1:])
