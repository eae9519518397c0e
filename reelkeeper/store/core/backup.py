"""Back up a store while it is in use, and restore it, verified, into an empty store that is then frozen.

Yesterday's store does not know today's objects: nothing may change until `sync_catalog` has compared the two.

A PostgreSQL store becomes one ZIP file: COPY of each table as CSV, and metadata. pg_dump is not used: it must be as new
as the server, and is not installed where only the wheels are.
"""

import json
import sqlite3
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Any, cast

import psycopg
import sqlalchemy as sa
from psycopg import sql
from sqlalchemy.orm import Session
from sqlalchemy.schema import CreateSchema, DropSchema
from sqlmodel import SQLModel

from reelkeeper import disk
from reelkeeper.errors import IntegrityDoubt, Misconfigured, Refused, SchemaError
from reelkeeper.store.core import epochs
from reelkeeper.store.core.audit import ELSEWHERE, Event, append, verify
from reelkeeper.store.core.deployment import RESTORE, identity
from reelkeeper.store.core.engine import Clock, now, open_engine, reading, transaction
from reelkeeper.store.core.schema import head, hold_up_writers, require_current, upgrade
from reelkeeper.store.core.snapshots import (
    Contents,
    changes,
    contents,
    copy_pages,
    copy_sqlite,
    new_file,
    verify_checksum,
)
from reelkeeper.store.tables import deployment, policy_versions

_MANIFEST = "manifest.json"
_CHUNK_BYTES = 1 << 20
_METADATA = SQLModel.metadata

# Videos and blobs refer to each other: on PostgreSQL one of the two references is set when both tables are filled.
DROP_CYCLE = sa.text("ALTER TABLE videos DROP CONSTRAINT IF EXISTS fk_videos_blob")
ADD_CYCLE = sa.text("ALTER TABLE videos ADD CONSTRAINT fk_videos_blob FOREIGN KEY (blob_id) REFERENCES blobs (id)")
_SUFFIX = {"sqlite": "sqlite3", "postgresql": "zip"}
_ROLE = "the disk of the backup"
_REMEDY = "Free some space, or set REELKEEPER_BACKUPS to a larger disk"
_SCRATCH = "reelkeeper_restore_test"
_SCRATCH_OPTION = f"-c search_path={_SCRATCH}"
_FREEZING = {"audit_events", "controls", "deployment"}


def backup(engine: sa.Engine, target: Path, seen: dict[str, Contents] | None = None) -> Path:
    """Copy the store as of one moment, with `NAME.sha256` beside it, while readers and writers continue.

    `target` is a new file, or a folder in which the file is named after deployment and time. SQLite: a database file;
    PostgreSQL: a ZIP of CSV files. `seen` is filled with what the tables had at that moment, for `compare`.
    Raises SchemaError, FileExistsError, DiskFull.
    """
    require_current(engine)
    with reading(engine) as session, _watched(target):
        at = now(session)
        if target.is_dir():
            kind = _SUFFIX[engine.dialect.name]
            target = target / f"reelkeeper-{identity(session)[:8]}-{at:%Y%m%dT%H%M%S.%fZ}.{kind}"
        if seen is not None:
            seen.update(contents(session.connection()))
        if engine.dialect.name == "sqlite":
            source = Path(str(engine.url.database))
            disk.require(target, _ROLE, _REMEDY, disk.FLOOR_BYTES + source.stat().st_size)
            reader = session.connection().connection.driver_connection
            copy_sqlite(source, target, cast("sqlite3.Connection", reader))
        else:
            with new_file(target) as path:
                write_dump(session, path, head(), at)
    return target


@contextmanager
def _watched(target: Path) -> Iterator[None]:
    """Turn the errors of a full disk, the kernel's and SQLite's, into DiskFull of `target`."""
    try:
        with disk.watched(target, _ROLE, _REMEDY):
            yield
    except sqlite3.Error as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            raise disk.full(target, _ROLE, _REMEDY) from error
        raise


@contextmanager
def scratch_store(engine: sa.Engine, folder: Path) -> Iterator[str]:
    """Yield the URL of an empty store of the same kind, which is dropped at the end.

    A file in `folder`; on PostgreSQL a schema beside the store's in its database, as most users may make no database.
    """
    if engine.dialect.name == "sqlite":
        yield f"sqlite:///{folder / 'restored.sqlite3'}"
        return
    _run(engine, DropSchema(_SCRATCH, cascade=True, if_exists=True), CreateSchema(_SCRATCH))
    try:
        before = str(engine.url.query.get("options", ""))
        url = engine.url.update_query_dict({"options": f"{before} {_SCRATCH_OPTION}".strip()})
        beside = open_engine(url.render_as_string(hide_password=False))
        with reading(beside) as session:
            found = session.scalar(sa.select(sa.func.current_schema()))
        beside.dispose()
        # guard backups.scratch: behind a pooler that drops options, an empty store at work is filled and frozen
        if found != _SCRATCH:
            raise Misconfigured(f"{engine.url!r} is behind a pooler that drops `options`: connect to PostgreSQL itself")
        yield url.render_as_string(hide_password=False)
    finally:
        _run(engine, DropSchema(_SCRATCH, cascade=True))


def _run(engine: sa.Engine, *statements: sa.Executable) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(statement)


def compare(url: str, seen: Mapping[str, Contents], source: Path) -> None:
    """Raise IntegrityDoubt unless the store at `url`, restored from `source`, has what was `seen` as it was made.

    A restore has verified the audit record; it has frozen the store, which these three tables show.
    """
    engine = open_engine(url)
    with reading(engine) as session:
        found = contents(session.connection(), seen)
    engine.dispose()
    wrong = [what for name, what in changes(seen, found).items() if name not in _FREEZING]
    # guard backups.compared: a backup that lacks rows counts as good, and earlier ones are deleted
    if wrong or found["audit_events"].rows != seen["audit_events"].rows + 1:
        raise IntegrityDoubt(f"{source.name} was restored as a check, and is not what was backed up: {wrong}")


def restore(url: str, source: Path) -> None:
    """Fill the empty store at `url` from a backup of the same kind of database, and freeze it.

    Checks the checksum, the schema, references and the audit chain before the store is touched (SQLite) or before the
    transaction commits (PostgreSQL). Raises IntegrityDoubt, SchemaError, Refused when the store holds anything or the
    backup is of the other kind, or Unavailable while it is locked.
    """
    verify_checksum(source)
    engine = open_engine(url)
    try:
        _require_kind(engine, source)
        with reading(engine) as session:
            require_empty(session, url)
        upgrade(engine)
        if engine.dialect.name == "sqlite":
            with _checked_copy(source, Path(str(engine.url.database)).parent) as path:
                with reading(engine) as session:
                    # guard restore.still_empty: what was stored while a large backup was checked is lost
                    require_empty(session, url)
                _replace_sqlite(path, Path(str(engine.url.database)))
        else:
            with transaction(engine, "restore") as session:
                # guard restore.shut_out: what a service writes to the new store meanwhile is mixed into the old one
                hold_up_writers(session.connection())
                require_empty(session, url)
                for made in (deployment, policy_versions):  # which a new store has
                    session.execute(sa.delete(made))
                read_dump(session, source, head())
                _check_and_freeze(session, source)
    finally:
        engine.dispose()


def _require_kind(engine: sa.Engine, source: Path) -> None:
    kind = "postgresql" if zipfile.is_zipfile(source) else "sqlite"
    # guard backups.kind: after a move, yesterday's backup ends a restore in an error that does not say what to do
    if kind != engine.dialect.name:
        raise Refused(
            f"{source.name} is of a store on {kind}, and REELKEEPER_DATABASE_URL names one on {engine.dialect.name}; "
            f"nothing was changed. Restore it into an empty one on {kind}; then reelkeeper db adopt, and db move"
        )


def require_empty(session: Session, url: str) -> None:
    """Raise Refused where the store at `url` has anything but what a new one has."""
    existing = set(sa.inspect(session.connection()).get_table_names())
    for table in SQLModel.metadata.sorted_tables:
        if table is deployment or table.name not in existing:
            continue
        row = sa.select(sa.literal(1)).select_from(table).limit(1)
        if session.execute(row.where(table.c.version > 0) if table is policy_versions else row).first():
            raise Refused(
                f"the store at {sa.make_url(url)!r} already has {table.name}, and no store is overwritten. Nothing was "
                "changed. Move that store away, or name an empty one"
            )


@contextmanager
def _checked_copy(source: Path, beside: Path) -> Iterator[Path]:
    """Make a verified copy of `source` in today's schema, already frozen, on the disk that has room for the store."""
    with tempfile.TemporaryDirectory(prefix="reelkeeper-restore-", dir=beside) as folder:
        path = Path(folder) / "store.sqlite3"
        copy_sqlite(source, path)
        engine = open_engine(f"sqlite:///{path}")
        try:
            upgrade(engine)
            with transaction(engine, "restore") as session:
                broken = session.execute(sa.text("PRAGMA foreign_key_check")).first()
                sound = session.execute(sa.text("PRAGMA integrity_check")).scalar()
                if broken or sound != "ok":
                    raise IntegrityDoubt(
                        f"{source} is damaged: {sound}, dangling reference {broken}; nothing was changed"
                    )
                _check_and_freeze(session, source)
        finally:
            engine.dispose()
        yield path


def _check_and_freeze(session: Session, source: Path) -> None:
    verify(session)
    epochs.set_marks(session, {epochs.RESTORED: f"backup {source.name}"})
    reason = f"restored from backup {source.name}; run sync_catalog, then reelkeeper db adopt"
    frozen = {"frozen_at": Clock(), "frozen_by": RESTORE, "frozen_reason": reason}
    # guard restore.frozen: an adoption ends a freeze that a person had placed before the backup
    is_free = sa.or_(deployment.c.frozen_at.is_(None), deployment.c.frozen_by.in_([RESTORE, *ELSEWHERE]))
    session.execute(sa.update(deployment).where(is_free).values(frozen))
    append(session, [Event("freeze", RESTORE, detail={"reason": reason})])


def _replace_sqlite(path: Path, target: Path) -> None:
    """Write the pages of `path` over `target` in one transaction of the backup API: a kill leaves it unchanged."""
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(target)) as store:
        store.execute("PRAGMA synchronous=FULL")
        copy_pages(source, store, target)


def write_dump(session: Session, path: Path, revision: str, at: datetime) -> None:
    """Write every table as `session`'s snapshot shows it, streamed."""
    rows = {}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for table in _METADATA.sorted_tables:
            rows[table.name] = session.scalar(sa.select(sa.func.count()).select_from(table))
            with (
                archive.open(_member(table), "w", force_zip64=True) as file,
                driver(session).cursor() as cursor,
                cursor.copy(_copy(table, "TO STDOUT")) as copied,
            ):
                for chunk in copied:
                    file.write(chunk)
        archive.writestr(_MANIFEST, json.dumps({"revision": revision, "at": at.isoformat(), "rows": rows}))


def read_dump(session: Session, path: Path, revision: str) -> None:
    """Fill the empty tables of `session`'s store. Raises SchemaError, IntegrityDoubt; the caller rolls back."""
    with zipfile.ZipFile(path) as archive:
        manifest: dict[str, Any] = json.loads(archive.read(_MANIFEST))
        if manifest["revision"] != revision:
            raise SchemaError(
                f"{path} has schema {manifest['revision']}, but this version needs {revision}. Restore it with the "
                "version that made it, then run `reelkeeper db upgrade`"
            )
        session.execute(DROP_CYCLE)
        for table in _METADATA.sorted_tables:
            with archive.open(_member(table)) as file:
                _fill(session, table, file)
            found = session.scalar(sa.select(sa.func.count()).select_from(table))
            if found != manifest["rows"][table.name]:
                raise IntegrityDoubt(
                    f"{path}: of {table.name}, {manifest['rows'][table.name]} rows were backed up, but {found} restored"
                )
        session.execute(ADD_CYCLE)
        count_on(session)


def count_on(session: Session) -> None:
    """Have PostgreSQL count ids on from the highest that is stored. Without it, the next rows of a table collide."""
    for table in _METADATA.sorted_tables:
        if (counted := table.autoincrement_column) is not None:
            highest = sa.select(sa.func.coalesce(sa.func.max(counted), 0) + 1).scalar_subquery()
            sequence = sa.func.pg_get_serial_sequence(table.name, counted.name)
            session.execute(sa.select(sa.func.setval(sequence, highest, False)))


def _fill(session: Session, table: sa.Table, file: IO[bytes]) -> None:
    with driver(session).cursor() as cursor, cursor.copy(_copy(table, "FROM STDIN")) as copied:
        while chunk := file.read(_CHUNK_BYTES):
            copied.write(chunk)


def _copy(table: sa.Table, way: str) -> sql.Composed:
    columns = sql.SQL(", ").join(sql.Identifier(column.name) for column in table.c)
    return sql.SQL("COPY {} ({}) " + way + " (FORMAT csv)").format(sql.Identifier(table.name), columns)


def _member(table: sa.Table) -> str:
    return f"{table.name}.csv"


def driver(session: Session) -> psycopg.Connection[Any]:
    """Return psycopg's connection, for COPY."""
    return cast("psycopg.Connection[Any]", session.connection().connection.driver_connection)
