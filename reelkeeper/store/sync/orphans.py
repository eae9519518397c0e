"""Make videos and blobs of notes: objects that had no row."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model import BlobState, Grace, VideoState
from reelkeeper.store.core.engine import insert_into, now
from reelkeeper.store.sync.noted import Noted
from reelkeeper.store.tables import blobs, users, videos
from reelkeeper.store.videos.conditions import retired


class Standing(NamedTuple):
    """The catalogue's record of a video that a noted key names."""

    user_id: str
    state: str
    generation: int


def known_keys(session: Session, keys: Sequence[str]) -> set[str]:
    """Find the keys that have got a row since they were noted."""
    open_rows = sa.select(blobs.c.key).where(blobs.c.key.in_(keys), blobs.c.state != BlobState.GONE)
    return set(session.execute(open_rows).scalars())


def standing(session: Session, video_ids: Sequence[str]) -> dict[str, Standing]:
    """Look up and lock the videos of these ids until the transaction ends."""
    rows = session.execute(
        sa.select(videos.c.id, videos.c.user_id, videos.c.state, videos.c.generation)
        .where(videos.c.id.in_(video_ids))
        .with_for_update()
    )
    return {row.id: Standing(row.user_id, row.state, row.generation) for row in rows}


def insert_videos(session: Session, new: Sequence[Noted]) -> None:
    """Insert pending videos for notes, and their users where missing."""
    if new:
        owners = [{"id": user_id} for user_id in sorted({alert.user_id for alert in new})]
        session.execute(insert_into(session, users).on_conflict_do_nothing(), owners)
        session.execute(
            sa.insert(videos),
            [
                {
                    "id": alert.video_id,
                    "user_id": alert.user_id,
                    "generation": 1,
                    "state": VideoState.PENDING,
                    "created_at": alert.created_at or alert.last_modified,
                }
                for alert in new
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
                "video_id": alert.video_id,
                "generation": alert.generation or 1,
                "key": alert.key,
                "is_ours": alert.generation is not None,
                "state": state,
                "size_bytes": alert.size_bytes,
                "etag": alert.etag,
                "stored_at": alert.last_modified,
                "run_id": run_id,
            }
            for alert in chosen
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
    """Point the videos at their blobs, live."""
    if not chosen:
        return
    change = (
        sa.update(videos)
        .where(videos.c.id == sa.bindparam("video"))
        .values(blob_id=sa.bindparam("blob"), generation=sa.bindparam("made"), state=VideoState.LIVE, run_id=run_id)
    )
    rows = [{"video": alert.video_id, "blob": blob_ids[alert.key], "made": alert.generation or 1} for alert in chosen]
    session.connection().execute(change, rows)
