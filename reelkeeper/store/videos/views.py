"""Record how often videos were viewed on a day, and when last."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model import BlobState
from reelkeeper.store.core.engine import insert_into, one_of
from reelkeeper.store.tables import blobs, daily_views, videos, view_days
from reelkeeper.store.videos.conditions import replaced_by, replaced_in_place

_MAX_VIEWS = 2**31 - 1  # what the column holds on PostgreSQL
_AT_ONCE = 1_000  # keys or ids in one statement


def lock(session: Session, named: Mapping[str, str]) -> dict[str, str]:
    """Lock the videos of these names (name -> id), whose views are counted next; return those in the catalogue."""
    chosen = (
        sa.select(videos.c.id).where(one_of(session, videos.c.id, sorted(set(named.values())))).order_by(videos.c.id)
    )
    # guard plays.erased: views of a video whose user is erased meanwhile end in an error, with all others
    chosen = chosen.with_for_update(key_share=True)
    present = set(session.execute(chosen).scalars())
    return {name: video_id for name, video_id in named.items() if video_id in present}


def recorded_days(session: Session) -> set[date]:
    """Return the days whose views are completely recorded."""
    return set(session.scalars(sa.select(view_days.c.day)))


def videos_at(session: Session, keys: Sequence[str]) -> dict[str, str]:
    """Find the video of each key, of whichever generation."""
    found: dict[str, str] = {}
    for start in range(0, len(keys), _AT_ONCE):
        is_wanted = blobs.c.key.in_(keys[start : start + _AT_ONCE])
        rows = session.execute(sa.select(blobs.c.key, blobs.c.video_id).where(is_wanted, blobs.c.video_id.is_not(None)))
        found.update((row.key, row.video_id) for row in rows)
    return found


class Copy(NamedTuple):
    """Bytes of a video. `codec` is None where it was never read."""

    key: str
    codec: str | None


class Found(NamedTuple):
    """A video's state, its present bytes, and the bytes that a swap replaced, while these exist."""

    state: str
    present: Copy | None
    original: Copy | None


def find_copies(session: Session, video_id: str, kept_until: datetime, user_id: str | None = None) -> Found | None:
    """Find a video's present bytes, and the replaced ones that exist until `kept_until`; None without such a video.

    If a user is given, it is theirs.
    """
    original, number = blobs.alias("original"), sa.cast(blobs.c.generation, sa.String)
    kept = sa.and_(
        original.c.video_id == videos.c.id,
        original.c.state == BlobState.RETIRED,
        original.c.purge_after > kept_until,
        original.c.retire_reason.in_([replaced_by(blobs.c.key), replaced_in_place(blobs.c.key, number)]),
        # guard plays.same_video: an earlier upload is served in place of the present video
        blobs.c.recipe.is_not(None),  # uploads also leave older bytes, for their grace
    )
    row = session.execute(
        sa.select(videos.c.state, blobs.c.key, blobs.c.codec, original.c.key, original.c.codec)
        .select_from(videos.outerjoin(blobs, blobs.c.id == videos.c.blob_id).outerjoin(original, kept))
        # guard plays.own: a user is given another's video, although the service asked for theirs alone
        .where(videos.c.id == video_id, videos.c.user_id == user_id if user_id is not None else sa.true())
    ).one_or_none()
    if row is None:
        return None
    state, *copies = row
    present, before = (Copy(key, codec) if key else None for key, codec in (copies[:2], copies[2:]))
    return Found(state, present, before)


def add(session: Session, day: date, views: Mapping[str, int]) -> None:
    """Add views of a day to those known, up to the column's maximum."""
    insert = insert_into(session, daily_views)
    known, more = daily_views.c.views, insert.excluded.views
    summed = sa.case((known > _MAX_VIEWS - more, _MAX_VIEWS), else_=known + more)
    session.execute(
        insert.on_conflict_do_update(index_elements=["video_id", "day"], set_={"views": summed}),
        [{"video_id": video_id, "day": day, "views": count} for video_id, count in views.items()],
    )


def keep_higher(session: Session, day: date, views: Mapping[str, int]) -> None:
    """Record views of a day where they are more than those known."""
    insert = insert_into(session, daily_views)
    known = daily_views.c.views
    higher = sa.case((insert.excluded.views > known, insert.excluded.views), else_=known)
    session.execute(
        insert.on_conflict_do_update(index_elements=["video_id", "day"], set_={"views": higher}),
        [{"video_id": view, "day": day, "views": min(count, _MAX_VIEWS)} for view, count in views.items()],
    )


def move_last_viewed(session: Session, video_ids: Sequence[str], at: datetime) -> None:
    """Record that videos were viewed at `at`, where that is later than the known time."""
    earlier = sa.or_(videos.c.last_viewed_at.is_(None), videos.c.last_viewed_at < at)
    for start in range(0, len(video_ids), _AT_ONCE):
        some = videos.c.id.in_(video_ids[start : start + _AT_ONCE])
        session.execute(sa.update(videos).where(some, earlier).values(last_viewed_at=at))
