"""Files for contributors match the project: hooks and make check, forms and files."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent


def test_the_hooks_run_what_make_check_runs() -> None:
    recipe = re.findall(r"^check:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)[0]
    steps = [
        line.strip().replace("$(BIN)/", "").removesuffix(" .").replace(" --check", "") for line in recipe.splitlines()
    ]
    written: dict[str, Any] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repo in written["repos"] for hook in repo["hooks"]]
    assert {repo["repo"] for repo in written["repos"]} == {"local"}
    assert [hook["entry"].removeprefix(".venv/bin/").removesuffix(" --force-exclude") for hook in hooks] == steps


@pytest.mark.parametrize("name", ["bug", "idea"])
def test_a_form_asks_what_is_at_risk(name: str) -> None:
    form: dict[str, Any] = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml").read_text())
    asked = [part for part in form["body"] if part["type"] != "markdown"]
    assert form.keys() == {"name", "description", "labels", "body"}
    assert len({part["id"] for part in asked}) == len(asked)
    assert re.search("risk|go wrong", str(form))


def test_new_dependencies_are_looked_for_wherever_some_are_pinned() -> None:
    written: dict[str, Any] = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text())
    pinned = {f"/{path.parent.relative_to(ROOT)}".rstrip(".") for path in ROOT.glob("*/*.lock")} | {"/"}
    assert {place for each in written["updates"] for place in each.get("directories", [])} == pinned


def test_each_push_runs_everything_and_each_night_the_soak_with_exact_versions_of_actions() -> None:
    written: dict[str, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    steps = {
        name: [step.get("run", step.get("uses")) for step in job["steps"]] for name, job in written["jobs"].items()
    }
    assert steps["run"][-1] == ".ci/run"
    assert steps["soak"][-2:] == [".ci/run programs", "make test-soak"]
    used = [step for job in steps.values() for step in job if "@" in step]
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+\.\d+\.\d+", step) for step in used)


def test_a_container_for_editors_makes_what_a_clone_makes() -> None:
    written: dict[str, Any] = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert written["postCreateCommand"].endswith("make check")
    assert written["forwardPorts"] == [4200, 8787]


def test_the_changelog_has_what_this_version_is_and_what_comes_next() -> None:
    headings = re.findall(r"^## (\S+) - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    released, _, to_come = version.partition(".dev")
    assert headings[0][0] == released
    assert (headings[0][1] == "unreleased") == bool(to_come)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", day) for _, day in headings[1:])
    assert sorted((version for version, _ in headings), key=lambda v: [*map(int, v.split("."))], reverse=True) == [
        version for version, _ in headings
    ]
