"""The upgrade from 0.1.0 by one command: its filled store, its prefect.yaml and its deployments."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL

from deployments.bootstrap import OLD_NAME
from tests.earlier import unpack
from tests.flows.scenes import forget_record

pytestmark = pytest.mark.long("commands of two releases, each a process that loads Prefect")
ROOT = Path(__file__).parents[2]
PROGRAM = "import sys; from reelkeeper.cli import app; app(sys.argv[1:])"


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    return unpack(tmp_path)


def reelkeeper(tree: Path, state: Path, *words: str, exit_code: int = 0, **environment: str) -> str:
    """Run the command of a tree on the deployment in a state folder."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("REELKEEPER_", "PREFECT_"))}
    settings = {"REELKEEPER_STATE_DIR": str(state), "PYTHONPATH": str(tree)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words],
        cwd=tree,
        env=kept | settings | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == exit_code, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def server(prefect_server: None) -> Iterator[str]:  # noqa: ARG001  it must be up
    """A Prefect server without deployments, before and after."""
    with get_client(sync_client=True) as client:
        for deployment in client.read_deployments(limit=200):
            client.delete_deployment(deployment.id)
        yield str(PREFECT_API_URL.value())
        for deployment in client.read_deployments(limit=200):
            client.delete_deployment(deployment.id)
        forget_record(client)


def deployed() -> dict[str, bool]:
    """Return the deployments on the server, and which of them a person has paused."""
    with get_client(sync_client=True) as client:
        flows = {flow.id: flow.name for flow in client.read_flows(limit=200)}
        return {f"{flows[found.flow_id]}/{found.name}": found.paused for found in client.read_deployments(limit=200)}


def of_this_release() -> list[str]:
    """Name the deployments in prefect.yaml, as Prefect does."""
    entries = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    return [f"{entry['entrypoint'].rpartition('.')[2].replace('_', '-')}/{entry['name']}" for entry in entries]


def test_store_policies_and_deployments_of_0_1_0_come_over(earlier: Path, server: str, tmp_path: Path) -> None:
    state = earlier / ".reelkeeper" / "demo"
    reelkeeper(earlier, state, "demo")
    before = json.loads(reelkeeper(earlier, state, "videos", "--json"))
    assert len(before) > 5
    written = yaml.safe_load((earlier / "prefect.yaml").read_text())
    expiring = next(entry for entry in written["deployments"] if entry["entrypoint"].endswith("expire_videos"))
    expiring["parameters"] |= {"policy": {"retention_free_days": 60}}
    old = tmp_path / "prefect-0.1.0.yaml"
    old.write_text(yaml.safe_dump(written))
    prefect(earlier, state, server, old)
    assert {name.partition("/")[2] for name in deployed()} == {OLD_NAME, "on-demand"}
    with get_client(sync_client=True) as client:
        client.pause_deployment(client.read_deployment_by_name(f"purge-retired/{OLD_NAME}").id)

    words = ("migrate", str(old), "--param", "admission.slots=4", "--yes")
    reelkeeper(ROOT, state, *words, PREFECT_API_URL=server)

    now = {video["id"]: video for video in json.loads(reelkeeper(ROOT, state, "videos", "--json"))}
    same = ("user_id", "state", "created_at", "generation", "size_bytes", "key")
    assert {video["id"]: [video[name] for name in same] for video in before} == {
        name: [video[field] for field in same] for name, video in now.items()
    }
    reelkeeper(ROOT, state, "audit", "verify")
    changed = yaml.safe_load(reelkeeper(ROOT, state, "policy", "show", "--changed"))
    assert changed == {
        "tiers": {"free": {"retention_days": 60}, "premium": {}, "pro": {}},
        "admission": {"slots": 4},
    }
    after = deployed()
    assert set(after) == set(of_this_release())
    assert OLD_NAME not in {name.partition("/")[2] for name in after}
    assert [name for name, paused in after.items() if paused] == ["purge-retired/daily"]
    versions = reelkeeper(ROOT, state, "policy", "history", "--json")
    reelkeeper(ROOT, state, *words, PREFECT_API_URL=server)  # again, and nothing changes
    assert (deployed(), reelkeeper(ROOT, state, "policy", "history", "--json")) == (after, versions)


def prefect(tree: Path, state: Path, server: str, written: Path) -> None:
    """Deploy a file as 0.1.0 did."""
    environment = os.environ | {"PYTHONPATH": str(tree), "PREFECT_API_URL": server, "REELKEEPER_STATE_DIR": str(state)}
    for words in (
        ["deployments.bootstrap"],
        ["prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(written)],
    ):
        subprocess.run([sys.executable, "-m", *words], cwd=tree, env=environment, check=True, capture_output=True)
