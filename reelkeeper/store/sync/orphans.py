"""Insert videos and blobs for noted objects, which had no row."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model import BlobState, Grace, VideoState
from reelkeeper.store.core.engine import insert_into, now
from reelkeeper.store.sync.noted import Noted
from reelkeeper.store.tables import blobs, users, videos
from reelkeeper.store.videos import conditions
from reelkeeper.store.videos.conditions import retired


class NamedVideo(NamedTuple):
    """The catalogue's record of a video that a noted key names."""

    user_id: str
    state: str
    generation: int
    never_came: bool  # its first upload failed


def known_keys(session: Session, keys: Sequence[str]) -> set[str]:
    """Return the keys that got a row since they were noted."""
    open_rows = sa.select(blobs.c.key).where(blobs.c.key.in_(keys), blobs.c.state != BlobState.GONE)
    return set(session.execute(open_rows).scalars())


def named_videos(session: Session, video_ids: Sequence[str]) -> dict[str, NamedVideo]:
    """Read and lock the videos of these ids until the transaction ends."""
    rows = session.execute(
        sa.select(videos.c.id, *(videos.c[name] for name in NamedVideo._fields[:3]), conditions.never_came())
        .where(videos.c.id.in_(video_ids))
        .with_for_update()
    )
    return {video_id: NamedVideo(*known) for video_id, *known in rows}


def recorded_generations(session: Session, notes: Sequence[Noted], skew: timedelta) -> dict[str, int]:
    """Return, by key, the highest generation of its video that was recorded by the time each object was stored.

    `skew`: by how much the clock of the bucket may be behind the store's.
    """
    rows = session.execute(
        sa.select(blobs.c.video_id, blobs.c.generation, blobs.c.stored_at).where(
            blobs.c.video_id.in_({note.video_id for note in notes})
        )
    ).all()
    return {
        note.key: max(
            (
                row.generation
                for row in rows
                if row.video_id == note.video_id
                and (row.stored_at is None or row.stored_at <= note.last_modified + skew)
            ),
            default=0,
        )
        for note in notes
    }


def insert_videos(session: Session, new: Sequence[Noted]) -> None:
    """Insert pending videos for notes, and their users where missing."""
    if new:
        owners = [{"id": user_id} for user_id in sorted({note.user_id for note in new})]
        session.execute(insert_into(session, users).on_conflict_do_nothing(), owners)
        session.execute(
            sa.insert(videos),
            [
                {
                    "id": note.video_id,
                    "user_id": note.user_id,
                    "generation": 1,
                    "state": VideoState.PENDING,
                    "created_at": note.created_at or note.last_modified,
                }
                for note in new
            ],
        )


def insert_blobs(session: Session, chosen: Sequence[Noted], *, state: BlobState, run_id: str) -> dict[str, int]:
    """Insert blobs for notes; return their ids by key."""
    if not chosen:
        return {}
    rows = session.execute(
        sa.insert(blobs).returning(blobs.c.key, blobs.c.id),
        [
            {
                "video_id": note.video_id,
                "generation": note.generation or 1,
                "key": note.key,
                "is_ours": note.generation is not None,
                "state": state,
                "size_bytes": note.size_bytes,
                "etag": note.etag,
                "stored_at": note.last_modified,
                "run_id": run_id,
            }
            for note in chosen
        ],
    )
    return {row.key: row.id for row in rows}


def begin_grace(session: Session, blob_ids: Sequence[int], grace: Grace) -> None:
    """Start the grace of these blobs now."""
    session.execute(
        sa.update(blobs)
        .where(blobs.c.id.in_(blob_ids))
        .values(**retired(now(session), grace, "an orphan of its video"))
    )


def publish(session: Session, chosen: Sequence[Noted], blob_ids: Mapping[str, int], run_id: str) -> None:
    """Point the videos at their blobs, and make them live."""
    if not chosen:
        return
    change = (
        sa.update(videos)
        .where(videos.c.id == sa.bindparam("video"))
        .values(blob_id=sa.bindparam("blob"), generation=sa.bindparam("made"), state=VideoState.LIVE, run_id=run_id)
    )
    rows = [{"video": note.video_id, "blob": blob_ids[note.key], "made": note.generation or 1} for note in chosen]
    session.connection().execute(change, rows)
