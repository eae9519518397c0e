"""Replace an object at a key that somebody else may write: copy it aside within the bucket, then put over it.

R2 honours `If-Match` on a put, so a put replaces only the intended object. A signed put is accepted for 15 minutes;
therefore the last look is made after signing, and the body must follow soon after or is aborted.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader, FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Final

from reelkeeper.adapters.s3.deletes import LastLook, looking
from reelkeeper.adapters.s3.transport import translate_errors
from reelkeeper.errors import StorageError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BODY_SECONDS: Final = 20 * 60.0  # so an intent ends 25 min after its last put, when the server accepts that no more
CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # on Linux, runs on while the machine is suspended


class FreshBody(BufferedReader):
    """A file as the body of a put. Reading raises StorageError if the last look is too long ago."""

    def __init__(self, path: Path, last_look: LastLook) -> None:
        super().__init__(FileIO(path))
        self._last_look = last_look
        self._looked_at: float | None = None

    def look(self) -> None:
        """Take the last look, before each time that the request is sent."""
        self._last_look()
        self._looked_at = time.clock_gettime(CLOCK)

    def read(self, size: int | None = -1, /) -> bytes:
        """Read bytes, unless the last look is too long ago."""
        # guard bucket.fresh_body: a run suspended while sending puts its body over a newer object an hour later
        if self._looked_at is not None and time.clock_gettime(CLOCK) - self._looked_at > BODY_SECONDS:
            raise StorageError(
                f"the last look of the put is over {BODY_SECONDS:.0f} s ago: its body is not sent to its end"
            )
        return super().read(size)


@contextmanager
def fresh(path: Path, last_look: LastLook) -> Iterator[FreshBody]:
    """Open a file as the body of a put that runs the last look each time before it is sent."""
    with FreshBody(path, last_look) as body, looking(body.look):
        yield body


def copy(client: "S3Client", bucket: str, key: str, to: str, etag: str) -> None:
    """Copy an object within the bucket, with its headers and metadata. ObjectMissing; ObjectChanged by its ETag."""
    with translate_errors(f"COPY {key} to {to}"):
        client.copy_object(
            Bucket=bucket, Key=to, CopySource={"Bucket": bucket, "Key": key}, CopySourceIfMatch=f'"{etag}"'
        )
