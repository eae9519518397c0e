"""Store a new video, or new bytes for an existing one, and publish it once it is verified as stored."""

from hashlib import file_digest
from pathlib import Path
from typing import Any

from reelkeeper.adapters import ffmpeg
from reelkeeper.adapters.s3.keys import blob_key
from reelkeeper.errors import NotFound
from reelkeeper.model import Grace, Outcome, VideoState
from reelkeeper.model.requests import Incoming
from reelkeeper.operations.billing import quota
from reelkeeper.operations.core.freeze import require_permission
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.videos import intents, new_key
from reelkeeper.store import Session
from reelkeeper.store.core.engine import transaction
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.videos import uploads
from reelkeeper.store.videos.intents import announce
from reelkeeper.store.videos.videos import is_user

CONTENT_TYPES = {
    "mp4": "video/mp4",
    "webm": "video/webm",
    "mov": "video/quicktime",
    "mkv": "video/x-matroska",
    "m4v": "video/x-m4v",
}


def upload(
    workspace: Workspace, source: Path, video: Incoming, *, scratch: Path, lease: Lease, run_id: str, grace: Grace
) -> Outcome:
    """Store `source` as the video's bytes. An existing live video of the user gets them as its next generation.

    An open intent of a killed run is settled first. The caller holds the lease `video/<id>`. `reservation` is the key
    given to `quota.reserve`, settled when the video is published and released if it is not; without one the bytes are
    counted and no quota is checked. An existing video keeps its tag, model and creation time. Raises NotAVideo,
    NotFound when the video is another user's or no longer live, QuotaExceeded or HoldClosed when the reservation is
    too small or over, and Frozen, LeaseLost or DiskFull before the first change.
    """
    for intent in intents.open_intents(workspace, video.video_id):
        intents.settle(workspace, intent, scratch=scratch, lease=lease, grace=grace)
    media = ffmpeg.inspect(source)
    with source.open("rb") as file:
        sha256 = file_digest(file, "sha256").hexdigest()
    md5 = intents.md5(source)
    intents.require_room(scratch, media.size_bytes)  # for reading it back; checked before anything is announced
    extension = source.suffix.lstrip(".").lower()
    with transaction(workspace.engine, "upload.announce") as session:
        require_permission(session, lease)
        if video.reservation:
            quota.require_room(session, video.reservation, video.user_id, media.size_bytes)
        known, old_blob_id = _current(session, video)
        generation = known + (old_blob_id is not None)
        blob = {
            "video_id": video.video_id,
            "generation": generation,
            "key": blob_key(workspace.bucket.prefix, video.user_id, video.video_id, generation, extension),
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
            "video_id": video.video_id,
            "old_blob_id": old_blob_id,
            "generation": known,
            "run_id": run_id,
            "lease_token": lease.token,
            "detail": {"reservation": video.reservation} if video.reservation else {},
        }
        intent = announce(session, blob, operation)
    new_key.put(workspace, intent, source)
    return intents.settle(workspace, intent, scratch=scratch, lease=lease, grace=grace)


def _current(session: Session, video: Incoming) -> tuple[int, int | None]:
    """Find the video's generation and blob; make it `pending` if it is new, or if its first upload failed."""
    known = uploads.current(session, video.video_id, locked=True)
    if known is None:
        if not is_user(session, video.user_id, even_erased=True):  # a job of an erased user
            uploads.add_user(session, video.user_id)
        uploads.add_pending(session, video)
        return 1, None
    # guard uploads.own_video: a user replaces another user's video
    # guard uploads.live_video: an upload makes a retired video live again
    if known.user_id != video.user_id or not (known.state == VideoState.LIVE or known.never_came):
        raise NotFound(
            f"video {video.video_id!r} is {known.state} and belongs to user {known.user_id!r}; nothing was stored"
        )
    if known.never_came:
        # guard uploads.made_at: a new video is as old as the upload that failed, and expires the next night
        about = {"created_at": video.created_at, "tag": video.tag, "model": video.model}
        uploads.make_pending(session, video.video_id, **about)
    return known.generation, known.blob_id
