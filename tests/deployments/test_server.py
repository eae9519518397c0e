"""Prefect's API on SQLite accepts concurrent writes, one after the other."""

import asyncio
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.ports import free_port

WRITERS, TRIGGERS = 6, 50


@pytest.fixture
def api(tmp_path: Path) -> Iterator[str]:
    """A server as `up` starts it, until it answers."""
    port = free_port()
    words = [sys.executable, "-m", "deployments.server", "--host", "127.0.0.1", "--port", str(port)]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    told = {"PREFECT_HOME": str(tmp_path), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    with subprocess.Popen(words, env=clean | told, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        url = f"http://127.0.0.1:{port}/api"
        try:
            with httpx.Client(transport=httpx.HTTPTransport(retries=0), timeout=30) as client:
                while not _answers(client, url):
                    assert server.poll() is None
            yield url
        finally:
            server.terminate()


def _answers(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(f"{url}/health").is_success
    except httpx.HTTPError:
        return False


async def trigger(url: str) -> tuple[Counter[int], Counter[int]]:
    """Start a deployment many times while others write; return the statuses of the ones and of the others."""
    async with httpx.AsyncClient(base_url=url, timeout=300) as client:
        flow = (await client.post("/flows/", json={"name": "flow"})).json()["id"]
        deployment = (await client.post("/deployments/", json={"flow_id": flow, "name": "d"})).json()["id"]
        triggered, written, done = Counter[int](), Counter[int](), asyncio.Event()

        async def write() -> None:
            while not done.is_set():
                made = await client.post("/flow_runs/", json={"flow_id": flow, "state": {"type": "RUNNING"}})
                written[made.status_code] += 1
                if made.is_success:
                    ended = {"state": {"type": "COMPLETED"}, "force": True}
                    answer = await client.post(f"/flow_runs/{made.json()['id']}/set_state", json=ended)
                    written[answer.status_code] += 1

        writers = [asyncio.create_task(write()) for _ in range(WRITERS)]
        for _ in range(TRIGGERS):
            answer = await client.post(f"/deployments/{deployment}/create_flow_run", json={"parameters": {}})
            triggered[answer.status_code] += 1
        done.set()
        await asyncio.gather(*writers)
        return triggered, written


@pytest.mark.long
def test_many_triggers_in_a_row_are_all_taken_while_others_write(api: str) -> None:
    with ThreadPoolExecutor(1) as apart:  # a browser of other tests leaves an event loop in this thread
        triggered, written = apart.submit(lambda: asyncio.run(trigger(api))).result()
    assert triggered == {201: TRIGGERS}
    assert set(written) <= {200, 201}
