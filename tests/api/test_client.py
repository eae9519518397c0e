"""The client against a real server: the command in a process of its own, on a port of its own."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from reelkeeper.adapters.seaweed import Endpoint
from reelkeeper.client import Client, RequestRefused
from reelkeeper.model.access import Scope
from reelkeeper.operations import ledger, settle_job, tokens
from reelkeeper.store.engine import transaction
from tests.buckets import BUCKET
from tests.doubles.r2 import R2Double
from tests.faults.world import World
from tests.operations.desk import claim, make


@pytest.fixture
def world(sqlite_engine: sa.Engine, endpoint: Endpoint, double: R2Double, tiny_clip: Path, tmp_path: Path) -> World:
    folder = tmp_path / "world"
    folder.mkdir()
    made = World.make(folder, str(sqlite_engine.url), endpoint, double, clip=tiny_clip)
    with transaction(made.depot.engine, "test") as session:
        ledger.grant(session, "ann", 10**7, "first", run_id="test")
    return made


@pytest.fixture
def base_url(world: World, tmp_path: Path) -> Iterator[str]:
    """Start `reelkeeper api` and wait until it says where it listens."""
    at = world.address
    environment = {
        **os.environ,
        "REELKEEPER_DATABASE_URL": at.store_url,
        "REELKEEPER_S3_ENDPOINT_URL": at.endpoint_url,
        "REELKEEPER_S3_ACCESS_KEY_ID": at.access_key_id,
        "REELKEEPER_S3_SECRET_ACCESS_KEY": at.secret_access_key,
        "REELKEEPER_BUCKET": BUCKET,
        "REELKEEPER_PREFIX": at.prefix,
        "REELKEEPER_STATE_DIR": str(tmp_path / "state"),
    }
    command = [sys.executable, "-c", "from reelkeeper.cli import app; app()", "api", "--port", "0"]
    server = subprocess.Popen(command, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert server.stderr
    try:
        said = ""
        for line in server.stderr:
            said += line
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                yield found[0]
                break
        else:
            raise AssertionError(said)
    finally:
        server.terminate()
        server.communicate(timeout=30)
    assert server.returncode in (0, -15)


def test_a_service_does_its_whole_work_through_it(world: World, base_url: str) -> None:
    engine = world.depot.engine
    _, token = tokens.create(engine, "front", tuple(Scope), author="test")
    with Client(base_url, token) as reelkeeper:
        assert reelkeeper.check_quota("ann", 1000)["can_upload"]
        queued = reelkeeper.ask("ann", {"model": "m", "prompt": "a fox"}, key="k1")
        lease_token = claim(engine, queued["job_id"])
        followed = reelkeeper.follow(queued["job_id"])
        assert next(followed)["state"] == "running"
        make(engine, queued["job_id"])
        settle_job.succeed(engine, queued["job_id"], lease_token, run_id="run")
        assert [one["state"] for one in followed] == ["succeeded"]
        assert reelkeeper.ask("ann", {"model": "m", "prompt": "a fox"}, key="k2")["status"] == "cached"

        other = reelkeeper.ask("ann", {"model": "m", "prompt": "a hare"}, key="k3")
        assert reelkeeper.cancel(other["job_id"])["state"] == "cancelled"
        assert reelkeeper.job(other["job_id"])["state"] == "cancelled"

        for _ in range(2):
            stored = reelkeeper.upload(world.clip, user_id="ann", video_id="mine", key="k4")
            assert stored["state"] == "stored"
        url = reelkeeper.video_url("mine")
        assert httpx.get(url, trust_env=False).content == world.clip.read_bytes()
        assert reelkeeper.report_views({"mine": 2, "none": 1}) == 1
        assert reelkeeper.user("ann")["used_bytes"] >= world.clip.stat().st_size

        with pytest.raises(RequestRefused, match="no video 'none'") as refused:
            reelkeeper.video_url("none")
        assert (refused.value.status, refused.value.kind) == (404, "urn:reelkeeper:not-found")
    with Client(base_url, "rk_wrong") as nobody, pytest.raises(RequestRefused, match="401"):
        nobody.user("ann")
