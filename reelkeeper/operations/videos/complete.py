"""Publish a video that was uploaded by a presigned URL (`operations/videos/receive`), once it is verified as stored.

The object is read back and inspected, and then published like any upload (`operations/videos/intents`): an intent,
read back and decoded to its end, one transaction. After a kill, a repetition finishes it.
"""

from pathlib import Path

from reelkeeper.adapters import ffmpeg
from reelkeeper.errors import HoldClosed, KeyReused, LeaseLost, NotAVideo, ObjectMissing
from reelkeeper.failpoints import effect
from reelkeeper.model import Grace
from reelkeeper.model.money import ReservationState
from reelkeeper.model.requests import Incoming, Upload
from reelkeeper.operations.billing import quota
from reelkeeper.operations.core.freeze import require_permission
from reelkeeper.operations.core.lease import LeaseManager
from reelkeeper.operations.core.workspace import Workspace
from reelkeeper.operations.videos import intents
from reelkeeper.operations.videos.receive import find
from reelkeeper.store import Session
from reelkeeper.store.core.audit import Event, append
from reelkeeper.store.core.engine import transaction
from reelkeeper.store.core.leases import Lease
from reelkeeper.store.videos import uploads
from reelkeeper.store.videos.intents import adopt


def complete(workspace: Workspace, upload_id: str, *, scratch: Path, run_id: str, grace: Grace) -> Upload:
    """Publish an upload once it is verified as stored. Safe to repeat: a settled one is returned as it is.

    Raises ObjectMissing when nothing was put yet, NotAVideo for other bytes, HoldClosed when the upload is over,
    LeaseLost when another run works on the video, Frozen.
    """
    upload = find(workspace, upload_id)
    if upload.state == ReservationState.SETTLED:
        return upload
    with LeaseManager(workspace.engine) as manager:
        taken = manager.take([f"video/{upload.video_id}"])
        if not taken:
            raise LeaseLost(f"another run is working on video {upload.video_id!r}; try again in a minute")
        for intent in intents.open_intents(workspace, upload.video_id):  # of a killed completion
            intents.settle(workspace, intent, scratch=scratch, lease=taken[0], grace=grace)
        upload = find(workspace, upload_id)
        if upload.state == ReservationState.OPEN:
            _publish(workspace, upload, scratch=scratch, lease=taken[0], run_id=run_id, grace=grace)
            upload = find(workspace, upload_id)
    if upload.state != ReservationState.SETTLED:
        why = f": {upload.refusal}" if upload.refusal else ""
        raise HoldClosed(f"upload {upload_id} of video {upload.video_id!r} is {upload.state}{why}. Begin a new upload")
    return upload


def _publish(workspace: Workspace, upload: Upload, *, scratch: Path, lease: Lease, run_id: str, grace: Grace) -> None:
    with intents.workplace(scratch, upload.size_bytes) as place:
        back = place / f"put{Path(upload.key).suffix}"
        try:
            with effect("receive.readback"):
                # guard upload_url.as_announced: bytes other than the announced ones are published
                sha256 = workspace.bucket.download(upload.key, back, etag=upload.md5)
        except ObjectMissing:
            raise ObjectMissing(
                f"no bytes are stored yet for upload {upload.id}. Put them at its URL, then complete it"
            ) from None
        try:
            media = ffmpeg.inspect(back)
        except NotAVideo as wrong:
            _refuse(workspace, upload, str(wrong), lease=lease, run_id=run_id, grace=grace)
            raise
    with transaction(workspace.engine, "receive.announce") as session:
        require_permission(session, lease)
        quota.require_room(session, upload.reservation_id, upload.user_id, upload.size_bytes)
        _make_pending(session, upload)
        known = {
            "sha256": sha256,
            "codec": media.codec,
            "duration_seconds": media.duration_seconds,
            "frames": media.frames,
        }
        operation = {
            "kind": "upload",
            "video_id": upload.video_id,
            "old_blob_id": None,
            "generation": 1,
            "run_id": run_id,
            "lease_token": lease.token,
            "detail": {"reservation": upload.reservation_id},
        }
        intent = adopt(session, upload.blob_id, known, operation)
    intents.settle(workspace, intent, scratch=scratch, lease=lease, grace=grace)


def _make_pending(session: Session, upload: Upload) -> None:
    """Insert the video's row. Raises KeyReused when its id was taken since the upload began."""
    known = uploads.current(session, upload.video_id, locked=True)
    if known is None:
        video = Incoming(upload.user_id, upload.video_id, upload.video_created_at, upload.tag)
        uploads.add_pending(session, video)
    elif known.never_came and known.user_id == upload.user_id:
        uploads.make_pending(session, upload.video_id, created_at=upload.video_created_at, tag=upload.tag)
    else:
        # guard upload_url.meanwhile: an upload replaces a video that was created after the upload began
        raise KeyReused(f"video {upload.video_id!r} was created after upload {upload.id} began; use another id")


def _refuse(workspace: Workspace, upload: Upload, why: str, *, lease: Lease, run_id: str, grace: Grace) -> None:
    with transaction(workspace.engine, "receive.refuse") as session:
        require_permission(session, lease)
        quota.release(session, upload.reservation_id)
        uploads.refuse(session, upload, why, grace)
        detail = {"key": upload.key, "bytes": upload.size_bytes, "video": upload.video_id, "why": why}
        append(session, [Event("upload_refused", run_id, None, upload.blob_id, upload.user_id, detail)])
