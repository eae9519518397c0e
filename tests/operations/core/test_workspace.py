"""Store and bucket are opened only if they belong together and their clocks agree."""

import pytest

from reelkeeper.adapters.contract import CHECKS, DANGEROUS
from reelkeeper.adapters.s3.r2 import Bucket
from reelkeeper.errors import IdentityMismatch, IntegrityDoubt, Misconfigured
from reelkeeper.operations.core.workspace import check_identity, describe_contract, join
from reelkeeper.store.core import deployment
from reelkeeper.store.core.engine import transaction
from tests.faults.world import World
from tests.operations.clocks import MovedClock


@pytest.mark.parametrize("seconds", [-600, 600])
def test_a_bucket_whose_clock_is_wrong_is_not_opened(world: World, seconds: float) -> None:
    world.double.faults.skew_seconds = seconds
    with pytest.raises(IntegrityDoubt, match="the bucket's"):
        world.address.workspace()


def test_a_store_whose_clock_is_wrong_is_not_opened(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    MovedClock(monkeypatch).ahead_seconds = 120
    with pytest.raises(IntegrityDoubt, match="the store's"):
        world.address.workspace()


def test_a_dry_run_claims_nothing(world: World, bucket: Bucket) -> None:
    """`bucket` has no owner. Our own is refused to another store, as always."""
    assert join(world.workspace.engine, bucket, claims=False).deployment_id == world.workspace.deployment_id
    assert not [request for request in world.double.requests if request.writes and bucket.prefix in request.key]
    with pytest.raises(IdentityMismatch):
        check_identity(world.workspace.bucket, "another", may_claim=True, writes=False)
    with pytest.raises(IdentityMismatch):
        check_identity(
            world.workspace.bucket.under(f"{world.address.prefix}ann/"), "another", may_claim=True, writes=False
        )
    join(world.workspace.engine, bucket)
    assert bucket.head(bucket.identity_key) is not None


def record_contract(world: World, passed: set[str], failed: set[str]) -> None:
    bucket = world.workspace.bucket
    with transaction(world.workspace.engine, "test") as session:
        deployment.record_contract(session, bucket.endpoint_url, bucket.name, passed, failed, run_id="doctor")


@pytest.mark.parametrize("check", sorted(DANGEROUS))
def test_a_bucket_that_has_failed_a_dangerous_check_is_refused(world: World, check: str) -> None:
    record_contract(world, set(CHECKS) - {check}, {check})
    opened = join(world.workspace.engine, world.workspace.bucket)
    assert not opened.keeps_contract
    with pytest.raises(Misconfigured):
        opened.require_safe()
    record_contract(world, set(CHECKS) - {"listing"}, {"listing"})
    join(world.workspace.engine, world.workspace.bucket).require_safe()


def test_a_check_that_is_new_voids_an_earlier_pass(world: World) -> None:
    bucket = world.workspace.bucket
    record_contract(world, set(CHECKS), set())
    assert join(world.workspace.engine, bucket).keeps_contract
    record_contract(world, set(CHECKS) - {"versions"}, set())
    opened = join(world.workspace.engine, bucket)
    assert not opened.keeps_contract
    opened.require_safe()
    passed, text = describe_contract(world.workspace.engine, bucket.endpoint_url, bucket.name)
    assert (passed, "versions" in text) == (False, True)


def test_a_bucket_that_has_not_kept_the_contract_keeps_what_is_the_services(world: World) -> None:
    assert not join(world.workspace.engine, world.workspace.bucket).keeps_contract
