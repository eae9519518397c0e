"""Logs as JSON lines: parseable, naming run, job, video or request, and without secrets."""

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextvars import copy_context
from pathlib import Path

import pytest

from reelkeeper import logs
from reelkeeper.redaction import hide

LOG = logging.getLogger("reelkeeper.tests")
Written = Callable[[], list[dict[str, str]]]


@pytest.fixture
def written() -> Iterator[Written]:
    """Gives what was logged, as it stands in a file."""
    logs._bound.set({})  # a command that a test has run in this process has said its run's id for good
    file = io.StringIO()
    handler = logging.StreamHandler(file)
    handler.setFormatter(logs.Lines())
    LOG.addHandler(handler)
    yield lambda: [json.loads(line) for line in file.getvalue().splitlines()]
    LOG.removeHandler(handler)


def test_a_line_names_its_context_and_only_while_it_lasts(written: Written) -> None:
    with logs.bound(run_id="r"):
        with logs.bound(job_id="j", video_id="v"):
            LOG.warning("a\n%s", "b")
        LOG.warning("later")
    LOG.warning("apart")
    first, later, apart = written()
    assert (first["run_id"], first["job_id"], first["video_id"], first["message"]) == ("r", "j", "v", "a\nb")
    assert {"time", "level", "logger", "message"} == apart.keys()
    assert later.keys() - apart.keys() == {"run_id"}
    assert "\n" not in json.dumps(first)


def test_an_error_is_in_its_line_and_a_secret_in_none(written: Written) -> None:
    hide(["s3cr3t-of-the-logs"])
    try:
        int("s3cr3t-of-the-logs")
    except ValueError:
        LOG.exception("it was %s", "s3cr3t-of-the-logs")
    (line,) = written()
    assert "ValueError" in line["error"]
    assert "s3cr3t" not in json.dumps(line)


def test_fields_bound_without_a_block_end_with_their_context(written: Written) -> None:
    def bind() -> None:
        logs.bind(run_id="command-1")
        LOG.warning("within")

    copy_context().run(bind)
    LOG.warning("without")
    within, without = written()
    assert within["run_id"] == "command-1"
    assert "run_id" not in without


def test_warnings_and_uncaught_errors_are_log_lines_too() -> None:
    program = (
        "import warnings, threading; from reelkeeper import logs; logs.configure('INFO'); warnings.warn('old');"
        "thread = threading.Thread(target=lambda: 1 / 0); thread.start(); thread.join(); raise ValueError('lost')"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=280)
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    assert [line["logger"] for line in lines] == ["py.warnings", "reelkeeper", "reelkeeper"]
    assert "ZeroDivisionError" in lines[1]["error"]
    assert "ValueError: lost" in lines[2]["error"]


@pytest.mark.long("a process for each command")
def test_a_command_logs_lines_with_its_run_id(tmp_path: Path) -> None:
    told = {"REELKEEPER_LOG_FORMAT": "json", "REELKEEPER_STATE_DIR": str(tmp_path / "state")}
    command = str(Path(sys.executable).parent / "reelkeeper")

    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "REELKEEPER_"))}
        return subprocess.run(
            [command, *words], env=clean | told, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=280
        )

    assert run("db", "upgrade").returncode == 0
    lines = [json.loads(line) for line in run("alerts", "test").stderr.splitlines()]
    assert [line["logger"] for line in lines] == ["reelkeeper.adapters.second_sink"]
