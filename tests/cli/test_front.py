"""The command's front: help, exit codes, one clear line for an error, and a quick start."""

import errno
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from inline_snapshot import snapshot

from reelkeeper import errors
from reelkeeper.cli import app
from reelkeeper.settings import Settings
from reelkeeper.store.core import policies
from reelkeeper.store.core.engine import open_engine, transaction
from tests.cli.conftest import Run
from tests.ports import free_port
from tests.reading import as_read


def commands(command: Any, path: str = "reelkeeper") -> Iterator[tuple[str, Any]]:  # noqa: ANN401  of a click that typer brings
    yield path, command
    for name, under in getattr(command, "commands", {}).items():
        yield from commands(under, f"{path} {name}")


ALL = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("path", ALL)
def test_every_command_and_option_says_what_it_is(path: str) -> None:
    assert (ALL[path].help or "").strip()
    assert [param.name for param in ALL[path].params if not getattr(param, "help", None)] == []


@pytest.mark.parametrize("path", [path for path, command in ALL.items() if "limit" in {p.name for p in command.params}])
def test_a_limit_too_large_for_the_database_is_refused(reelkeeper: Run, path: str) -> None:
    assert "--limit" in reelkeeper(*path.split()[1:], "--limit", str(2**63), exit_code=2).output


@pytest.mark.parametrize(
    "command",
    [
        ("policy", "show", "--version"),
        ("policy", "diff", "--version"),
        ("policy", "rollback", "--reason", "r"),
        ("doubts", "settle", "--as", "lost"),
    ],
)
def test_a_number_too_large_for_the_database_is_refused(reelkeeper: Run, command: tuple[str, ...]) -> None:
    reelkeeper(*command, str(2**63), exit_code=2)


def test_help_lists_the_commands_and_every_exit_code(reelkeeper: Run) -> None:
    said = reelkeeper("--help").output
    for word in ("run", "plan", "restore", "hold", "freeze", "thaw", "videos", "audit", "db", "doctor", "demo", "s3"):
        assert f" {word} " in said
    codes = {
        member.exit_code
        for member in vars(errors).values()
        if isinstance(member, type) and hasattr(member, "exit_code")
    }
    assert [code for code in codes if f" {code} " not in said] == []


def test_a_start_loads_neither_prefect_nor_the_database_nor_a_policy() -> None:
    heavy = ("prefect", "pandas", "boto3", "sqlalchemy", "pydantic", "reelkeeper.rules.policies")
    script = f"import sys, reelkeeper.cli; print([m for m in {heavy} if m in sys.modules])"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=280)
    assert said.stdout.strip() == "[]"


@pytest.mark.long
def test_a_look_up_loads_neither_prefect_nor_alembic(tmp_path: Path) -> None:
    script = (
        "import sys; from reelkeeper.cli import app; app(['videos', '--json'], standalone_mode=False);"
        "print([m for m in ('prefect', 'pandas', 'boto3', 'alembic') if m in sys.modules], file=sys.stderr)"
    )
    for loaded in ("['alembic']", "[]"):  # the first one makes the store
        said = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=True,
            timeout=280,
            cwd=tmp_path,
            env={"PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert said.stderr.strip() == loaded


@pytest.mark.long
@pytest.mark.parametrize("words", [["plan", "tier_storage"], ["plan", "purge_retired"], ["status"]])
def test_a_plan_and_the_status_load_neither_prefect_nor_a_client_of_the_bucket(
    words: list[str], tmp_path: Path, migrated_file: Path
) -> None:
    (tmp_path / "state").mkdir()
    shutil.copyfile(migrated_file, tmp_path / "state" / "store.sqlite3")
    script = (
        f"import sys; from reelkeeper.cli import app; app({[*words, '--json']!r}, standalone_mode=False);"
        "print([m for m in ('prefect', 'pandas', 'boto3', 'alembic') if m in sys.modules], file=sys.stderr)"
    )
    said = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        timeout=280,
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "REELKEEPER_STATE_DIR": str(tmp_path / "state")},
    )
    assert said.stderr.splitlines()[-1] == "[]"  # before it, that others could read the copy of the store
    assert json.loads(said.stdout)


def test_the_help_of_run_lists_every_flow_with_its_parameters(reelkeeper: Run) -> None:
    said = reelkeeper("run", "--help").output
    flows = {path.stem for path in (Path(__file__).parents[2] / "flows").glob("[a-z]*.py")}
    assert [flow for flow in flows if f"{flow}  " not in said] == []
    said = reelkeeper("run", "purge_retired", "--help").output
    assert as_read(said, only="limits.max_objects") == snapshot("""\
carry out unchanged. One run deletes at most `limits.max_objects` videos, those retired longest
  ago first.
limits.max_objects 500 Maximum number of videos that one run may retire; a\
""")
    assert as_read(said, only="grace_days") == snapshot("""\
grace_days from the policy Days in which a retired video can be restored,
grace_days_service_keys from the policy The same for keys that the service chose and may\
""")
    assert "--as-of" in reelkeeper("run", "--help").output


def test_the_heading_for_undoing_and_stopping_has_only_such_commands(reelkeeper: Run) -> None:
    said = reelkeeper("--help").output
    panel = said[said.index("Undo, hold and stop") :].split("╰")[0]
    assert [line.split()[1] for line in panel.splitlines() if line.startswith("│ ") and line[2] != " "] == [
        *("restore", "hold", "freeze", "thaw"),
    ]


def test_the_installed_command_says_its_version() -> None:
    command = Path(sys.executable).with_name("reelkeeper")
    said = subprocess.run([command, "--version"], capture_output=True, text=True, check=True, timeout=280)
    assert said.stdout.startswith("reelkeeper 0")


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["run"],
        ["hold"],
        ["hold", "--user", "u"],
        ["hold", "--user", "u", "--video", "v"],
        ["restore"],
        ["plan", "tier_storage", "--list"],
        ["videos", "--state", "dead"],
        ["videos", "import"],
        ["hold", "--user", "u", "--reason", "r", "--until", "soon"],
        ["run", "no_such_flow"],
        ["run", "tier_storage", "--as-of", "yesterday"],
    ],
    ids=" ".join,
)
def test_wrong_arguments_end_with_2(reelkeeper: Run, words: list[str]) -> None:
    result = reelkeeper(*words, exit_code=2)
    assert result.stdout == ""


def test_a_contradictory_setting_ends_with_2_and_shows_no_secret(
    reelkeeper: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REELKEEPER_R2_ACCOUNT_ID", "abc0" * 8)
    monkeypatch.setenv("REELKEEPER_S3_SECRET_ACCESS_KEY", "hush")
    said = reelkeeper("db", "status", exit_code=2).stderr
    assert as_read(said) == snapshot("""\
error: settings (environment or .env): Value error, set REELKEEPER_R2_ACCOUNT_ID or
  REELKEEPER_S3_ENDPOINT_URL, not both\
""")
    assert "hush" not in said


def test_a_setting_that_does_not_exist_ends_with_2_and_doctor_says_the_same(
    reelkeeper: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REELKEEPER_BUKET", "films")
    said = reelkeeper("videos", exit_code=2).stderr
    assert "REELKEEPER_BUKET" in said
    assert as_read(said) == snapshot("""\
error: settings that do not exist: REELKEEPER_BUKET (in the environment), did you mean
  REELKEEPER_BUCKET?. docs/settings.md lists them all\
""")
    assert "REELKEEPER_BUKET" in reelkeeper("doctor", exit_code=1).stdout


def test_an_unexpected_error_is_one_line_and_debug_shows_the_trace(
    reelkeeper: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise ZeroDivisionError("by nought")

    monkeypatch.setattr("reelkeeper.cli.commands.audit.reading", broken)
    said = reelkeeper("audit", exit_code=1).stderr
    assert as_read(said) == snapshot("""\
error: unexpected ZeroDivisionError: by nought
for the traceback: reelkeeper --debug COMMAND\
""")
    assert "Traceback" not in said
    assert "Traceback" in reelkeeper("--debug", "audit", exit_code=1).stderr


def test_an_error_is_one_line_where_a_folder_of_ours_may_not_be_looked_into(
    reelkeeper: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise ZeroDivisionError("by nought")

    monkeypatch.setattr("reelkeeper.cli.commands.audit.reading", broken)
    monkeypatch.setenv("REELKEEPER_SCRATCH_DIR", "x" * 300)  # refused even to root: the name is too long
    assert "ZeroDivisionError: by nought" in reelkeeper("audit", exit_code=1).stderr.splitlines()[0]


@pytest.mark.parametrize(
    "words",
    [
        ("policy", "show"),
        *(pytest.param(words, marks=pytest.mark.long) for words in (("policy", "show", "--json"), ("--version",))),
    ],
)
def test_a_reader_that_stops_reading_is_no_error(words: tuple[str, ...], configured: Settings) -> None:
    read, write = os.pipe()
    os.close(read)  # as of `| head`, once it has its lines
    command = [str(Path(sys.executable).with_name("reelkeeper")), *words]
    try:
        done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False, timeout=280)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (1, "")
    assert configured.store_file.exists()


def test_a_broken_pipe_that_is_not_its_output_is_an_error(reelkeeper: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise BrokenPipeError(errno.EPIPE, "server gone")

    monkeypatch.setattr("reelkeeper.cli.commands.audit.reading", broken)
    assert reelkeeper("audit", exit_code=1).stderr.count("server gone") == 1


def test_a_store_of_another_version_ends_with_7(reelkeeper: Run, tmp_path: Path) -> None:
    reelkeeper("db", "upgrade")
    with sqlite3.connect(tmp_path / "state" / "store.sqlite3") as store:
        store.execute("UPDATE alembic_version SET version_num = '9999'")
    assert "9999" in reelkeeper("videos", exit_code=7).stderr


def test_a_disk_that_the_kernel_calls_full_is_named(reelkeeper: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "somewhere/report.html")

    monkeypatch.setattr("reelkeeper.cli.commands.audit.reading", full)
    said = reelkeeper("audit", exit_code=1).stderr
    disk, figure = re.compile(r"\S+ file system at [^,]+"), re.compile(r"[\d,]{7,}")
    assert as_read(said, file=re.compile(r"\S+/report.html"), disk=disk, bytes=figure) == snapshot("""\
error: the disk of the file that was being written is full: <file>, on the <disk>, has <bytes>
  of <bytes> bytes free; <bytes> are needed. Free some space; then run it again: nothing is lost,
  and what is done stays done\
""")
    assert "report.html" in said
    assert "unexpected" not in said


def test_a_store_that_is_away_is_named_with_its_place_wherever_it_was_opened(
    reelkeeper: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("REELKEEPER_DATABASE_URL", f"postgresql://reel:hush@127.0.0.1:{port}/films")
    for words in (("videos",), ("db", "upgrade"), ("status",)):
        said = reelkeeper(*words, exit_code=1).stderr
        assert as_read(said, port=port) == snapshot("""\
error: PostgreSQL at 127.0.0.1, port <port>, database 'films', user 'reel': nothing listens
  there, so look whether PostgreSQL runs. Check REELKEEPER_DATABASE_URL. The driver said:
  connection failed: connection to server at "127.0.0.1", port <port> failed: Connection refused
  Is the server running on that host and accepting TCP/IP connections?\
""")
        assert "unexpected" not in said
        assert "hush" not in said


def test_a_prefect_server_that_is_away_is_named_before_anything_is_done(
    reelkeeper: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{port}/api")
    said = reelkeeper("run", "tier_storage", exit_code=1).stderr
    assert as_read(said, port=port) == snapshot("""\
error: Prefect's API at 127.0.0.1, port <port>: nothing listens there: check that its server
  runs (prefect server start). PREFECT_API_URL is its address. It said: [Errno 111] Connection
  refused\
""")
    assert "unexpected" not in said


@pytest.mark.long("each starts the command with Prefect")
@pytest.mark.parametrize("sees", ["no schema", "policies of a later version"])
def test_a_worker_claims_nothing_from_a_store_of_another_version(
    sees: str, reelkeeper: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'another.sqlite3'}"
    monkeypatch.setenv("REELKEEPER_DATABASE_URL", url)
    if sees != "no schema":
        reelkeeper("db", "upgrade")
        engine = open_engine(url)
        with transaction(engine, "test") as session:
            policies.put_in_force(session, {"later": 1}, "later", after=0, author="test", reason="a test")
        engine.dispose()
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{free_port()}/api")  # nobody answers there
    command = [str(Path(sys.executable).with_name("reelkeeper")), "worker", "default"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 7, done.stdout + done.stderr
