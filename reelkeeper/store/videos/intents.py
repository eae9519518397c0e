"""Store write-ahead intents: a pending blob, and the open operation that announces it and ends once."""

from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import sqlalchemy as sa
from sqlmodel import Session

from reelkeeper.model import BlobState, Grace, Recorded, VideoState
from reelkeeper.store.core.engine import changed, now
from reelkeeper.store.tables import blobs, operations, videos
from reelkeeper.store.videos import conditions
from reelkeeper.store.videos.conditions import replaced_by, retired


@dataclass(frozen=True, slots=True)
class Intent:
    """An open operation and the new blob that it announces."""

    id: str
    kind: str  # swap, upload, restore
    run_id: str
    video_id: str
    user_id: str
    old_blob_id: int | None
    old_bytes: int
    new_blob_id: int
    generation: int  # of the video when announced
    key: str
    size_bytes: int
    sha256: str
    content_type: str
    codec: str
    frames: int
    duration_seconds: float
    reservation: str | None  # of the bytes, which are settled or released with the intent
    machine: str | None  # of a swap: the host that encoded
    aside_blob_id: int | None  # only in place: the copy of the bytes at the service's key


def announce(
    session: Session, blob: dict[str, Any], operation: dict[str, Any], aside: dict[str, Any] | None = None
) -> Intent:
    """Insert the pending blob and the open operation; the caller's transaction commits them.

    `aside` is a copy of the bytes now at the blob's key, and makes it an intent in place. Its ETag is the MD5 of these
    bytes, and not recorded as the copy's: the server chooses that.

    The blob's ETag is announced too, the MD5 of a single PUT's bytes, so that an abandoned object can be purged.
    A second open operation on the same video breaks a unique index: IntegrityError, and nothing is written.
    """
    if aside is not None:
        detail = {**operation["detail"], "old_md5": aside["etag"]}
        copy = aside | {"etag": None}
        operation = {**operation, "detail": detail, "aside_blob_id": _insert(session, copy, operation["run_id"])}
    return _open(session, _insert(session, blob, operation["run_id"]), operation)


def _insert(session: Session, blob: dict[str, Any], run_id: str) -> int:
    """Write a pending blob."""
    blob_id: int = session.execute(
        sa.insert(blobs)
        .values(state=BlobState.PENDING, stored_at=now(session), run_id=run_id, **blob)
        .returning(blobs.c.id)
    ).scalar_one()
    return blob_id


def adopt(session: Session, blob_id: int, known: dict[str, Any], operation: dict[str, Any]) -> Intent:
    """Announce, as `announce` does, a pending blob that a client has put, with the `known` facts of its object."""
    session.execute(
        sa.update(blobs)
        .where(blobs.c.id == blob_id, blobs.c.state == BlobState.PENDING)
        .values(video_id=operation["video_id"], run_id=operation["run_id"], **known)
    )
    return _open(session, blob_id, operation)


def _open(session: Session, blob_id: int, operation: dict[str, Any]) -> Intent:
    at = now(session)
    intent_id = uuid4().hex
    session.execute(
        sa.insert(operations).values(
            id=intent_id, state="open", new_blob_id=blob_id, created_at=at, updated_at=at, **operation
        )
    )
    return _intents(session, operations.c.id == intent_id)[0]


def open_intents(session: Session, video_id: str | None = None) -> list[Intent]:
    """List the open operations of one video or of all, the oldest first."""
    wanted = operations.c.state == "open"
    return _intents(session, wanted if video_id is None else sa.and_(wanted, operations.c.video_id == video_id))


def _intents(session: Session, wanted: sa.ColumnElement[bool]) -> list[Intent]:
    old = blobs.alias("old")
    rows = session.execute(
        sa.select(
            operations.c.id,
            operations.c.kind,
            operations.c.run_id,
            operations.c.video_id,
            videos.c.user_id,
            operations.c.old_blob_id,
            sa.func.coalesce(old.c.size_bytes, 0),
            operations.c.new_blob_id,
            operations.c.generation,
            blobs.c.key,
            blobs.c.size_bytes,
            blobs.c.sha256,
            blobs.c.content_type,
            blobs.c.codec,
            blobs.c.frames,
            blobs.c.duration_seconds,
            operations.c.detail["reservation"].as_string(),
            operations.c.detail["machine"].as_string(),
            operations.c.aside_blob_id,
        )
        .select_from(
            operations.join(blobs, blobs.c.id == operations.c.new_blob_id)
            .join(videos, videos.c.id == operations.c.video_id)
            .outerjoin(old, old.c.id == operations.c.old_blob_id)
        )
        .where(wanted)
        .order_by(operations.c.created_at)
    )
    return [Intent(*row) for row in rows]


def source_object(session: Session, intent: Intent) -> tuple[str, Recorded]:
    """Read the key of the old blob, and the record of its object."""
    columns = (blobs.c.key, *(blobs.c[name] for name in Recorded._fields))
    row = session.execute(sa.select(*columns).where(blobs.c.id == intent.old_blob_id)).one()
    return row.key, Recorded(*row[1:])


def move_pointer(session: Session, intent: Intent) -> bool:
    """Point the video at the new blob, unless it was replaced or retired meanwhile, or its bytes are held."""
    first = intent.old_blob_id is None
    return bool(
        changed(
            session,
            sa.update(videos)
            .where(
                videos.c.id == intent.video_id,
                # guard publish.pointer_state: a swap makes a video live that was retired meanwhile
                videos.c.state == (VideoState.PENDING if first else VideoState.LIVE),
                # guard publish.pointer_bytes: a swap replaces bytes other than its source
                videos.c.blob_id.is_(None) if first else videos.c.blob_id == intent.old_blob_id,
                # guard publish.pointer_generation: a swap is published after another was made and undone meanwhile
                videos.c.generation == intent.generation,
                # guard publish.pointer_held: a swap replaces the bytes of a video that was held meanwhile
                sa.true()
                if first or intent.kind == "restore"
                else ~conditions.held(videos.c.id, videos.c.user_id, now(session)),
            )
            .values(
                state=VideoState.LIVE,
                blob_id=intent.new_blob_id,
                generation=intent.generation if first else intent.generation + 1,
                run_id=intent.run_id,
            ),
        )
    )


def close(session: Session, intent: Intent, *, published: bool, outcome: str, grace: Grace) -> bool:
    """End the intent; False when another run has already ended it. An abandoned blob is swept like a retired one."""
    at = now(session)
    ended = changed(
        session,
        sa.update(operations)
        # guard publish.closed_once: two runs end one intent, and a quota is settled twice
        .where(operations.c.id == intent.id, operations.c.state == "open")
        .values(state="done" if published else "abandoned", outcome=outcome, updated_at=at),
    )
    if not ended:
        return False
    fate: dict[str, Any] = {"state": BlobState.LIVE}
    if not published and intent.aside_blob_id is None:
        fate = retired(at, grace, outcome)
    elif not published:  # not stored, or put back: nothing to sweep
        fate = {"state": BlobState.GONE, "retire_reason": outcome}
    session.execute(
        # guard publish.pending_only: bytes that were already purged become live
        sa.update(blobs).where(blobs.c.id == intent.new_blob_id, blobs.c.state == BlobState.PENDING).values(**fate)
    )
    if not published:
        session.execute(
            sa.update(videos)
            .where(videos.c.id == intent.video_id, videos.c.state == VideoState.PENDING)
            .values(state=VideoState.GONE)
        )
    return True


def retire_old(session: Session, intent: Intent, grace: Grace) -> None:
    """Retire the blob that the video used before."""
    session.execute(
        sa.update(blobs)
        .where(blobs.c.id == intent.old_blob_id, blobs.c.state == BlobState.LIVE)
        # guard publish.old_grace: the old bytes of a swap are purged without a grace
        .values(run_id=intent.run_id, **retired(now(session), grace, replaced_by(intent.key)))
    )
