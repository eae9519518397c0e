"""Fixtures: a real S3 server for the session, R2's rules in front of it, and a bucket with a prefix of its own."""

import secrets
from collections.abc import Iterator

import pytest

from reelkeeper.adapters import r2, seaweed

BUCKET = "reelkeeper"


@pytest.fixture(scope="session")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[seaweed.Endpoint]:
    """A SeaweedFS of this session, without R2's rules."""
    with seaweed.running(tmp_path_factory.mktemp("seaweed"), BUCKET) as endpoint:
        yield endpoint


@pytest.fixture
def prefix() -> str:
    """A prefix that no other test uses."""
    return f"{secrets.token_hex(6)}/videos/"


@pytest.fixture
def bucket(endpoint: seaweed.Endpoint, prefix: str) -> r2.Bucket:
    """A bucket, empty under its prefix."""
    return r2.connect(endpoint.endpoint_url, endpoint.access_key_id, endpoint.secret_access_key, BUCKET, prefix=prefix)
