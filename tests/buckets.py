"""Fixtures: a real S3 server for the session, R2's rules in front of it, and a separate prefix in a bucket."""

import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import boto3
import pytest
from botocore.config import Config

from reelkeeper.adapters.s3 import r2, seaweed
from tests.doubles.r2 import R2Double
from tests.ports import free_port

BUCKET = "reelkeeper"
MOTO: Final = Path(__file__).parents[1] / ".venv-foreign" / "bin" / "moto_server"  # `make test-long` makes it


def bare_boto3(at: seaweed.Endpoint, config: Config | None = None, region: str = "auto") -> Any:  # noqa: ANN401  untyped, as its users have it
    """Make a client as boto3's manual shows it, with its defaults where `config` does not say otherwise."""
    return boto3.client(
        "s3",
        endpoint_url=at.endpoint_url,
        aws_access_key_id=at.access_key_id,
        aws_secret_access_key=at.secret_access_key,
        region_name=region,
        config=config,
    )


@pytest.fixture(scope="session")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[seaweed.Endpoint]:
    """A SeaweedFS of this session, without R2's rules."""
    with seaweed.running(tmp_path_factory.mktemp("seaweed"), BUCKET) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def foreign() -> Iterator[seaweed.Endpoint]:
    """An S3 server that others wrote, with our bucket: moto."""
    port = free_port()
    command = [str(MOTO), "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        at = seaweed.Endpoint(f"http://127.0.0.1:{port}", "key", "secret")
        client = boto3.client(
            "s3",
            endpoint_url=at.endpoint_url,
            aws_access_key_id=at.access_key_id,
            aws_secret_access_key=at.secret_access_key,
            region_name="us-east-1",  # moto makes no bucket in "auto"
            config=Config(retries={"total_max_attempts": 20}, proxies={}),
        )
        try:
            client.create_bucket(Bucket=BUCKET)
            yield at
        finally:
            server.terminate()


@pytest.fixture(scope="session")
def double_of_session(endpoint: seaweed.Endpoint) -> Iterator[R2Double]:
    with R2Double(endpoint).serving() as double:
        yield double


@pytest.fixture
def double(double_of_session: R2Double) -> Iterator[R2Double]:
    """R2's rules before that SeaweedFS: switch on faults, look at the requests that were sent."""
    double_of_session.reset()
    yield double_of_session
    assert not double_of_session.errors


@pytest.fixture
def prefix() -> str:
    """A prefix that no other test uses."""
    return f"{secrets.token_hex(6)}/videos/"


@pytest.fixture
def bucket(double: R2Double, prefix: str) -> r2.Bucket:
    """A bucket on the double, empty under its prefix."""
    at = double.endpoint
    return r2.connect(at.endpoint_url, at.access_key_id, at.secret_access_key, BUCKET, prefix)
