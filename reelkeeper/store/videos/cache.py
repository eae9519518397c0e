"""Keep a cache of videos by request: look up, insert, prune by a plan, and drop with the video.

An entry names a video and holds no bytes. It is used only while its video is live, which the statement that counts the
hit checks, so a video that was just retired is never returned.
"""

from collections.abc import Iterator, Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model import VideoState
from reelkeeper.model.jobs import CacheItem, JobState, RequestTime
from reelkeeper.store.core.engine import Clock, changed, insert_into
from reelkeeper.store.tables import blobs, cache_entries, jobs, videos

_BATCH = 2_000
_ANSWERED = jobs.c.state == JobState.SUCCEEDED  # with a new video, or a cached one
_REQUESTS = (
    sa.select(jobs.c.cache_key, sa.func.count().label("requests"), sa.func.min(jobs.c.created_at).label("first_at"))
    .where(_ANSWERED)
    .group_by(jobs.c.cache_key)
    .subquery()
)
_ITEM = (
    cache_entries.c.key,
    cache_entries.c.video_id,
    sa.func.coalesce(blobs.c.size_bytes, 0),
    cache_entries.c.cost_microusd,
    cache_entries.c.hits,
    sa.func.coalesce(cache_entries.c.last_hit_at, cache_entries.c.created_at),
    cache_entries.c.expires_at,
    (videos.c.state == VideoState.LIVE).label("live"),
    sa.func.coalesce(_REQUESTS.c.requests, 1),
    sa.func.coalesce(_REQUESTS.c.first_at, cache_entries.c.created_at),
)
GIVEN = sa.and_(  # whether an entry can be used now
    # guard cache.fresh: an expired entry answers a request
    sa.or_(cache_entries.c.expires_at.is_(None), cache_entries.c.expires_at > Clock()),
    # guard cache.live: a user gets, and is charged for, a video that is gone
    sa.exists().where(videos.c.id == cache_entries.c.video_id, videos.c.state == VideoState.LIVE),
)
_TAKE = (
    sa.update(cache_entries)
    .where(cache_entries.c.key == sa.bindparam("wanted"), GIVEN)
    .values(
        hits=cache_entries.c.hits + 1,
        last_hit_at=Clock(),
    )
    .returning(cache_entries.c.video_id)
)
_TAKE_FOR = _TAKE.values(expires_at=Clock(sa.bindparam("ttl_seconds", type_=sa.Float)))


def take(session: Session, key: str, ttl_seconds: int | None) -> str | None:
    """Return the id of the live video for `key`, count the hit and restart its time to live; None without one."""
    if ttl_seconds is None:
        return session.execute(_TAKE.values(expires_at=None), {"wanted": key}).scalar_one_or_none()
    return session.execute(_TAKE_FOR, {"wanted": key, "ttl_seconds": ttl_seconds}).scalar_one_or_none()


def peek(session: Session, key: str) -> str | None:
    """Return the id of the live video for `key`, and change nothing; None without one."""
    return session.execute(sa.select(cache_entries.c.video_id).where(cache_entries.c.key == key, GIVEN)).scalar()


def insert(
    session: Session, key: str, video_id: str, *, user_id: str | None, cost_microusd: int, ttl_seconds: int | None
) -> None:
    """Insert a video that was made for `key`; `user_id` None shares it."""
    about = {
        "video_id": video_id,
        "user_id": user_id,
        "cost_microusd": cost_microusd,
        "created_at": Clock(),
        "last_hit_at": None,
        "expires_at": None if ttl_seconds is None else Clock(ttl_seconds),
    }
    session.execute(
        insert_into(session, cache_entries)
        .values(key=key, hits=0, **about)
        .on_conflict_do_update(index_elements=["key"], set_=about)
    )


def drop(session: Session, video_ids: Sequence[str]) -> int:
    """Drop the entries of these videos; return how many there were."""
    return changed(session, sa.delete(cache_entries).where(cache_entries.c.video_id.in_(video_ids)))


def stream(session: Session) -> Iterator[CacheItem]:
    """Stream the entries, with the number of their recorded requests."""
    rows = session.execute(
        sa.select(*_ITEM).select_from(
            cache_entries.join(videos, videos.c.id == cache_entries.c.video_id)
            .outerjoin(blobs, blobs.c.id == videos.c.blob_id)
            .outerjoin(_REQUESTS, _REQUESTS.c.cache_key == cache_entries.c.key)
        ),
        execution_options={"yield_per": _BATCH},
    )
    return (CacheItem._make(row)._replace(live=bool(row.live)) for row in rows)


def requests(session: Session) -> Iterator[RequestTime]:
    """Stream the recorded requests that got a video, grouped by key, in the order of time."""
    rows = session.execute(
        sa.select(jobs.c.cache_key, jobs.c.created_at).where(_ANSWERED).order_by(jobs.c.cache_key, jobs.c.created_at),
        execution_options={"yield_per": _BATCH},
    )
    return (RequestTime._make(row) for row in rows)


def drop_unused(session: Session, items: Sequence[CacheItem]) -> set[str]:
    """Drop those entries that nobody used since they were read; returns their keys."""
    unused = sa.tuple_(cache_entries.c.key, cache_entries.c.video_id, cache_entries.c.hits)
    wanted = [(item.key, item.video_id, item.hits) for item in items]
    statement = sa.delete(cache_entries).where(unused.in_(wanted)).returning(cache_entries.c.key)
    return set(session.execute(statement).scalars()) if wanted else set()


def count(session: Session) -> tuple[int, int]:
    """Count the entries, and sum their hits."""
    hits = sa.func.coalesce(sa.func.sum(cache_entries.c.hits), 0)
    entries, total = session.execute(sa.select(sa.func.count(), hits).select_from(cache_entries)).one()
    return int(entries), int(total)
