"""The bucket adapter with servers and connections that fail."""

import hashlib
import os
import re
import time
from pathlib import Path

import pytest
from inline_snapshot import snapshot

from reelkeeper.adapters.s3 import deletes, r2, transport
from reelkeeper.adapters.s3.r2 import Bucket
from reelkeeper.errors import KeyTaken, ObjectChanged, ObjectMissing, StorageError, TruncatedListing
from tests.doubles.r2 import R2Double
from tests.marks import marked


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Note the waits between attempts, and do not wait."""
    noted: list[float] = []
    monkeypatch.setattr(time, "sleep", noted.append)
    for module in (r2, deletes):
        monkeypatch.setattr(module, "wait_before", noted.append)
    return noted


@pytest.fixture
def key(bucket: Bucket) -> str:
    return bucket.prefix + "ann/one.mp4"


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize("operation", ["PutObject", "HeadObject", "GetObject", "ListObjectsV2", "DeleteObjects"])
@pytest.mark.usefixtures("waits")
def test_passing_failures_are_tried_again(
    bucket: Bucket, double: R2Double, key: str, operation: str, status: int
) -> None:
    double.faults.fail(operation, status, times=2)
    bucket.put_bytes_once(key, b"x", "video/mp4")
    assert bucket.head(key)
    assert bucket.read_bytes(key) == b"x"
    assert [len(page) for page in bucket.pages()] == [1]
    assert bucket.delete([key]) == {}
    assert len(double.sent(operation)) == 3


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_lasting_failure_is_raised_after_the_last_attempt(
    bucket: Bucket, double: R2Double, key: str, waits: list[float], status: int
) -> None:
    double.faults.fail("HeadObject", status, times=100)
    with pytest.raises(StorageError, match=str(status)):
        bucket.head(key)
    assert len(double.sent("HeadObject")) == transport.ATTEMPTS
    assert len(waits) == transport.ATTEMPTS - 1
    limits = (1, 2, 4, 8, 16, 16)
    assert all(limit / 2 <= wait <= limit for wait, limit in zip(waits, limits, strict=True))
    assert sum(limits) / 2 > 20  # seconds without the bucket that end nothing


def test_a_refusal_is_not_tried_again(bucket: Bucket, double: R2Double, key: str) -> None:
    double.faults.fail("PutObject", 403, times=100)
    with pytest.raises(StorageError) as refused:
        bucket.put_bytes_once(key, b"x", "video/mp4")
    assert marked(refused.value) == snapshot(
        "PUT ID/videos/ann/one.mp4: AccessDenied: injected by a test (the API token needs Object Read & Write on this bucket)"
    )
    assert len(double.sent("PutObject")) == 1


def test_a_missing_bucket_is_not_mistaken_for_an_empty_one(double: R2Double) -> None:
    at = double.endpoint
    nowhere = r2.connect(at.endpoint_url, at.access_key_id, at.secret_access_key, "nowhere", "videos/")
    with pytest.raises(StorageError, match=r"NoSuchBucket.*REELKEEPER_BUCKET"):
        next(nowhere.pages())
    with pytest.raises(StorageError, match="NoSuchBucket"):
        nowhere.read_bytes("videos/a.mp4")
    assert "NoSuchBucket" in nowhere.delete(["videos/a.mp4"])["videos/a.mp4"]


def test_an_unreachable_endpoint_is_reported() -> None:
    nowhere = r2.connect("http://127.0.0.1:1", "id", "secret", "bucket", "videos/")
    with pytest.raises(StorageError, match="EndpointConnectionError"):
        nowhere.head("videos/a.mp4")


# --- uploads


@pytest.mark.parametrize("fault", ["drop_reply", "drop_request"])
def test_an_upload_whose_reply_was_lost_succeeds_at_the_second_attempt(
    bucket: Bucket, double: R2Double, key: str, tmp_path: Path, fault: str
) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(os.urandom(3_000_000))
    getattr(double.faults, fault)("PutObject")
    stored = bucket.put_once(key, clip, "video/mp4")
    assert stored.etag == hashlib.md5(clip.read_bytes(), usedforsecurity=False).hexdigest()
    assert [request.status for request in double.sent("PutObject")] == [
        200 if fault == "drop_reply" else None,
        412 if fault == "drop_reply" else 200,
    ]
    assert bucket.read_bytes(key, 4_000_000) == clip.read_bytes()


def test_an_upload_with_a_lost_reply_whose_key_was_taken_by_another_is_refused(
    bucket: Bucket, double: R2Double, key: str
) -> None:
    double.faults.before(
        "PutObject", lambda request: double.client.put_object(Bucket=request.bucket, Key=request.key, Body=b"theirs")
    )
    with pytest.raises(KeyTaken) as refused:
        bucket.put_bytes_once(key, b"ours", "video/mp4")
    assert marked(refused.value) == snapshot(
        "ID/videos/ann/one.mp4 is taken, and an object is never overwritten: our 4 bytes were refused; stored: 6 bytes, ETag ID"
    )
    assert bucket.read_bytes(key) == b"theirs"


def test_a_key_that_was_taken_and_freed_in_between_is_still_refused(bucket: Bucket, double: R2Double, key: str) -> None:
    double.faults.fail("PutObject", 412, code="PreconditionFailed")
    with pytest.raises(KeyTaken, match=re.escape(key)):
        bucket.put_bytes_once(key, b"ours", "video/mp4")


def test_a_file_that_changes_while_it_is_sent_is_not_stored(
    bucket: Bucket, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"a" * 1000)
    monkeypatch.setattr(r2, "b64encode", lambda _: b"1B2M2Y8AsgTpgAmY7PhCfg==")  # MD5 of something else
    with pytest.raises(StorageError, match="Digest"):
        bucket.put_once(key, clip, "video/mp4")
    assert bucket.head(key) is None


# --- downloads


def test_a_download_that_is_cut_starts_again(
    bucket: Bucket, double: R2Double, key: str, tmp_path: Path, waits: list[float]
) -> None:
    data = os.urandom(5_000_000)
    bucket.put_bytes_once(key, data, "video/mp4")
    double.faults.cut_reply("GetObject", times=2)
    assert bucket.download(key, tmp_path / "clip.mp4") == hashlib.sha256(data).hexdigest()
    assert (tmp_path / "clip.mp4").read_bytes() == data
    assert waits == [2, 3]


def test_a_small_object_that_is_cut_is_not_taken_for_whole(bucket: Bucket, double: R2Double) -> None:
    bucket.put_bytes_once(bucket.identity_key, b'{"deployment": "d"}', "application/json")
    double.faults.cut_reply("GetObject")
    with pytest.raises(StorageError) as refused:
        bucket.read_bytes(bucket.identity_key)
    assert marked(refused.value) == snapshot(
        "GET ID/videos/.reelkeeper-identity.json: IncompleteReadError: 9 read, but total bytes expected is 19."
    )
    assert bucket.read_bytes(bucket.identity_key) == b'{"deployment": "d"}'


def test_a_download_that_is_always_cut_fails_and_leaves_no_file(
    bucket: Bucket, double: R2Double, key: str, tmp_path: Path
) -> None:
    bucket.put_bytes_once(key, os.urandom(100_000), "video/mp4")
    double.faults.cut_reply("GetObject", times=100)
    with pytest.raises(StorageError, match="GET"):
        bucket.download(key, tmp_path / "clip.mp4")
    assert list(tmp_path.iterdir()) == []
    assert len(double.sent("GetObject")) == transport.ATTEMPTS


def test_an_object_that_is_replaced_between_two_attempts_is_not_mixed_with_its_successor(
    bucket: Bucket, double: R2Double, key: str, tmp_path: Path
) -> None:
    stored = bucket.put_bytes_once(key, os.urandom(100_000), "video/mp4")
    double.faults.cut_reply("GetObject")
    double.faults.after(
        "GetObject", lambda request: double.client.put_object(Bucket=request.bucket, Key=request.key, Body=b"new")
    )
    with pytest.raises(ObjectChanged):
        bucket.download(key, tmp_path / "clip.mp4", etag=stored.etag)


# --- listings


@pytest.fixture
def many(bucket: Bucket, double: R2Double) -> list[str]:
    """Ten objects on five pages."""
    keys = [f"{bucket.prefix}ann/{n}.mp4" for n in range(10)]
    for name in keys:
        bucket.put_bytes_once(name, b"x", "video/mp4")
    double.listings.page_keys = 2
    return keys


def test_every_page_of_a_listing_is_read(bucket: Bucket, many: list[str]) -> None:
    pages = [[stored.key for stored in page] for page in bucket.pages()]
    assert pages == [many[place : place + 2] for place in range(0, 10, 2)]


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("no_token", snapshot("the listing of ID/videos/ says that more follows, but not where")),
        (
            "repeated_token",
            snapshot("the listing of ID/videos/ returned to the token 'TOKEN' after 1 pages"),
        ),
        (
            "foreign_entry",
            snapshot("the listing of ID/videos/ contains 'elsewhere/of-somebody-else.mp4', which is outside of it"),
        ),
    ],
)
def test_a_listing_that_cannot_be_whole_is_refused(
    bucket: Bucket, double: R2Double, many: list[str], fault: str, told: str
) -> None:
    assert many
    double.faults.spoil_listing(fault, times=3)
    with pytest.raises(TruncatedListing) as refused:
        list(bucket.pages())
    assert marked(re.sub(r"'[\w=]+'", "'TOKEN'", str(refused.value))) == told


def test_a_page_that_is_cut_is_asked_for_again(bucket: Bucket, double: R2Double, many: list[str]) -> None:
    double.faults.cut_reply("ListObjectsV2", times=2)
    assert [stored.key for page in bucket.pages() for stored in page] == many


def test_the_next_page_failing_fails_the_listing(bucket: Bucket, double: R2Double, many: list[str]) -> None:
    assert many
    pages = bucket.pages()
    next(pages)
    double.faults.fail("ListObjectsV2", 500, times=100)
    with pytest.raises(StorageError):
        next(pages)


def test_objects_deleted_while_listing_do_not_hide_others(bucket: Bucket, double: R2Double, many: list[str]) -> None:
    seen = []
    for page in bucket.pages():
        seen += [stored.key for stored in page]
        double.client.delete_object(Bucket=bucket.name, Key=page[0].key)
        double.listings.written()
    assert seen == many


# --- deletes


def test_keys_that_could_not_be_deleted_are_named_with_the_reason(
    bucket: Bucket, double: R2Double, many: list[str]
) -> None:
    double.faults.refuse_deletes(many[:2], "AccessDenied")
    assert bucket.delete(many) == dict.fromkeys(many[:2], snapshot("AccessDenied: injected by a test"))
    assert [stored.key for page in bucket.pages() for stored in page] == many[:2]


def test_keys_with_passing_errors_alone_are_tried_again(bucket: Bucket, double: R2Double, many: list[str]) -> None:
    double.faults.refuse_deletes(many[:3], "InternalError", times=2)
    double.faults.refuse_deletes(many[3:4], "AccessDenied")
    assert set(bucket.delete(many)) == set(many[3:4])
    assert [len(request.keys) for request in double.sent("DeleteObjects")] == [10, 3, 3]


def test_a_batch_that_fails_as_a_whole_keeps_no_other_from_being_deleted(bucket: Bucket, double: R2Double) -> None:
    keys = [f"{bucket.prefix}ann/{n:04}.mp4" for n in range(2500)]
    double.faults.fail("DeleteObjects", 403)
    failed = bucket.delete(keys)
    assert len(failed) in {500, 1000}
    assert all(reason.startswith("AccessDenied: ") for reason in failed.values())
    assert sorted(len(request.keys) for request in double.sent("DeleteObjects")) == [500, 1000, 1000]


def test_a_delete_whose_reply_was_lost_is_sent_again(bucket: Bucket, double: R2Double, many: list[str]) -> None:
    double.faults.drop_reply("DeleteObjects")
    assert bucket.delete(many) == {}
    assert len(double.sent("DeleteObjects")) == 2
    assert [stored for page in bucket.pages() for stored in page] == []


def test_a_delete_that_is_refused_after_a_lost_reply_may_be_done_yet(bucket: Bucket, double: R2Double) -> None:
    keys = [f"{bucket.prefix}ann/v1.mp4"]
    double.faults.fail("DeleteObjects", 403)
    assert deletes.was_refused(bucket.delete(keys)[keys[0]])
    double.faults.drop_reply("DeleteObjects")
    double.faults.after("DeleteObjects", lambda _: double.faults.fail("DeleteObjects", 403))
    assert not deletes.was_refused(bucket.delete(keys)[keys[0]])


def test_a_key_that_the_answer_does_not_mention_is_not_taken_for_deleted(
    bucket: Bucket, many: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket._client, "delete_objects", lambda **_: {"Deleted": [{"Key": many[0]}]})
    failed = bucket.delete(many)
    assert set(failed) == set(many[1:])
    assert all(reason.startswith("NotReported") for reason in failed.values())


# --- the client


def test_a_proxy_of_the_environment_is_not_asked_for_loopback(
    double: R2Double, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    at = double.endpoint
    bucket = r2.connect(at.endpoint_url, at.access_key_id, at.secret_access_key, "reelkeeper", prefix)
    assert bucket.head(prefix + "a.mp4") is None


def test_uploads_neither_wait_for_a_go_ahead_nor_carry_a_trailing_checksum(
    bucket: Bucket, double: R2Double, key: str
) -> None:
    bucket.put_bytes_once(key, b"x" * 100_000, "video/mp4")
    (sent,) = double.sent("PutObject")
    assert "expect" not in sent.headers
    assert "x-amz-trailer" not in sent.headers
    assert sent.headers["if-none-match"] == "*"
    assert "content-md5" in sent.headers
    assert sent.headers["content-type"] == "video/mp4"


def test_a_server_that_knows_no_listing_is_not_taken_for_an_empty_bucket(double: R2Double, bucket: Bucket) -> None:
    double.faults.fail("ListObjectsV2", 404, code="404")  # as boto3 reads an answer that is not S3's
    with pytest.raises(StorageError) as refused:
        list(bucket.pages())
    assert not isinstance(refused.value, ObjectMissing)
    assert "REELKEEPER_S3_ENDPOINT_URL" in str(refused.value)
