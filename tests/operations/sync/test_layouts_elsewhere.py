"""The same layouts on an S3 server that others wrote: moto, from .venv-foreign, which `make test-long` makes."""

import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
import sqlalchemy as sa
from botocore.config import Config

from reelkeeper.adapters.s3 import r2, seaweed
from reelkeeper.operations.core.lease import LeaseManager
from reelkeeper.operations.core.workspace import join
from tests.buckets import BUCKET
from tests.operations.layouts import LAYOUTS, hold
from tests.ports import free_port

MOTO = Path(__file__).parents[3] / ".venv-foreign" / "bin" / "moto_server"
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def foreign() -> Iterator[seaweed.Endpoint]:
    """A moto server with our bucket."""
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


@pytest.mark.parametrize("name", LAYOUTS)
def test_another_server_changes_nothing(foreign: seaweed.Endpoint, engine: sa.Engine, name: str) -> None:
    prefix = f"{secrets.token_hex(6)}/videos/"
    bucket = r2.connect(foreign.endpoint_url, foreign.access_key_id, foreign.secret_access_key, BUCKET, prefix)
    workspace = join(engine, bucket)
    with LeaseManager(engine) as manager:
        hold(workspace, foreign, manager.take(["test"])[0], LAYOUTS[name])
