"""The cache of videos by request: found, taken in, left out as a plan says, and gone with their video.

An entry names a video and holds no bytes. It is given only while its video is live, asked in the statement that counts
the hit, so a video that was retired a moment ago is never given.
"""

from collections.abc import Iterator, Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model import VideoState
from reelkeeper.model.jobs import CacheItem, CacheQueue
from reelkeeper.store.core.engine import Clock, changed, insert_into
from reelkeeper.store.tables import blobs, cache_entries, cache_ghosts, videos

_BATCH = 2_000
_ITEM = (
    cache_entries.c.key,
    cache_entries.c.video_id,
    sa.func.coalesce(blobs.c.size_bytes, 0),
    cache_entries.c.cost_microusd,
    cache_entries.c.queue,
    cache_entries.c.frequency,
    cache_entries.c.hits,
    sa.func.coalesce(cache_entries.c.last_hit_at, cache_entries.c.created_at),
    cache_entries.c.expires_at,
    videos.c.state == VideoState.LIVE,
)
MAX_COUNTED = 3  # hits since an entry's last turn: two bits, as rules/cache counts them
GIVEN = sa.and_(  # whether an entry answers, at this moment
    # guard cache.fresh: a video is given for a request long after its time
    sa.or_(cache_entries.c.expires_at.is_(None), cache_entries.c.expires_at > Clock()),
    # guard cache.live: a user is charged for a video that is gone
    sa.exists().where(videos.c.id == cache_entries.c.video_id, videos.c.state == VideoState.LIVE),
)
_TAKE = (
    sa.update(cache_entries)
    .where(cache_entries.c.key == sa.bindparam("wanted"), GIVEN)
    .values(
        hits=cache_entries.c.hits + 1,
        frequency=sa.case((cache_entries.c.frequency < MAX_COUNTED, cache_entries.c.frequency + 1), else_=MAX_COUNTED),
        last_hit_at=Clock(),
    )
    .returning(cache_entries.c.video_id)
)
_TAKE_FOR = _TAKE.values(expires_at=Clock(sa.bindparam("ttl_seconds", type_=sa.Float)))


def take(session: Session, key: str, ttl_seconds: int | None) -> str | None:
    """Give the id of the live video that answers `key`, count the hit and begin its time anew; None without one."""
    if ttl_seconds is None:
        return session.execute(_TAKE.values(expires_at=None), {"wanted": key}).scalar_one_or_none()
    return session.execute(_TAKE_FOR, {"wanted": key, "ttl_seconds": ttl_seconds}).scalar_one_or_none()


def insert(
    session: Session, key: str, video_id: str, *, user_id: str | None, cost_microusd: int, ttl_seconds: int | None
) -> None:
    """Take in a video that was made for `key`; `user_id` None shares it. A key that left lately is trusted at once.

    The caller's transaction has locked the deployment row, so that no two entries get the same place in a queue.
    """
    came_back = changed(session, sa.delete(cache_ghosts).where(cache_ghosts.c.key == key))
    queue = CacheQueue.MAIN if came_back else CacheQueue.SMALL
    about = {
        "video_id": video_id,
        "user_id": user_id,
        "cost_microusd": cost_microusd,
        "created_at": Clock(),
        "last_hit_at": None,
        "expires_at": _ends(ttl_seconds),
    }
    session.execute(
        insert_into(session, cache_entries)
        .values(key=key, queue=queue, position=next_position(queue), frequency=0, hits=0, **about)
        .on_conflict_do_update(index_elements=["key"], set_=about)
    )


def drop(session: Session, video_ids: Sequence[str]) -> int:
    """Drop the entries of videos that are going; returns how many there were."""
    return changed(session, sa.delete(cache_entries).where(cache_entries.c.video_id.in_(video_ids)))


def stream(session: Session, queue: CacheQueue) -> Iterator[CacheItem]:
    """Give the entries of a queue, the one whose turn is next first."""
    rows = session.execute(
        sa.select(*_ITEM)
        .select_from(
            cache_entries.join(videos, videos.c.id == cache_entries.c.video_id).outerjoin(
                blobs, blobs.c.id == videos.c.blob_id
            )
        )
        .where(cache_entries.c.queue == queue)
        .order_by(cache_entries.c.position, cache_entries.c.key),
        execution_options={"yield_per": _BATCH},
    )
    return (CacheItem(*row)._replace(queue=CacheQueue(queue), live=bool(row[-1])) for row in rows)


def trim_ghosts(session: Session, budget_bytes: int) -> int:
    """Forget the oldest ghosts beyond as many bytes as the cache itself may have; returns how many."""
    newest_first = sa.func.sum(cache_ghosts.c.size_bytes).over(order_by=cache_ghosts.c.position.desc())
    summed = sa.select(cache_ghosts.c.key, newest_first.label("so_far")).subquery()
    beyond = sa.select(summed.c.key).where(summed.c.so_far > budget_bytes)
    return changed(session, sa.delete(cache_ghosts).where(cache_ghosts.c.key.in_(beyond)))


def drop_unused(session: Session, items: Sequence[CacheItem]) -> set[str]:
    """Drop those entries that nobody used since they were read; returns their keys."""
    unused = sa.tuple_(cache_entries.c.key, cache_entries.c.video_id, cache_entries.c.hits)
    wanted = [(item.key, item.video_id, item.hits) for item in items]
    statement = sa.delete(cache_entries).where(unused.in_(wanted)).returning(cache_entries.c.key)
    return set(session.execute(statement).scalars()) if wanted else set()


def leave_ghosts(session: Session, items: Sequence[CacheItem]) -> None:
    """Keep the keys of entries that left the small queue."""
    last = session.execute(sa.select(sa.func.coalesce(sa.func.max(cache_ghosts.c.position), 0))).scalar_one()
    rows = [
        {"key": item.key, "size_bytes": item.size_bytes, "position": place}
        for place, item in enumerate(items, last + 1)
    ]
    if rows:
        session.execute(insert_into(session, cache_ghosts).on_conflict_do_nothing(), rows)


def move_to_main(session: Session, items: Sequence[CacheItem]) -> None:
    """Put entries at the end of the main queue, unless they were used since they were read.

    A hit meanwhile stays counted, one turn late.
    """
    first = session.execute(sa.select(next_position(CacheQueue.MAIN))).scalar_one()
    rows = [
        {"a_key": item.key, "a_video": item.video_id, "a_hits": item.hits, "place": place, "left": item.frequency}
        for place, item in enumerate(items, first)
    ]
    if rows:
        session.execute(
            sa.update(cache_entries)
            .where(
                cache_entries.c.key == sa.bindparam("a_key"),
                cache_entries.c.video_id == sa.bindparam("a_video"),
                cache_entries.c.hits == sa.bindparam("a_hits"),
            )
            .values(queue=CacheQueue.MAIN, position=sa.bindparam("place"), frequency=sa.bindparam("left")),
            rows,
        )


def count(session: Session) -> tuple[int, int]:
    """Count the entries, and the hits of what is there."""
    hits = sa.func.coalesce(sa.func.sum(cache_entries.c.hits), 0)
    entries, total = session.execute(sa.select(sa.func.count(), hits).select_from(cache_entries)).one()
    return int(entries), int(total)


def next_position(queue: CacheQueue) -> sa.ColumnElement[int]:
    """Give the place behind the last entry of a queue, in SQL."""
    last = sa.select(sa.func.max(cache_entries.c.position)).where(cache_entries.c.queue == queue).scalar_subquery()
    return sa.func.coalesce(last, 0) + 1


def _ends(ttl_seconds: int | None) -> Clock | None:
    return None if ttl_seconds is None else Clock(ttl_seconds)
