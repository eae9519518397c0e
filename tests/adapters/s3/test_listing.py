from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from xml.sax.saxutils import escape

import pytest
from botocore import handlers
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from reelkeeper.adapters.s3 import r2
from reelkeeper.adapters.s3.listing import OBJECTS, parse_page, parse_plain_page
from reelkeeper.adapters.s3.r2 import Bucket
from reelkeeper.adapters.s3.seaweed import Endpoint
from reelkeeper.errors import TruncatedListing
from reelkeeper.model import StoredObject
from tests.buckets import BUCKET, bare_boto3
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


@pytest.mark.parametrize("parse", [parse_page, parse_plain_page])
def test_another_storage_class_is_named(parse: Callable[[bytes], dict[str, Any] | None]) -> None:
    another = ENTRY.replace("STANDARD", "STANDARD_IA").replace("b+c", "d")
    answer = parse(page("<IsTruncated>false</IsTruncated>", ENTRY + another))
    assert answer is not None
    assert [stored.storage_class for stored in answer[OBJECTS]] == ["", "STANDARD_IA"]


def test_unencoded_keys_are_read_unchanged() -> None:
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
def test_an_incomplete_page_is_refused(body: bytes) -> None:
    with pytest.raises(TruncatedListing):
        parse_page(body)


def test_a_page_is_read_once_and_the_fast_way(endpoint: Endpoint, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails too if botocore asks its handlers in another order, and so reads each page whole before us."""
    looked_at: list[bytes] = []
    monkeypatch.setattr(handlers, "_looks_like_special_case_error", lambda _, body: looked_at.append(body))
    bucket = r2.connect(endpoint.endpoint_url, endpoint.access_key_id, endpoint.secret_access_key, BUCKET, prefix)
    bucket.put_bytes_once(f"{prefix}a+b c.mp4", b"x", "video/mp4")
    looked_at.clear()
    assert [stored.key for page in bucket.pages() for stored in page] == [f"{prefix}a+b c.mp4"]
    assert looked_at == [b'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"/>']


# What a server could send: any order, text and number of fields, whitespace, comments, and a body that was cut.
TEXT = st.text(st.sampled_from("ab/.<&\"'>]\r\n\t +%20é\u2028\x01"), max_size=8)
WRITTEN = st.one_of(TEXT.map(escape), TEXT.map(lambda text: f"<![CDATA[{text}]]>"), TEXT)
ODD = st.sampled_from(
    ["", "", "", " ", "<!-- <Contents> -->", "<?x?>", "<Contents/>", ENTRY, "<CommonPrefixes/>", "&amp;"]
)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    names = draw(st.permutations(["Key", "Size", "ETag", "LastModified", "Owner", "StorageClass"]))

    def entry() -> str:
        values = {
            "Key": draw(WRITTEN),
            "Size": draw(st.sampled_from(["1", "22", "x"])) if draw(st.booleans()) else "3",
            "ETag": draw(st.sampled_from(['"ab"', "&quot;ab&quot;", "&#34;ab&#34;", "ab", "&#97;", "<b/>"])),
            "LastModified": "2026-11-24T16:27:51Z",
            "StorageClass": draw(st.sampled_from(["STANDARD", "STANDARD_IA", "", "&#97;", "<b/>", "<ID>x</ID>"])),
            "Owner": draw(st.sampled_from(["<ID>x</ID>", "<ID></ID>", ""])),
        }
        shown = names if draw(st.integers(0, 9)) else names[1:]
        return "<Contents>" + "".join(f"<{name}>{values[name]}</{name}>" for name in shown) + "</Contents>" + draw(ODD)

    entries = "".join(entry() for _ in range(draw(st.integers(0, 4))))
    head = "<IsTruncated>true</IsTruncated><NextContinuationToken>a&amp;b</NextContinuationToken>"
    head = draw(
        st.sampled_from([head, head.replace("&amp;", ""), "<IsTruncated>false</IsTruncated><KeyCount>2</KeyCount>"])
    )
    head += draw(st.sampled_from(["", "<EncodingType>url</EncodingType>"]))
    whole = page(head, entries) if draw(st.booleans()) else page("", entries + head)
    return whole[: draw(st.integers(0, len(whole)))] if draw(st.integers(0, 9)) == 0 else whole


def reading(way: Callable[[bytes], object], body: bytes) -> object:
    try:
        return way(body)
    except TruncatedListing:
        return "refused"


@pytest.mark.parametrize(
    "entries",
    [
        f"{ENTRY}<!--{ENTRY}-->",
        f"<![CDATA[{ENTRY}]]>",
        f"{ENTRY}<?x {ENTRY}?>",
        ENTRY + ENTRY.replace("<Owner><ID>x</ID></Owner>", ""),
        ENTRY + ENTRY.replace("<Contents>", '<Contents a="b">'),
        ENTRY.replace("<Key>", "<Key><![CDATA[<a>]]>"),
        ENTRY.replace("a%2B", "a&amp;"),
        ENTRY.replace("a%2B", "a\r"),
        ENTRY.replace("a%2B", "a\x01"),
        ENTRY.replace("<Owner>", "<Owner><Key>y</Key>"),
        ENTRY + "</ListBucketResult>",
        ENTRY + "<NextContinuationToken>a&amp;b</NextContinuationToken>",
    ],
)
def test_a_page_that_is_not_plain_is_left_to_the_slow_way(entries: str) -> None:
    assert parse_plain_page(page("<IsTruncated>true</IsTruncated>", entries)) is None


@pytest.mark.long("hundreds of generated pages")
@examples(max_examples=1000)
@given(bodies())
def test_the_fast_way_reads_what_the_slow_one_does_or_leaves_it_to_that(body: bytes) -> None:
    assert reading(parse_plain_page, body) in (None, reading(parse_page, body))


def test_boto3_finds_the_same_as_our_reading(bucket: Bucket, double: R2Double) -> None:
    """Fails too if botocore no longer lets its parser be replaced."""
    for name in ("a b", "a+b", "100%25", "ä&<ö>", "🎬"):
        bucket.put_bytes_once(f"{bucket.prefix}{name}.mp4", name.encode(), "video/mp4")
    entries = bare_boto3(double.endpoint).list_objects_v2(Bucket=bucket.name, Prefix=bucket.prefix)["Contents"]
    theirs = [StoredObject(e["Key"], e["Size"], e["ETag"].strip('"'), e["LastModified"]) for e in entries]
    assert [stored for page in bucket.pages() for stored in page] == theirs
