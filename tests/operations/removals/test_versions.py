"""On a bucket with versioning a delete hides an object, and its bytes stay: a purge and a certificate say so."""

import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from reelkeeper.adapters import contract
from reelkeeper.adapters.contract import CHECKS, Target
from reelkeeper.adapters.s3 import r2, seaweed
from reelkeeper.model import BlobState, Grace, VideoState
from reelkeeper.operations.lifecycle import purge
from reelkeeper.operations.removals import takedown
from reelkeeper.operations.removals.erase import erase
from reelkeeper.settings import Settings
from reelkeeper.store.core.engine import reading
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.tables import audit_events
from tests.buckets import bare_boto3
from tests.faults.world import World


@pytest.fixture(params=["endpoint", "foreign"], ids=["SeaweedFS", "moto"])
def at(request: pytest.FixtureRequest) -> seaweed.Endpoint:
    """A server that knows versioning."""
    found: seaweed.Endpoint = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=["Enabled", "Suspended"])
def versioned(request: pytest.FixtureRequest, world: World, at: seaweed.Endpoint) -> World:
    """A world whose bucket keeps versions, or has kept them until a moment ago."""
    client, name = bare_boto3(at, region="us-east-1"), f"versioned-{secrets.token_hex(6)}"
    client.create_bucket(Bucket=name)
    client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    bucket = r2.connect(at.endpoint_url, at.access_key_id, at.secret_access_key, name, world.address.prefix)
    world.workspace = replace(world.workspace, bucket=bucket)
    world.video("v1", state=VideoState.RETIRED, blob_state=BlobState.RETIRED, due=True)
    client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": request.param})
    return world


@pytest.fixture
def kept(request: pytest.FixtureRequest) -> int:
    """How many versions stay. Where versioning is suspended, moto keeps none, against what Amazon documents."""
    drawn = request.node.callspec.params
    return 0 if (drawn["at"], drawn["versioned"]) == ("foreign", "Suspended") else 1


def versions(world: World, at: seaweed.Endpoint) -> list[Any]:
    """List the versions of videos whose bytes are still stored."""
    users = f"{world.address.prefix}ann/"
    found = bare_boto3(at, region="us-east-1").list_object_versions(Bucket=world.workspace.bucket.name, Prefix=users)
    return list(found.get("Versions", []))


def purged(world: World) -> dict[str, Any]:
    with reading(world.workspace.engine) as session:
        detail: dict[str, Any] = session.execute(
            sa.select(audit_events.c.detail).where(audit_events.c.event == "purge")
        ).scalar_one()
    return detail


def test_a_purge_says_that_versions_stay_and_counts_no_saving(
    versioned: World, at: seaweed.Endpoint, kept: int, lease: Lease
) -> None:
    plan = versioned.plan("purge_retired", "purge", [1])
    (outcome,) = purge.purge(versioned.workspace, plan, [1], lease=lease, run_id="run", grace=Grace())
    assert len(versions(versioned, at)) == kept
    assert (outcome.action, outcome.after_bytes) == ("purged", outcome.before_bytes)
    assert outcome.reason == purged(versioned)["versions"]


def test_a_claim_that_is_settled_says_so_too(versioned: World, lease: Lease) -> None:
    with pytest.raises(KeyboardInterrupt):
        _die_after_the_delete(versioned, lease)
    versioned.expire_leases()
    assert purge.settle_claims(versioned.workspace, run_id="next", grace=Grace()) == 1
    assert purged(versioned)["versions"]


def _die_after_the_delete(world: World, lease: Lease) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(purge, "_settle", killed)
        plan = world.plan("purge_retired", "purge", [1])
        purge.purge(world.workspace, plan, [1], lease=lease, run_id="run", grace=Grace())


def test_a_certificate_states_no_time_of_deletion_of_bytes_that_stay(
    versioned: World, at: seaweed.Endpoint, kept: int
) -> None:
    order = takedown.TakedownOrder("counsel", "order 17", "t1")
    scratch = Path(versioned.address.folder) / "scratch"
    found = takedown.take_down(versioned.workspace, "v1", order, scratch=scratch)
    assert len(versions(versioned, at)) == kept
    (item,) = found.objects
    assert (item.purged_at, item.event is None, bool(item.why)) == (None, False, True)
    assert found.left == (item,)


def test_an_erasure_says_that_bytes_stay(versioned: World) -> None:
    done = erase(
        versioned.workspace,
        "ann",
        by="front",
        run_id="erase-1",
        settings=Settings(),
        wait_seconds=0,
    )
    assert (done.left, bool(done.versions)) == ((), True)


def test_the_contract_fails_where_versions_stay(versioned: World) -> None:
    bucket = versioned.workspace.bucket
    target = Target(bucket, *bucket.credentials, "auto")
    assert not contract.check_one(target, "versions", CHECKS["versions"]).passed
