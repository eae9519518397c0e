"""The cache of videos by request: found, taken in, and gone with their video. What to leave out: `prune_cache`.

An entry names a video and holds no bytes. It is given only while its video is live, asked in the statement that counts
the hit, so a video that was retired a moment ago is never given.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model import VideoState
from reelkeeper.model.jobs import CacheQueue
from reelkeeper.store.core.engine import Clock, changed, insert_into
from reelkeeper.store.tables import cache_entries, cache_ghosts, videos

MAX_COUNTED = 3  # hits since an entry's last turn: two bits, as rules/cache counts them
GIVEN = sa.and_(  # whether an entry answers, at this moment
    sa.or_(cache_entries.c.expires_at.is_(None), cache_entries.c.expires_at > Clock()),
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
