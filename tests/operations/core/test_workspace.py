"""Store and bucket are opened only if they belong together and their clocks agree."""

import secrets

import pytest
import sqlalchemy as sa
from inline_snapshot import snapshot

from reelkeeper.adapters.contract import CHECKS, DANGEROUS
from reelkeeper.adapters.s3 import r2
from reelkeeper.adapters.s3.r2 import Bucket
from reelkeeper.errors import IdentityMismatch, IntegrityDoubt, Misconfigured, NotFound
from reelkeeper.operations.core.workspace import check_identity, join, misplaced
from reelkeeper.operations.health.bucket_checks import describe_contract
from reelkeeper.operations.sync.survey import require_placed, survey
from reelkeeper.store.core import deployment
from reelkeeper.store.core.engine import transaction
from tests.doubles.r2 import R2Double
from tests.faults.world import World
from tests.marks import marked
from tests.operations.clocks import MovedClock


@pytest.mark.parametrize("seconds", [-600, 600])
def test_a_bucket_whose_clock_is_wrong_is_not_opened(world: World, seconds: float) -> None:
    world.double.faults.skew_seconds = seconds
    with pytest.raises(IntegrityDoubt) as refused:
        world.address.workspace()
    assert marked(refused.value) == snapshot(
        "this machine's clock says DAY TIME, the bucket's DAY TIME: more than 300 s apart, so no age can be trusted. Set the clock (NTP) and run again"
    )


def test_a_store_whose_clock_is_wrong_is_not_opened(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    MovedClock(monkeypatch).ahead_seconds = 120
    with pytest.raises(IntegrityDoubt) as refused:
        world.address.workspace()
    assert marked(refused.value) == snapshot(
        "this machine's clock says DAY TIME, the store's DAY TIME: more than 60 s apart, so no age can be trusted. Set the clock (NTP) and run again"
    )


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


@pytest.fixture
def apart(double: R2Double) -> Bucket:
    """A bucket of its own, with objects in one folder; opened at another."""
    name = f"apart-{secrets.token_hex(6)}"
    double.client.create_bucket(Bucket=name)
    for number in range(3):
        double.client.put_object(Bucket=name, Key=f"u/ann/v{number}.mp4", Body=b"theirs")
    at = double.endpoint
    return r2.connect(at.endpoint_url, at.access_key_id, at.secret_access_key, name, "videos/")


def test_a_prefix_without_objects_is_told_where_the_others_are(apart: Bucket, double: R2Double) -> None:
    told = misplaced(apart)
    assert told == snapshot("0 objects under videos/; the bucket has u/ (3 objects)")
    apart.put_bytes_once(apart.identity_key, b"{}", "application/json")  # as a run that claimed it did
    assert misplaced(apart) == told
    faults = double.faults
    faults.fail("ListObjects", 403, times=9, code="AccessDenied")
    assert misplaced(apart) == ""  # the keys may read only the prefix
    faults.clear()
    apart.put_bytes_once("videos/ann/v.mp4", b"theirs", "video/mp4")
    assert misplaced(apart) == ""


def test_the_biggest_folder_is_told_first_wherever_its_name_stands(apart: Bucket, double: R2Double) -> None:
    for name in ("0.txt", *(f"{letter}/1.txt" for letter in "abcdefgz"), "zz.txt"):
        double.client.put_object(Bucket=apart.name, Key=name, Body=b"theirs")
    double.requests.clear()
    told = misplaced(apart)
    assert told.split("has ")[1].startswith("u/ (3 ")
    assert {"1", "2"} <= {*told.split()}  # of nine folders one is not named; objects outside of any
    assert len([request for request in double.requests if request.operation.startswith("List")]) == 1 + 1 + 9


def test_a_store_that_knows_no_object_syncs_no_empty_prefix_of_a_full_bucket(
    sqlite_engine: sa.Engine, apart: Bucket
) -> None:
    opened = join(sqlite_engine, apart, claims=False)
    with pytest.raises(NotFound) as told:
        require_placed(opened, survey(opened, run_id="r", note=False))
    assert "u/ (3 objects)" in str(told.value)
    apart.put_bytes_once("videos/ann/v.mp4", b"theirs", "video/mp4")
    require_placed(opened, survey(opened, run_id="r", note=False))
