"""The double refuses what R2 does not offer, so that code relying on it fails here and not in production."""

from collections.abc import Callable
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from reelkeeper.adapters.s3.seaweed import Endpoint
from tests.buckets import BUCKET, bare_boto3
from tests.doubles import rules
from tests.doubles.r2 import R2Double
from tests.doubles.requests import Request


def open_client(at: Endpoint, **config: Any) -> Any:  # noqa: ANN401  the tests call it as R2's documentation does
    return bare_boto3(at, Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, **config))


@pytest.fixture
def client(double: R2Double) -> Any:  # noqa: ANN401  as above
    return open_client(double.endpoint, request_checksum_calculation="when_required")


@pytest.fixture
def key(client: Any, prefix: str) -> str:  # noqa: ANN401  as above
    key = prefix + "ann/one.mp4"
    client.put_object(Bucket=BUCKET, Key=key, Body=b"one")
    return key


Call = Callable[[Any, str], Any]
NOT_OFFERED: dict[str, Call] = {
    "tags": lambda s3, key: s3.put_object_tagging(Bucket=BUCKET, Key=key, Tagging={"TagSet": []}),
    "reading tags": lambda s3, key: s3.get_object_tagging(Bucket=BUCKET, Key=key),
    "tags at upload": lambda s3, key: s3.put_object(Bucket=BUCKET, Key=key + "2", Body=b"x", Tagging="a=b"),
    "versioning": lambda s3, _: s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"}),
    "versions": lambda s3, _: s3.list_object_versions(Bucket=BUCKET),
    "a version": lambda s3, key: s3.get_object(Bucket=BUCKET, Key=key, VersionId="1"),
    "object lock": lambda s3, _: s3.get_object_lock_configuration(Bucket=BUCKET),
    "a legal hold": lambda s3, key: s3.put_object_legal_hold(Bucket=BUCKET, Key=key, LegalHold={"Status": "ON"}),
    "retention": lambda s3, key: s3.put_object_retention(Bucket=BUCKET, Key=key, Retention={"Mode": "GOVERNANCE"}),
    "an ACL": lambda s3, key: s3.put_object_acl(Bucket=BUCKET, Key=key, ACL="private"),
    "an ACL at upload": lambda s3, key: s3.put_object(Bucket=BUCKET, Key=key + "2", Body=b"x", ACL="private"),
    "a policy": lambda s3, _: s3.get_bucket_policy(Bucket=BUCKET),
    "a condition on a delete": lambda s3, key: s3.delete_object(Bucket=BUCKET, Key=key, IfMatch='"0"'),
    "a condition in a batch delete": lambda s3, key: s3.delete_objects(
        Bucket=BUCKET, Delete={"Objects": [{"Key": key, "ETag": '"0"'}]}
    ),
    "a condition on the target of a copy": lambda s3, key: s3.copy_object(
        Bucket=BUCKET, Key=key + "2", CopySource={"Bucket": BUCKET, "Key": key}, IfNoneMatch="*"
    ),
}


@pytest.mark.parametrize("name", NOT_OFFERED)
def test_operations_that_r2_does_not_offer_are_not_implemented(client: Any, key: str, name: str) -> None:  # noqa: ANN401  as above
    with pytest.raises(ClientError, match=r"501|NotImplemented"):
        NOT_OFFERED[name](client, key)
    assert client.get_object(Bucket=BUCKET, Key=key)["Body"].read() == b"one"


def test_the_trailing_checksums_that_boto3_sends_over_https_are_refused() -> None:
    refused = rules.refusal(Request.read("PUT", "/bucket/key", {"X-Amz-Trailer": "x-amz-checksum-crc32"}))
    assert refused is not None
    assert refused.status == 501


def test_no_more_than_a_thousand_keys_are_deleted_or_listed_at_once(
    client: Any,  # noqa: ANN401  as above
    double: R2Double,
    prefix: str,
) -> None:
    objects = [{"Key": f"{prefix}{n}"} for n in range(1001)]
    with pytest.raises(ClientError, match="MalformedXML"):
        client.delete_objects(Bucket=BUCKET, Delete={"Objects": objects})
    assert client.list_objects_v2(Bucket=BUCKET, Prefix=prefix, MaxKeys=5000)["MaxKeys"] == 1000
    assert double.deleted() == [entry["Key"] for entry in objects]


def test_listings_are_in_byte_order_unlike_those_of_the_server_behind(
    client: Any,  # noqa: ANN401  as above
    double: R2Double,
    prefix: str,
) -> None:
    keys = [prefix + name for name in ("cam-1/a", "cam.2/a", "cam/a", "cam0/a", "ä/a", "🎬/a")]
    for key in reversed(keys):
        client.put_object(Bucket=BUCKET, Key=key, Body=b"x")
    for size in (1, 2, 1000):
        pages = client.get_paginator("list_objects_v2").paginate(
            Bucket=BUCKET, Prefix=prefix, PaginationConfig={"PageSize": size}
        )
        assert [entry["Key"] for page in pages for entry in page["Contents"]] == keys
    after = client.list_objects_v2(Bucket=BUCKET, Prefix=prefix, StartAfter=prefix + "cam.")
    assert [entry["Key"] for entry in after["Contents"]] == keys[1:]
    behind = double.client.list_objects_v2(Bucket=BUCKET, Prefix=prefix)
    assert [entry["Key"] for entry in behind["Contents"]] != keys


def test_a_key_accepts_one_overwrite_a_second(client: Any, double: R2Double, key: str) -> None:  # noqa: ANN401  as above
    with pytest.raises(ClientError, match="TooManyRequests"):
        client.put_object(Bucket=BUCKET, Key=key, Body=b"two")
    double.limits_overwrites = False
    client.put_object(Bucket=BUCKET, Key=key, Body=b"two")


def test_only_two_storage_classes_are_known(client: Any, key: str) -> None:  # noqa: ANN401  as above
    with pytest.raises(ClientError, match="InvalidStorageClass"):
        client.put_object(Bucket=BUCKET, Key=key + "2", Body=b"x", StorageClass="GLACIER")
    client.put_object(Bucket=BUCKET, Key=key + "3", Body=b"x", StorageClass="STANDARD_IA")


@pytest.mark.parametrize("name", ["a//b", "a\\b", "a/../b", "./a", ".uploads/a", "a\u0308"])
def test_keys_that_the_backing_server_would_change_are_refused(client: Any, prefix: str, name: str) -> None:  # noqa: ANN401  as above
    with pytest.raises(ClientError):
        client.put_object(Bucket=BUCKET, Key=prefix + name, Body=b"x")


def test_signatures_are_checked(double: R2Double, prefix: str) -> None:
    at = double.endpoint
    wrong = open_client(Endpoint(at.endpoint_url, at.access_key_id, "wrong"))
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        wrong.get_object(Bucket=BUCKET, Key=prefix + "a")


def test_a_multipart_upload_passes(client: Any, prefix: str) -> None:  # noqa: ANN401  as above
    key = prefix + "large.mp4"
    upload = client.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
    parts = []
    for number, body in enumerate((b"a" * 5_242_880, b"b" * 100), start=1):
        part = client.upload_part(Bucket=BUCKET, Key=key, UploadId=upload, PartNumber=number, Body=body)
        parts.append({"PartNumber": number, "ETag": part["ETag"]})
    client.complete_multipart_upload(Bucket=BUCKET, Key=key, UploadId=upload, MultipartUpload={"Parts": parts})
    assert client.head_object(Bucket=BUCKET, Key=key)["ContentLength"] == 5_242_980


def test_an_error_in_a_tests_own_action_is_kept(client: Any, double: R2Double, key: str) -> None:  # noqa: ANN401  as above
    def fail(_: object) -> None:
        raise RuntimeError("a broken test")

    double.faults.before("HeadObject", fail)
    with pytest.raises(Exception, match=r"[Cc]onnection"):
        client.head_object(Bucket=BUCKET, Key=key)
    assert [str(error) for error in double.errors] == ["a broken test"]
    double.errors.clear()
