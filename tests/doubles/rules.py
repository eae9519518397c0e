"""What R2 refuses although other S3 servers take it (Cloudflare, "S3 API compatibility", read 2026-11).

Where R2 ignores a condition in silence, this refuses it, so that code relying on it fails in the tests and not in
production. Keys that the server behind the double would take for other keys are refused as well.
"""

import unicodedata
from typing import NamedTuple
from xml.etree import ElementTree as ET

from tests.doubles.requests import Request

S3 = "{http://s3.amazonaws.com/doc/2006-03-01/}"
MAX_DELETES = 1000
MAX_METADATA_BYTES = 8192
UNSUPPORTED_QUERIES = frozenset(
    (
        *("accelerate", "acl", "analytics", "attributes", "intelligent-tiering", "inventory", "legal-hold", "logging"),
        *("metrics", "notification", "object-lock", "ownershipControls", "policy", "policyStatus", "publicAccessBlock"),
        *("replication", "requestPayment", "restore", "retention", "select", "tagging", "torrent"),
        *("versionId", "versioning", "versions", "website"),
    )
)
UNSUPPORTED_HEADERS = (
    *("x-amz-acl", "x-amz-grant-", "x-amz-tagging", "x-amz-object-lock-", "x-amz-bypass-governance-retention"),
    *("x-amz-server-side-encryption-aws", "x-amz-mfa", "x-amz-request-payer", "x-amz-expected-bucket-owner"),
    *("x-amz-website-redirect-location", "x-amz-trailer"),  # a trailing checksum: R2 has answered Unauthorized
)
CONDITIONS = ("if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "x-amz-if-match-")
# R2 has conditions of its own on the target of a copy, which the server behind the double would ignore.
R2_COPY_CONDITIONS = ("cf-copy-destination-if-",)


class Answer(NamedTuple):
    """An error answer instead of carrying out the request."""

    status: int
    code: str
    message: str


def refusal(request: Request) -> Answer | None:
    """Return R2's refusal of a request, judged by its line and headers."""
    headers = request.headers
    for name in request.query:
        if name in UNSUPPORTED_QUERIES:
            return Answer(501, "NotImplemented", f"R2 has no {name}")
    for name in headers:
        if name.startswith(UNSUPPORTED_HEADERS):
            return Answer(501, "NotImplemented", f"R2 does not take the header {name}")
    if request.operation in {"DeleteObject", "DeleteObjects", "CopyObject", "CompleteMultipartUpload"}:
        for name in headers:
            if name.startswith((*CONDITIONS, *R2_COPY_CONDITIONS)):
                return Answer(501, "NotImplemented", f"R2 knows no {name} on {request.operation}")
    if headers.get("x-amz-storage-class", "STANDARD") not in {"STANDARD", "STANDARD_IA"}:
        return Answer(400, "InvalidStorageClass", headers["x-amz-storage-class"])
    metadata_bytes = sum(len(name + value) for name, value in headers.items() if name.startswith("x-amz-meta-"))
    if metadata_bytes > MAX_METADATA_BYTES:
        return Answer(
            400, "MetadataTooLarge", f"{metadata_bytes:,} bytes of metadata, more than {MAX_METADATA_BYTES:,}"
        )
    return next(filter(None, map(_ambiguous, request.touched)), None)


def _ambiguous(key: str) -> Answer | None:
    segments = key.split("/")
    if not unicodedata.is_normalized("NFC", key):
        return Answer(501, "NotImplemented", f"R2 folds {key!r} to NFC, this double cannot")
    if "" in segments[:-1] or "\\" in key or {".", "..", ".uploads", ".versions"} & set(segments):
        return Answer(501, "NotImplemented", f"the server behind this double takes {key!r} for another key")
    return None


def deletes(body: bytes) -> tuple[tuple[str, ...], Answer | None]:
    """Return the keys of a DeleteObjects, and R2's refusal of it."""
    try:
        entries = ET.fromstring(body).findall(f"{S3}Object")  # noqa: S314  from our own client, in a test
    except ET.ParseError as error:
        return (), Answer(400, "MalformedXML", str(error))
    keys = tuple(entry.findtext(f"{S3}Key") or "" for entry in entries)
    if len(keys) > MAX_DELETES:
        return keys, Answer(400, "MalformedXML", f"{len(keys):,} keys, more than {MAX_DELETES:,}")
    extra = {child.tag.removeprefix(S3) for entry in entries for child in entry} - {"Key"}
    if extra:
        return keys, Answer(501, "NotImplemented", f"R2 knows no {', '.join(sorted(extra))} in a DeleteObjects")
    return keys, None
