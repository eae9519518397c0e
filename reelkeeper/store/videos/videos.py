"""Read videos from the catalogue: as a stream for the rules, and as pages for people."""

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from functools import partial
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.errors import UserErased
from reelkeeper.model import BlobState, Counts, Video, VideoState
from reelkeeper.store.core.engine import checked, now, one_of
from reelkeeper.store.tables import blobs, daily_views, holds, keeps, users, videos, view_days

_log = logging.getLogger(__name__)
_BATCH = 2_000
_ONE_DAY = timedelta(days=1)
_WINDOW = timedelta(days=30)  # in which views are counted
ALWAYS: Final = datetime.min.replace(tzinfo=UTC)


def live_videos(
    session: Session, as_of: datetime, *, only: Sequence[str] | None = None, classified: bool = True
) -> Iterator[Video]:
    """Stream every live video as the rules see it, in flat memory. Read it inside `engine.reading`.

    `views` sums the 30 whole UTC days before `as_of`'s day, and whatever is recorded since. It is None
    (unknown) unless each of those days, or those since the video was created, is in `view_days`. A hold counts when it
    is not released and does not expire by `as_of`, a request to keep while it lasts. `only` are the ids of the
    videos to read. Without `classified`, model, tag and key are left out, as only segments need them.
    """
    yield from reader(session, as_of, classified=classified)(only)


def reader(session: Session, as_of: datetime, *, classified: bool) -> Callable[[Sequence[str] | None], Iterator[Video]]:
    """Make a function that streams videos as `live_videos` does; what all of them share is read once, now."""
    known_since = views_known_since(session, as_of)
    known_always = known_since == ALWAYS
    held_videos, held_users = (set(session.scalars(held(scope, as_of))) for scope in ("video", "user"))
    kept_until = {row[0]: row[1] for row in session.execute(kept(as_of))}.get
    to_datetime, new = datetime_reader(session), tuple.__new__  # skips a Python call for each of a million rows
    recent = recent_views(as_of, sa.func.sum(daily_views.c.views))
    is_live = videos.c.state == VideoState.LIVE
    as_sent = partial(sa.type_coerce, type_=sa.types.NULLTYPE)  # the driver's value, converted once, below

    def stream(only: Sequence[str] | None) -> Iterator[Video]:
        rows = session.execute(
            sa.select(
                videos.c.id,
                videos.c.user_id,
                users.c.tier,
                as_sent(videos.c.created_at),
                recent,
                blobs.c.size_bytes,
                blobs.c.codec,
                videos.c.refused_recipe,
                blobs.c.id,
                videos.c.generation,
                as_sent(blobs.c.recipe.is_not(None)),
                *(column if classified else sa.null() for column in (videos.c.model, videos.c.tag, blobs.c.key)),
                as_sent(blobs.c.is_ours),
            )
            .select_from(videos)
            .join(blobs, blobs.c.id == videos.c.blob_id)
            .join(users, users.c.id == videos.c.user_id)
            .where(is_live if only is None else sa.and_(one_of(session, videos.c.id, only), checked(is_live))),
            execution_options={"yield_per": _BATCH},
        )
        for batch in rows.partitions():
            for (
                video_id,
                user_id,
                tier,
                created,
                views,
                size,
                codec,
                refused,
                blob_id,
                generation,
                compressed,
                model,
                tag,
                key,
                is_ours,
            ) in batch:
                created_at = to_datetime(video_id, created) if created is not None else None
                known = known_always or (created_at is not None and created_at >= known_since)
                is_held = video_id in held_videos or user_id in held_users
                yield new(
                    Video,
                    (
                        video_id,
                        user_id,
                        tier,
                        created_at,
                        (views or 0) if known else None,
                        is_held,
                        size,
                        codec,
                        refused,
                        blob_id,
                        generation,
                        bool(compressed),
                        kept_until(video_id),
                        model,
                        tag,
                        key,
                        bool(is_ours),
                    ),
                )

    return stream


def recent_views(as_of: datetime, counted: sa.ColumnElement[Any]) -> sa.ScalarSelect[Any]:
    """Build the subquery of `counted` over a video's recorded views from the first day of the window on."""
    of_video = daily_views.c.video_id == videos.c.id
    counting = sa.select(counted).select_from(daily_views).where(of_video, daily_views.c.day >= _first_day(as_of))
    return counting.correlate_except(daily_views).scalar_subquery()


def users_by_tier(session: Session) -> dict[str, int]:
    """Count the users of each tier that is known."""
    counted = sa.select(users.c.tier, sa.func.count()).where(users.c.tier.is_not(None)).group_by(users.c.tier)
    return {str(tier): int(count) for tier, count in session.execute(counted)}


def _first_day(as_of: datetime) -> date:
    return (as_of - _WINDOW).astimezone(UTC).date()


def views_known_since(session: Session, as_of: datetime) -> datetime:
    """Find the first moment since which the views of each whole day before `as_of`'s day are completely recorded.

    If those of the whole window are: ALWAYS.
    """
    today = as_of.astimezone(UTC).date()
    recorded = set(session.scalars(sa.select(view_days.c.day).where(view_days.c.day < today)))
    day = today
    while today - day < _WINDOW and day - _ONE_DAY in recorded:
        day -= _ONE_DAY
    return ALWAYS if day <= _first_day(as_of) else datetime.combine(day, time(), UTC)


def held(scope: str, as_of: datetime) -> sa.Select[tuple[str]]:
    """Select the ids of this scope, video or user, that a hold in force at `as_of` is on."""
    in_force = sa.and_(holds.c.released_at.is_(None), sa.or_(holds.c.expires_at.is_(None), holds.c.expires_at > as_of))
    return sa.select(holds.c.subject).where(holds.c.scope == scope, in_force)


def kept(as_of: datetime) -> sa.Select[Any]:
    """Select the videos that are kept on request at `as_of`, and until when."""
    until = sa.select(keeps.c.video_id, sa.func.max(keeps.c.until)).where(keeps.c.until > as_of)
    return until.group_by(keeps.c.video_id)


def datetime_reader(session: Session) -> Callable[[str, Any], datetime | None]:
    """Return a converter from the driver's value to aware UTC, for columns that are read a hundred thousand times.

    SQLite accepts any text as a time: a video with an invalid one has an unknown age, is kept, and is named in the log.
    """
    if session.get_bind().dialect.name != "sqlite":
        return lambda _, moment: moment.astimezone(UTC)

    def read(video_id: str, text: Any) -> datetime | None:  # noqa: ANN401  what SQLite holds
        try:
            moment = datetime.fromisoformat(text + "+00:00")
            if moment.tzinfo is not None:  # a date alone is read as that day's midnight, without a zone
                return moment
        except (TypeError, ValueError):
            pass
        _log.error("video %s: created_at %r is not a time, so its age is unknown and it is kept", video_id, text)
        return None

    return read


def population(session: Session) -> Counts:
    """Count the live videos and their bytes."""
    counted = session.execute(
        sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(blobs.c.size_bytes), 0))
        .select_from(videos.join(blobs, blobs.c.id == videos.c.blob_id))
        .where(videos.c.state == VideoState.LIVE)
    ).one()
    return Counts(int(counted[0]), int(counted[1]))


def is_user(session: Session, user_id: str, *, even_erased: bool = False) -> bool:
    """Check whether the catalogue knows this user. Raises UserErased for one being erased, unless `even_erased`."""
    row = session.execute(sa.select(users.c.erasing_at).where(users.c.id == user_id)).one_or_none()
    # guard erase.nothing_new: a user who is being erased begins an upload, or is granted credits
    if row is not None and row.erasing_at is not None and not even_erased:
        raise UserErased(erased(user_id))
    return row is not None


def erased(user_id: str) -> str:
    """Make the error for a user who is being erased."""
    return f"user {user_id!r} is being erased: nothing new is stored, made or granted. Nothing was changed"


def set_tier(session: Session, user_id: str, tier: str, at: datetime) -> tuple[bool, str | None]:
    """Set a user's tier, or insert the user; return whether the user existed, and the tier before.

    Raises UserErased.
    """
    before = session.execute(sa.select(users.c.tier, users.c.erasing_at).where(users.c.id == user_id)).one_or_none()
    # guard erase.no_tier: a sign-up is confirmed to a user whose erasure then takes it away
    if before is not None and before.erasing_at is not None:
        raise UserErased(erased(user_id))
    if before is None:
        session.execute(sa.insert(users).values(id=user_id, tier=tier, created_at=at))
    else:
        session.execute(sa.update(users).where(users.c.id == user_id).values(tier=tier))
    return before is not None, before.tier if before else None


def owners_of(session: Session, video_ids: Collection[str]) -> dict[str, str]:
    """Return the users of those of `video_ids` that have a row."""
    query = sa.select(videos.c.id, videos.c.user_id).where(videos.c.id.in_(set(video_ids)))
    return {row.id: row.user_id for row in session.execute(query)}


def is_live(session: Session, video_id: str) -> bool:
    """Check whether a video is live and can be served."""
    live = sa.select(videos.c.id).where(videos.c.id == video_id, videos.c.state == VideoState.LIVE)
    return session.execute(live).scalar() is not None


def live_seconds(session: Session, video_id: str) -> float | None:
    """Read the length of a live video in seconds; None where it was never measured."""
    length = sa.select(blobs.c.duration_seconds).where(blobs.c.video_id == video_id, blobs.c.state == BlobState.LIVE)
    return session.execute(length).scalar()


class Listed(NamedTuple):
    """A video as listed for people. `views` are all ever recorded; None if none is, and plans take them as unknown."""

    id: str
    user_id: str
    tier: str | None
    state: str
    created_at: datetime | None
    last_viewed_at: datetime | None
    generation: int
    size_bytes: int | None
    codec: str | None
    key: str | None
    views: int | None
    retired_at: datetime | None
    purge_after: datetime | None
    reason: str | None  # why it was retired, or why its last transcode was refused
    model: str | None  # the generator; None: unknown
    tag: str | None  # from its job or upload


def list_videos(
    session: Session,
    *,
    video_id: str | None = None,
    user_id: str | None = None,
    state: str | None = None,
    run_id: str | None = None,
    after: str = "",
    limit: int = 100,
) -> list[Listed]:
    """List at most `limit` videos that match every filter given, by user and id; of one user, those `after` an id."""
    filters = {videos.c.id: video_id, videos.c.user_id: user_id, videos.c.state: state, videos.c.run_id: run_id}
    views = sa.select(sa.func.sum(daily_views.c.views)).where(daily_views.c.video_id == videos.c.id).scalar_subquery()
    known_since = views_known_since(session, now(session))
    is_known = sa.true() if known_since == ALWAYS else videos.c.created_at >= known_since
    rows = session.execute(
        sa.select(
            videos.c.id,
            videos.c.user_id,
            users.c.tier,
            videos.c.state,
            videos.c.created_at,
            videos.c.last_viewed_at,
            videos.c.generation,
            blobs.c.size_bytes,
            blobs.c.codec,
            blobs.c.key,
            sa.func.coalesce(views, sa.case((is_known, 0))),
            videos.c.retired_at,
            blobs.c.purge_after,
            sa.func.coalesce(videos.c.retire_reason, videos.c.refused_reason),
            videos.c.model,
            videos.c.tag,
        )
        .select_from(videos)
        .join(users, users.c.id == videos.c.user_id)
        .outerjoin(blobs, blobs.c.id == videos.c.blob_id)
        .where(*(column == value for column, value in filters.items() if value is not None), videos.c.id > after)
        .order_by(videos.c.user_id, videos.c.id)
        .limit(limit)
    )
    return [Listed._make(row) for row in rows]


class BlobLine(NamedTuple):
    """One object that is, or was, a video's bytes."""

    generation: int
    state: str
    size_bytes: int
    codec: str | None
    quality_mean: float | None
    purge_after: datetime | None
    retire_reason: str | None
    key: str


def blobs_of_video(session: Session, video_id: str) -> list[BlobLine]:
    """List every object that is, or was, the bytes of a video, by generation."""
    rows = session.execute(
        sa.select(*(blobs.c[name] for name in BlobLine._fields))
        .where(blobs.c.video_id == video_id)
        .order_by(blobs.c.generation, blobs.c.id)
    )
    return [BlobLine._make(row) for row in rows]


def videos_by_state(session: Session) -> dict[str, int]:
    """Count the videos in each state."""
    rows = session.execute(sa.select(videos.c.state, sa.func.count()).group_by(videos.c.state))
    return {state: int(count) for state, count in rows}
