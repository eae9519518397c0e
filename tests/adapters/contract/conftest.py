"""Fixtures of the contract's tests: the double, Cloudflare's simulator, and R2 itself if the environment names it."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from reelkeeper.adapters.contract import Target
from reelkeeper.adapters.s3 import r2
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
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    """An empty prefix of each of them, and the keys to it."""
    prefix = f"reelkeeper-contract-{secrets.token_hex(6)}/videos/"
    name = BUCKET
    if request.param == "real":
        url, access_key_id, secret_access_key, name = (os.environ[name] for name in REAL)
    elif request.param == "miniflare":
        url, access_key_id, secret_access_key = request.getfixturevalue("simulator")
    else:
        at = request.getfixturevalue("double").endpoint
        url, access_key_id, secret_access_key = at.endpoint_url, at.access_key_id, at.secret_access_key
    bucket = r2.connect(url, access_key_id, secret_access_key, name, prefix)
    yield Target(bucket, access_key_id, secret_access_key, "auto")
    left = [stored.key for page in bucket.pages() for stored in page]
    assert bucket.delete(left) == {}


@pytest.fixture
def bucket(target: Target) -> r2.Bucket:
    """The same, for what the adapter makes of it."""
    return target.bucket


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A file of some size."""
    path = tmp_path / "clip.mp4"
    path.write_bytes(os.urandom(300_000))
    return path
