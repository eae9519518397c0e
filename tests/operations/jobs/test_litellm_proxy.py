"""LiteLLM's own proxy between us and a server of /v1/videos: from .venv-litellm, which `make test-soak` makes."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import sqlalchemy as sa

from reelkeeper.adapters.providers import OpenAIProvider, RemoteGenerator
from reelkeeper.model.jobs import End, JobState
from tests.doubles.openai_videos import OpenAIDouble
from tests.doubles.vendor import LOST, TOKEN
from tests.faults.world import World
from tests.operations.queue import find, make_due
from tests.operations.shop import ask, run, spent
from tests.ports import free_port

LITELLM = Path(__file__).parents[3] / ".venv-litellm" / "bin" / "litellm"
KEY = "sk-of-the-proxy"
pytestmark = [pytest.mark.long("750 MB are installed for it"), pytest.mark.soak]


class Route(NamedTuple):
    """What stands behind a proxy, and a generator that knows the proxy alone."""

    server: OpenAIDouble
    generator: RemoteGenerator


@pytest.fixture
def engine(sqlite_engine: sa.Engine) -> sa.Engine:
    """One database: nothing here depends on which."""
    return sqlite_engine


@pytest.fixture
def path(request: pytest.FixtureRequest, tiny_clip: Path, tmp_path: Path) -> Iterator[Route]:
    """Start a proxy with the settings that a test asks for."""
    assert LITELLM.exists(), "make .venv-litellm/.installed"
    port, config, log = free_port(), tmp_path / "litellm.yaml", tmp_path / "litellm.log"
    url = f"http://127.0.0.1:{port}"
    with OpenAIDouble(tiny_clip.read_bytes()).serving() as server:
        to: dict[str, Any] = {"model": "openai/wan3", "api_base": server.url, "api_key": TOKEN}
        settings = {"model_list": [{"model_name": "wan3", "litellm_params": to}], "router_settings": request.param}
        config.write_text(json.dumps(settings | {"general_settings": {"master_key": KEY}}))
        kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        kept["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # its table of prices comes from the wheel, not the network
        command: list[str | Path] = [LITELLM, "--config", config, "--host", "127.0.0.1", "--port", str(port)]
        with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out, env=kept) as proxy:
            try:
                _wait_until_ready(url, proxy, log)
                provider = OpenAIProvider(f"{url}/v1", KEY, allow_private=True, timeout_seconds=60.0)
                yield Route(server, RemoteGenerator(provider, model="wan3", poll_seconds=0.05))
            finally:
                proxy.terminate()


def _wait_until_ready(url: str, proxy: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 240
    with httpx.Client(base_url=url, trust_env=False) as client:
        while time.monotonic() < deadline:
            assert proxy.poll() is None, log.read_text()[-2000:]
            try:
                if client.get("/health/liveliness").is_success:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.2)
    raise TimeoutError(log.read_text()[-2000:])


@pytest.mark.parametrize("path", [{"num_retries": 0}], indirect=True)
def test_a_job_goes_through_the_proxy_and_is_paid_once_where_an_answer_is_lost(path: Route, shop: World) -> None:
    server, generator = path
    server.looks = 3
    (made,) = ask(shop, "a cat")
    assert run(shop, generator) == {End.SUCCEEDED: 1}
    job = find(shop.workspace.engine, made)
    assert job.provider_job_id.startswith("video_")  # the proxy's name, which holds its deployment and the server's
    assert spent(shop) == job.price_microusd > 0

    server.end_as("moderated")
    (refused,) = ask(shop, "a face")
    assert run(shop, generator) == {End.REFUSED: 1}
    assert "moderation" in find(shop.workspace.engine, refused).error

    server.end_as("succeeded")
    server.queue, before = [LOST], len(server.submitted)
    (lost,) = ask(shop, "a dog")
    for _ in range(3):
        assert run(shop, generator) == {End.PARKED: 1}
        make_due(shop.workspace.engine)
    assert len(server.submitted) - before == 1
    assert find(shop.workspace.engine, lost).state == JobState.PARKED


@pytest.mark.parametrize("path", [{}], indirect=True)
def test_the_proxy_at_its_defaults_sends_a_job_again_by_itself(path: Route, shop: World) -> None:
    path.server.queue = [LOST]
    ask(shop, "a dog")
    assert run(shop, path.generator) == {End.SUCCEEDED: 1}
    assert len(path.server.submitted) == 2  # which is why docs/providers.md has num_retries: 0
