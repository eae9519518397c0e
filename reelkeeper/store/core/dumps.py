"""A PostgreSQL store in one ZIP file: COPY of each table as CSV, and what it was made from.

Not pg_dump: that program must be as new as the server, and is not there where only the wheels are.
"""

import json
import zipfile
from datetime import datetime
from pathlib import Path
from typing import IO, Any, cast

import psycopg
import sqlalchemy as sa
from psycopg import sql
from sqlalchemy.orm import Session
from sqlmodel import SQLModel

from reelkeeper.errors import IntegrityDoubt, SchemaError
from reelkeeper.store.tables import blobs, outbox

_MANIFEST = "manifest.json"
_CHUNK_BYTES = 1 << 20
_METADATA = SQLModel.metadata


def write_dump(session: Session, path: Path, revision: str, at: datetime) -> None:
    """Write every table as `session`'s snapshot shows it, streamed."""
    rows = {}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for table in _METADATA.sorted_tables:
            rows[table.name] = session.scalar(sa.select(sa.func.count()).select_from(table))
            with (
                archive.open(_member(table), "w", force_zip64=True) as file,
                _driver(session).cursor() as cursor,
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
                f"{path} holds schema {manifest['revision']}, this version knows {revision}: restore it with the "
                "version that made it, then run `reelkeeper db upgrade`"
            )
        # Videos and blobs point at each other: one of the two references is laid down when both are full.
        session.execute(sa.text("ALTER TABLE videos DROP CONSTRAINT fk_videos_blob"))
        for table in _METADATA.sorted_tables:
            with archive.open(_member(table)) as file:
                _fill(session, table, file)
            found = session.scalar(sa.select(sa.func.count()).select_from(table))
            if found != manifest["rows"][table.name]:
                raise IntegrityDoubt(
                    f"{path}: {found} rows of {table.name} came, {manifest['rows'][table.name]} were there"
                )
        session.execute(
            sa.text("ALTER TABLE videos ADD CONSTRAINT fk_videos_blob FOREIGN KEY (blob_id) REFERENCES blobs (id)")
        )
        for counting in (blobs, outbox):
            highest = sa.select(sa.func.coalesce(sa.func.max(counting.c.id), 0) + 1).scalar_subquery()
            sequence = sa.func.pg_get_serial_sequence(counting.name, "id")
            session.execute(sa.select(sa.func.setval(sequence, highest, False)))


def _fill(session: Session, table: sa.Table, file: IO[bytes]) -> None:
    with _driver(session).cursor() as cursor, cursor.copy(_copy(table, "FROM STDIN")) as copied:
        while chunk := file.read(_CHUNK_BYTES):
            copied.write(chunk)


def _copy(table: sa.Table, way: str) -> sql.Composed:
    columns = sql.SQL(", ").join(sql.Identifier(column.name) for column in table.c)
    return sql.SQL("COPY {} ({}) " + way + " (FORMAT csv)").format(sql.Identifier(table.name), columns)


def _member(table: sa.Table) -> str:
    return f"{table.name}.csv"


def _driver(session: Session) -> psycopg.Connection[Any]:
    return cast("psycopg.Connection[Any]", session.connection().connection.driver_connection)
