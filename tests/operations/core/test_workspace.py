"""Store and bucket are opened only if they belong together and their clocks agree."""

import pytest

from reelkeeper.adapters.s3.r2 import Bucket
from reelkeeper.errors import IdentityMismatch, IntegrityDoubt
from reelkeeper.operations.core.workspace import check_identity, join
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


def test_a_bucket_that_has_not_kept_the_contract_keeps_what_is_the_services(world: World) -> None:
    assert not join(world.workspace.engine, world.workspace.bucket).keeps_contract
