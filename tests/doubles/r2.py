"""A double of Cloudflare R2: a proxy that puts R2's rules and its order of listings before a real S3 server.

It passes signatures on untouched, so the server behind it checks them; only listings and, with `refuse_deletes`, batch
deletes are answered by itself, to whoever names the right access key. It records every request, and plays faults.
What it does not imitate: equal sizes of multipart parts, lifecycle rules, and the folding of keys to NFC (it refuses).
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import boto3
from botocore.config import Config

from reelkeeper.adapters.s3.keys import EPOCHS
from reelkeeper.adapters.s3.seaweed import Endpoint
from tests.doubles.faults import Faults
from tests.doubles.listing import PAGE_KEYS, Listings
from tests.doubles.proxy import Server
from tests.doubles.requests import Request
from tests.doubles.serving import answering

OVERWRITE_SECONDS = 1.0  # R2 takes one write a second to one key (error 10058)


class R2Double:
    """Its controls. `endpoint` is for clients, `requests` is what they sent, `faults` what they are to meet."""

    def __init__(self, upstream: Endpoint) -> None:
        self.upstream = upstream
        self.client = boto3.client(
            "s3",
            endpoint_url=upstream.endpoint_url,
            aws_access_key_id=upstream.access_key_id,
            aws_secret_access_key=upstream.secret_access_key,
            region_name="auto",
            config=Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required", proxies={}),
        )
        self.faults = Faults()
        self.listings = Listings(self.client, self.faults)
        self.requests: list[Request] = []
        self.errors: list[Exception] = []  # of the double itself, or of a test's `before` and `after`
        self.limits_overwrites = True
        self._written: dict[tuple[str, str], float] = {}
        self._server = Server(self)

    @property
    def endpoint(self) -> Endpoint:
        """Where the double answers, with the credentials of the server behind it."""
        url = f"http://127.0.0.1:{self._server.server_address[1]}"
        return Endpoint(url, self.upstream.access_key_id, self.upstream.secret_access_key)

    @contextmanager
    def serving(self) -> Iterator["R2Double"]:
        """Answer requests until left."""
        with answering(self._server):
            yield self

    def reset(self) -> None:
        """Forget faults, requests and limits of the last test."""
        self.faults.clear()
        self.requests.clear()
        self.errors.clear()
        self._written.clear()
        self.listings.page_keys = PAGE_KEYS
        self.limits_overwrites = True

    def sent(self, *operations: str) -> list[Request]:
        """Return the requests of these operations so far, or all."""
        return [request for request in list(self.requests) if not operations or request.operation in operations]

    def deleted(self) -> list[str]:
        """Return every key that a delete was sent for, in order, once for each time, but for old epochs: no videos."""
        sent = self.sent("DeleteObject", "DeleteObjects")
        return [key for request in sent for key in request.touched if EPOCHS not in key]

    def overwrites_too_soon(self, request: Request) -> bool:
        """Whether R2 would answer 429: a second unconditional write to a key within a second."""
        if not self.limits_overwrites or request.operation != "PutObject" or "if-none-match" in request.headers:
            return False
        return time.monotonic() - self._written.get((request.bucket, request.key), -1e9) < OVERWRITE_SECONDS

    def wrote(self, request: Request) -> None:
        """Note when a key was written."""
        if request.operation == "PutObject":
            self._written[request.bucket, request.key] = time.monotonic()
