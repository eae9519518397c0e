"""Take in a video: a new one, or new bytes for one that is there. Published once verified as stored."""

from datetime import datetime
from hashlib import file_digest
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlmodel import Session

from reelkeeper.adapters import ffmpeg
from reelkeeper.adapters.s3.keys import blob_key
from reelkeeper.errors import NotFound
from reelkeeper.model import Grace, Outcome, VideoState
from reelkeeper.operations.billing import quota
from reelkeeper.operations.core.freeze import require_permission
from reelkeeper.operations.core.workspace import Depot
from reelkeeper.operations.videos import intents
from reelkeeper.store.core.engine import transaction
from reelkeeper.store.core.leases import Grant
from reelkeeper.store.tables import users, videos

CONTENT_TYPES = {
    "mp4": "video/mp4",
    "webm": "video/webm",
    "mov": "video/quicktime",
    "mkv": "video/x-matroska",
    "m4v": "video/x-m4v",
}


def upload(
    depot: Depot,
    source: Path,
    *,
    user_id: str,
    video_id: str,
    created_at: datetime,
    scratch: Path,
    grant: Grant,
    run_id: str,
    grace: Grace,
    reservation: str | None = None,
) -> Outcome:
    """Store `source` as the video's bytes. An existing live video of the user gets them as its next generation.

    What a killed run left open on the video is settled first. The caller holds the lease `video/<id>`. `reservation` is
    the key of a promise made by `quota.reserve`, settled as the video is published and released if it is not; without
    one the bytes are counted and no quota is asked. Raises NotAVideo for a file that is none, NotFound when the video
    is another user's or no longer live, QuotaExceeded or HoldClosed when the promise is too small or over, Frozen or
    LeaseLost before the first change, and so DiskFull.
    """
    for intent in intents.open_intents(depot, video_id):
        intents.settle(depot, intent, scratch=scratch, grant=grant, grace=grace)
    media = ffmpeg.inspect(source)
    with source.open("rb") as file:
        sha256 = file_digest(file, "sha256").hexdigest()
        file.seek(0)
        md5 = file_digest(file, "md5").hexdigest()
    intents.require_room(scratch, media.size_bytes)  # where it is read back: before anything is announced
    extension = source.suffix.lstrip(".").lower()
    with transaction(depot.engine, "upload.announce") as session:
        require_permission(session, grant)
        if reservation:
            quota.require_room(session, reservation, user_id, media.size_bytes)
        current = _current(session, user_id, video_id, created_at)
        generation = current.generation + (current.blob_id is not None)
        blob = {
            "video_id": video_id,
            "generation": generation,
            "key": blob_key(depot.bucket.prefix, user_id, video_id, generation, extension),
            "size_bytes": media.size_bytes,
            "etag": md5,
            "sha256": sha256,
            "content_type": CONTENT_TYPES[extension],
            "codec": media.codec,
            "duration_seconds": media.duration_seconds,
            "frames": media.frames,
        }
        operation: dict[str, Any] = {
            "kind": "upload",
            "video_id": video_id,
            "old_blob_id": current.blob_id,
            "generation": current.generation,
            "run_id": run_id,
            "lease_token": grant.token,
            "detail": {"reservation": reservation} if reservation else {},
        }
        intent = intents.announce(session, blob, operation)
    intents.put(depot, intent, source)
    return intents.settle(depot, intent, scratch=scratch, grant=grant, grace=grace)


class _Current(NamedTuple):
    generation: int
    blob_id: int | None  # None: the first bytes are still to come


def _current(session: Session, user_id: str, video_id: str, created_at: datetime) -> _Current:
    """Find what the video stands on; make it `pending` if it is new, or if its first upload never came to be."""
    row = session.execute(
        sa.select(videos.c.user_id, videos.c.state, videos.c.blob_id, videos.c.generation)
        .where(videos.c.id == video_id)
        .with_for_update()
    ).one_or_none()
    if row is None:
        if not session.execute(sa.select(users.c.id).where(users.c.id == user_id)).scalar():
            session.execute(sa.insert(users).values(id=user_id))
        session.execute(
            sa.insert(videos).values(
                id=video_id, user_id=user_id, generation=1, state=VideoState.PENDING, created_at=created_at
            )
        )
        return _Current(1, None)
    never_came = row.state == VideoState.GONE and row.blob_id is None
    if row.user_id != user_id or not (row.state == VideoState.LIVE or never_came):
        raise NotFound(f"video {video_id!r} is {row.state} and of user {row.user_id!r}; nothing was stored")
    if never_came:
        session.execute(sa.update(videos).where(videos.c.id == video_id).values(state=VideoState.PENDING))
    return _Current(row.generation, row.blob_id)
