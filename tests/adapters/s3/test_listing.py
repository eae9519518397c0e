from datetime import UTC, datetime

import pytest

from reelkeeper.adapters.s3.listing import OBJECTS, parse_page
from reelkeeper.adapters.s3.r2 import Bucket
from reelkeeper.errors import TruncatedListing
from reelkeeper.model import StoredObject
from tests.buckets import bare_boto3
from tests.doubles.r2 import R2Double

ENTRY = (
    "<Contents><Key>videos/a%2Bb+c.mp4</Key><LastModified>2026-11-24T16:27:51.923Z</LastModified>"
    "<ETag>&quot;0123456789abcdef0123456789abcdef&quot;</ETag><Size>7</Size><StorageClass>STANDARD</StorageClass>"
    "<Owner><ID>x</ID></Owner></Contents>"
)


def page(head: str, entries: str = ENTRY) -> bytes:
    return f'<?xml version="1.0"?><ListBucketResult xmlns="urn:x">{head}{entries}</ListBucketResult>'.encode()


def test_a_page_is_read_with_times_to_the_second() -> None:
    answer = parse_page(page("<IsTruncated>false</IsTruncated>", ENTRY + "<EncodingType>url</EncodingType>"))
    assert answer == {
        "IsTruncated": False,
        OBJECTS: [
            StoredObject(
                "videos/a+b c.mp4",
                7,
                "0123456789abcdef0123456789abcdef",
                datetime(2026, 11, 24, 16, 27, 51, tzinfo=UTC),
            )
        ],
    }


def test_keys_are_taken_as_they_stand_where_they_are_not_encoded() -> None:
    answer = parse_page(page("<IsTruncated>false</IsTruncated>"))
    assert answer[OBJECTS][0].key == "videos/a%2Bb+c.mp4"


def test_a_token_is_taken_from_a_page_that_is_not_the_last() -> None:
    head = "<IsTruncated>true</IsTruncated><KeyCount>1</KeyCount><NextContinuationToken>abc=</NextContinuationToken>"
    assert parse_page(page(head))["NextContinuationToken"] == "abc="


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html><body>Bad gateway</body></html>",
        page("<IsTruncated>false</IsTruncated>")[:-30],
        page(""),
        page("<IsTruncated>perhaps</IsTruncated>"),
        page("<IsTruncated>false</IsTruncated><KeyCount>2</KeyCount>"),
        page("<IsTruncated>false</IsTruncated>", "<Contents><Key>a</Key></Contents>"),
        page("<IsTruncated>false</IsTruncated>", ENTRY.replace("<Size>7", "<Size>seven")),
        page("<IsTruncated>false</IsTruncated>", ENTRY.replace("2026-11-24T", "yesterday")),
    ],
)
def test_what_is_not_a_whole_page_is_refused(body: bytes) -> None:
    with pytest.raises(TruncatedListing):
        parse_page(body)


def test_boto3_finds_the_same_as_our_reading(bucket: Bucket, double: R2Double) -> None:
    """Fails too if botocore no longer lets its parser be replaced."""
    for name in ("a b", "a+b", "100%25", "ä&<ö>", "🎬"):
        bucket.put_bytes_once(f"{bucket.prefix}{name}.mp4", name.encode(), "video/mp4")
    entries = bare_boto3(double.endpoint).list_objects_v2(Bucket=bucket.name, Prefix=bucket.prefix)["Contents"]
    theirs = [StoredObject(e["Key"], e["Size"], e["ETag"].strip('"'), e["LastModified"]) for e in entries]
    assert [stored for page in bucket.pages() for stored in page] == theirs
