"""Record uploads by the service at its own keys that the catalogue already knows.

The service may overwrite such a key at any time. Other bytes there, or the same bytes stored again, are a new video:
they get a row of their own and become the video's present bytes, whatever state the old row is in. An upload that was
cut to 0 bytes is no video: the bytes before it are lost.
"""

from collections.abc import Sequence

from reelkeeper.model import Grace, StoredObject
from reelkeeper.operations.alerts.events import record
from reelkeeper.operations.core.workspace import MAX_SKEW_FROM_BUCKET
from reelkeeper.store import Session
from reelkeeper.store.billing import quotas
from reelkeeper.store.core.audit import Event
from reelkeeper.store.core.engine import now
from reelkeeper.store.lifecycle import notices, retirements
from reelkeeper.store.removals import takedowns
from reelkeeper.store.sync import lost
from reelkeeper.store.videos import cache, overwrites


def take_uploads(
    session: Session,
    found: Sequence[tuple[int, StoredObject]],
    *,
    run_id: str,
    grace: Grace,
    claim_token: int | None = None,
) -> None:
    """Make the objects found at the keys of blobs the present bytes of their videos.

    `found` has the id of each blob and the object at its key. Rows that match by now, that Reelkeeper made,
    or that another purge than that of `claim_token` has claimed are left alone. A video's age is then that of the new
    object. Its earlier bytes are retired, if they are at a key of ours. One that its user deleted after the object was
    stored stays deleted, with a new grace. Where the object holds 0 bytes, the blob is lost, and so is a video that
    shows it. The caller's transaction holds the deployment row.
    """
    overwritten = overwrites.find_overwritten(session, dict(found), claim_token, MAX_SKEW_FROM_BUCKET)
    # guard overwrites.emptied: a video whose upload was cut to 0 bytes is shown, and counts as healthy
    emptied = [overwrite.blob_id for overwrite in overwritten if not overwrite.found.size_bytes]
    lose(session, emptied, run_id)
    overwritten = [overwrite for overwrite in overwritten if overwrite.blob_id not in emptied]
    if not overwritten:
        return
    video_ids = [overwrite.video_id for overwrite in overwritten]
    overwrites.mark_gone(session, [overwrite.blob_id for overwrite in overwritten], run_id)
    with quotas.counted(session, video_ids):
        at = now(session)
        new_ids = [overwrites.publish(session, overwrite, at, run_id=run_id, grace=grace) for overwrite in overwritten]
        deleted = [new_id for overwrite, new_id in zip(overwritten, new_ids, strict=True) if overwrite.deleted_at]
        retirements.retire_blobs(session, deleted, at, run_id=run_id, grace=grace)
        # guard takedown.overwritten: the service stores bytes that were taken down again, and they go live
        blocked = takedowns.find_blocked(session, new_ids)
        takedowns.mark(session, list(blocked), run_id)
    cache.drop(session, video_ids)  # the videos have other bytes now
    # guard overwrites.notice: a video that the service stored anew is retired without a notice of its own
    notices.end(session, video_ids, "the service stored another video")
    record(
        session,
        [
            Event(
                "overwritten",
                run_id,
                overwrite.video_id,
                new_id,
                overwrite.user_id,
                {"key": overwrite.found.key, "bytes": overwrite.found.size_bytes, "was": overwrite.state},
            )
            for overwrite, new_id in zip(overwritten, new_ids, strict=True)
        ]
        + [taken_down_again(video_id, blob_id, run_id) for video_id, blob_id in blocked.items()],
    )


def lose(session: Session, blob_ids: Sequence[int], run_id: str) -> int:
    """Mark blobs whose bytes are no longer stored, and the videos that show them, as lost; return how many videos.

    The caller's transaction holds the deployment row.
    """
    gone = lost.mark_blobs(session, blob_ids, run_id)
    with quotas.counted(session, standing_on=blob_ids):
        lost_videos = lost.mark_videos(session, [row.blob_id for row in gone], run_id)
    # guard sync.lose_cache: a repeated request gets a lost video from the cache
    cache.drop(session, [row.video_id for row in gone if row.video_id is not None])
    record(session, [Event("lose", run_id, row.video_id, row.blob_id, None, {"key": row.key}) for row in gone])
    return lost_videos


def taken_down_again(video_id: str, blob_id: int, run_id: str) -> Event:
    """Make the audit event for a video that is taken down because its new bytes were taken down before."""
    detail = {"by": run_id, "reason": "the service stored bytes again that were taken down", "because_of": video_id}
    return Event("takedown", run_id, video_id, blob_id, None, detail)
