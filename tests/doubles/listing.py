"""Listings as R2 gives them: in the byte order of the keys, at most 1,000 a page, with tokens of our own."""

import base64
import threading
from bisect import bisect_right
from typing import TYPE_CHECKING
from urllib.parse import quote_plus
from xml.sax.saxutils import escape

from tests.doubles.faults import Faults
from tests.doubles.requests import Request

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ObjectTypeDef

PAGE_KEYS = 1000


class Listings:
    """Answers ListObjectsV2 from a snapshot that is taken anew when something was written since, or at a first page."""

    def __init__(self, client: "S3Client", faults: Faults) -> None:
        self._client = client
        self._faults = faults
        self._lock = threading.Lock()
        self._writes = 0
        self._snapshots: dict[tuple[str, str], tuple[int, list[ObjectTypeDef]]] = {}
        self.page_keys = PAGE_KEYS  # a test sets fewer, to have many pages of few objects

    def written(self) -> None:
        """Something was, or is about to be, written."""
        with self._lock:
            self._writes += 1
            self._snapshots.clear()

    def page(self, request: Request) -> bytes:
        """Return the XML of the page that is asked for."""
        query = request.query
        prefix, token, start_after = query.get("prefix", ""), query.get("continuation-token"), query.get("start-after")
        place = base64.urlsafe_b64decode(token).decode() if token else start_after or ""
        objects = self._objects(request.bucket, prefix, fresh=not place)
        first = bisect_right(objects, place.encode(), key=lambda entry: entry["Key"].encode()) if place else 0
        size = min(int(query.get("max-keys", PAGE_KEYS)), self.page_keys)
        page = objects[first : first + size]
        truncated = first + size < len(objects)
        following = base64.urlsafe_b64encode(page[-1]["Key"].encode()).decode() if truncated and page else None

        spoiled = {what for what in ("no_token", "repeated_token", "foreign_entry", "half") if self._spoils(what)}
        if "no_token" in spoiled:
            truncated, following = True, None
        if "repeated_token" in spoiled:
            truncated = True
            following = token or base64.urlsafe_b64encode((page[0]["Key"][:-1] if page else prefix).encode()).decode()
        if "foreign_entry" in spoiled and page:
            page = [*page, {**page[-1], "Key": "elsewhere/of-somebody-else.mp4"}]
        if "half" in spoiled:
            page, truncated, following = page[: len(page) // 2], False, None

        encoded = query.get("encoding-type") == "url"
        fields = {
            "Name": request.bucket,
            "Prefix": prefix,
            "MaxKeys": str(size),
            "KeyCount": str(len(page)),
            "IsTruncated": "true" if truncated else "false",
            **({"EncodingType": "url"} if encoded else {}),
            **({"NextContinuationToken": following} if following else {}),
        }
        head = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in fields.items())
        entries = "".join(_entry(entry, encoded) for entry in page)
        return (
            '<?xml version="1.0" encoding="UTF-8"?>'
            f'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{head}{entries}</ListBucketResult>'
        ).encode()

    def _spoils(self, what: str) -> bool:
        return self._faults.take(what, "ListObjectsV2") is not None

    def _objects(self, bucket: str, prefix: str, *, fresh: bool) -> "list[ObjectTypeDef]":
        with self._lock:
            stamp, objects = self._snapshots.get((bucket, prefix), (-1, []))
            if stamp == self._writes and not fresh:
                return objects
            stamp = self._writes
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        objects = sorted(
            (entry for page in pages for entry in page.get("Contents", ())), key=lambda e: e["Key"].encode()
        )
        with self._lock:
            self._snapshots[bucket, prefix] = stamp, objects
        return objects


def _entry(entry: "ObjectTypeDef", encoded: bool) -> str:
    key = quote_plus(entry["Key"], safe="/") if encoded else entry["Key"]
    return (
        f"<Contents><Key>{escape(key)}</Key><LastModified>{entry['LastModified']:%Y-%m-%dT%H:%M:%S.000Z}</LastModified>"
        f"<ETag>{escape(entry['ETag'])}</ETag><Size>{entry['Size']}</Size>"
        f"<StorageClass>{entry.get('StorageClass', 'STANDARD')}</StorageClass></Contents>"
    )
