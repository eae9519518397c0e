"""Read a video's present bytes for a swap, and check that they are unchanged afterwards."""

from typing import NamedTuple

import sqlalchemy as sa
from sqlmodel import Session

from reelkeeper.model import Outcome, Refusal, VideoState
from reelkeeper.store.core.engine import changed, now
from reelkeeper.store.tables import blobs, operations, videos
from reelkeeper.store.videos import conditions


class Source(NamedTuple):
    """A video's present blob, as recorded in the catalogue."""

    video_id: str
    user_id: str
    generation: int
    blob_id: int
    key: str
    size_bytes: int
    etag: str | None
    sha256: str | None
    is_ours: bool


def find_source(session: Session, video_id: str) -> Source | None:
    """Find the present blob of a live video."""
    row = session.execute(
        sa.select(
            videos.c.id,
            videos.c.user_id,
            videos.c.generation,
            blobs.c.id,
            blobs.c.key,
            blobs.c.size_bytes,
            blobs.c.etag,
            blobs.c.sha256,
            blobs.c.is_ours,
        )
        .join(blobs, blobs.c.id == videos.c.blob_id)
        .where(videos.c.id == video_id, videos.c.state == VideoState.LIVE)
    ).one_or_none()
    return Source(*row) if row else None


def done_before(session: Session, planned_blob_id: int, run_id: str) -> Outcome | None:
    """Read the outcome of a swap that this run published, but was killed before recording."""
    new = blobs.alias("new")
    row = session.execute(
        sa.select(operations.c.video_id, operations.c.outcome, blobs.c.size_bytes, new.c.size_bytes)
        .join(blobs, blobs.c.id == operations.c.old_blob_id)
        .join(new, new.c.id == operations.c.new_blob_id)
        .where(
            operations.c.kind == "swap",
            operations.c.state == "done",
            operations.c.old_blob_id == planned_blob_id,
            operations.c.run_id == run_id,
        )
    ).one_or_none()
    return None if row is None else Outcome(row[0], "compressed", row[1], row[2], row[3], planned_blob_id)


def lock_unchanged(session: Session, source: Source) -> bool:
    """Check whether the video still has the bytes of `source` and no hold; if so, lock it for the transaction."""
    query = sa.select(videos.c.id).where(_unchanged(session, source)).with_for_update()
    return bool(session.execute(query).scalar())


def note_read(session: Session, source: Source, **facts: str) -> None:
    """Record the `codec` and the `sha256` in hex of the bytes that were read."""
    session.execute(sa.update(blobs).where(blobs.c.id == source.blob_id).values(**facts))


def note_refusal(session: Session, source: Source, refusal: Refusal) -> bool:
    """Record why a video is not swapped under a recipe; False where that is known, or the video has changed."""
    noted = changed(
        session,
        sa.update(videos)
        .where(_unchanged(session, source), videos.c.refused_recipe.is_distinct_from(refusal.recipe))
        .values(refused_recipe=refusal.recipe, refused_reason=refusal.reason, refused_at=now(session)),
    )
    if noted and refusal.codec:
        note_read(session, source, codec=refusal.codec)
    return bool(noted)


def _unchanged(session: Session, source: Source) -> sa.ColumnElement[bool]:
    return sa.and_(
        videos.c.id == source.video_id,
        # guard swap.live: a swap or refusal is recorded for a video that was retired meanwhile
        videos.c.state == VideoState.LIVE,
        # guard swap.same_bytes: a swap or refusal is recorded for bytes that replaced the encoded ones
        videos.c.blob_id == source.blob_id,
        # guard swap.same_generation: a swap or refusal is recorded after another swap was made and undone
        videos.c.generation == source.generation,
        # guard swap.held: a video that was held meanwhile is swapped
        ~conditions.held(videos.c.id, videos.c.user_id, now(session)),
    )
