"""A scratch prefix in a bucket for the contract's checks: nothing outside is accessed, and it is left empty."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote, urlsplit

import httpx

from reelkeeper.adapters.http_clients import is_loopback
from reelkeeper.adapters.s3.keys import CONTRACT
from reelkeeper.adapters.s3.meter import FREE_STATUSES
from reelkeeper.adapters.s3.r2 import Bucket
from reelkeeper.adapters.s3.transport import open_client, translate_errors
from reelkeeper.errors import KeyRefused, StorageError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_SCRATCH: Final = re.compile(rf".*/{re.escape(CONTRACT)}[0-9a-f]{{16}}/|{re.escape(CONTRACT)}[0-9a-f]{{16}}/")
_TYPE: Final = "text/plain"


class Broken(Exception):  # noqa: N818  it is the contract that is broken
    """The bucket does not behave as Reelkeeper requires; the message says what was observed."""


class Target(NamedTuple):
    """A bucket and its credentials: some checks sign requests by themselves."""

    bucket: Bucket
    access_key_id: str
    secret_access_key: str
    region: str

    def client(self) -> "S3Client":
        """Open a client for the contract only: it puts without conditions, which no other code may."""
        client = open_client(self.bucket.endpoint_url, self.access_key_id, self.secret_access_key, self.region)
        self.bucket.meter.attach(client)
        return client


class Scratch:
    """A scratch prefix in a bucket; no key outside of it can be formed."""

    def __init__(self, target: Target, prefix: str) -> None:
        if not _SCRATCH.fullmatch(prefix):
            raise KeyRefused(f"{prefix!r} is not a scratch prefix of the contract: nothing was done")
        self.bucket, self._target, self._client = target.bucket.under(prefix), target, target.client()

    def key(self, name: str) -> str:
        """Return a key in the scratch prefix."""
        return self.bucket.check(self.bucket.prefix + name)

    def put(self, key: str, data: bytes, **conditions: Any) -> str:  # noqa: ANN401  boto3's parameters
        """Put as a service does, replacing any object; return the ETag. Raises ObjectChanged if a condition fails."""
        with translate_errors(f"PUT {key}"):
            answer = self._client.put_object(
                Bucket=self.bucket.name, Key=self.bucket.check(key), Body=data, ContentType=_TYPE, **conditions
            )
        return answer["ETag"].strip('"')

    def read_if(self, key: str, etag: str) -> bytes:
        """Return an object if it has this ETag, else ObjectChanged."""
        with translate_errors(f"GET {key}"):
            answer = self._client.get_object(Bucket=self.bucket.name, Key=self.bucket.check(key), IfMatch=f'"{etag}"')
            return answer["Body"].read()

    def keys_after(self, key: str, page_keys: int = 1000) -> list[str]:
        """List the keys here that come after `key`, in pages of `page_keys`."""
        with translate_errors(f"LIST {self.bucket.prefix}"):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket.name,
                Prefix=self.bucket.prefix,
                StartAfter=key,
                PaginationConfig={"PageSize": page_keys},
            )
            return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def sign_delete(self, key: str, at: datetime) -> httpx.Request:
        """Create a DELETE request that is signed in its headers as of `at` (AWS Signature Version 4)."""
        endpoint = urlsplit(self.bucket.endpoint_url)
        path = f"{endpoint.path.rstrip('/')}/{self.bucket.name}/{quote(self.bucket.check(key), safe='/-_.~')}"
        stamp, nothing = at.strftime("%Y%m%dT%H%M%SZ"), hashlib.sha256(b"").hexdigest()
        headers = {"host": endpoint.netloc, "x-amz-content-sha256": nothing, "x-amz-date": stamp}
        signed = ";".join(headers)
        lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
        canonical = f"DELETE\n{path}\n\n{lines}\n{signed}\n{nothing}"
        scope = f"{stamp[:8]}/{self._target.region}/s3/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        secret = f"AWS4{self._target.secret_access_key}".encode()
        for part in scope.split("/"):
            secret = hmac.digest(secret, part.encode(), "sha256")
        headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self._target.access_key_id}/{scope}, SignedHeaders={signed}, "
            f"Signature={hmac.digest(secret, text.encode(), 'sha256').hex()}"
        )
        return httpx.Request("DELETE", f"{endpoint.scheme}://{endpoint.netloc}{path}", headers=headers)

    def send(self, request: httpx.Request) -> httpx.Response:
        """Send an already signed request, once."""
        with httpx.Client(timeout=30, trust_env=not is_loopback(self.bucket.endpoint_url)) as client:
            answer = client.send(request)
        if answer.status_code not in FREE_STATUSES:
            self.bucket.meter.count(f"{request.method.title()}Object")
        return answer

    def versions(self, key: str) -> int:
        """Count the stored versions of a key; 0 on a server that has none."""
        try:
            with translate_errors(f"the versions of {key}"):
                answer = self._client.list_object_versions(Bucket=self.bucket.name, Prefix=self.bucket.check(key))
        except StorageError:  # R2 answers NotImplemented; what keys may not list, `Bucket.versions_left` asks otherwise
            return 0
        return len(answer.get("Versions", []))

    def listed(self) -> dict[str, Any]:
        """List everything here, by key."""
        return {stored.key: stored for page in self.bucket.pages() for stored in page}

    def clear(self) -> None:
        """Delete everything here: besides the purge the only code that deletes, and only objects of the contract."""
        if left := self.bucket.delete(list(self.listed())):
            first = next(iter(left.items()))
            raise Broken(f"objects under {self.bucket.prefix} that could not be deleted: {len(left)}, first {first}")


@contextmanager
def scratch(target: Target) -> Iterator[Scratch]:
    """Provide a new scratch prefix, and empty it afterwards."""
    made = Scratch(target, f"{target.bucket.prefix}{CONTRACT}{secrets.token_hex(8)}/")
    try:
        yield made
    finally:
        made.clear()
