"""Sum the bytes stored now: those of live videos by age and tier, and those that wait out their grace."""

from datetime import datetime, timedelta
from typing import Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from reelkeeper.model import BlobState, VideoState
from reelkeeper.model.scan import AGES, OLDER
from reelkeeper.store.tables import blobs, orphans, users, videos

BILLED: Final = (BlobState.LIVE, BlobState.RETIRED, BlobState.DELETING)  # states of blobs whose bytes R2 bills
_UNKNOWN: Final = "age unknown"
_LABELS: Final = (*(label for _, label in AGES), OLDER, _UNKNOWN)


class Stock(NamedTuple):
    """The bytes stored of one age and tier. `tier` is "unknown" where the catalogue has none."""

    age: str
    tier: str
    objects: int
    size_bytes: int


class InGrace(NamedTuple):
    """The number and bytes of blobs that wait to be purged, the first of them from `next_at` on."""

    objects: int
    size_bytes: int
    next_at: datetime | None


def by_age_and_tier(session: Session, as_of: datetime) -> list[Stock]:
    """Sum the live videos by their age in whole days at `as_of` and by their owners' tier, the youngest first."""
    age = sa.case(
        (videos.c.created_at.is_(None), _UNKNOWN),
        *((videos.c.created_at > as_of - timedelta(days=days + 1), label) for days, label in AGES),
        else_=OLDER,
    ).label("age")
    tier = sa.func.coalesce(users.c.tier, "unknown").label("tier")
    rows = session.execute(
        sa.select(age, tier, sa.func.count(), sa.func.sum(blobs.c.size_bytes))
        .select_from(
            videos.join(blobs, blobs.c.id == videos.c.blob_id).outerjoin(users, users.c.id == videos.c.user_id)
        )
        .where(videos.c.state == VideoState.LIVE)
        .group_by("age", "tier")
    )
    found = [Stock(label, name, int(count), int(size)) for label, name, count, size in rows]
    return sorted(found, key=lambda stock: (_LABELS.index(stock.age), stock.tier))


def stored_bytes(session: Session) -> int:
    """Sum the bytes that R2 bills: of live and retired videos, and of objects that are in no video."""
    of_videos = sa.select(sa.func.coalesce(sa.func.sum(blobs.c.size_bytes), 0)).where(blobs.c.state.in_(BILLED))
    others = sa.select(sa.func.coalesce(sa.func.sum(orphans.c.size_bytes), 0))
    return int(session.execute(of_videos).scalar_one()) + int(session.execute(others).scalar_one())


def in_grace(session: Session) -> InGrace:
    """Sum the blobs that are retired and not purged yet: they are stored, and paid for."""
    row = session.execute(
        sa.select(
            sa.func.count(), sa.func.coalesce(sa.func.sum(blobs.c.size_bytes), 0), sa.func.min(blobs.c.purge_after)
        ).where(blobs.c.state.in_((BlobState.RETIRED, BlobState.DELETING)))
    ).one()
    return InGrace(int(row[0]), int(row[1]), row[2])


def by_state(session: Session) -> dict[str, tuple[int, int]]:
    """Count the videos in each state, and sum their present bytes."""
    rows = session.execute(
        sa.select(videos.c.state, sa.func.count(), sa.func.coalesce(sa.func.sum(blobs.c.size_bytes), 0))
        .select_from(videos.outerjoin(blobs, blobs.c.id == videos.c.blob_id))
        .group_by(videos.c.state)
        .order_by(videos.c.state)
    )
    return {state: (int(count), int(size)) for state, count, size in rows}
