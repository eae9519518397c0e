"""Listing a bucket in parallel ranges of keys yields each object once, or an error."""

import threading
import time

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from reelkeeper.adapters.s3 import r2
from reelkeeper.adapters.s3.r2 import Bucket
from reelkeeper.adapters.s3.seaweed import Endpoint
from reelkeeper.errors import StorageError, TruncatedListing
from tests.buckets import BUCKET
from tests.doubles.r2 import R2Double

NAMES = [f"{user}/{video}.mp4" for user in ("a", "a-1", "b", "Z", "ü") for video in ("v1", "v10", "v2", "é")]


def names(bucket: Bucket, boundaries: list[str]) -> list[str]:
    """List the names under the prefix, with boundaries given in the same form."""
    pages = bucket.pages([bucket.prefix + boundary for boundary in boundaries])
    return [stored.key.removeprefix(bucket.prefix) for page in pages for stored in page]


@pytest.fixture
def full(bucket: Bucket, double: R2Double) -> Bucket:
    for name in NAMES:
        bucket.put_bytes_once(bucket.prefix + name, b"x", "video/mp4")
    double.listings.page_keys = 3
    return bucket


# The bucket is only read, so one serves all examples.
@pytest.mark.long("hundreds of listings")
@examples(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(boundaries=st.lists(st.sampled_from([*NAMES, "", "0", "a/", "b/v1", "zz", "ÿ"]), max_size=6))
@example(boundaries=["zz"])
@example(boundaries=["a/v1.mp4", "a/v1.mp4"])
def test_every_object_is_listed_once_wherever_the_cuts_are(full: Bucket, boundaries: list[str]) -> None:
    assert sorted(names(full, boundaries)) == sorted(NAMES)


def test_ranges_are_asked_for_at_the_same_time(full: Bucket, double: R2Double) -> None:
    assert len(list(full.pages())) >= 7
    together = threading.Barrier(4, timeout=240)  # each range's first request waits there for those of the others
    double.faults.before("ListObjectsV2", lambda _: together.wait(), times=4)
    assert len(names(full, ["a-", "a/", "b/"])) == len(NAMES)


@pytest.mark.parametrize("fault", ["no_token", "foreign_entry"])
def test_a_page_that_is_not_whole_in_one_range_fails_all(full: Bucket, double: R2Double, fault: str) -> None:
    double.faults.after("ListObjectsV2", lambda _: double.faults.spoil_listing(fault))
    with pytest.raises(TruncatedListing):
        names(full, ["a-", "b"])


def test_a_range_that_cannot_be_listed_fails_all(full: Bucket, double: R2Double) -> None:
    double.faults.after("ListObjectsV2", lambda _: double.faults.fail("ListObjectsV2", 403, times=10))
    with pytest.raises(StorageError, match="AccessDenied"):
        names(full, ["a-", "b"])


def test_a_listing_that_is_left_early_leaves_no_thread_at_work(full: Bucket, double: R2Double) -> None:
    pages = full.pages([full.prefix + "b"])
    next(pages)
    pages.close()  # type: ignore[attr-defined]  # it is a generator
    asked = len(double.sent("ListObjectsV2"))
    time.sleep(0.2)
    assert len(double.sent("ListObjectsV2")) == asked


def test_a_server_with_an_order_of_its_own_is_not_cut_into_ranges(endpoint: Endpoint, prefix: str) -> None:
    """SeaweedFS lists folder by folder: `a/` before `a-1/`, which bytes put the other way round."""
    seaweed = r2.connect(endpoint.endpoint_url, endpoint.access_key_id, endpoint.secret_access_key, BUCKET, prefix)
    for name in NAMES:
        seaweed.put_bytes_once(seaweed.prefix + name, b"x", "video/mp4")
    assert sorted(names(seaweed, [])) == sorted(NAMES)
    with pytest.raises(TruncatedListing, match="shards=1"):
        names(seaweed, ["b"])
