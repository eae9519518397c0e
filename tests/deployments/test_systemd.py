"""The systemd units start our commands, and stop them so that runs are drained."""

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.main import get_command

from reelkeeper.cli import app

UNITS = sorted((Path(__file__).parent.parent.parent / "deployments" / "systemd").glob("*.*"))
SERVICES = [unit for unit in UNITS if unit.suffix == ".service"]


def read(unit: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # as configparser's manual has it
    parser.read_string(unit.read_text())
    return parser


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_a_unit_starts_an_existing_command_with_valid_options(unit: Path) -> None:
    program, name, *options = read(unit)["Service"]["ExecStart"].split()
    if program.endswith("/prefect"):
        return
    assert program.endswith("/reelkeeper")
    command = get_command(app).commands[name]  # type: ignore[attr-defined]  # a group
    known = {option for parameter in command.params for option in parameter.opts}
    assert {option for option in options if option.startswith("--")} <= known


@pytest.mark.parametrize("name", ["reelkeeper-up.service", "reelkeeper-worker@.service"])
def test_a_worker_gets_enough_time_to_drain_its_runs(name: str) -> None:
    service = read(next(unit for unit in UNITS if unit.name == name))["Service"]
    words = service["ExecStart"].split()
    assert service["KillMode"] == "mixed"
    assert int(service["TimeoutStopSec"]) >= float(words[words.index("--patience") + 1]) + 45


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_a_unit_runs_unprivileged_with_limited_resources(unit: Path) -> None:
    service = read(unit)["Service"]
    assert service["User"] == "reelkeeper"
    assert (service["NoNewPrivileges"], service["ProtectSystem"]) == ("yes", "strict")


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not on this machine")
def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    for unit in UNITS:
        text = unit.read_text().replace("/opt/reelkeeper/.venv/bin/reelkeeper", "/bin/true")
        (tmp_path / unit.name).write_text(text.replace("/opt/reelkeeper/.venv/bin/prefect", "/bin/true"))
    found = shutil.which("systemd-analyze") or ""
    said = subprocess.run([found, "verify", *sorted(tmp_path.glob("*.*"))], capture_output=True, text=True, check=False)
    assert not [line for line in said.stderr.splitlines() if str(tmp_path) in line or "Unknown" in line], said.stderr
