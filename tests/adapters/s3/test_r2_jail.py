"""The prefix jail, measured on the wire: the keys in the bucket's requests."""

from collections.abc import Callable
from pathlib import Path

import pytest
from inline_snapshot import snapshot

from reelkeeper.adapters.s3 import r2
from reelkeeper.adapters.s3.r2 import Bucket
from reelkeeper.errors import KeyRefused, Misconfigured, ReelkeeperError
from tests.adapters.hostile_keys import hostile_keys
from tests.doubles.r2 import R2Double
from tests.marks import marked

EVERY_METHOD: tuple[Callable[[Bucket, str, Path], object], ...] = (
    lambda bucket, key, _: bucket.head(key),
    lambda bucket, key, path: bucket.put_once(key, path, "video/mp4"),
    lambda bucket, key, _: bucket.put_bytes_once(key, b"x", "video/mp4"),
    lambda bucket, key, _: bucket.read_bytes(key),
    lambda bucket, key, path: bucket.download(key, path.with_name("downloaded")),
    lambda bucket, key, _: bucket.stored([bucket.prefix + "ann/one.mp4", key]),
    lambda bucket, key, _: bucket.delete([bucket.prefix + "ann/one.mp4", key]),
)


@pytest.mark.long("10,000 keys")
def test_none_of_10_000_keys_outside_the_prefix_is_sent(bucket: Bucket, double: R2Double, tmp_path: Path) -> None:
    double.faults.fail("*", 404, times=1_000_000)  # nothing is to be stored, only recorded
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"x")
    refused = 0
    for number, key in enumerate(hostile_keys(10_000, seed=20261124, prefix=bucket.prefix)):
        try:
            EVERY_METHOD[number % len(EVERY_METHOD)](bucket, key, clip)
        except KeyRefused:
            refused += 1
        except ReelkeeperError:
            pass
    sent = double.sent()
    outside = [key for request in sent for key in request.touched if not key.startswith(bucket.prefix)]
    assert len(sent) > 1000  # else nothing was tested
    assert refused > 1000
    assert not outside
    assert all(request.bucket == bucket.name and request.touched for request in sent)


@pytest.mark.parametrize("method", EVERY_METHOD)
def test_each_method_refuses_before_it_sends_anything(
    bucket: Bucket, double: R2Double, tmp_path: Path, method: Callable[[Bucket, str, Path], object]
) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"x")
    for key in ("elsewhere/a.mp4", bucket.prefix + "../a.mp4", bucket.prefix):
        with pytest.raises(KeyRefused):
            method(bucket, key, clip)
    assert double.sent() == []


def test_one_bad_key_keeps_a_whole_batch_from_being_deleted(bucket: Bucket, double: R2Double) -> None:
    keys = [f"{bucket.prefix}ann/{n}.mp4" for n in range(1500)]
    with pytest.raises(KeyRefused):
        bucket.delete([*keys, "elsewhere/a.mp4"])
    assert double.sent() == []


def test_the_identity_of_the_bucket_is_never_deleted(bucket: Bucket, double: R2Double) -> None:
    with pytest.raises(KeyRefused) as refused:
        bucket.delete([bucket.prefix + "a.mp4", bucket.identity_key])
    assert marked(refused.value) == snapshot(
        "ID/videos/.reelkeeper-identity.json says who owns the prefix and is never deleted"
    )
    assert double.sent() == []


@pytest.mark.parametrize("prefix", ["/", "videos", "/videos/", "a//b/", "a/../b/", "a\\b/", ".uploads/", "a\n/"])
def test_a_malformed_prefix_opens_no_bucket(prefix: str) -> None:
    with pytest.raises(Misconfigured, match="prefix"):
        r2.connect("http://127.0.0.1:1", "id", "secret", "bucket", prefix)


def test_a_neighbour_with_a_longer_name_is_not_listed(bucket: Bucket, double: R2Double) -> None:
    neighbour = bucket.prefix.removesuffix("/") + "-of-others/a.mp4"
    double.client.put_object(Bucket=bucket.name, Key=neighbour, Body=b"x")
    bucket.put_bytes_once(bucket.prefix + "a.mp4", b"x", "video/mp4")
    assert [stored.key for page in bucket.pages() for stored in page] == [bucket.prefix + "a.mp4"]


def test_a_narrower_view_lies_under_the_prefix(bucket: Bucket) -> None:
    assert bucket.under(bucket.prefix + "ann/").prefix == bucket.prefix + "ann/"
    with pytest.raises(KeyRefused) as refused:
        bucket.under(bucket.prefix.removesuffix("/") + "-of-others/")
    assert marked(refused.value) == snapshot("'ID/videos-of-others/' does not lie under 'ID/videos/'")
