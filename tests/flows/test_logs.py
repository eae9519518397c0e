"""The output of a real flow run as JSON lines: every line names the run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL

from tests.flows.scenes import Scene


@pytest.mark.long
def test_every_line_of_a_run_can_be_read_and_names_the_run(scene: Scene, tmp_path: Path) -> None:
    scene.video("v1", age_days=40)
    reelkeeper = str(Path(sys.executable).parent / "reelkeeper")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    told = {"REELKEEPER_LOG_FORMAT": "json", "PREFECT_API_URL": str(PREFECT_API_URL.value())}
    Path(os.environ["REELKEEPER_STATE_DIR"]).chmod(0o700)  # else the command says before the run that it was not
    words = [reelkeeper, "run", "tier_storage", "--apply", "--json"]
    ended = subprocess.run(
        words, env=clean | told, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=240
    )
    assert ended.returncode == 0, ended.stderr
    run_id = json.loads(ended.stdout)["run_id"]
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    assert {line.get("flow_run_id") for line in lines} == {run_id}
    assert {line["flow_run_name"].split()[0] for line in lines} == {"tier-storage"}
    of_tasks = [line for line in lines if line["logger"] == "prefect.task_runs"]
    assert all(of_task["task_run_id"] and of_task["task_run_name"] for of_task in of_tasks)
    assert of_tasks
