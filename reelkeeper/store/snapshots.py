"""A consistent copy of a SQLite file while others write to it."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path


def copy_sqlite(source: Path, target: Path) -> None:
    """Copy the database at `source` to the new file `target` (mode 0600) with SQLite's online backup API.

    A plain file copy under write load is corrupt now and then, in WAL mode too. The copy appears under its name only
    when it is whole and on disk; what a killed copy leaves behind ends in .partial. Raises FileExistsError.
    """
    if target.exists():
        raise FileExistsError(f"{target} exists; a backup never replaces a file")
    partial = target.with_name(f"{target.name}.partial")
    partial.unlink(missing_ok=True)
    os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    with (
        closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as reader,
        closing(sqlite3.connect(partial)) as copy,
    ):
        reader.backup(copy)
        copy.execute("PRAGMA journal_mode=DELETE")  # one file, without a -wal beside it
    sync(partial)
    partial.rename(target)
    sync(target.parent)


def sync(path: Path) -> None:
    """Make a file's bytes, or a folder's names, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
