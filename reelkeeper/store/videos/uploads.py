"""Read the state of a video that is uploaded or replaced, and store uploads by presigned URL."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model import BlobState, Grace, VideoState
from reelkeeper.model.requests import Incoming, Upload
from reelkeeper.store.core import controls, epochs
from reelkeeper.store.core.engine import now
from reelkeeper.store.tables import blobs, reservations, uploads, users, videos
from reelkeeper.store.videos.conditions import never_came, retired

_NOT_COMPLETED: Final = "an upload that was not completed"
_QUERY = sa.select(
    uploads.c.id,
    uploads.c.request_sha256,
    reservations.c.user_id,
    uploads.c.video_id,
    uploads.c.video_created_at,
    reservations.c.state,
    uploads.c.refusal,
    uploads.c.reservation_id,
    blobs.c.key,
    blobs.c.size_bytes,
    blobs.c.etag,
    blobs.c.content_type,
    uploads.c.url_until,
    uploads.c.tag,
    uploads.c.blob_id,
).select_from(
    uploads.join(reservations, reservations.c.id == uploads.c.reservation_id).join(
        blobs, blobs.c.id == uploads.c.blob_id
    )
)


class Current(NamedTuple):
    """The catalogue's record of a video that is being uploaded."""

    user_id: str
    state: str
    blob_id: int | None  # None: its first bytes have not arrived
    generation: int
    never_came: bool  # its first upload failed, so that its id is free for another of the same user


def current(session: Session, video_id: str, *, locked: bool) -> Current | None:
    """Find a video's present bytes; with `locked`, lock it until the transaction ends."""
    columns = (videos.c[name] for name in Current._fields[:4])
    query = sa.select(*columns, never_came()).where(videos.c.id == video_id)
    row = session.execute(query.with_for_update() if locked else query).one_or_none()
    return Current._make(row) if row else None


def add_pending(session: Session, video: Incoming) -> None:
    """Insert a new video, whose first bytes have not arrived."""
    session.execute(
        sa.insert(videos).values(
            id=video.video_id,
            user_id=video.user_id,
            generation=1,
            state=VideoState.PENDING,
            created_at=video.created_at,
            tag=video.tag,
            model=video.model,
        )
    )


def make_pending(session: Session, video_id: str, **values: datetime | str | None) -> None:
    """Reset a video whose first upload failed to wait for another."""
    session.execute(sa.update(videos).where(videos.c.id == video_id).values(state=VideoState.PENDING, **values))


def add_user(session: Session, user_id: str) -> None:
    """Insert a user with no other data."""
    session.execute(sa.insert(users).values(id=user_id))


def find(session: Session, upload_id: str) -> Upload | None:
    """Find an upload."""
    row = session.execute(_QUERY.where(uploads.c.id == upload_id)).one_or_none()
    return Upload._make(row) if row else None


def begin(session: Session, upload: Upload) -> Upload:
    """Insert an upload and the pending blob of its bytes; return it with the blob's id."""
    blob_id = session.execute(
        sa.insert(blobs)
        .values(
            generation=1,
            key=upload.key,
            state=BlobState.PENDING,
            size_bytes=upload.size_bytes,
            etag=upload.md5,
            content_type=upload.content_type,
            stored_at=now(session),
        )
        .returning(blobs.c.id)
    ).scalar_one()
    session.execute(
        sa.insert(uploads).values(
            id=upload.id,
            request_sha256=upload.request_sha256,
            video_id=upload.video_id,
            video_created_at=upload.video_created_at,
            reservation_id=upload.reservation_id,
            blob_id=blob_id,
            url_until=upload.url_until,
            tag=upload.tag,
        )
    )
    return upload._replace(blob_id=blob_id)


def refuse(session: Session, upload: Upload, why: str, grace: Grace) -> None:
    """Retire the uploaded bytes, and record why they are not a video."""
    gone = retired(now(session), grace, "a refused upload")
    pending = sa.and_(blobs.c.id == upload.blob_id, blobs.c.state == BlobState.PENDING)
    session.execute(sa.update(blobs).where(pending).values(**gone))
    session.execute(sa.update(uploads).where(uploads.c.id == upload.id).values(refusal=why))


def note_refusal(session: Session, reservation_id: str, why: str) -> None:
    """Record why the bytes of an upload, if this reservation is of one, were not published."""
    session.execute(sa.update(uploads).where(uploads.c.reservation_id == reservation_id).values(refusal=why))


def release(session: Session, reservation_ids: Sequence[str]) -> None:
    """End the blobs of uploads whose reservations have expired: their URLs have, too, so nothing more can be put.

    Whether anything was put is unknown here. A `gone` row expects no object, so an upload that was begun and never
    put does not count as lost; and `sync_catalog` retires any object that it finds for such a row.
    """
    reserved = sa.select(uploads.c.blob_id).where(uploads.c.reservation_id.in_(reservation_ids))
    session.execute(
        sa.update(blobs)
        .where(blobs.c.id.in_(reserved), blobs.c.state == BlobState.PENDING)
        .values(state=BlobState.GONE, retire_reason=_NOT_COMPLETED)
    )


def perhaps_completed(session: Session) -> sa.ColumnElement[bool]:
    """Build the condition that a blob's upload was open when this store was backed up, or copied, and may be a video.

    It has ended here, but the store does not know what was done between its backup or copy and its adoption.
    """
    ended = sa.and_(blobs.c.state == BlobState.GONE, sa.func.coalesce(blobs.c.retire_reason, "") == _NOT_COMPLETED)
    # guard uploads.copied: a copy that goes on in place of its store purges what was completed while it was made
    if epochs.why_away(session):
        return ended
    adopted = controls.kept(session, epochs.ADOPTED)
    return sa.and_(ended, blobs.c.stored_at < adopted.updated_at) if adopted else sa.false()
