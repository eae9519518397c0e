"""Mark rows whose objects are missing, and rows whose objects are there again; never delete them."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model import BlobState, Grace, VideoState
from reelkeeper.store.core.engine import changed, checked, now, one_of
from reelkeeper.store.tables import blobs, videos
from reelkeeper.store.videos import conditions
from reelkeeper.store.videos.conditions import retired, stands_on

_DELETED: Final = "deleted by the service"  # the reason of a present blob that is gone


class LostBlob(NamedTuple):
    """A blob that was marked as lost."""

    blob_id: int
    video_id: str | None
    key: str


def mark_blobs(session: Session, blob_ids: Sequence[int], run_id: str) -> list[LostBlob]:
    """Mark those of the blobs that are still live or retired as lost; return them."""
    rows = session.execute(
        sa.update(blobs)
        # guard sync.lost_blobs: a blob that was purged or claimed meanwhile is marked as lost
        .where(one_of(session, blobs.c.id, blob_ids), checked(blobs.c.state.in_([BlobState.LIVE, BlobState.RETIRED])))
        .values(state=BlobState.LOST, run_id=run_id)
        .returning(blobs.c.id, blobs.c.video_id, blobs.c.key)
    )
    return [LostBlob(*row) for row in rows]


def mark_videos(session: Session, blob_ids: Sequence[int], run_id: str) -> int:
    """Mark the videos whose present bytes are these lost blobs as lost; return how many."""
    return changed(
        session,
        sa.update(videos)
        # guard sync.lost_videos: a gone video is marked as lost
        .where(stands_on(session, blob_ids), checked(videos.c.state.in_([VideoState.LIVE, VideoState.RETIRED])))
        .values(state=VideoState.LOST, run_id=run_id),
    )


def mark_deleted(session: Session, blob_ids: Sequence[int], run_id: str) -> list[LostBlob]:
    """Mark these blobs, and their videos, as gone, since the service has deleted their objects.

    Held videos stay as they are: nobody may delete them, so they count as lost. Retired ones keep their reason.
    """
    kept = sa.exists().where(
        videos.c.id == blobs.c.video_id, conditions.held(videos.c.id, videos.c.user_id, now(session))
    )
    present = sa.or_(blobs.c.state == BlobState.LIVE, blobs.c.retire_reason.is_(None))
    reason = sa.case((present, sa.literal(_DELETED)), else_=blobs.c.retire_reason)
    rows = session.execute(
        sa.update(blobs)
        .where(
            one_of(session, blobs.c.id, blob_ids),
            # guard events.deleted_once: a blob that a purge has claimed, or an upload replaced, is marked as deleted
            checked(blobs.c.state.in_([BlobState.LIVE, BlobState.RETIRED, BlobState.LOST])),
            # guard events.held: the loss of a held video counts as a deletion by the service
            ~kept,
        )
        .values(state=BlobState.GONE, run_id=run_id, retire_reason=reason)
        .returning(blobs.c.id, blobs.c.video_id, blobs.c.key)
    )
    marked = [LostBlob(*row) for row in rows]
    session.execute(
        sa.update(videos)
        .where(
            stands_on(session, [blob.blob_id for blob in marked]),
            checked(videos.c.state.in_([VideoState.LIVE, VideoState.RETIRED, VideoState.LOST])),
        )
        .values(state=VideoState.GONE, run_id=run_id)
    )
    return marked


def videos_of_run(session: Session, run_id: str) -> list[str]:
    """List the videos, by id, that a run has marked as lost."""
    marked = sa.select(videos.c.id).where(videos.c.state == VideoState.LOST, videos.c.run_id == run_id)
    return list(session.execute(marked.order_by(videos.c.id)).scalars())


def retire_reappeared(session: Session, blob_ids: Sequence[int], run_id: str, grace: Grace) -> None:
    """Retire again blobs whose objects exist after their purge."""
    session.execute(
        sa.update(blobs)
        .where(
            one_of(session, blobs.c.id, blob_ids),
            # guard sync.reappeared_gone: a live row is retired because its object exists
            checked(blobs.c.state == BlobState.GONE),
            # guard events.back: a video that was recorded as deleted, but exists, is retired and purged
            sa.func.coalesce(blobs.c.retire_reason, "") != _DELETED,
            # guard sync.reappeared_open: the service's new upload at the key is retired and purged
            ~conditions.has_open_row(blobs.c.key, blobs.c.id),  # the service may have stored another object
        )
        .values(run_id=run_id, **retired(now(session), grace, "its object was there after its purge"))
    )


def revive(session: Session, blob_ids: Sequence[int], run_id: str, grace: Grace) -> list[int]:
    """Make rows in `lost` whose object exists live, as their video's present bytes, or retired, as an old generation.

    Return the live ones.

    The same applies to rows recorded as deleted by the service, where their key has no other row now. A video that its
    user deleted, or that was taken down, is retired again.
    """
    deleted = sa.and_(blobs.c.state == BlobState.GONE, blobs.c.retire_reason == _DELETED)
    returned = sa.and_(deleted, ~conditions.has_open_row(blobs.c.key, blobs.c.id))
    lost = sa.and_(one_of(session, blobs.c.id, blob_ids), checked(sa.or_(blobs.c.state == BlobState.LOST, returned)))
    is_same_state = sa.or_(
        sa.and_(blobs.c.state == BlobState.LOST, videos.c.state == VideoState.LOST),
        sa.and_(blobs.c.state == BlobState.GONE, videos.c.state == VideoState.GONE),
    )
    is_present = sa.exists().where(
        videos.c.id == blobs.c.video_id,
        videos.c.blob_id == blobs.c.id,
        checked(is_same_state),
        # guard sync.withdrawn: a video that was taken down, or deleted by its user, is served again once it is found
        ~conditions.withdrawn(),
    )
    alive = list(
        session.execute(
            sa.update(blobs)
            .where(lost, is_present)
            .values(state=BlobState.LIVE, retire_reason=None, run_id=run_id)
            .returning(blobs.c.id)
        ).scalars()
    )
    session.execute(
        sa.update(videos)
        .where(stands_on(session, alive), checked(videos.c.state.in_([VideoState.LOST, VideoState.GONE])))
        .values(state=VideoState.LIVE, run_id=run_id)
    )
    session.execute(
        sa.update(videos)
        .where(stands_on(session, blob_ids), checked(videos.c.state == VideoState.LOST), conditions.withdrawn())
        .values(state=VideoState.RETIRED, run_id=run_id)
    )
    session.execute(sa.update(blobs).where(lost).values(run_id=run_id, **retired(now(session), grace, "found again")))
    return alive
