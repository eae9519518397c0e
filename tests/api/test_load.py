"""The API under load: silent, slow, listening or greedy clients do not harm the others."""

import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from reelkeeper.api import load
from reelkeeper.api.load import Shed, Turns
from reelkeeper.model.requests import Queued
from reelkeeper.model.token_scopes import Scope
from reelkeeper.operations.core import tokens
from tests.api.crowd import Crowd, Size
from tests.api.served import Served, served
from tests.faults.world import World
from tests.operations.asking import ask, fox
from tests.operations.books import DOLLAR, make_user

SMALL = Size(idle=80, streams=60, slow_bodies=10, clients=10, seconds=5)
WHOLE = Size(idle=1_300, streams=600, slow_bodies=50, clients=200, seconds=120)


@pytest.fixture(autouse=True)
def unhurried() -> None:
    """Here, requests are refused because the machine is busy."""


def token(sqlite_world: World) -> str:
    return tokens.create(sqlite_world.workspace.engine, "a test", tuple(Scope), author="test")[1]


def queued(world: World, number: int, user: str) -> str:
    answer = ask(world.workspace.engine, f"job-{number}", fox(prompt=f"job {number}"), user=user)
    assert isinstance(answer, Queued)
    return answer.job_id


def crowd(sqlite_world: World, server: Served, size: Size) -> Crowd:
    many = [token(sqlite_world) for _ in range(20)]
    users = ["ann", *(f"user-{number}" for number in range(size.streams // 10))]
    for user in users[1:]:
        make_user(sqlite_world.workspace.engine, user, 100 * DOLLAR)
    job_ids = [queued(sqlite_world, number, users[number // 10]) for number in range(size.streams)]
    return Crowd(server.host, server.port, many, job_ids, size)


def test_a_request_that_waits_too_long_for_its_turn_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "WAIT_SECONDS", 0.1)

    async def act() -> Shed:
        turns = Turns(1)
        async with turns.turn():
            with pytest.raises(Shed) as refused:
                async with asyncio.timeout(20), turns.turn():
                    pass
        async with turns.turn():  # its place is free again
            return refused.value

    refused = asyncio.run(act())
    assert (refused.status_code, refused.kind) == (503, "overload")
    assert refused.headers
    assert "Retry-After" in refused.headers


_COUNT_ARENAS = """
import ctypes, threading
from reelkeeper.api.server import limit_arenas
limit_arenas()
libc, gate = ctypes.CDLL(None), threading.Barrier(9)
libc.fdopen.restype = ctypes.c_void_p
for _ in range(8):
    threading.Thread(target=lambda: (gate.wait(), gate.wait()), daemon=True).start()
gate.wait()
file = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, file)
libc.fflush(file)
gate.wait()
"""


@pytest.mark.long("a process of its own, which imports the API")
@pytest.mark.parametrize(("said", "arenas"), [(None, 2), ("5", 5)], ids=["as shipped", "said by the environment"])
def test_threads_of_the_api_allocate_from_few_arenas(said: str | None, arenas: int) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
    environment |= {"MALLOC_ARENA_MAX": said} if said else {}
    words = [sys.executable, "-c", _COUNT_ARENAS]
    told = subprocess.run(words, env=environment, check=True, capture_output=True, text=True).stdout
    assert told.count("<heap nr=") == arenas


_TOO_BUSY = 0.5  # of the machine
# Its resident memory grows for minutes, by ever less, as what is allocated and freed is scattered: it tells of no leak.
_COUNT_BLOCKS = """
import sys, threading, time
def count():
    with open("blocks", "w", buffering=1) as file:
        while True:
            print(sys.getallocatedblocks(), file=file)
            time.sleep(0.5)
threading.Thread(target=count, daemon=True).start()
"""
# The crowd is one process: what it waits for, it measures.
_ON_A_QUIET_MACHINE = pytest.mark.long("a crowd of callers, each of which is timed"), pytest.mark.soak


@pytest.mark.long("a process of its own, which imports the API")
@pytest.mark.parametrize("size", [SMALL, pytest.param(WHOLE, marks=_ON_A_QUIET_MACHINE)], ids=["small", "whole"])
def test_a_flood_of_requests_does_not_slow_a_normal_caller(sqlite_world: World, tmp_path: Path, size: Size) -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with served(sqlite_world, tmp_path, before=_COUNT_BLOCKS) as server:
        people = crowd(sqlite_world, server, size)
        memory, listening = [server.megabytes()], [0]

        def sample() -> None:
            memory.append(server.megabytes())
            listening.append(people.listening)

        machine, ours = psutil.cpu_times(), _cpu_seconds(server)
        health = asyncio.run(people.stay(sample))
        others = _others(machine, _cpu_seconds(server) - ours)
        blocks = [int(text) for text in (tmp_path / "blocks").read_text().split()]
        peak, cpu = max(memory), sum(server.process.cpu_times()[:2])
        time.sleep(size.seconds)  # then it is as before
        after = server.megabytes()
        with httpx.Client(base_url=server.url, trust_env=False, timeout=5) as calm:
            calm.headers["Authorization"] = f"Bearer {people.tokens[0]}"
            paths = ("/healthz", "/readyz", "/v1/users/ann", f"/v1/jobs/{people.job_ids[0]}")
            assert [calm.get(path).status_code for path in paths] == [200] * 4
    figures = {
        "statuses": people.seen.statuses,
        "seconds": {kind: _spread(took) for kind, took in people.seen.seconds.items()},
        "health": {path: _spread([seconds for seconds, _ in took]) for path, took in health.items()},
        "share of the cores that others took": round(others, 2),
        "cpu seconds of the server": round(cpu, 1),
        "megabytes, each 10 s": [round(megabytes) for megabytes in memory[::20]],
        "megabytes": {"start": memory[0], "after 5 s": memory[min(10, len(memory) - 1)], "peak": peak, "after": after},
        "thousands of blocks, each 10 s": [number // 1_000 for number in blocks[::20]],
        "streams": {"most": max(listening), "last": listening[-1]},
    }
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")
    assert {status for _, status in health["/healthz"]} == {200}
    assert people.seen.faults() == {}
    assert people.seen.some_went_well()
    assert "0" not in people.seen.statuses["client"], "a line of one who asks well was cut"
    assert peak < memory[0] + 80
    assert after < peak + 10
    if size == WHOLE:
        if others > _TOO_BUSY:
            pytest.skip(f"others took {others:.0%} of the machine: how long something took says nothing of the server")
        assert {status for _, status in health["/readyz"]} == {200}
        assert max(seconds for seconds, _ in health["/healthz"]) < 1
        assert max(people.seen.seconds["client"]) < 5
        assert listening[-1] >= size.streams * 0.95
        (earlier, later), (megabytes, then) = _last_quarters(blocks), _last_quarters(memory)
        assert later < earlier * 1.005, "it keeps an object of each request"
        assert then < megabytes + 4, "it grows as long as it is asked"


def _last_quarters(figures: Sequence[float]) -> tuple[float, float]:
    """Return the medians of the third and of the last quarter."""
    size = len(figures) // 4
    return statistics.median(figures[-2 * size : -size]), statistics.median(figures[-size:])


def _cpu_seconds(server: Served) -> float:
    """Return the CPU seconds of the test, its children and the server."""
    return sum(os.times()[:4]) + float(sum(server.process.cpu_times()[:2]))


def _others(before: Any, ours: float) -> float:  # noqa: ANN401  psutil's, which has no types
    """Return the share of the machine's time since `before` that other processes used."""
    after = psutil.cpu_times()
    whole, idle = sum(after[:8]) - sum(before[:8]), after.idle + after.iowait - before.idle - before.iowait
    return float(max(0.0, whole - idle - ours) / whole)


def _spread(seconds: list[float]) -> dict[str, float]:
    centiles = statistics.quantiles(seconds, n=100) if len(seconds) > 1 else seconds * 99
    found = {"p50": centiles[49], "p99": centiles[98], "max": max(seconds)}
    return {"n": len(seconds)} | {name: round(value, 4) for name, value in found.items()}
