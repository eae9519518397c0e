"""Fixtures of the command's tests: the command, with a separate store and bucket prefix for each test."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from reelkeeper.cli import app
from reelkeeper.settings import Settings, settings
from tests.buckets import BUCKET
from tests.doubles.r2 import R2Double

Run = Callable[..., Result]


@pytest.fixture
def configured(
    double: R2Double, prefix: str, tmp_path: Path, migrated_file: Path, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """Settings of a deployment: a SQLite store in the state folder, as `reelkeeper db upgrade` makes it, and an S3
    endpoint with R2's rules.
    """
    at = double.endpoint
    for name, value in {
        "STATE_DIR": tmp_path / "state",
        "S3_ENDPOINT_URL": at.endpoint_url,
        "S3_ACCESS_KEY_ID": at.access_key_id,
        "S3_SECRET_ACCESS_KEY": at.secret_access_key,
        "BUCKET": BUCKET,
        "PREFIX": prefix,
    }.items():
        monkeypatch.setenv(f"REELKEEPER_{name}", str(value))
    monkeypatch.chdir(tmp_path)  # no .env of the developer's
    made = Settings()
    made.state_dir.mkdir(mode=0o700, parents=True)
    made.store_file.touch(mode=0o600)
    shutil.copyfile(migrated_file, made.store_file)
    return made


@pytest.fixture
def reelkeeper(configured: Settings) -> Iterator[Run]:  # noqa: ARG001  it sets the environment
    """The command: `reelkeeper("videos", "--json")`. Settings are read again each time, as by a process."""

    def run(*words: object, exit_code: int = 0) -> Result:
        settings.cache_clear()
        result = CliRunner().invoke(app, [str(word) for word in words])
        assert result.exit_code == exit_code, result.output
        assert "…" not in result.output, f"cut off, and nobody can read the rest: {result.output}"
        return result

    yield run
    settings.cache_clear()


@pytest.fixture
def ask(reelkeeper: Run) -> Callable[..., Any]:
    """The command with `--json`, and what it answers."""
    return lambda *words, exit_code=0: json.loads(reelkeeper(*words, "--json", exit_code=exit_code).stdout)


@pytest.fixture
def no_store(configured: Settings) -> None:
    """No state folder, as before the first command."""
    shutil.rmtree(configured.state_dir)


@pytest.fixture
def one_video(reelkeeper: Run, tiny_clip: Path) -> str:
    """A video of ann's, stored by the command itself; return its id."""
    reelkeeper("videos", "add", tiny_clip, "--user", "ann", "--video", "v1", "--created-at", "2026-01-01")
    return "v1"
