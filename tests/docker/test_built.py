"""The built image: small, labelled, with two versions of Python; invalid builds and starts fail."""

import json
import re
import shutil
from pathlib import Path

import pytest

from reelkeeper.adapters.s3.seaweed import Endpoint
from tests.buckets import BUCKET, bare_boto3
from tests.docker.engine import EngineError, inspect, run
from tests.docker.image import PYTHON_IMAGE, ROOT, VERSION
from tests.docker.images import DEBIANS_PYTHON, build, built, commit
from tests.docker.stack import faults, stack

pytestmark = pytest.mark.long
MAX_BYTES = 700_000_000
NOWHERE = Endpoint("http://127.0.0.1:1", "none", "none")
AS_COMPOSE = ("podman", "run", "--rm", "--read-only", "--cap-drop=ALL", "--tmpfs=/tmp", "--network=none")


def test_the_image_is_small_and_labelled() -> None:
    image = inspect("image", built())
    over_its_base = image["Size"] - inspect("image", f"docker.io/library/{PYTHON_IMAGE}")["Size"]
    assert over_its_base <= MAX_BYTES
    assert image["Config"]["Labels"]["org.opencontainers.image.version"] == VERSION
    assert image["Config"]["Labels"]["org.opencontainers.image.revision"] == commit()
    assert image["Config"]["User"] == "10001:10001"


def test_the_image_is_built_and_runs_with_debians_python() -> None:
    name = "localhost/reelkeeper:python3.13"
    build(name, PYTHON_IMAGE=DEBIANS_PYTHON)
    assert run(*AS_COMPOSE, name, "python", "--version").stdout.startswith("Python 3.13")
    writable = "--tmpfs=/var/lib/reelkeeper:mode=1777"
    said = run(
        *AS_COMPOSE, writable, name, "sh", "-ec", "reelkeeper db upgrade && reelkeeper doctor --json", check=False
    )
    parts = json.loads(said.stdout[said.stdout.index("[") :])
    assert [part["part"] for part in parts if part["state"] == "fail"] == ["bucket"], (
        parts
    )  # the image has no S3 server


def test_the_image_scans_a_bucket_without_a_store(endpoint: Endpoint, prefix: str) -> None:
    bare_boto3(endpoint).put_object(Bucket=BUCKET, Key=f"{prefix}ann/one.mp4", Body=b"a video")
    at = {
        "REELKEEPER_S3_ENDPOINT_URL": endpoint.endpoint_url,
        "REELKEEPER_S3_ACCESS_KEY_ID": endpoint.access_key_id,
        "REELKEEPER_S3_SECRET_ACCESS_KEY": endpoint.secret_access_key,
    }
    given = [f"--env={name}={value}" for name, value in at.items()]
    words = ("reelkeeper", "scan", "--bucket", BUCKET, "--prefix", prefix, "--json")
    said = run(*AS_COMPOSE[:-1], "--network=host", *given, built(), *words).stdout
    assert json.loads(said)["total"]["objects"] == 1


def test_all_forecasts_still_work_on_what_was_left_of_their_packages() -> None:
    assert run(*AS_COMPOSE, built(), "python", "-c", FORECASTS).stdout.split() == ["14"] * 3


FORECASTS = """
import numpy as np
from reelkeeper.rules.forecast import members
values = 100 + np.arange(84) * 0.5 + 10 * np.sin(np.arange(84) * 2 * np.pi / 7)
for name in ("ets", "stl_ets", "weekday_level"):
    print(len(getattr(members, name)(values, 14)))
"""


@pytest.mark.soak
def test_a_lock_that_lacks_a_wheel_builds_no_image(tmp_path: Path) -> None:
    tree = planted(tmp_path)
    lock = tree / "docker" / "requirements.lock"
    lock.write_text(re.sub(r"^jmespath==(.*\n)(?:    .*\n)+", "", lock.read_text(), flags=re.MULTILINE))
    with pytest.raises(EngineError, match="jmespath"):
        build("localhost/reelkeeper:planted", tree)


def planted(folder: Path) -> Path:
    """Copy the build context, for a test to break."""
    tree = folder / "tree"
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        for source in ROOT.glob(line.removeprefix("!")) if line.startswith("!") else ():
            target = tree / source.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
    shutil.copy(ROOT / ".dockerignore", tree)
    shutil.copy(ROOT / "docker" / "Dockerfile", tree / "docker")
    return tree


def test_a_wrong_healthcheck_and_a_root_that_can_be_written_are_found() -> None:
    built()  # makes the base images, too
    with stack(NOWHERE) as made:
        file = made.folder / "compose.yaml"
        right = file.read_text()
        made.up("redis")
        (redis,) = made.containers()["redis"]
        assert faults(redis) == []

        file.write_text(right.replace("read_only: true", "read_only: false"))
        made.up("redis")
        (redis,) = made.containers()["redis"]
        assert faults(redis) == ["its root can be written"]

        file.write_text(right.replace("grep -q PONG", "grep -q PANG"))
        made.compose("up", "--detach", "--no-build", "redis")
        with pytest.raises(AssertionError, match=r"starting|unhealthy"):
            made.wait(seconds=20)
