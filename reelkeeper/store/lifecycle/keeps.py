"""Requests to keep a video: each prolongs its life once."""

from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.store.core.engine import now
from reelkeeper.store.tables import keeps


class Kept(NamedTuple):
    """A video that stays on request until `until`, and how often its life was prolonged."""

    video_id: str
    until: datetime
    times: int


def find(session: Session, keep_id: str) -> Kept | None:
    """Read what an earlier request of this id came to; `times` is as of now."""
    row = session.execute(sa.select(keeps.c.video_id, keeps.c.until).where(keeps.c.id == keep_id)).one_or_none()
    return None if row is None else Kept(row.video_id, row.until, times(session, row.video_id))


def times(session: Session, video_id: str) -> int:
    """Count how often a video's life was prolonged."""
    return int(session.scalar(sa.select(sa.func.count()).where(keeps.c.video_id == video_id)) or 0)


def add(session: Session, keep_id: str, video_id: str, *, days: int, until: datetime, author: str) -> None:
    """Write that a video stays until then."""
    row = {"id": keep_id, "video_id": video_id, "author": author, "days": days, "until": until}
    session.execute(sa.insert(keeps).values(**row, at=now(session)))
