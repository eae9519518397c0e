"""Delete a video for its user: stop serving it, and let its bytes wait out a grace.

For quota, purge, sync and audit it is a retirement like any other, but views do not delay its purge, and it is
restored only by its own id. A hold or a freeze prevents it.
"""

from datetime import datetime
from typing import NamedTuple

from reelkeeper.errors import LeaseLost, NotFound, OnTrial, VideoHeld
from reelkeeper.model import VideoState
from reelkeeper.operations.alerts.events import record
from reelkeeper.operations.core.freeze import require_permission
from reelkeeper.operations.core.policies import in_force
from reelkeeper.store import Engine
from reelkeeper.store.billing import quotas
from reelkeeper.store.core import deployment
from reelkeeper.store.core.audit import Event
from reelkeeper.store.core.engine import now, transaction
from reelkeeper.store.lifecycle import notices, retirements
from reelkeeper.store.videos import cache, uploads
from reelkeeper.store.videos.conditions import BY_ITS_USER, TAKEN_DOWN


class Deleted(NamedTuple):
    """A video that its user has deleted. Support can restore it while its bytes exist."""

    video_id: str
    user_id: str
    restorable_until: datetime


def delete(engine: Engine, video_id: str, *, by: str, run_id: str, user_id: str | None = None) -> Deleted:
    """Delete a video. A repetition returns the same and starts no new grace. `user_id`: only if it is this user's.

    Raises NotFound for a video that is unknown, gone, or another user's; VideoHeld where it is held, or its bytes are
    missing; LeaseLost while its first bytes are being uploaded; Frozen; OnTrial.
    """
    with transaction(engine, "delete") as session:
        # guard delete.permission: a video is deleted during a freeze
        require_permission(session)
        # guard trial.deletes: a video is deleted in a trial, whose commands then refuse to restore it
        if deployment.trial(session) is not None:
            raise OnTrial(deployment.standing(session).live)
        known = uploads.current(session, video_id, locked=True)
        # guard delete.own_video: a user deletes another user's video
        if known is None or known.state == VideoState.GONE or user_id not in (None, known.user_id):
            raise NotFound.for_user("video", video_id, user_id)
        # guard delete.taken_down: a user's deletion gives a video that was taken down a grace, and support restores it
        if (reason := retirements.reason(session, video_id)) == TAKEN_DOWN:
            raise NotFound(f"video {video_id!r} was taken down")
        if known.state == VideoState.PENDING:
            raise LeaseLost(f"video {video_id!r} is still being stored; try again in a minute")
        if known.state == VideoState.LOST:
            raise VideoHeld(
                f"the bytes of video {video_id!r} are missing from the bucket; an operator must check this first. "
                "Nothing was deleted"
            )
        if known.blob_id and reason in BY_ITS_USER:
            return Deleted(video_id, known.user_id, retirements.purge_after(session, known.blob_id))
        policies = in_force(session).policies
        is_counted = policies.lifecycle.count_deleted_until_purged
        with quotas.counted(session, [video_id]):
            blob_id = retirements.delete_video(session, video_id, run_id, is_counted=is_counted)
        if blob_id is None:
            raise VideoHeld(f"video {video_id!r} is held, so it is kept for now; nothing was deleted")
        grace = policies.lifecycle.grace
        retirements.retire_blobs(session, [blob_id], now(session), run_id=run_id, grace=grace)
        # guard delete.cache: a repeated request gets a deleted video from the cache
        cache.drop(session, [video_id])
        # guard delete.notice: a user is told that a video will expire which is deleted already
        notices.end(session, [video_id], "deleted")
        record(session, [Event("delete", run_id, video_id, blob_id, known.user_id, {"by": by})])
        return Deleted(video_id, known.user_id, retirements.purge_after(session, blob_id))
