"""The objects at many keys are read with few requests, correctly in any order of listing."""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from reelkeeper.adapters.s3 import r2
from reelkeeper.adapters.s3.r2 import Bucket
from reelkeeper.adapters.s3.seaweed import Endpoint
from tests.buckets import BUCKET
from tests.doubles.r2 import R2Double


@pytest.fixture(params=["byte order", "tree order"])
def ordered(request: pytest.FixtureRequest, endpoint: Endpoint, double: R2Double, prefix: str) -> Iterator[Bucket]:
    """The double lists as R2 does; SeaweedFS lists `cam/` before `cam-1/`."""
    at = double.endpoint if request.param == "byte order" else endpoint
    yield r2.connect(at.endpoint_url, at.access_key_id, at.secret_access_key, BUCKET, prefix)
    double.listings.written()


@pytest.mark.long
def test_the_answer_does_not_depend_on_the_order_of_the_listing(ordered: Bucket) -> None:
    chance = random.Random(7)
    users = ["cam", "cam-1", "cam.2", "cam_3", "Cam", "cam0"]
    keys = [f"{ordered.prefix}{user}/{n}.mp4" for user in users for n in range(40)]
    present = set(chance.sample(keys, 120))
    for key in present:
        ordered.put_bytes_once(key, key.encode(), "video/mp4")
    for count in (0, 1, 19, 20, 100, 240):
        wanted = chance.sample(keys, count)
        stored = ordered.stored(wanted)
        assert set(stored) == set(wanted)
        assert {key for key in wanted if stored[key]} == present & set(wanted)
        assert all(found is None or (found.key, found.size_bytes) == (key, len(key)) for key, found in stored.items())


@pytest.fixture
def shelf(bucket: Bucket, double: R2Double) -> list[str]:
    """Two hundred objects, on pages of fifty."""
    keys = [f"{bucket.prefix}ann/{n:04}.mp4" for n in range(200)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: bucket.put_bytes_once(key, b"x", "video/mp4"), keys))
    double.listings.page_keys = 50
    double.requests.clear()
    return keys


@pytest.mark.long
def test_neighbouring_keys_are_checked_by_listing(bucket: Bucket, double: R2Double, shelf: list[str]) -> None:
    assert all(bucket.stored(shelf).values())
    assert len(double.sent("ListObjectsV2")) == 4
    assert not double.sent("HeadObject")


@pytest.mark.long
def test_single_keys_are_checked_by_head(bucket: Bucket, double: R2Double, shelf: list[str]) -> None:
    wanted = [f"{bucket.prefix}ann/{n:04}.mp4" for n in range(0, 200, 8)]
    assert all(bucket.stored(wanted).values())
    assert len(double.sent("ListObjectsV2")) <= 2
    assert len(double.sent("HeadObject")) >= 15
    assert shelf


@pytest.mark.long
def test_an_object_is_missing_only_by_head(bucket: Bucket, double: R2Double, shelf: list[str]) -> None:
    absent = [key.replace("ann", "bob") for key in shelf]
    assert not any(bucket.stored(absent).values())
    assert len(double.sent("HeadObject")) == 200
    assert len(double.sent("ListObjectsV2")) < 7  # it looks again, at ever longer strides


@pytest.mark.long
def test_keys_missing_from_a_listing_are_checked_by_head(bucket: Bucket, double: R2Double, shelf: list[str]) -> None:
    double.faults.spoil_listing("half", times=100)
    assert all(bucket.stored(shelf).values())
    assert double.sent("HeadObject")


@pytest.mark.long
def test_dense_and_sparse_regions_each_get_what_suits_them(bucket: Bucket, double: R2Double, shelf: list[str]) -> None:
    absent = [key.replace("ann", "abe") for key in shelf[:60]]  # sorts before the others
    stored = bucket.stored(absent + shelf)
    assert sum(found is not None for found in stored.values()) == 200
    assert len(double.sent("HeadObject")) < 130
