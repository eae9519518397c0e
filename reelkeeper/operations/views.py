"""Views: the signal that keeps a video. Recorded in bulk; a view of a retired video delays its purge by a grace."""

from collections.abc import Mapping
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Engine

from reelkeeper.store.engine import transaction
from reelkeeper.store.tables import daily_views, videos


def record_views(engine: Engine, views: Mapping[str, int], *, at: datetime) -> int:
    """Add `views` (video id -> how many) seen at `at`; returns how many of the ids are known. Others are left out."""
    with transaction(engine, "views") as session:
        known = set(session.execute(sa.select(videos.c.id).where(videos.c.id.in_(views))).scalars())
        if not known:
            return 0
        insert = (postgresql.insert if engine.dialect.name == "postgresql" else sqlite.insert)(daily_views)
        session.execute(
            insert.on_conflict_do_update(
                index_elements=["video_id", "day"], set_={"views": daily_views.c.views + insert.excluded.views}
            ),
            [{"video_id": video_id, "day": at.date(), "views": views[video_id]} for video_id in sorted(known)],
        )
        session.execute(
            sa.update(videos)
            .where(videos.c.id.in_(known), sa.or_(videos.c.last_viewed_at.is_(None), videos.c.last_viewed_at < at))
            .values(last_viewed_at=at)
        )
        return len(known)
