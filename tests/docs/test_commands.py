"""Every command in the pages and the README is valid: its words, options and parameters exist."""

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from docs.generated import flows
from docs.generated.pages import by_hand
from reelkeeper.cli import app, parameters
from tests.docs.conftest import ROOT

PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
FENCE = re.compile(r"^( *)```[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(reelkeeper [^`\n]+)`")
ENDS = re.compile(r"[;|&>]")


def lines(path: Path) -> Iterator[str]:
    """Yield every command line of a page that begins with `reelkeeper` in a block of code."""
    for block in FENCE.finditer(by_hand(path.read_text())):
        for line in block[2].replace("\\\n", " ").splitlines():
            found = re.match(r"\s*(?:\*/5 \* \* \* \* |\$ |(?:sudo )?(?:\.venv/bin/))?(reelkeeper(?: .*)?)$", line)
            if found:
                yield found[1]


def mentions(path: Path) -> Iterator[str]:
    """Yield every command that a sentence mentions, which may lack required arguments."""
    yield from INLINE.findall(FENCE.sub("", by_hand(path.read_text())))


def words(line: str) -> list[str]:
    """Split a line as a shell does, up to a comment or a shell operator."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";|&>")
    lexer.whitespace_split = True
    found = []
    for word in lexer:
        if ENDS.match(word):
            break
        found.append(word)
    return found


@cache
def whole() -> Any:  # noqa: ANN401  typer's own kind of command
    """Return the whole command, made once."""
    return typer.main.get_command(app)


def parse(line: str) -> dict[str, Any]:
    """Parse a line with typer, without running it. Raises typer's errors."""
    _, *rest = words(line)
    command = whole()
    context = command.make_context("reelkeeper", rest or ["--help"], resilient_parsing=not rest)
    while rest and getattr(command, "commands", None) and context._protected_args + context.args:
        name, command, under = command.resolve_command(context, context._protected_args + context.args)
        context = command.make_context(name, under, parent=context)
    return dict(context.params)


COMMANDS = sorted({(path.name, line) for path in PAGES for line in lines(path)})
MENTIONED = sorted({(path.name, line) for path in PAGES for line in mentions(path)})
FILES = ("clip.mp4", "users.csv", "videos.csv", "views.csv", "keys.csv", "usage.json", "FILE")


@pytest.fixture(autouse=True)
def _in_a_folder_with_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some arguments are files that must be there."""
    backups = [re.search(r"\S+\.(?:sqlite3|zip)", line) for _, line in COMMANDS]
    for name in (*FILES, *(found[0] for found in backups if found)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)


def test_the_pages_have_enough_commands() -> None:
    assert len({line for _, line in COMMANDS}) > 80
    assert len(MENTIONED) > 30
    assert {name for name, _ in COMMANDS} >= {"README.md", "runbooks.md", "migration.md", "getting-started.md"}


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_every_command_line_in_a_page_parses(page: str, line: str) -> None:  # noqa: ARG001  the page is where to mend it
    parse(line)


@pytest.mark.parametrize(("page", "line"), MENTIONED)
def test_commands_named_in_sentences_exist(page: str, line: str) -> None:  # noqa: ARG001  the same
    if "COMMAND" in line:
        return  # of all of them
    try:
        parse(line)
    except typer.Exit as over:
        assert over.exit_code == 0  # noqa: PT017  of --version, which says it and ends
    except Exception as error:
        said = str(error) or type(error).__name__
        if not re.search(r"Missing (argument|option|command|parameter)|requires an argument", said):
            raise


def test_unknown_commands_and_options_are_detected() -> None:
    for wrong in ("reelkeeper rnu tier_storage", "reelkeeper run tier_storage --aply", "reelkeeper jobs bury X"):
        with pytest.raises(Exception, match=r"No such (command|option)"):
            parse(wrong)
    with pytest.raises(Exception, match="polcy"):
        checked("reelkeeper run tier_storage --param polcy.grace_days=8")


def checked(line: str) -> int:
    """Read the --param of a line that runs a flow as the command would; return how many there were."""
    given = parse(line)
    flow, params = given.get("flow"), given.get("param") or []
    if flow not in flows.names():
        return 0
    parameters.read(str(flow), flows.flow(str(flow)).fn, list(params))
    return len(params)


def test_every_parameter_that_is_set_exists_and_takes_its_value() -> None:
    run = [line for _, line in COMMANDS + MENTIONED if re.match(r"reelkeeper (run|plan) [a-z_]+ ", line)]
    assert sum(checked(line) for line in run) > 10


def test_every_deployment_that_a_page_starts_is_in_prefect_yaml() -> None:
    known = {f"{flows._name(deployment).replace('_', '-')}/{deployment['name']}" for deployment in flows.deployments()}
    started = r"(?:deployments/name/|prefect deployment run |run_deployment\(\s*\")([a-z-]+/[a-z0-9-]+)"
    named = {found for path in PAGES for found in re.findall(started, path.read_text())}
    assert len(named) > 1
    assert named <= known
