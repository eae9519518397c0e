"""What a request to S3 asks for, read from its line and headers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import parse_qsl, unquote, urlsplit


@dataclass(slots=True)
class Request:
    """One request as the double saw it. `keys` are those of a DeleteObjects; `status` is None until answered."""

    operation: str
    method: str
    bucket: str
    key: str
    query: dict[str, str]
    headers: Mapping[str, str]
    keys: tuple[str, ...] = field(default=())
    status: int | None = None

    @classmethod
    def read(cls, method: str, target: str, headers: Mapping[str, str]) -> Self:
        """Read `METHOD /bucket/key?query`."""
        parts = urlsplit(target)
        bucket, _, key = parts.path[1:].partition("/")
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        lowered = {name.lower(): value for name, value in headers.items()}
        operation = _operation(method, bool(key), query, "x-amz-copy-source" in lowered)
        return cls(operation, method, unquote(bucket), unquote(key), query, lowered)

    @property
    def touched(self) -> tuple[str, ...]:
        """The keys that this request names."""
        return self.keys or ((self.key,) if self.key else ())

    @property
    def writes(self) -> bool:
        """Whether it can change anything."""
        return self.method in {"PUT", "POST", "DELETE"}


def _operation(method: str, has_key: bool, query: Mapping[str, str], copies: bool) -> str:  # noqa: PLR0911  a table of S3's
    upload = "uploadId" in query
    match method:
        case "GET":
            if "lifecycle" in query:
                return "GetBucketLifecycleConfiguration"
            listing = "ListObjectsV2" if query.get("list-type") == "2" else "ListObjects"
            return ("ListParts" if upload else "GetObject") if has_key else listing
        case "HEAD":
            return "HeadObject" if has_key else "HeadBucket"
        case "PUT" if has_key:
            return "UploadPart" if upload else "CopyObject" if copies else "PutObject"
        case "POST":
            if "delete" in query:
                return "DeleteObjects"
            return "CompleteMultipartUpload" if upload else "CreateMultipartUpload"
        case "DELETE" if has_key:
            return "AbortMultipartUpload" if upload else "DeleteObject"
        case _:
            return f"{method} bucket"
