"""The client against a real server: the command in a process of its own, on a port of its own."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from reelkeeper.client import Client, RequestRefused
from reelkeeper.model.access import Scope
from reelkeeper.operations.core import tokens
from reelkeeper.operations.jobs import settle
from reelkeeper.operations.jobs.settle import Attempt
from tests.api.served import served
from tests.faults.world import World
from tests.operations.asking import claim, make
from tests.policies import put_in_force
from tests.tiers import tiers


@pytest.fixture
def base_url(sqlite_world: World, tmp_path: Path) -> Iterator[str]:
    with served(sqlite_world, tmp_path) as server:
        yield server.url


@pytest.mark.long
def test_a_service_does_its_whole_work_through_it(sqlite_world: World, base_url: str) -> None:
    engine = sqlite_world.workspace.engine
    _, token = tokens.create(engine, "front", tuple(Scope), author="test")
    with Client(base_url, token) as reelkeeper:
        assert reelkeeper.check_quota("ann", 1000)["can_upload"]
        queued = reelkeeper.ask("ann", {"model": "m", "prompt": "a fox"}, key="k1")
        lease_token = claim(engine, queued["job_id"])
        followed = reelkeeper.follow(queued["job_id"])
        assert next(followed)["state"] == "running"
        make(engine, queued["job_id"])
        settle.succeed(engine, Attempt(queued["job_id"], lease_token), run_id="run")
        assert [entry["state"] for entry in followed] == ["succeeded"]
        assert reelkeeper.ask("ann", {"model": "m", "prompt": "a fox"}, key="k2")["status"] == "cached"

        other = reelkeeper.ask("ann", {"model": "m", "prompt": "a hare"}, key="k3", tag="draft")
        assert reelkeeper.cancel(other["job_id"])["state"] == "cancelled"
        assert reelkeeper.job(other["job_id"])["state"] == "cancelled"

        for _ in range(2):
            stored = reelkeeper.upload(sqlite_world.clip, user_id="ann", video_id="mine", key="k4", tag="final")
            assert stored["state"] == "stored"
        assert [video["tag"] for video in reelkeeper.videos("ann") if video["id"] == "mine"] == ["final"]
        url = reelkeeper.video_url("mine")
        assert httpx.get(url, trust_env=False).content == sqlite_world.clip.read_bytes()
        assert reelkeeper.report_views({"mine": 2, "none": 1}) == 1
        assert reelkeeper.user("ann")["used_bytes"] >= sqlite_world.clip.stat().st_size

        with pytest.raises(RequestRefused, match="free users are not kept longer on request") as refused:
            reelkeeper.keep_video("mine", user_id="ann", key="k5")
        assert (refused.value.status, refused.value.kind) == (409, "urn:reelkeeper:not-kept")
        put_in_force(engine, tiers=tiers(free={"keep_days": 30}))
        kept = [reelkeeper.keep_video("mine", user_id="ann", key="k5") for _ in range(2)]
        assert kept[0] == kept[1]
        assert kept[0]["times"] == 1

        with pytest.raises(RequestRefused, match="no video 'none'") as refused:
            reelkeeper.video_url("none")
        assert (refused.value.status, refused.value.kind) == (404, "urn:reelkeeper:not-found")
    with Client(base_url, "rk_wrong") as nobody, pytest.raises(RequestRefused, match="401"):
        nobody.user("ann")
