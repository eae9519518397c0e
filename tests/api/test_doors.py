"""The API's connection limits on real sockets: slow clients are disconnected, excess ones told when to retry."""

import asyncio
import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest

from reelkeeper.model.requests import Queued
from reelkeeper.model.token_scopes import Scope
from reelkeeper.operations.core import tokens
from reelkeeper.rules.core.request_limits import AccessPolicy
from tests.api.crowd import CUT, PNG, Answer, Connection, head
from tests.api.served import Served, served
from tests.faults.world import World
from tests.operations.asking import ask, fox
from tests.policies import put_in_force

QUICK = {
    "connections": 40,
    "streams_of_token": 3,
    "streams_at_once": 5,
    "uploads_of_token": 3,
    "uploads_at_once": 5,
    "requests_of_token": 6,
    "requests_at_once": 8,
}
HURRIED = """
from reelkeeper.api import load, server
from reelkeeper.rules.core import request_limits
request_limits.WAIT_SECONDS = load.WAIT_SECONDS = 0.5
server.HEAD_SECONDS, server.SEND_SECONDS = {head_seconds}, 1.5
request_limits._BODY_SECONDS = 6.0  # seven clients begin within it, on a busy machine too
"""
LATE = 60.0  # seconds that nothing here takes, on a busy machine either


@pytest.fixture
def server(sqlite_world: World, tmp_path: Path) -> Iterator[Served]:
    put_in_force(sqlite_world.workspace.engine, access=AccessPolicy.model_validate(QUICK))
    with served(sqlite_world, tmp_path, before=HURRIED.format(head_seconds=1.5)) as running:
        yield running


@pytest.fixture
def patient_server(sqlite_world: World, tmp_path: Path) -> Iterator[Served]:
    """The same, without the limit for slow requests, so that another limit must close a connection."""
    put_in_force(sqlite_world.workspace.engine, access=AccessPolicy.model_validate(QUICK))
    with served(sqlite_world, tmp_path, before=HURRIED.format(head_seconds=600.0)) as running:
        yield running


def token(sqlite_world: World) -> str:
    return tokens.create(sqlite_world.workspace.engine, "a test", tuple(Scope), author="test")[1]


def queued(sqlite_world: World) -> str:
    answer = ask(sqlite_world.workspace.engine, "a job", fox())
    assert isinstance(answer, Queued)
    return answer.job_id


def problem(answer: Answer, status: int, kind: str, *, retry: bool = True) -> None:
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/problem+json"
    assert json.loads(answer.body)["type"] == f"urn:reelkeeper:{kind}"
    assert ("retry-after" in answer.headers) == retry


def lines(server: Served) -> list[Any]:
    found: list[Any] = server.process.net_connections()
    return found


async def answer_of(server: Served, method: str, path: str, key: str, body: bytes = b"", **headers: str) -> Answer:
    """Send a request on its own connection; retry if this machine was too busy to send the head in time."""
    async with asyncio.timeout(LATE):
        while True:
            async with Connection(server.host, server.port) as line:
                with suppress(OSError):
                    if (answer := await line.ask(method, path, key, body, **headers)) != CUT:
                        return answer


async def health(server: Served) -> None:
    for path in ("/healthz", "/readyz"):
        assert (await answer_of(server, "GET", path, "")).status == 200


async def ended(line: Connection) -> None:
    """Wait until the server closes the line."""
    async with asyncio.timeout(LATE):
        while await line.reader.read(1 << 16):
            pass


async def dribble(line: Connection, data: bytes) -> None:
    """Send byte by byte until the server closes the line."""
    for byte in data:
        await line.send(bytes([byte]))
        await asyncio.sleep(0.1)
    raise AssertionError("all of it was taken")


@pytest.mark.long
def test_a_connection_without_a_whole_head_is_closed(sqlite_world: World, server: Served) -> None:
    async def act() -> None:
        key = token(sqlite_world)
        async with AsyncExitStack() as stack:
            silent, slow, used = [
                await stack.enter_async_context(Connection(server.host, server.port)) for _ in range(3)
            ]
            await used.ask("GET", "/healthz", key)
            with pytest.raises(OSError):  # noqa: PT011  reset or broken pipe
                async with asyncio.timeout(LATE):
                    await dribble(slow, head("GET", "/healthz", key, 0, X_Padding="x" * 1_000))
            await ended(silent)
            with pytest.raises(OSError):  # noqa: PT011  the same
                async with asyncio.timeout(LATE):
                    await dribble(used, head("GET", "/healthz", key, 0, X_Padding="x" * 1_000))

    asyncio.run(act())


@pytest.mark.long
def test_connections_over_the_limit_close_idle_ones_and_no_active_one(
    sqlite_world: World, patient_server: Served
) -> None:
    async def act() -> None:
        key, server = token(sqlite_world), patient_server
        job_id = queued(sqlite_world)
        async with AsyncExitStack() as stack:
            listener = await stack.enter_async_context(Connection(server.host, server.port))
            await listener.send(head("GET", f"/v1/jobs/{job_id}/events", key, 0))
            await listener.reader.readuntil(b"\n\n")
            idle = [await stack.enter_async_context(Connection(server.host, server.port)) for _ in range(100)]
            await health(server)
            await ended(idle[0])
            assert not listener.reader.at_eof()

    asyncio.run(act())


@pytest.mark.long
def test_a_slow_body_is_given_up_and_blocks_no_other_request(sqlite_world: World, server: Served) -> None:
    async def act() -> None:
        keys = [token(sqlite_world) for _ in range(3)]
        async with AsyncExitStack() as stack:
            slow = [await stack.enter_async_context(Connection(server.host, server.port)) for _ in range(7)]
            for number, line in enumerate(slow):
                await line.send(head("POST", "/v1/images", keys[number // 4], 5_000_000) + PNG)
                if number in (2, 5):  # until here a place each
                    await asyncio.sleep(0.3)
            problem(await slow[3].answer(), 429, "too-many")  # three of one token are enough
            problem(await slow[6].answer(), 503, "overload")  # and five of all
            async with Connection(server.host, server.port) as line:
                jobs = {"Content_Type": "application/json", "Idempotency_Key": "k"}
                asked = json.dumps({"user_id": "ann", "request": {"model": "m", "prompt": "p"}}).encode()
                assert (await line.ask("POST", "/v1/jobs", keys[2], asked, **jobs)).status == 202
            for line in (slow[0], slow[4]):
                async with asyncio.timeout(LATE):
                    problem(await line.answer(), 408, "too-slow", retry=False)
            async with Connection(server.host, server.port) as line:
                assert (await line.ask("POST", "/v1/images", keys[0], PNG)).status == 200

    asyncio.run(act())


@pytest.mark.long
def test_streams_of_a_token_and_of_all_are_counted_until_they_end(sqlite_world: World, server: Served) -> None:
    async def act() -> None:
        first, second = token(sqlite_world), token(sqlite_world)
        job_id = queued(sqlite_world)
        path = f"/v1/jobs/{job_id}/events"
        async with AsyncExitStack() as stack:

            async def listen(key: str) -> Connection:
                line = await stack.enter_async_context(Connection(server.host, server.port))
                await line.send(head("GET", path, key, 0))
                return line

            open_now = [await listen(key) for key in (first, first, first, second, second)]
            for line in open_now:
                assert (await line.answer_head()).status == 200
            problem(await (await listen(first)).answer(), 429, "too-many")
            problem(await (await listen(second)).answer(), 503, "overload")
            open_now[0].writer.transport.abort()
            async with asyncio.timeout(LATE):
                while (await (await listen(first)).answer_head()).status != 200:  # noqa: ASYNC110  the server's, not ours
                    await asyncio.sleep(0.2)

    asyncio.run(act())


@pytest.mark.long
def test_a_client_that_reads_no_answer_is_disconnected(patient_server: Served) -> None:
    server = patient_server

    def is_open() -> bool:
        return any(item.status != "LISTEN" and item.laddr.port == server.port for item in lines(server))

    async def act() -> None:
        async with Connection(server.host, server.port) as line:
            line.writer.transport.pause_reading()  # type: ignore[attr-defined]  # of a socket
            line.writer.write(head("GET", "/openapi.json", "", 0) * 400)  # 20 MB of answers
            for wanted in (True, False):  # first it is let in
                async with asyncio.timeout(LATE):
                    while is_open() != wanted:  # noqa: ASYNC110  the server's, not ours
                        await asyncio.sleep(0.1)

    asyncio.run(act())


@pytest.mark.long
def test_while_the_store_is_held_requests_are_shed_and_health_answers(sqlite_world: World, server: Served) -> None:
    async def act() -> None:
        keys = [token(sqlite_world) for _ in range(8)]
        for key in keys:
            status, ends = 503, time.monotonic() + 60
            while status == 503 and time.monotonic() < ends:  # the machine is busy for a moment
                async with Connection(server.host, server.port) as line:
                    status = (await line.ask("GET", "/v1/users/ann", key)).status
            assert status == 200
        with closing(sqlite3.connect(str(sqlite_world.workspace.engine.url.database), isolation_level=None)) as holder:
            holder.execute("BEGIN IMMEDIATE")

            async def wanting(number: int) -> tuple[Answer, float]:
                asked = json.dumps({"user_id": "ann", "request": {"model": "m", "prompt": f"{number}"}}).encode()
                headers = {"Content_Type": "application/json", "Idempotency_Key": f"{number}"}
                began = time.monotonic()
                answer = await answer_of(server, "POST", "/v1/jobs", keys[number % len(keys)], asked, **headers)
                return answer, time.monotonic() - began

            waiting = [asyncio.create_task(wanting(number)) for number in range(30)]
            await health(server)
            answers = await asyncio.gather(*waiting)
        assert max(seconds for _, seconds in answers) < LATE
        kinds = [json.loads(answer.body)["type"] for answer, _ in answers]
        assert {answer.status for answer, _ in answers} == {503}
        assert {"urn:reelkeeper:store", "urn:reelkeeper:overload"} >= set(kinds)
        assert all("retry-after" in answer.headers for answer, _ in answers)
        again, _ = await wanting(1)
        assert again.status == 202

    asyncio.run(act())


@pytest.mark.long
@pytest.mark.parametrize(("told", "code"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 0)])
def test_the_server_stops_at_once_with_many_open_connections(
    sqlite_world: World, server: Served, told: signal.Signals, code: int
) -> None:
    async def act() -> float:
        key = token(sqlite_world)
        job_id = queued(sqlite_world)
        async with AsyncExitStack() as stack:
            idle = [await stack.enter_async_context(Connection(server.host, server.port)) for _ in range(30)]
            listener, slow = [await stack.enter_async_context(Connection(server.host, server.port)) for _ in range(2)]
            await listener.send(head("GET", f"/v1/jobs/{job_id}/events", key, 0))
            await listener.reader.readuntil(b"\n\n")
            await slow.send(head("POST", "/v1/images", key, 5_000_000) + PNG)
            server.process.send_signal(told)
            began = time.monotonic()
            for line in (listener, *idle):
                await ended(line)
            assert (await slow.answer()).status in (CUT.status, 408, 503)  # 503: it had no turn on a busy machine
            assert server.process.wait(timeout=LATE) == code
            return time.monotonic() - began

    assert asyncio.run(act()) < LATE


@pytest.mark.long
@pytest.mark.parametrize(("hard", "connections"), [(20_000, 4_000), (1_000, 800)])
def test_as_many_connections_as_the_process_may_open_files_for(hard: int, connections: int) -> None:
    act = f"""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (500, {hard}))
from reelkeeper.api.server import with_files
from reelkeeper.rules.core.request_limits import AccessPolicy
print(with_files(AccessPolicy()).connections, *resource.getrlimit(resource.RLIMIT_NOFILE))
"""
    said = subprocess.run([sys.executable, "-c", act], check=True, capture_output=True, text=True).stdout
    assert said.split() == [str(connections), str(min(4_200, hard)), str(hard)]
