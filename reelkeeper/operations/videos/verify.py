"""Check what was stored of a video, down to its last frame."""

from hashlib import file_digest
from pathlib import Path
from typing import Final, Protocol

from reelkeeper.adapters import ffmpeg
from reelkeeper.errors import IntegrityDoubt
from reelkeeper.model import MediaLimits

_DECODED_TOLERANCE_SECONDS: Final = 0.1


class Expected(Protocol):
    """What was announced of an object before it was put: an intent or a transcode says it alike."""

    @property
    def sha256(self) -> str: ...  # noqa: D102  the bytes
    @property
    def size_bytes(self) -> int: ...  # noqa: D102  its name says it
    @property
    def codec(self) -> str: ...  # noqa: D102  its name says it
    @property
    def frames(self) -> int: ...  # noqa: D102  its name says it
    @property
    def duration_seconds(self) -> float: ...  # noqa: D102  of the video stream


def verify_stored(path: Path, expected: Expected, limits: MediaLimits | None = None) -> None:
    """Check a file read back from the bucket against what was announced, down to its last frame.

    Raises IntegrityDoubt where bytes, codec, frames or duration differ, NotAVideo where it does not decode to its end.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        sha256 = file_digest(file, "sha256").hexdigest()
    if (size, sha256) != (expected.size_bytes, expected.sha256):
        raise IntegrityDoubt(
            f"stored: {size} bytes, sha256 {sha256}; announced: {expected.size_bytes} bytes, {expected.sha256}"
        )
    media = ffmpeg.inspect(path, limits)
    decoded = ffmpeg.decode(path, media, limits)
    if media.codec != expected.codec or decoded.frames != expected.frames:
        raise IntegrityDoubt(
            f"decoded: {decoded.frames} frames of {media.codec}; announced: {expected.frames} of {expected.codec}"
        )
    if not abs(decoded.duration_seconds - expected.duration_seconds) <= _DECODED_TOLERANCE_SECONDS:
        raise IntegrityDoubt(f"decoded: {decoded.duration_seconds:.3f} s; announced: {expected.duration_seconds:.3f} s")
