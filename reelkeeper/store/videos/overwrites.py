"""Find rows whose bytes the service has overwritten at its own keys, and publish the new bytes of their videos."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model import BlobState, Grace, Recorded, StoredObject, VideoState
from reelkeeper.store.tables import blobs, operations, videos
from reelkeeper.store.videos import conditions
from reelkeeper.store.videos.conditions import retired

_SETTLED = (BlobState.LIVE, BlobState.RETIRED, BlobState.LOST, BlobState.GONE)


class Overwritten(NamedTuple):
    """A row whose bytes are no longer stored at its key, and its video."""

    blob_id: int
    video_id: str
    user_id: str
    state: str
    found: StoredObject
    deleted_at: datetime | None  # when its user deleted the video, after the object was stored


def find_overwritten(
    session: Session, found: Mapping[int, StoredObject], claim_token: int | None, skew: timedelta
) -> list[Overwritten]:
    """List those rows of `found` that were overwritten, in the order in which the service stored the new objects.

    `skew`: by how much the clock of the bucket may be behind the store's.
    """
    rows = session.execute(
        sa.select(
            blobs.c.id,
            blobs.c.video_id,
            videos.c.user_id,
            blobs.c.state,
            blobs.c.size_bytes,
            blobs.c.etag,
            blobs.c.is_ours,
            blobs.c.stored_at,
            sa.case((videos.c.retire_reason.in_(conditions.BY_ITS_USER), videos.c.retired_at)).label("deleted_at"),
        )
        .join(videos, videos.c.id == blobs.c.video_id)
        .where(
            blobs.c.id.in_(list(found)),
            # guard overwrites.service_keys: other bytes at a key of ours are mistaken for an upload, without an alert
            ~blobs.c.is_ours,
            # guard overwrites.open_row: an object gets two rows, and purging one deletes the other's bytes
            ~conditions.has_open_row(blobs.c.key, blobs.c.id),
            sa.or_(
                blobs.c.state.in_(_SETTLED),
                # guard overwrites.claimed: bytes that another run may be deleting become live
                sa.and_(blobs.c.state == BlobState.DELETING, blobs.c.claim_token == claim_token),
            ),
        )
    )
    latest: dict[str, Overwritten] = {}
    # guard overwrites.in_place: a swap's put at the service's key is mistaken for an upload, and its original swept
    own = _own_puts(session, found)
    for row in rows:
        if row.id in own:
            continue
        stored = found[row.id]
        # guard overwrites.changed: an unchanged object counts as a new upload at each check
        if not Recorded(row.size_bytes, row.etag, row.is_ours, row.stored_at).matches(stored):
            # guard overwrites.deleted_after: a video is served again, which its user deleted after the service's upload
            deleted_at = row.deleted_at if row.deleted_at and stored.last_modified + skew < row.deleted_at else None
            overwrite = Overwritten(row.id, row.video_id, row.user_id, row.state, stored, deleted_at)
            before = latest.get(stored.key)
            if before is None or before.blob_id < overwrite.blob_id:  # of several gone rows, the newest
                latest[stored.key] = overwrite
    return sorted(latest.values(), key=lambda overwrite: (overwrite.found.last_modified, overwrite.blob_id))


def mark_gone(session: Session, blob_ids: Sequence[int], run_id: str) -> None:
    """Record that these rows' bytes are overwritten."""
    session.execute(
        sa.update(blobs)
        .where(blobs.c.id.in_(blob_ids))
        .values(
            state=BlobState.GONE,
            retire_reason="overwritten by the service",
            claimed_at=None,
            claim_token=None,
            run_id=run_id,
        )
    )


def publish(session: Session, overwrite: Overwritten, at: datetime, *, run_id: str, grace: Grace) -> int:
    """Insert the new object's row and point the video at it; return the row's id. A deleted video stays deleted."""
    generation = sa.select(videos.c.generation + 1).where(videos.c.id == overwrite.video_id).scalar_subquery()
    blob_id: int = session.execute(
        sa.insert(blobs)
        .values(
            video_id=overwrite.video_id,
            generation=generation,
            key=overwrite.found.key,
            is_ours=False,
            state=BlobState.LIVE,
            size_bytes=overwrite.found.size_bytes,
            etag=overwrite.found.etag,
            stored_at=overwrite.found.last_modified,
            run_id=run_id,
        )
        .returning(blobs.c.id)
    ).scalar_one()
    displaced = sa.select(videos.c.blob_id).where(videos.c.id == overwrite.video_id).scalar_subquery()
    session.execute(
        sa.update(blobs)
        # guard overwrites.displaced_ours: bytes at another key of the service's are retired, and then purged
        .where(blobs.c.id == displaced, blobs.c.state == BlobState.LIVE, blobs.c.is_ours)
        .values(run_id=run_id, **retired(at, grace, f"the service stored another video at {overwrite.found.key}"))
    )
    served: dict[str, Any] = {"state": VideoState.LIVE, "retired_at": None, "retire_reason": None}
    session.execute(
        sa.update(videos)
        .where(videos.c.id == overwrite.video_id)
        .values(
            **({"state": VideoState.RETIRED} if overwrite.deleted_at else served),
            blob_id=blob_id,
            generation=videos.c.generation + 1,
            created_at=overwrite.found.last_modified,
            refused_recipe=None,
            refused_reason=None,
            refused_at=None,
            run_id=run_id,
        )
    )
    return blob_id


def _own_puts(session: Session, found: Mapping[int, StoredObject]) -> set[int]:
    """Find the rows at whose keys an open intent in place has put its result, or has put the original back."""
    new = blobs.alias("new")
    rows = session.execute(
        sa.select(
            operations.c.old_blob_id, new.c.etag, operations.c.detail["old_md5"].as_string(), operations.c.outcome
        )
        .join(new, new.c.id == operations.c.new_blob_id)
        .where(
            operations.c.state == "open",
            operations.c.aside_blob_id.is_not(None),
            operations.c.old_blob_id.in_(list(found)),
        )
    )
    return {
        blob_id
        for blob_id, new_etag, old_md5, undoing in rows
        if found[blob_id].etag in (new_etag, None if undoing is None else old_md5)
    }
