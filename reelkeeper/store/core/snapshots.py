"""Write copies of a store: completely or not at all, readable by their owner only, with a checksum.

`NAME.sha256` is in the format of sha256sum, so `sha256sum -c NAME.sha256` verifies it.
"""

import hashlib
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import sqlalchemy as sa

from reelkeeper.disk import make_file
from reelkeeper.errors import IntegrityDoubt, Unavailable

_MASK = (1 << 64) - 1
_AT_ONCE = 10_000
_LOCKED_SECONDS = 60.0


@contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """Yield the path of an empty file (mode 0600) that becomes `target`, with its checksum, if the block succeeds.

    A killed process leaves a file that ends in .partial. Raises FileExistsError: a backup never replaces a file, also
    not one that another process has written meanwhile.
    """
    _require_new(target)
    partial = target.with_name(f"{target.name}.{uuid4().hex[:8]}.partial")
    os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        yield partial
        _sync(partial)
        # guard backups.alone: of two processes that write one backup, one ends well with what cannot be restored
        _require_new(target)
        checksum = _checksum_file(target)
        make_file(checksum)  # nothing secret, but `doctor` warns of a file that others can read
        checksum.write_text(f"{_sha256(partial)}  {target.name}\n")
        _sync(checksum)
        partial.rename(target)
        _sync(target.parent)
    finally:
        partial.unlink(missing_ok=True)


def _require_new(target: Path) -> None:
    if target.exists():
        raise FileExistsError(f"{target} already exists; a backup never replaces a file")


def copy_sqlite(source: Path, target: Path, reader: sqlite3.Connection | None = None) -> None:
    """Copy the database at `source`, or what `reader` sees of it, to the new file `target` by SQLite's backup API.

    A plain file copy made during writes can be corrupt, in WAL mode too.
    """
    uri = f"{source.absolute().as_uri()}?mode=ro"
    with (
        new_file(target) as path,
        nullcontext(reader) if reader else closing(sqlite3.connect(uri, uri=True)) as found,
        closing(sqlite3.connect(path)) as copy,
    ):
        copy.execute("PRAGMA journal_mode=MEMORY")  # a full disk, or a kill, leaves nothing beside it
        copy_pages(found, copy, source)
        copy.execute("PRAGMA journal_mode=DELETE")  # one file, without a -wal beside it


def copy_pages(source: sqlite3.Connection, target: sqlite3.Connection, name: Path) -> None:
    """Write all of `source` over `target` in one transaction. Raises Unavailable if either stays locked for a minute.

    Python waits for a lock without end and without looking at signals, so Ctrl-C too needs the callback.
    """
    ends = time.monotonic() + _LOCKED_SECONDS

    def look(status: int, *_: int) -> None:
        if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) and time.monotonic() > ends:
            raise Unavailable(
                f"{name} was locked by another process for {_LOCKED_SECONDS:.0f} s; nothing was changed. Stop what "
                "works on this store, then try again"
            )

    source.backup(target, progress=look)


def verify_checksum(path: Path) -> None:
    """Raise IntegrityDoubt unless `path` matches its checksum file."""
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
    """Flush a file's bytes, or a folder's names, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Contents(NamedTuple):
    """A table: its number of rows, and a checksum over `columns`."""

    rows: int
    columns: tuple[str, ...]
    total: int


def contents(connection: sa.Connection, before: Mapping[str, Contents] | None = None) -> dict[str, Contents]:
    """Checksum every table except Alembic's, in the columns that it had `before`: a million rows take some seconds."""
    names = sorted(set(sa.inspect(connection).get_table_names()) - {"alembic_version"})
    return {name: _contents(connection, name, (before or {}).get(name)) for name in names}


def _contents(connection: sa.Connection, name: str, before: Contents | None) -> Contents:
    # The driver's values are compared, as our types may not fit an old schema.
    found = connection.execute(sa.select(sa.text("*")).select_from(sa.table(name)), execution_options=_STREAMED)
    present = tuple(found.keys())
    columns = tuple(column for column in before.columns if column in present) if before else present
    places = [present.index(column) for column in columns]
    rows = total = 0
    for row in found:
        rows += 1
        total += hash(repr([row[place] for place in places]))
    return Contents(rows, columns, total & _MASK)


_STREAMED = {"yield_per": _AT_ONCE}


def changes(before: Mapping[str, Contents], after: Mapping[str, Contents]) -> dict[str, str]:
    """Describe how each changed table differs. A dropped column is a difference, a new one is not."""
    differences = {}
    for name, old in before.items():
        new = after.get(name, Contents(0, old.columns, 0))
        if old.rows != new.rows:
            differences[name] = f"{name} had {old.rows} rows and has {new.rows}"
        elif dropped := [column for column in old.columns if column not in new.columns]:
            differences[name] = f"{name} has no {', '.join(dropped)} any more"
        elif old.total != new.total:
            differences[name] = f"{name} has other values than before"
    return differences
