"""What the contract is held against: the double, Cloudflare's simulator, and R2 itself if the environment says so."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from reelkeeper.adapters import r2
from tests.adapters.contract import miniflare
from tests.buckets import BUCKET

REAL = [f"REELKEEPER_TEST_R2_{name}" for name in ("ENDPOINT_URL", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "BUCKET")]
TARGETS = ["double", pytest.param("miniflare", marks=pytest.mark.long)]
if all(os.environ.get(name) for name in REAL):
    TARGETS.append("real")  # the environment names a bucket to run against; everything is removed afterwards


@pytest.fixture(scope="session")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[miniflare.Address]:
    """Cloudflare's simulator of R2 for this session."""
    with miniflare.running(tmp_path_factory.mktemp("miniflare"), BUCKET) as address:
        yield address


@pytest.fixture(params=TARGETS)
def bucket(request: pytest.FixtureRequest) -> Iterator[r2.Bucket]:
    """An empty prefix of each of them."""
    prefix = f"reelkeeper-contract-{secrets.token_hex(6)}/videos/"
    if request.param == "real":
        url, access_key_id, secret_access_key, name = (os.environ[name] for name in REAL)
        bucket = r2.connect(url, access_key_id, secret_access_key, name, prefix)
    elif request.param == "miniflare":
        address: miniflare.Address = request.getfixturevalue("simulator")
        bucket = r2.connect(*address, BUCKET, prefix)
    else:
        at = request.getfixturevalue("double").endpoint
        bucket = r2.connect(at.endpoint_url, at.access_key_id, at.secret_access_key, BUCKET, prefix)
    yield bucket
    left = [stored.key for page in bucket.pages() for stored in page]
    assert bucket.delete(left) == {}


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A file of some size."""
    path = tmp_path / "clip.mp4"
    path.write_bytes(os.urandom(300_000))
    return path
