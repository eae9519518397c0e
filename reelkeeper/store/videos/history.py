"""Read the catalogue as of a past day, and everything recorded since, for simulations of a policy.

Rows are never deleted, so a video that was retired or deleted since is included as it was. Not all history is kept:
tiers, holds and requests to keep are today's, and only the last of a key's overwritten bytes are known.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model import BlobState, Video, VideoState
from reelkeeper.store.tables import blobs, daily_views, holds, keeps, orphans, users, videos
from reelkeeper.store.videos.conditions import BY_ITS_USER, TAKEN_DOWN
from reelkeeper.store.videos.videos import datetime_reader

_FOREVER = datetime.max.replace(tzinfo=UTC)


class Removal(StrEnum):
    """Reason why a video is not live any more."""

    RULE = "rule"  # a policy retired it, so later views are unknown
    USER = "user"
    TAKEDOWN = "takedown"


class PastVideo(NamedTuple):
    """A video as it was at the start, or at its later upload. Its `views` are unknown here."""

    video: Video
    stored_at: datetime | None
    held_until: datetime | None  # the far future where a hold has no end
    removed_at: datetime | None
    removal: Removal | None

    @property
    def is_ours(self) -> bool:
        """Check whether its key is ours, which decides the grace."""
        return self.video.is_ours


class Batch(NamedTuple):
    """Some videos, grouped by user, and their daily views: index of the video, ordinal of the day."""

    videos: list[PastVideo]
    places: list[int]
    days: list[int]
    counts: list[int]


def replay(
    session: Session,
    start: datetime,
    today: datetime,
    *,
    removed_since: datetime,
    views_since: date,
    at_once: int = 4_000,
) -> Iterator[Batch]:
    """Stream the videos that were live at `removed_since` or uploaded later, with their views from a day to today.

    They have the bytes that they had at `start`. All moments are midnights. A video created after today has a wrong
    clock, and counts from the start. Lost videos are left out. `at_once` videos are in memory at a time. Call it
    inside `engine.reading`.
    """
    held_videos, held_users = _held(session, "video"), _held(session, "user")
    until = sa.select(keeps.c.video_id, sa.func.max(keeps.c.until)).group_by(keeps.c.video_id)
    kept_until = {row[0]: row[1] for row in session.execute(until)}
    to_datetime, ordinals = datetime_reader(session), dict[Any, int]()
    rows = session.execute(
        sa.select(
            *(videos.c.id, videos.c.user_id, users.c.tier),  # as in `Video`, of which views and the like are set below
            sa.type_coerce(videos.c.created_at, sa.types.NULLTYPE),  # the driver's value, converted once, below
            *(sa.null(), sa.false(), blobs.c.size_bytes, blobs.c.codec, videos.c.refused_recipe, blobs.c.id),
            *(videos.c.generation, blobs.c.recipe.is_not(None), sa.null(), videos.c.model, videos.c.tag, blobs.c.key),
            *(videos.c.state, videos.c.retired_at, videos.c.retire_reason, blobs.c.is_ours, blobs.c.stored_at),
        )
        .select_from(videos)
        .join(blobs, blobs.c.id == videos.c.blob_id)
        .join(users, users.c.id == videos.c.user_id)
        .where(
            sa.or_(
                videos.c.state == VideoState.LIVE,
                sa.and_(
                    videos.c.state.in_([VideoState.RETIRED, VideoState.GONE]), videos.c.retired_at >= removed_since
                ),
            )
        )
        .order_by(videos.c.user_id, videos.c.id),
        execution_options={"yield_per": at_once},
    )
    for part in rows.partitions():
        found, replaced = list[PastVideo](), dict[str, int]()
        for *row, state, retired_at, reason, is_ours, stored_at in part:
            video = Video(*row)
            created_at = to_datetime(video.id, video.created_at) if video.created_at is not None else None
            if video.generation > 1 and stored_at is not None and stored_at >= start:
                replaced[video.id] = len(found)
            held = [at for at in (held_videos.get(video.id), held_users.get(video.user_id)) if at is not None]
            removal = None if state == VideoState.LIVE else _REMOVALS.get(reason, Removal.RULE)
            found.append(
                PastVideo(
                    video._replace(created_at=created_at, kept_until=kept_until.get(video.id), is_ours=is_ours),
                    stored_at or created_at,
                    max(held) if held else None,
                    retired_at if removal else None,
                    removal,
                )
            )
        if replaced:
            _put_back(session, found, replaced, start)
        yield Batch(found, *_views(session, [past.video.id for past in found], views_since, today.date(), ordinals))


_REMOVALS = {**dict.fromkeys(BY_ITS_USER, Removal.USER), TAKEN_DOWN: Removal.TAKEDOWN}


def leaving_by_day(session: Session, start: datetime) -> dict[date, int]:
    """Sum the bytes that were retired before `start` and still stored then, by the day on which their grace ends."""
    day = sa.func.date(blobs.c.purge_after, type_=sa.Date())
    states = (BlobState.RETIRED, BlobState.DELETING, BlobState.GONE)
    rows = session.execute(
        sa.select(day, sa.func.sum(blobs.c.size_bytes))
        .where(blobs.c.state.in_(states), blobs.c.retired_at < start, blobs.c.purge_after >= start)
        .group_by(day)
    )
    return {row[0]: int(row[1]) for row in rows}


def unexplained_bytes(session: Session) -> int:
    """Sum the bytes of objects without a row of `blobs`."""
    return int(session.execute(sa.select(sa.func.coalesce(sa.func.sum(orphans.c.size_bytes), 0))).scalar_one())


def oldest(session: Session) -> date | None:
    """Find the day of the oldest video; None where no age is known."""
    first: date | None = session.execute(
        sa.select(sa.func.min(sa.func.date(videos.c.created_at, type_=sa.Date())))
    ).scalar()
    return first


def _held(session: Session, scope: str) -> dict[str, datetime]:
    """Read until when each subject is held, by holds that were not released."""
    found: dict[str, datetime] = {}
    held = sa.select(holds.c.subject, holds.c.expires_at).where(holds.c.scope == scope, holds.c.released_at.is_(None))
    for subject, expires_at in session.execute(held):
        found[subject] = max(found.get(subject, expires_at or _FOREVER), expires_at or _FOREVER)
    return found


def _put_back(session: Session, found: list[PastVideo], replaced: dict[str, int], start: datetime) -> None:
    """Reset videos whose bytes were replaced to the bytes that they had at `start`, or at first."""
    rows = session.execute(
        sa.select(
            blobs.c.video_id,
            blobs.c.id,
            blobs.c.generation,
            blobs.c.size_bytes,
            blobs.c.codec,
            blobs.c.recipe.is_not(None),
            blobs.c.is_ours,
            blobs.c.stored_at,
            blobs.c.key,
        )
        .where(blobs.c.video_id.in_(list(replaced)), blobs.c.state != BlobState.PENDING)
        .order_by(blobs.c.video_id, blobs.c.generation.desc(), blobs.c.id.desc())
    )
    done = set[str]()
    for video_id, blob_id, generation, size, codec, compressed, is_ours, stored_at, key in rows:
        if video_id in done:
            continue
        place = replaced[video_id]
        past = found[place]
        video = past.video._replace(
            blob_id=blob_id,
            generation=generation,
            size_bytes=size,
            codec=codec,
            compressed=compressed,
            key=key,
            is_ours=is_ours,
        )
        at = stored_at or past.video.created_at
        found[place] = past._replace(video=video, stored_at=at)
        if at is None or at < start:
            done.add(video_id)


def _views(
    session: Session, video_ids: Sequence[str], first: date, last: date, ordinals: dict[Any, int]
) -> tuple[list[int], list[int], list[int]]:
    place = {video_id: place for place, video_id in enumerate(video_ids)}
    places, days, counts = list[int](), list[int](), list[int]()
    rows = session.execute(
        sa.select(
            daily_views.c.video_id,
            sa.type_coerce(daily_views.c.day, sa.types.NULLTYPE),  # few different days, each converted once
            daily_views.c.views,
        ).where(daily_views.c.video_id.in_(video_ids), daily_views.c.day >= first, daily_views.c.day <= last)
    )
    for video_id, day, views in rows.all():
        ordinal = ordinals.get(day)
        if ordinal is None:
            ordinal = ordinals[day] = (date.fromisoformat(day) if isinstance(day, str) else day).toordinal()
        places.append(place[video_id])
        days.append(ordinal)
        counts.append(views)
    return places, days, counts
