"""Files that hold a copy of a store: written whole or not at all, readable by their owner only, with a checksum beside.

`NAME.sha256` is in the format of sha256sum, so `sha256sum -c NAME.sha256` checks it without us.
"""

import hashlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from reelkeeper.errors import IntegrityDoubt


@contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """Give the path of an empty file (mode 0600) that becomes `target`, with its checksum, when all went well.

    What a killed process leaves behind ends in .partial. Raises FileExistsError: a backup never replaces a file.
    """
    if target.exists():
        raise FileExistsError(f"{target} exists; a backup never replaces a file")
    partial = target.with_name(f"{target.name}.partial")
    partial.unlink(missing_ok=True)
    os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        yield partial
        _sync(partial)
        checksum = _checksum_file(target)
        checksum.write_text(f"{_sha256(partial)}  {target.name}\n")
        _sync(checksum)
        partial.rename(target)
        _sync(target.parent)
    finally:
        partial.unlink(missing_ok=True)


def copy_sqlite(source: Path, target: Path) -> None:
    """Copy the database at `source` to the new file `target` with SQLite's online backup API.

    A plain file copy under write load is corrupt now and then, in WAL mode too.
    """
    with (
        new_file(target) as path,
        closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as reader,
        closing(sqlite3.connect(path)) as copy,
    ):
        reader.backup(copy)
        copy.execute("PRAGMA journal_mode=DELETE")  # one file, without a -wal beside it


def verify_checksum(path: Path) -> None:
    """Raise IntegrityDoubt unless `path` is what its checksum file says."""
    checksum = _checksum_file(path)
    if not path.exists() or not checksum.exists():
        raise IntegrityDoubt(f"{path if not path.exists() else checksum} is missing; nothing was changed")
    expected, found = checksum.read_text().split()[:1], _sha256(path)
    if expected != [found]:
        raise IntegrityDoubt(f"{path} has sha256 {found}, {checksum.name} says {expected}; nothing was changed")


def _checksum_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Make a file's bytes, or a folder's names, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
