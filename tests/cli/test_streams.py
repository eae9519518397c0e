"""A command whose standard streams are closed, as by cron or a supervisor, does its work as ever."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.cli.conftest import Run

CLOSED: Final = {"output": ">&-", "errors": "2>&-", "all": "<&- >&- 2>&-"}
COMMANDS: Final = (
    (("--version",), 0),
    (("plan", "expire_videos"), 0),
    (("restore", "--user", "ann", "--dry-run"), 8),  # nothing is retired
    *(
        pytest.param(words, exit_code, marks=pytest.mark.long)
        for words, exit_code in (
            (("status", "--json"), 0),
            (("--debug", "restore", "--video", "V1"), 8),
            (("nonsense",), 2),
        )
    ),
)


def started(words: Sequence[str | Path], closed: str) -> subprocess.CompletedProcess[str]:
    """Run a program from a shell that closes some of its streams."""
    shell = ["sh", "-c", f'exec "$@" {CLOSED[closed]}', "sh", *map(str, words)]
    return subprocess.run(shell, capture_output=True, text=True, check=False, timeout=280)


@pytest.mark.parametrize(
    "closed", ["output", *(pytest.param(name, marks=pytest.mark.long) for name in ("errors", "all"))]
)
@pytest.mark.parametrize(("words", "exit_code"), COMMANDS)
@pytest.mark.usefixtures("one_video")
def test_a_command_with_closed_streams_ends_as_ever(words: tuple[str, ...], exit_code: int, closed: str) -> None:
    done = started([Path(sys.executable).with_name("reelkeeper"), *words], closed)
    assert (done.returncode, "Traceback" in done.stderr and "--debug" not in words) == (exit_code, False)
    assert bool(done.stdout) is (closed == "errors" and exit_code == 0)


def test_a_command_without_an_output_does_its_work(reelkeeper: Run) -> None:
    command = Path(sys.executable).with_name("reelkeeper")
    assert started([command, "freeze", "--reason", "a test", "--json"], "all").returncode == 0
    reelkeeper("thaw")
    assert "freeze" in reelkeeper("audit", "--limit", 5, "--json").stdout


@pytest.mark.parametrize("closed", CLOSED)
def test_what_is_opened_takes_no_number_of_a_closed_stream(closed: str, tmp_path: Path) -> None:
    script = (
        "import os, pathlib, sys; from reelkeeper.cli import app; app(['--version'], standalone_mode=False);"
        "ours = open(sys.argv[1], 'w'); child = os.fork() or os.execvp('ls', ['ls', '/none']); os.waitpid(child, 0);"
        "ours.write(str(ours.fileno() > 2)); ours.close()"
    )
    done = started([sys.executable, "-c", script, tmp_path / "ours"], closed)
    assert (done.returncode, (tmp_path / "ours").read_text()) == (0, "True")
