"""Store input images by their digest in the bucket, where the API and every worker find them.

An image is written once, under its SHA-256, so a repetition changes nothing. It is not a video, and is not
listed, adopted, counted towards a quota or purged.
"""

import hashlib
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from reelkeeper.adapters.providers.contract import ImageSource
from reelkeeper.adapters.s3.r2 import Bucket
from reelkeeper.errors import Frozen, NotAVideo, ObjectMissing
from reelkeeper.failpoints import effect
from reelkeeper.operations.core.freeze import why_frozen
from reelkeeper.operations.core.workspace import Workspace

MAX_BYTES: Final = 10_000_000
_KINDS: Final = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}


class Image(NamedTuple):
    """A stored image."""

    sha256: str
    size_bytes: int
    content_type: str


def keep(workspace: Workspace, data: bytes) -> Image:
    """Store an image. Raises NotAVideo unless it begins like a PNG or JPEG and is small enough; Frozen.

    The rest of its bytes is not checked here: they are decoded only in the sandbox.
    """
    if not 0 < len(data) <= MAX_BYTES:
        raise NotAVideo(f"the image has {len(data):,} bytes; 1 to {MAX_BYTES:,} are allowed")
    kind = next((kind for start, kind in _KINDS.items() if data.startswith(start)), None)
    # guard images.kind: a page with a script is stored where providers and browsers expect an image
    if kind is None:
        raise NotAVideo(f"the first bytes {data[:8].hex(' ')} of the image are not those of a PNG or JPEG")
    if reason := why_frozen(workspace.engine):
        raise Frozen(reason)
    image = Image(hashlib.sha256(data).hexdigest(), len(data), kind)
    with effect("image.put"):
        workspace.bucket.put_bytes_once(workspace.bucket.image_key(image.sha256), data, kind)
    return image


def source(bucket: Bucket, url_seconds: int) -> ImageSource:
    """Return access to stored images for generators, as files or as presigned URLs for `url_seconds`."""
    return ImageSource(partial(fetch, bucket), partial(url_of, bucket, seconds=url_seconds))


def fetch(bucket: Bucket, sha256: str, target: Path) -> bool:
    """Write a stored image to `target`; False where there is none, or its bytes have another digest."""
    try:
        with effect("image.get"):
            found = bucket.download(bucket.image_key(sha256), target)
    except ObjectMissing:
        return False
    # guard images.digest: a job starts from another image than the user's
    if found != sha256:
        target.unlink()
    return found == sha256


def url_of(bucket: Bucket, sha256: str, seconds: int) -> str | None:
    """Return a URL at which a provider can read a stored image for `seconds`; None where there is none."""
    key = bucket.image_key(sha256)
    return bucket.presigned("get_object", key, seconds) if bucket.head(key) else None
