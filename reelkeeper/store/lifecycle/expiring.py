"""What is stored, and what of it is known to leave: by the day that a video was made, or that its purge is due."""

from datetime import UTC, date, datetime, time

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model import BlobState, VideoState
from reelkeeper.store.tables import blobs, users, videos
from reelkeeper.store.videos.conditions import held


def live_by_day_and_tier(session: Session, at: datetime) -> list[tuple[date | None, str | None, int]]:
    """Add up live bytes by their video's first day and their owner's tier. What is held stays, and is left out."""
    day = sa.func.date(videos.c.created_at, type_=sa.Date())
    rows = session.execute(
        sa.select(day, users.c.tier, sa.func.sum(blobs.c.size_bytes))
        .select_from(videos.join(blobs, blobs.c.id == videos.c.blob_id).join(users, users.c.id == videos.c.user_id))
        .where(videos.c.state == VideoState.LIVE, ~held(videos.c.id, videos.c.user_id, at))
        .group_by(day, users.c.tier)
    )
    return [(row[0], row[1], int(row[2])) for row in rows]


def purging_by_day(session: Session) -> dict[date, int]:
    """Add up retired bytes by the day on which their grace ends."""
    day = sa.func.date(blobs.c.purge_after, type_=sa.Date())
    rows = session.execute(
        sa.select(day, sa.func.sum(blobs.c.size_bytes))
        .where(blobs.c.state.in_((BlobState.RETIRED, BlobState.DELETING)), blobs.c.purge_after.is_not(None))
        .group_by(day)
    )
    return {row[0]: int(row[1]) for row in rows}


def uploaded_by_tier(session: Session, since: date) -> dict[str | None, int]:
    """Add up the bytes of videos made since a day, by the tier of their owner."""
    rows = session.execute(
        sa.select(users.c.tier, sa.func.sum(blobs.c.size_bytes))
        .select_from(videos.join(blobs, blobs.c.id == videos.c.blob_id).join(users, users.c.id == videos.c.user_id))
        .where(videos.c.created_at >= datetime.combine(since, time(), UTC))
        .group_by(users.c.tier)
    )
    return {row[0]: int(row[1]) for row in rows}
