"""The entries of the cache by the turn they take, and what was lately left out."""

from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model import VideoState
from reelkeeper.model.jobs import CacheItem, CacheQueue
from reelkeeper.store.core.engine import changed
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
