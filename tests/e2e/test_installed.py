"""Wheel and sdist, installed without the repository by pip and by pipx: scan, demo and up work there."""

import json
import os
import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from reelkeeper.adapters.s3.seaweed import Endpoint
from tests.buckets import BUCKET, bare_boto3
from tests.e2e.installation import BIN, ROOT, Running, bare_environment, completed, until

pytestmark = pytest.mark.long("all dependencies are installed anew, and a whole demo runs")
Install = Callable[[Path, Path, dict[str, str]], Path]
_PIN: Final = re.compile(r"^([a-z0-9][a-z0-9-]*==[^\s;]+(?: ; [^\\]+)?)", re.MULTILINE)


def run(*words: object, environment: dict[str, str], folder: Path) -> str:
    done = subprocess.run(
        [*map(str, words)], cwd=folder, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout[-4_000:] + done.stderr[-4_000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Build the wheel and the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-d", folder, environment=dict(os.environ), folder=ROOT)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return {"wheel": wheel, "sdist": sdist}


@pytest.fixture(scope="module")
def pinned(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which pip, and what pipx starts, installs the versions of the lock."""
    pins = tmp_path_factory.mktemp("pins") / "constraints.txt"
    found = _PIN.findall((ROOT / "requirements.lock").read_text())
    assert len(found) > 100
    pins.write_text("\n".join(found))
    clean = {name: value for name, value in bare_environment().items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    return clean | {"PIP_CONSTRAINT": str(pins), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def test_the_sdist_makes_the_same_wheel(built: dict[str, Path], pinned: dict[str, str], tmp_path: Path) -> None:
    words = ("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path)
    run(sys.executable, *words, built["sdist"], environment=pinned, folder=tmp_path)
    (again,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(built["wheel"]) as one, zipfile.ZipFile(again) as other:
        assert {item.filename: item.CRC for item in one.infolist()} == {
            item.filename: item.CRC for item in other.infolist()
        }
        names = set(one.namelist())
    assert {"deployments/prefect.yaml", "reelkeeper/templates/report.html"} <= names


def by_pip(archive: Path, folder: Path, environment: dict[str, str]) -> Path:
    run(sys.executable, "-m", "venv", folder / "venv", environment=environment, folder=folder)
    pip = folder / "venv" / "bin" / "pip"
    run(pip, "install", "--quiet", archive, environment=environment, folder=folder)
    return folder / "venv" / "bin" / "reelkeeper"


def by_pipx(archive: Path, folder: Path, environment: dict[str, str]) -> Path:
    places = {"PIPX_HOME": str(folder / "pipx"), "PIPX_BIN_DIR": str(folder / "bin")}
    words = (BIN / "pipx", "install", "--quiet", "--python", sys.executable, archive)
    run(*words, environment=environment | places, folder=folder)
    return folder / "bin" / "reelkeeper"


@pytest.mark.parametrize(("kind", "install"), [("wheel", by_pip), ("sdist", by_pip), ("wheel", by_pipx)])
def test_scan_demo_and_up_work_without_the_repository(
    kind: str,
    install: Install,
    built: dict[str, Path],
    pinned: dict[str, str],
    endpoint: Endpoint,
    prefix: str,
    tmp_path: Path,
) -> None:
    program = install(built[kind], tmp_path, pinned)
    home = tmp_path / "home"
    home.mkdir()
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
    where = "import reelkeeper; print(reelkeeper.__file__)"
    python = program.resolve().with_name("python")
    assert run(python, "-c", where, environment=environment, folder=home).startswith(f"{tmp_path}/")

    bare_boto3(endpoint).put_object(Bucket=BUCKET, Key=f"{prefix}ann/one.mp4", Body=b"a video")
    at = {
        "REELKEEPER_S3_ENDPOINT_URL": endpoint.endpoint_url,
        "REELKEEPER_S3_ACCESS_KEY_ID": endpoint.access_key_id,
        "REELKEEPER_S3_SECRET_ACCESS_KEY": endpoint.secret_access_key,
    }
    words = ("scan", "--bucket", BUCKET, "--prefix", prefix, "--json")
    assert json.loads(run(program, *words, environment=environment | at, folder=home))["total"]["objects"] == 1

    run(program, "demo", environment=environment, folder=home)
    of_demo = environment | {"REELKEEPER_STATE_DIR": str(home / ".reelkeeper" / "demo")}
    assert len(json.loads(run(program, "videos", "--json", environment=of_demo, folder=home))) > 10

    up = Running(home, program, environment)
    try:
        ready = up.ready()
        until(lambda: completed(ready["ui_url"]), 300, "a first run completes")
        up.note_family()
        up.process.send_signal(signal.SIGINT)
        assert up.process.wait(120) == 0
        until(up.nobody_is_left, 10, f"no process is left of {up.family}")
    finally:
        up.close()
