"""What Reelkeeper requires of a bucket, tested on each kind of server."""

import hashlib
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from inline_snapshot import snapshot

from reelkeeper.adapters.contract.checks import ODD_NAMES
from reelkeeper.adapters.s3.r2 import Bucket, connect
from reelkeeper.errors import KeyTaken, ObjectChanged, ObjectMissing, StorageError
from tests.marks import marked


def test_a_key_is_written_once(bucket: Bucket, clip: Path) -> None:
    key = bucket.prefix + "ann/one/g1-0123456789abcdef.mp4"
    stored = bucket.put_once(key, clip, "video/mp4")
    assert (stored.key, stored.size_bytes) == (key, clip.stat().st_size)
    assert stored.etag == hashlib.md5(clip.read_bytes(), usedforsecurity=False).hexdigest()
    with pytest.raises(KeyTaken):
        bucket.put_bytes_once(key, b"another", "video/mp4")
    assert bucket.head(key) is not None
    assert bucket.read_bytes(key, 1_000_000) == clip.read_bytes()


def test_writing_the_same_bytes_again_is_taken_for_our_own_lost_reply(bucket: Bucket, clip: Path) -> None:
    key = bucket.prefix + "ann/one.mp4"
    first = bucket.put_once(key, clip, "video/mp4")
    second = bucket.put_once(key, clip, "video/mp4")
    assert (second.key, second.size_bytes, second.etag) == (first.key, first.size_bytes, first.etag)


def test_bytes_are_stored_as_a_file_would_be(bucket: Bucket) -> None:
    key = bucket.prefix + "ann/one.mp4"
    first = bucket.put_bytes_once(key, b"12345", "video/mp4")
    assert first.size_bytes == 5
    assert bucket.put_bytes_once(key, b"12345", "video/mp4").size_bytes == 5
    with pytest.raises(KeyTaken):
        bucket.put_bytes_once(key, b"1234", "video/mp4")


def test_a_head_returns_the_object_or_that_there_is_none(bucket: Bucket) -> None:
    key = bucket.prefix + "ann/one.mp4"
    assert bucket.head(key) is None
    bucket.put_bytes_once(key, b"12345", "video/mp4")
    stored = bucket.head(key)
    assert stored is not None
    assert stored.size_bytes == 5
    assert stored.etag == hashlib.md5(b"12345", usedforsecurity=False).hexdigest()
    assert abs(stored.last_modified - datetime.now(UTC)) < timedelta(minutes=5)


@pytest.mark.long
@pytest.mark.parametrize("size_bytes", [0, 1, 24_000_000])
def test_a_download_is_what_was_uploaded(bucket: Bucket, tmp_path: Path, size_bytes: int) -> None:
    source, target, key = tmp_path / "source", tmp_path / "target", bucket.prefix + "ann/one.mp4"
    source.write_bytes(os.urandom(size_bytes))
    stored = bucket.put_once(key, source, "video/mp4")
    digest = bucket.download(key, target, stored.etag)
    assert digest == hashlib.sha256(source.read_bytes()).hexdigest()
    assert target.read_bytes() == source.read_bytes()


def test_a_download_of_another_object_than_expected_leaves_no_file(bucket: Bucket, tmp_path: Path) -> None:
    key = bucket.prefix + "ann/one.mp4"
    with pytest.raises(ObjectMissing):
        bucket.download(key, tmp_path / "target")
    bucket.put_bytes_once(key, b"one", "video/mp4")
    with pytest.raises(ObjectChanged):
        bucket.download(key, tmp_path / "target", etag="0" * 32)
    assert not (tmp_path / "target").exists()


def test_a_small_object_is_read_whole_or_not_at_all(bucket: Bucket) -> None:
    bucket.put_bytes_once(bucket.identity_key, b"{}", "application/json")
    assert bucket.read_bytes(bucket.identity_key) == b"{}"
    with pytest.raises(StorageError) as refused:
        bucket.read_bytes(bucket.identity_key, limit_bytes=1)
    assert marked(refused.value, KEY=bucket.identity_key) == snapshot("KEY is larger than the expected 1 bytes")
    with pytest.raises(ObjectMissing):
        bucket.read_bytes(bucket.prefix + "nothing.mp4")


def test_a_listing_holds_everything_under_the_prefix_but_the_identity(bucket: Bucket) -> None:
    keys = {bucket.prefix + f"{user}/{n}.mp4" for user in ("cam", "cam-1", "cam.2") for n in range(3)}
    for key in (*keys, bucket.identity_key):
        bucket.put_bytes_once(key, b"x" * 7, "video/mp4")
    listed = [stored for page in bucket.pages() for stored in page]
    assert sorted(stored.key for stored in listed) == sorted(keys)
    assert {(stored.size_bytes, stored.etag) for stored in listed} == {
        (7, hashlib.md5(b"x" * 7, usedforsecurity=False).hexdigest())
    }
    assert all(abs(stored.last_modified - datetime.now(UTC)) < timedelta(minutes=5) for stored in listed)


def test_an_empty_prefix_is_listed_as_empty(bucket: Bucket) -> None:
    assert [stored for page in bucket.pages() for stored in page] == []


@pytest.mark.parametrize("name", ODD_NAMES)
def test_unusual_keys_survive_a_round_trip(bucket: Bucket, name: str) -> None:
    key = f"{bucket.prefix}ann/{name}.mp4"
    bucket.put_bytes_once(key, name.encode(), "video/mp4")
    assert bucket.read_bytes(key) == name.encode()
    assert [stored.key for page in bucket.pages() for stored in page] == [key]
    assert bucket.stored([key])[key] == bucket.head(key)
    assert bucket.delete([key]) == {}
    assert bucket.head(key) is None


def test_stored_returns_the_object_at_each_key(bucket: Bucket) -> None:
    present = [f"{bucket.prefix}ann/{n:03}.mp4" for n in range(0, 60, 2)]
    for key in present:
        bucket.put_bytes_once(key, key.encode(), "video/mp4")
    wanted = [f"{bucket.prefix}ann/{n:03}.mp4" for n in range(60)]
    stored = bucket.stored(wanted)
    assert set(stored) == set(wanted)
    assert [key for key in wanted if stored[key]] == present
    assert all(found is None or found == bucket.head(key) for key, found in stored.items())


def test_deleting_is_reported_key_by_key_and_can_be_repeated(bucket: Bucket) -> None:
    keys = [f"{bucket.prefix}ann/{n}.mp4" for n in range(5)]
    for key in keys:
        bucket.put_bytes_once(key, b"x", "video/mp4")
    assert bucket.delete(keys[:3]) == {}
    assert bucket.delete(keys[:3]) == {}
    assert sorted(stored.key for page in bucket.pages() for stored in page) == keys[3:]


def test_the_bucket_tells_the_time(bucket: Bucket) -> None:
    try:
        there = bucket.server_time()
    except StorageError as error:
        pytest.skip(f"miniflare leaves the header out: {error}")
    assert abs(there - datetime.now(UTC)) < timedelta(minutes=5)


def test_wrong_credentials_are_reported_as_such(bucket: Bucket) -> None:
    stranger = connect(bucket._client.meta.endpoint_url, "0" * 32, "0" * 64, bucket.name, bucket.prefix)
    with pytest.raises(StorageError, match=r"InvalidAccessKeyId|Unauthorized|AccessDenied"):
        stranger.put_bytes_once(bucket.prefix + "ann/one.mp4", b"x", "video/mp4")
