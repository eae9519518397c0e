"""Each billable attempt is counted under its name in R2's price list, whichever client sent it."""

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime

import pytest

from reelkeeper.adapters.s3 import r2
from reelkeeper.adapters.s3.r2 import Bucket
from reelkeeper.errors import StorageError
from tests.doubles.r2 import R2Double


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)


@pytest.fixture
def key(bucket: Bucket) -> str:
    return bucket.prefix + "ann/one.mp4"


def taken(bucket: Bucket) -> dict[str, int]:
    counts = bucket.meter.take()
    assert {day for day, _ in counts} <= {datetime.now(UTC).date()}
    return {action: count for (_, action), count in counts.items()}


def test_each_operation_counts_once_and_taking_resets_the_counts(bucket: Bucket, key: str) -> None:
    bucket.put_bytes_once(key, b"x", "video/mp4")
    bucket.read_bytes(key)
    bucket.head(key)
    bucket.head(key + "none")  # not found is billed
    list(bucket.pages())
    bucket.delete([key])
    assert taken(bucket) == {"PutObject": 1, "GetObject": 1, "HeadObject": 2, "ListObjects": 1, "DeleteObjects": 1}
    assert taken(bucket) == {}


def test_each_attempt_counts(bucket: Bucket, double: R2Double, key: str) -> None:
    double.faults.fail("PutObject", 503, times=2)
    double.faults.drop_reply("HeadObject")
    bucket.put_bytes_once(key, b"x", "video/mp4")
    bucket.head(key)
    assert taken(bucket) == {"PutObject": 3, "HeadObject": 2}
    assert len(double.sent("PutObject")) == 3


def test_requests_refused_for_missing_rights_are_free_but_failed_conditions_are_not(
    bucket: Bucket, double: R2Double, key: str
) -> None:
    double.faults.fail("GetObject", 403)
    with pytest.raises(StorageError):
        bucket.read_bytes(key)
    assert taken(bucket) == {}
    bucket.put_bytes_once(key, b"x", "video/mp4")
    bucket.put_bytes_once(key, b"x", "video/mp4")  # 412, and a HEAD that finds our own bytes
    assert taken(bucket) == {"PutObject": 2, "HeadObject": 1}


def test_requests_that_never_reached_the_server_are_free() -> None:
    nowhere = r2.connect("http://127.0.0.1:9", "id", "secret", "bucket", "videos/")
    with pytest.raises(StorageError):
        nowhere.head("videos/one.mp4")
    assert nowhere.meter.take() == {}


def test_counts_that_could_not_be_recorded_are_kept(bucket: Bucket, key: str) -> None:
    bucket.head(key)
    counts = bucket.meter.take()
    bucket.head(key)
    bucket.meter.give_back(counts)
    assert taken(bucket) == {"HeadObject": 2}


@pytest.mark.long("threads that ask until they collide")
def test_threads_that_share_a_bucket_lose_no_count(bucket: Bucket, double: R2Double, key: str) -> None:
    double.faults.fail("HeadObject", 403, times=10)
    total, done = Counter[str](), threading.Event()

    def take() -> None:
        while not done.is_set():
            total.update(taken(bucket))

    def ask(_: int) -> None:
        with suppress(StorageError):
            bucket.head(key)

    taker = threading.Thread(target=take)
    taker.start()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(100)))
    done.set()
    taker.join()
    total.update(taken(bucket))
    assert total == {"HeadObject": 90}
