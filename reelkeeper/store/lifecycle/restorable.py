"""Find and restore retired videos, and swaps whose old bytes still wait out their grace."""

from datetime import datetime
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlmodel import Session

from reelkeeper.model import BlobState, Grace, Recorded, VideoState
from reelkeeper.store.core.engine import changed, now
from reelkeeper.store.lifecycle import notices
from reelkeeper.store.tables import blobs, operations, videos
from reelkeeper.store.videos.conditions import BY_ITS_USER, CLAIM_TIMEOUT, TAKEN_DOWN, retired

_FACTS: Final = (
    "video_id",
    "size_bytes",
    "etag",
    "sha256",
    "content_type",
    "codec",
    "duration_seconds",
    "frames",
    "recipe",
)


class Restorable(NamedTuple):
    """A video and the retired blob that it can be restored to. `recipe` is set where that undoes a swap.

    `is_in_place`: the blob is the copy aside of a swap in place, and its bytes are put back at the service's key.
    """

    video_id: str
    user_id: str
    state: str
    generation: int
    blob_id: int | None
    wanted_blob_id: int
    key: str
    recipe: str | None
    size_bytes: int
    etag: str | None
    is_ours: bool
    stored_at: datetime | None
    is_in_place: bool

    @property
    def recorded(self) -> Recorded:
        """Return the catalogue's record of the blob's object."""
        return Recorded(self.size_bytes, self.etag, self.is_ours, self.stored_at)


def find(session: Session, *, run_id: str | None, video_id: str | None, user_id: str | None) -> list[Restorable]:
    """List the videos of one run, video or user that can be restored, by video and generation."""
    wanted = _wanted(run_id=run_id, video_id=video_id, user_id=user_id)
    return [Restorable(*row) for row in session.execute(_candidates(BlobState.RETIRED).where(wanted))]


def claimed(session: Session, *, run_id: str | None, video_id: str | None, user_id: str | None) -> dict[str, datetime]:
    """Return when the purge's claim on the bytes ends, by id of each such video of one run, video or user."""
    wanted = _wanted(run_id=run_id, video_id=video_id, user_id=user_id)
    rows = session.execute(_candidates(BlobState.DELETING).add_columns(blobs.c.claimed_at).where(wanted))
    return {row[0]: (row[-1] or now(session)) + CLAIM_TIMEOUT for row in rows}


def _wanted(*, run_id: str | None, video_id: str | None, user_id: str | None) -> sa.ColumnElement[bool]:
    is_retired = videos.c.state.in_([VideoState.RETIRED, VideoState.LOST])
    swapped = sa.and_(videos.c.state == VideoState.LIVE, operations.c.id.is_not(None))
    return {
        "run": sa.or_(sa.and_(is_retired, videos.c.run_id == run_id), sa.and_(swapped, operations.c.run_id == run_id)),
        "video": sa.and_(videos.c.id == video_id, sa.or_(is_retired, swapped)),
        "user": sa.and_(
            videos.c.user_id == user_id, is_retired, sa.func.coalesce(videos.c.retire_reason, "").not_in(BY_ITS_USER)
        ),
    }["run" if run_id else "video" if video_id else "user"]


def _candidates(state: BlobState) -> sa.Select[tuple[object, ...]]:
    swap_to_take_back = sa.and_(
        operations.c.kind == "swap",
        operations.c.state == "done",
        operations.c.new_blob_id == videos.c.blob_id,
        sa.func.coalesce(operations.c.aside_blob_id, operations.c.old_blob_id) == blobs.c.id,
    )
    present = blobs.alias("present")
    return (
        sa.select(
            videos.c.id,
            videos.c.user_id,
            videos.c.state,
            videos.c.generation,
            videos.c.blob_id,
            blobs.c.id,
            blobs.c.key,
            sa.case((videos.c.state == VideoState.LIVE, present.c.recipe)),
            *(blobs.c[name] for name in Recorded._fields),
            sa.and_(videos.c.state == VideoState.LIVE, operations.c.aside_blob_id.is_not(None)),
        )
        .select_from(
            videos.join(blobs, blobs.c.video_id == videos.c.id)
            .outerjoin(operations, swap_to_take_back)
            .outerjoin(present, present.c.id == videos.c.blob_id)
        )
        .where(
            # guard restore.candidates: a blob that a purge has claimed is offered for restoring
            blobs.c.state == state,
            # An abandoned upload or swap was never published.
            # guard restore.never_shown: an abandoned upload, which was never published, is restored
            sa.or_(blobs.c.id == videos.c.blob_id, blobs.c.generation < present.c.generation),
            # guard restore.taken_down: a video that was taken down is restored
            videos.c.retire_reason.is_distinct_from(TAKEN_DOWN),
            # guard restore.bytes_taken_down: bytes that were taken down are restored once their video has others
            blobs.c.retire_reason.is_distinct_from(TAKEN_DOWN),
        )
        .order_by(videos.c.id, blobs.c.generation)
    )


class Exchange(NamedTuple):
    """The records of the object at a service's key, and of the copy of the original."""

    key: str
    present: dict[str, Any]
    original: dict[str, Any]


def lock_exchange(session: Session, blob: Restorable) -> Exchange | None:
    """Read the two objects that undoing a swap in place exchanges, and lock the video; None where it has changed."""
    standing = sa.select(videos.c.id).where(
        videos.c.id == blob.video_id,
        # guard restore.in_place_same: the original is put over a video that has changed meanwhile
        videos.c.state == blob.state,
        videos.c.generation == blob.generation,
        videos.c.blob_id == blob.blob_id,
    )
    both = sa.select(blobs).where(blobs.c.id.in_([blob.blob_id, blob.wanted_blob_id]))
    if session.execute(standing.with_for_update()).scalar() is None:
        return None
    rows = {row.id: row for row in session.execute(both)}
    present, original = rows[blob.blob_id], rows[blob.wanted_blob_id]
    # guard restore.in_place_unclaimed: bytes are put back that a purge has claimed, and may have deleted
    if original.state != BlobState.RETIRED:
        return None
    return Exchange(present.key, *({name: getattr(row, name) for name in _FACTS} for row in (present, original)))


def bring_back(session: Session, blob: Restorable, run_id: str, grace: Grace) -> bool:
    """Make the retired blob the video's present bytes; False where it was purged, replaced or restored meanwhile."""
    at = now(session)
    revived = changed(
        session,
        sa.update(blobs)
        # guard restore.unclaimed: a video is restored to bytes that a purge is deleting
        .where(blobs.c.id == blob.wanted_blob_id, blobs.c.state == BlobState.RETIRED)
        .values(state=BlobState.LIVE, retired_at=None, purge_after=None, retire_reason=None, run_id=run_id),
    )
    if not revived:
        return False
    same_blob = blob.blob_id == blob.wanted_blob_id
    values: dict[str, object] = {
        "state": VideoState.LIVE,
        "blob_id": blob.wanted_blob_id,
        "generation": blob.generation + (0 if same_blob else 1),
        "retired_at": None,
        "retire_reason": None,
        "run_id": run_id,
    }
    if blob.recipe:
        values |= {"refused_recipe": blob.recipe, "refused_reason": "its swap was taken back", "refused_at": at}
    moved = changed(
        session,
        sa.update(videos)
        .where(
            videos.c.id == blob.video_id,
            # guard restore.same_state: a restore overwrites a video whose state has changed meanwhile
            videos.c.state == blob.state,
            # guard restore.same_generation: a restore discards a newer generation of the video
            videos.c.generation == blob.generation,
            # guard restore.same_bytes: a restore discards other bytes of the video
            videos.c.blob_id == blob.blob_id,
        )
        .values(**values),
    )
    if not moved:
        session.execute(
            sa.update(blobs)
            .where(blobs.c.id == blob.wanted_blob_id)
            .values(**retired(at, grace, "its video was replaced or restored meanwhile"))
        )
        return False
    # guard restore.notice: a restored video is retired by its earlier notice
    notices.end(session, [blob.video_id], "restored")
    if not same_blob:
        session.execute(
            sa.update(blobs)
            .where(blobs.c.id == blob.blob_id, blobs.c.state == BlobState.LIVE)
            .values(run_id=run_id, **retired(at, grace, f"its swap was taken back in favour of {blob.key}"))
        )
    return True
