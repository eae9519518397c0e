"""The quickstart's service does what the page says: its code and its commands are run as they are written."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from reelkeeper.adapters.providers.local import LocalGenerator
from reelkeeper.model.alerts import EventType
from reelkeeper.model.token_scopes import Scope
from reelkeeper.operations.alerts import webhooks
from reelkeeper.operations.core import tokens
from reelkeeper.operations.jobs import worker
from tests.api.served import served
from tests.faults.world import World

PAGE = (Path(__file__).parents[2] / "docs" / "quickstart.md").read_text()
(SERVICE,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
ASK, PLAY = re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[-2:]
PRICE = int(re.findall(r'"amount_microusd": (\d+), "job_id"', PAGE)[0])
SCOPES = [Scope(name) for name in re.findall(r"--scope (\w+)", PAGE)]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def service(sqlite_world: World, tmp_path: Path) -> Iterator[str]:
    """The page's service, at work on an API; it gives its address."""
    engine, url = sqlite_world.workspace.engine, f"http://127.0.0.1:{free_port()}"
    _, token = tokens.create(engine, "shop", SCOPES, author="test")
    _, secret = webhooks.add(
        engine, f"{url}/hooks/reelkeeper", [EventType.JOB_ENDED], allow_private=True, author="test"
    )
    (tmp_path / "service.py").write_text(SERVICE)
    with served(sqlite_world, tmp_path) as api:
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "service:app", "--port", url.rpartition(":")[2]],
            cwd=tmp_path,
            env=os.environ | {"API": api.url, "TOKEN": token, "WEBHOOK_SECRET": secret, "no_proxy": "127.0.0.1"},
        )
        try:
            until = time.monotonic() + 60
            while not _answers(url):
                assert process.poll() is None
                assert time.monotonic() < until
                time.sleep(0.1)
            yield url
        finally:
            process.terminate()
            process.wait(timeout=30)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/openapi.json", trust_env=False).is_success
    except httpx.TransportError:
        return False


def run(lines: str, url: str, folder: Path) -> list[Any]:
    """Run the page's commands; return the answers in JSON that they print, one after the other."""
    lines = lines.replace("http://127.0.0.1:8000", url)
    environment = os.environ | {"no_proxy": "127.0.0.1"}
    command = ["bash", "-euo", "pipefail", "-c", lines]
    said = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout
    answers, read = [], json.JSONDecoder()
    while said := said.strip():
        answer, end = read.raw_decode(said)
        answers.append(answer)
        said = said[end:]
    return answers


@pytest.mark.long("two servers, a worker and curl")
def test_a_user_of_the_service_plays_a_video_that_was_paid_once(
    sqlite_world: World, service: str, tmp_path: Path
) -> None:
    given, asked, again = run(ASK, service, tmp_path)
    assert given["available_microusd"] - 10**10 == 2_000_000  # of the world's ann, who has ten thousand dollars
    assert asked["status"] == "queued"
    assert again["job_id"] == asked["job_id"]

    assert httpx.get(f"{service}/users/ann/videos/{asked['job_id']}", trust_env=False).status_code == 404
    forged = {"type": "job.ended", "data": {"job_id": asked["job_id"], "video_id": "v1"}}
    assert httpx.post(f"{service}/hooks/reelkeeper", json=forged, trust_env=False).status_code == 401
    worker.work(
        sqlite_world.workspace,
        LocalGenerator(tmp_path / "images"),
        worker.Shift(slots=1, seconds=60, until_idle=True),
        run_id="run",
        scratch=tmp_path / "scratch",
        limit=lambda: 9,
    )
    webhooks.deliver(sqlite_world.workspace.engine, allow_private=True, seconds=30)

    ((line,),) = run(PLAY, service, tmp_path)
    assert (tmp_path / "fox.mp4").read_bytes()[4:8] == b"ftyp"
    assert (line["kind"], line["job_id"]) == ("capture", asked["job_id"])
    assert line["amount_microusd"] == asked["price_microusd"] == PRICE
    other = httpx.get(f"{service}/users/eve/videos/{asked['job_id']}", trust_env=False)
    assert other.status_code == 404
