"""Read pages of ListObjectsV2 with expat inside boto3's own request, one by one or several in parallel.

boto3 needs 55 to 60 ms of CPU for a page of 1,000 keys, most of it to parse dates; this needs about 5. botocore's hook
`before-parse` serves to replace its parser, so signing, retries and errors stay botocore's.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from datetime import datetime
from functools import lru_cache, partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus
from xml.parsers import expat

from reelkeeper.adapters.s3.transport import translate_errors
from reelkeeper.errors import TruncatedListing
from reelkeeper.model import StoredObject

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PAGE_KEYS = 1000  # R2's limit
WORTH_A_PAGE = 20  # wanted keys: a page costs the CPU of about 10 HEADs, and at R2 the price of 12.5
OBJECTS = "ReelkeeperObjects"  # key of the parsed objects in boto3's answer
_COLUMNS = ("Key", "Size", "ETag", "LastModified")
_CLASS, _USUAL = "StorageClass", "STANDARD"
_TAG = re.compile(r"</?\w+>")
_HEAD = re.compile(r"<(IsTruncated|KeyCount|NextContinuationToken|EncodingType)>([^<]*)")
_START = re.compile(r'(?:<\?xml version="1\.0"(?: encoding="(?i:utf-8)")?\?>\s*)?<ListBucketResult[ >]')
_EMPTY = b'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"/>'


def read_page(client: "S3Client", bucket: str, prefix: str, **place: str) -> tuple[list[StoredObject], str | None]:
    """Return a page of the objects under `prefix`, and the token of the next one unless it is the last.

    `place` is `ContinuationToken` or `StartAfter`; without it, the first page is read. `client` was prepared by
    `read_pages_fast`. Raises TruncatedListing if the page is not complete.
    """
    with translate_errors(f"LIST {prefix}"):
        parameters: Any = {"Bucket": bucket, "Prefix": prefix, "MaxKeys": PAGE_KEYS, **place}
        answer: Any = client.list_objects_v2(**parameters)
    objects: list[StoredObject] = answer[OBJECTS]
    following: str | None = answer.get("NextContinuationToken") if answer["IsTruncated"] else None
    # guard listing.follows_nowhere: half a listing counts as complete, and the rest is marked as lost
    if answer["IsTruncated"] and not following:
        raise TruncatedListing(f"the listing of {prefix} says that more follows, but not where")
    for stored in objects:
        # guard listing.foreign_key: an object outside of the prefix is adopted
        if not stored.key.startswith(prefix):
            raise TruncatedListing(f"the listing of {prefix} contains {stored.key!r}, which is outside of it")
    return objects, following


def read_pages(client: "S3Client", bucket: str, prefix: str, after: str = "") -> Iterator[list[StoredObject]]:
    """List everything under `prefix`, in the server's order; with `after`, only keys after that.

    Raises TruncatedListing if a page is not complete, says that more follows but not where, leads back to an earlier
    page, or contains a key outside the prefix: a listing is complete, or it is an error.
    """
    return _follow(client, bucket, prefix, **({"StartAfter": after} if after else {}))


def read_ranges(
    client: "S3Client", bucket: str, prefix: str, boundaries: Sequence[str]
) -> Iterator[list[StoredObject]]:
    """List everything under `prefix`, with the ranges of keys between `boundaries` in parallel.

    Pages are yielded as they arrive, and at most one of each range is held in memory. A range that cannot be listed to
    its end fails the whole listing, and so does a server that does not list in the byte order of the keys.
    """
    places = ["", *sorted(set(boundaries), key=str.encode), None]
    ranges = [_between(client, bucket, prefix, after or "", until) for after, until in pairwise(places)]
    with ThreadPoolExecutor(len(ranges)) as pool:
        requested = {pool.submit(next, pages, None): pages for pages in ranges}
        while requested:
            arrived, _ = wait(requested, return_when=FIRST_COMPLETED)
            for future in arrived:
                pages = requested.pop(future)
                page = future.result()
                if page is not None:
                    requested[pool.submit(next, pages, None)] = pages  # requested while the caller processes this one
                    yield page


def read_dense(client: "S3Client", bucket: str, prefix: str, wanted: Sequence[str]) -> dict[str, StoredObject]:
    """Describe objects at the sorted keys `wanted` from pages, where pages contain many of them; leave out the rest."""
    unseen, found = {*wanted}, dict[str, StoredObject]()
    place, stride = 0, WORTH_A_PAGE
    while len(wanted) - place >= WORTH_A_PAGE:
        objects, _ = read_page(client, bucket, prefix, StartAfter=wanted[place][:-1])
        answered = {stored.key: stored for stored in objects if stored.key in unseen}
        found.update(answered)
        if len(answered) >= WORTH_A_PAGE:
            place, stride = max(place + 1, bisect_right(wanted, objects[-1].key)), WORTH_A_PAGE
        else:  # sparse: leave out some, twice as many each time, then try a page again
            place, stride = place + stride, 2 * stride
    return found


def _between(
    client: "S3Client", bucket: str, prefix: str, after: str, until: str | None
) -> Iterator[list[StoredObject]]:
    last, end = after.encode(), None if until is None else until.encode()
    for page in _follow(client, bucket, prefix, **({"StartAfter": after} if after else {})):
        for stored in page:
            key = stored.key.encode()
            # guard listing.in_order: ranges listed at the same time leave out the objects between them
            if key <= last:
                raise TruncatedListing(
                    f"the listing of {prefix} shows {stored.key!r} after {last.decode()!r}: this server does not list "
                    "in the byte order of the keys, as R2 does, so it can only be listed in one pass: shards=1"
                )
            last = key
        yield page if end is None else [stored for stored in page if stored.key.encode() <= end]
        if end is not None and last > end:
            return


def _follow(client: "S3Client", bucket: str, prefix: str, **place: str) -> Iterator[list[StoredObject]]:
    seen: set[str] = set()
    while True:
        objects, token = read_page(client, bucket, prefix, **place)
        yield objects
        if token is None:
            return
        # guard listing.same_token: a server that repeats a page keeps a run for ever
        if token in seen:
            raise TruncatedListing(f"the listing of {prefix} returned to the token {token!r} after {len(seen)} pages")
        seen.add(token)
        place = {"ContinuationToken": token}


def read_pages_fast(client: "S3Client") -> None:
    """Make `client.list_objects_v2` answer with `OBJECTS`, a list of StoredObject, in place of `Contents`.

    By default botocore first parses each answer, to see whether it was cut off or contains an error and must be
    repeated: 5 ms a page. The handler with a wildcard in its name runs before, so only unusual pages take that path.
    """
    client.meta.events.register("before-parse.*.ListObjectsV2", partial(_parse, parse_plain_page))
    client.meta.events.register("before-parse.s3.ListObjectsV2", partial(_parse, parse_page))


def _parse(
    parse: Callable[[bytes], dict[str, Any] | None],
    response_dict: dict[str, Any],
    customized_response_dict: dict[str, Any],
    **_: object,
) -> None:
    if response_dict["status_code"] >= 300 or customized_response_dict:  # noqa: PLR2004  an error: botocore reads those
        return
    if answer := parse(response_dict["body"]):
        customized_response_dict.update(answer)
        response_dict["body"] = _EMPTY


def parse_plain_page(body: bytes) -> dict[str, Any] | None:
    """Parse a page in the usual form like `parse_page`, in a third of the time; return None for any other.

    In the usual form, all entries have the same tags as the first, follow each other directly, and have no escapes.
    """
    text = body.decode(errors="surrogateescape")  # of which none is printable
    first = text.find("<Contents>")
    entry = text[first : text.find("</Contents>", first) + len("</Contents>")]
    tags = tuple(_TAG.findall(entry))
    if any("".join(tags).count(f"<{name}></{name}>") != 1 for name in _COLUMNS) or not _entry_of(tags).fullmatch(entry):
        return None
    before, *parts, after = _entry_of(tags).split(text)
    keys, sizes, etags, dates = (parts[tags.index(f"<{name}>") :: len(tags)] for name in _COLUMNS)
    classes = parts[tags.index(f"<{_CLASS}>") :: len(tags)] if f"<{_CLASS}>" in tags else []
    if "".join(tags).count(f"<{_CLASS}></{_CLASS}>") != tags.count(f"<{_CLASS}>") or tags.count(f"<{_CLASS}>") > 1:
        return None
    etags = [etag.replace("&quot;", '"').replace("&#34;", '"') for etag in etags]
    rest, words = before + after, "".join((*keys, *etags, *classes))
    # guard listing.plain_entries: an entry in another format is left out, and its object marked as lost
    if any(parts[len(tags) - 1 :: len(tags)]) or "Contents" in rest:
        return None
    # guard listing.plain_text: a key with an escaped character is read as another key
    if not _START.match(rest) or "<!" in rest or "<?" in rest[1:] or "&" in rest + words or not words.isprintable():
        return None
    try:
        # guard listing.plain_whole: a page truncated in transit counts as complete
        expat.ParserCreate().Parse(before + entry + after, True)
    except (expat.ExpatError, UnicodeEncodeError):
        return None
    return _answer(body, {"ListBucketResult": "", **dict(_HEAD.findall(rest))}, (keys, sizes, etags, dates), classes)


@lru_cache(maxsize=8)
def _entry_of(tags: tuple[str, ...]) -> re.Pattern[str]:
    """Return a pattern that matches an entry with these tags, and their contents."""
    return re.compile("([^<]*)".join(tags))


def parse_page(body: bytes) -> dict[str, Any]:
    """Return OBJECTS, IsTruncated and, if given, NextContinuationToken of a page's XML.

    Raises TruncatedListing if it ends early, is not a listing, or has another number of entries than it states.
    """
    head: dict[str, str] = {}
    entries: list[dict[str, str]] = []
    fields = head
    text: list[str] = []

    def start(name: str, _: object) -> None:
        nonlocal fields
        text.clear()
        if name == "Contents":
            fields = {}
            entries.append(fields)

    def end(name: str) -> None:
        nonlocal fields
        if name == "Contents":
            fields = head
        else:
            fields[name] = "".join(text)
            text.clear()

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text.append
    try:
        parser.Parse(body, True)
    except expat.ExpatError as error:
        raise TruncatedListing(f"a page of the listing is not complete ({error}), so it is not used") from error
    try:
        columns = [[entry[name] for entry in entries] for name in _COLUMNS]
    except KeyError as error:
        raise TruncatedListing(f"an entry of a page has no {error}") from error
    return _answer(body, head, columns, [entry.get(_CLASS, "") for entry in entries])


def _answer(
    body: bytes, head: Mapping[str, str], columns: Sequence[Sequence[str]], classes: Sequence[str]
) -> dict[str, Any]:
    # guard listing.is_listing: an answer that is no listing counts as an empty one
    if "ListBucketResult" not in head or head.get("IsTruncated") not in {"true", "false"}:
        raise TruncatedListing(f"the answer to a listing is not a listing: {body[:200]!r}")
    keys, sizes, etags, dates = columns
    # guard listing.counted: a page that lost entries in transit counts as complete
    if int(head.get("KeyCount", len(keys))) != len(keys):
        raise TruncatedListing(f"a page states {head['KeyCount']} keys but has {len(keys)}")
    if head.get("EncodingType") == "url":
        keys = [unquote_plus(key) if "%" in key or "+" in key else key for key in keys]
    try:
        objects = [
            # times to the second, as in a HEAD
            StoredObject(key, int(size), etag.strip('"'), datetime.fromisoformat(at[:19] + "Z"))
            for key, size, etag, at in zip(keys, sizes, etags, dates, strict=True)
        ]
    except ValueError as error:
        raise TruncatedListing(f"an entry of a page cannot be read: {error!r}") from error
    if not {*classes} <= {"", _USUAL}:
        objects = [
            stored if name == _USUAL else stored._replace(storage_class=name)
            for stored, name in zip(objects, classes, strict=True)
        ]
    answer: dict[str, Any] = {OBJECTS: objects, "IsTruncated": head["IsTruncated"] == "true"}
    if head.get("NextContinuationToken"):
        answer["NextContinuationToken"] = head["NextContinuationToken"]
    return answer
