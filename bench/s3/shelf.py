"""A hundred thousand small objects in an embedded S3 server, kept between runs in the user's cache."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.s3 import peers
from reelkeeper.adapters.s3 import r2, seaweed
from reelkeeper.adapters.s3.r2 import Bucket
from reelkeeper.adapters.s3.seaweed import Endpoint

BUCKET = "reelkeeper"
VIDEOS_PER_USER = 1000
CONTENT = b"a video, for all that a listing knows" * 3
ETAG = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()


@contextmanager
def server() -> Iterator[Endpoint]:
    """Run the S3 server of all benchmarks."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    with seaweed.running(cache / "reelkeeper-bench" / "s3", BUCKET) as endpoint:
        yield endpoint


def open_prefix(at: Endpoint, prefix: str) -> Bucket:
    """Open our bucket at a prefix."""
    return r2.connect(at.endpoint_url, at.access_key_id, at.secret_access_key, BUCKET, prefix)


def keys(prefix: str, size: int) -> list[str]:
    """Yield the keys of `size` videos, in byte order.

    They have the format of adopted keys: with our own format, which has a folder for each video, SeaweedFS takes 0.2 s
    a page, which would hide the client's time.
    """
    return [f"{prefix}u{n // VIDEOS_PER_USER:06}/v{n:07}.mp4" for n in range(size)]


def count(at: Endpoint, prefix: str) -> int:
    """Count the objects under a prefix."""
    return sum(len(page) for page in open_prefix(at, prefix).pages())


def fill(at: Endpoint, prefix: str, size: int, beside: str | None = None) -> None:
    """Store the objects unless they exist; s5cmd stores some 2,000 a second. `beside` objects exist already."""
    wanted = keys(prefix, size)
    if count(at, prefix) - (count(at, beside) if beside else 0) == size:
        return
    with tempfile.TemporaryDirectory() as folder:
        for key in wanted:
            path = Path(folder) / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(CONTENT)
        peers.s5cmd(at, "cp", f"{folder}/{prefix}", f"s3://{BUCKET}/{prefix}")
