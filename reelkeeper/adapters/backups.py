"""Keep the store's backups in a folder, or in a bucket of their own, where each is whole or not there."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from reelkeeper.adapters.s3 import r2
from reelkeeper.errors import StorageError
from reelkeeper.settings import Settings


class Place(NamedTuple):
    """The place of the backups. With a bucket, `folder` is only where they are made, and fetched to."""

    folder: Path
    bucket: r2.Bucket | None

    def __str__(self) -> str:
        """Name it for people."""
        if self.bucket is None:
            return str(self.folder)
        return f"s3://{self.bucket.name}/{self.bucket.prefix}"

    def names(self) -> list[str]:
        """List all files."""
        if self.bucket is None:
            found = self.folder.iterdir() if self.folder.is_dir() else ()
            return [path.name for path in found]
        start = len(self.bucket.prefix)
        return [stored.key[start:] for page in self.bucket.pages() for stored in page]

    def keep(self, name: str) -> None:
        """Store a backup that was made in the folder; its checksum comes first, as it counts with that only."""
        if self.bucket:
            for each in (f"{name}.sha256", name):
                self.bucket.put_once(f"{self.bucket.prefix}{each}", self.folder / each, "application/octet-stream")

    def fetch(self, name: str) -> Path:
        """Return the path of a backup as it is stored, with its checksum beside it. Raises ObjectMissing."""
        if self.bucket:
            for each in (f"{name}.sha256", name):
                self.bucket.download(f"{self.bucket.prefix}{each}", self.folder / each)
        return self.folder / name

    def delete(self, names: Iterable[str]) -> None:
        """Delete files. Raises StorageError where the bucket refuses."""
        if self.bucket is None:
            for name in names:
                (self.folder / name).unlink(missing_ok=True)
        elif refused := self.bucket.delete([f"{self.bucket.prefix}{name}" for name in names]):
            raise StorageError(f"old backups in {self} could not be deleted: {refused}")


def backup_place(settings: Settings, scratch: Path) -> Place:
    """Return the configured place. Sends nothing."""
    at, key, secret = settings.endpoint_url, settings.s3_access_key_id, settings.s3_secret_access_key
    if settings.backup_bucket is None or not (at and key and secret):
        return Place(settings.backup_folder, None)
    keys = key.get_secret_value(), secret.get_secret_value()
    return Place(scratch, r2.connect(at, *keys, *settings.backup_bucket, settings.s3_region))
