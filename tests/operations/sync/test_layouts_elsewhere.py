"""The same layouts on an S3 server that others wrote: moto, from .venv-foreign, which `make test-long` makes."""

import secrets

import pytest
import sqlalchemy as sa

from reelkeeper.adapters.s3 import r2, seaweed
from reelkeeper.operations.core.lease import LeaseManager
from reelkeeper.operations.core.workspace import join
from tests.buckets import BUCKET
from tests.operations.layouts import LAYOUTS, hold

pytestmark = pytest.mark.long


@pytest.mark.parametrize("name", LAYOUTS)
def test_another_server_changes_nothing(foreign: seaweed.Endpoint, engine: sa.Engine, name: str) -> None:
    prefix = f"{secrets.token_hex(6)}/videos/"
    bucket = r2.connect(foreign.endpoint_url, foreign.access_key_id, foreign.secret_access_key, BUCKET, prefix)
    workspace = join(engine, bucket)
    with LeaseManager(engine) as manager:
        hold(workspace, foreign, manager.take(["test"])[0], LAYOUTS[name])
