"""What docs/triggering.md says that another program may do, done: each block as it stands, at a real Prefect server."""

import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import Install
from tests.e2e.installation import BIN, NAMES, ROOT, Installation

pytestmark = pytest.mark.long("a Prefect server and a worker, and each block of the page in a process")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", (ROOT / "docs" / "triggering.md").read_text(), re.MULTILINE | re.DOTALL)
SETTINGS, REST, COMMANDS, PYTHON, WITHOUT_PREFECT = (text for _, text in BLOCKS)


@pytest.fixture(scope="module")
def installed(install: Install, tiny_clip: Path) -> Installation:
    """Prefect's server with a password, everything deployed, a worker, and nothing that a schedule begins."""
    installation, world = install(tiny_clip)
    world.video("v1")
    installation.start_server()
    installation.set_up()
    installation.hold_schedules()
    installation.start_worker()
    return installation


def run(installation: Installation, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the folder of the installation, with the programs of this environment."""
    path = f"{BIN}:{installation.environment['PATH']}"
    return subprocess.run(
        words,
        cwd=installation.folder,
        env=installation.environment | {"PATH": path} | more,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def shell(installation: Installation, text: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run lines as a shell does that stops at the first one that fails."""
    return run(installation, "bash", "-euo", "pipefail", "-c", SETTINGS + text, **more)


def runs(installation: Installation) -> dict[str, str]:
    """Return the state of each run of the flows that the page starts, by its id."""
    found = [*installation.runs("sync-catalog"), *installation.runs("expire-videos")]
    return {each["id"]: each["state"]["type"] for each in found}


def begun(installation: Installation, before: dict[str, str]) -> list[str]:
    """Return the states of the runs that were not there before."""
    return [state for run_id, state in runs(installation).items() if run_id not in before]


def test_the_rest_api_starts_one_run_a_key_and_tells_when_it_is_over(installed: Installation) -> None:
    before = runs(installed)
    for _ in range(2):
        done = shell(installed, REST)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.split() == ["COMPLETED"], installed.log("worker")
    assert begun(installed, before) == ["COMPLETED"]


def test_the_command_waits_for_each_run_and_fails_where_the_run_does(installed: Installation) -> None:
    before = runs(installed)
    done = shell(installed, COMMANDS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert begun(installed, before) == ["COMPLETED", "COMPLETED"]
    off = (
        '{"tiers": {"free": {"retention_days": "never"}, "premium": {"retention_days": "never"}, '
        '"pro": {"retention_days": "never"}}}'
    )
    name = f"expire-videos/{NAMES['expire-videos']}"
    assert shell(installed, f"prefect deployment run {name} --params '{off}' --watch").returncode != 0
    assert begun(installed, before).count("FAILED") == 1


def test_python_starts_one_run_a_key_and_waits_for_it(installed: Installation) -> None:
    said = [run(installed, sys.executable, "-c", PYTHON) for _ in range(2)]
    for done in said:
        assert done.returncode == 0, done.stderr
        assert "COMPLETED" in done.stdout
    assert said[0].stdout == said[1].stdout


def test_a_wrong_parameter_and_a_wrong_password_are_refused(installed: Installation) -> None:
    at = f"/deployments/{installed.deployment('sync-catalog')}/create_flow_run"
    wrong = installed.http.post(at, json={"parameters": {"dry_run": "perhaps"}})
    assert wrong.status_code == 409
    assert "dry_run" in wrong.text
    name = f"sync-catalog/{NAMES['sync-catalog']}"
    misspelt = shell(installed, f"prefect deployment run {name} --param dry_rnu=true --watch")
    assert misspelt.returncode != 0
    with httpx.Client(base_url=str(installed.http.base_url), trust_env=False) as stranger:
        assert stranger.post(at.lstrip("/"), json={}).status_code == 401
    assert shell(installed, REST, PREFECT_API_AUTH_STRING="ann:wrong").returncode != 0


def test_without_prefect_the_command_runs_it_itself(installed: Installation) -> None:
    done = shell(installed, f"unset ${{!PREFECT_@}}\n{WITHOUT_PREFECT}")
    assert done.returncode == 0, done.stdout + done.stderr
